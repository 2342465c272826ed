"""YAML of users has one meaning, or gets one message."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dgbench.errors import UsageError
from dgbench.protocols import configs
from dgbench.search_spaces import read as read_space
from dgbench.yaml_files import parse_yaml, read_yaml
from tests.dgbench.tiny import command

LAUGHS = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 10))])
CHAIN = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 5000))])
BAD = {
    "a name twice": ("a: 1\nb: 2\na: 3\n", "'a' is there a second time"),
    "a name twice below": ("b:\n  a: 1\n  a: 1\n", "'a' is there a second time"),
    "5,000 levels": ("a: " + "[" * 5000 + "]" * 5000, "more than 50 levels"),
    "5,000 levels of mappings": ("{a: " * 5000 + "1" + "}" * 5000, "more than 50 levels"),
    "levels by aliases": (CHAIN, "more than 50 levels"),
    "a billion laughs": (LAUGHS, "100,000 values"),
    "a circle": ("a: &a [*a]", "an alias of what it is in"),
    "a number as a name": ("1: 2\n", "'1' is no text"),
    "a truth as a name": ("on: 2\n", "'on' is no text"),
    "a list as a name": ("? [a]\n: 2\n", "a list or a mapping is no text"),
    "5,000 digits": (f"a: {'9' * 5000}", "4300"),
    "an object": ("a: !!python/object/apply:os.system [id]", "python/object"),
    "bytes": ("a: !!binary aGk=", "!!binary is no text"),
    "a set": ("a: !!set {b, c}", "!!set is no text"),
    "a control character": ("a: \0", "special characters"),
    "no mapping": ("[a]", "no mapping"),
    "nothing": ("", "no mapping"),
}
READERS = {
    "--config": lambda file: command("fit", "--config", file),
    "a sweep": lambda file: command("sweep", file, "--executor", "commands"),
    "a search space": lambda file: command(
        "fit", "--algo", "erm", "--test-env", "2", "--search-space", file
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_message(kind, reader, tmp_path):
    content, message = BAD[kind]
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    code, shown, errors = READERS[reader](file)
    assert (code, shown) == (2, "")
    assert message in errors
    assert str(file) in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("kind", ["5,000 levels", "5,000 digits"])
@pytest.mark.parametrize(
    "flag", ["--vary=algo.learning_rate={}", "--test-envs=[{}]", "--algo.learning_rate={}"]
)
def test_a_bad_value_is_one_message(kind, flag, tmp_path):
    value = BAD[kind][0].removeprefix("a: ")
    given = ("--algos", "erm", "--datasets", "colored_mnist", "--executor", "commands")
    code, _, errors = command("sweep", *given, "--out", tmp_path, flag.format(value))
    assert code == 2
    assert "Traceback" not in errors


def test_a_file_larger_than_any_configuration_is_not_read_to_its_end():
    with pytest.raises(UsageError, match=r"/dev/zero cannot be read as YAML: it is larger"):
        read_yaml(Path("/dev/zero"))


def test_what_is_no_text_is_one_message(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(UsageError, match=r"bad\.yaml cannot be read as YAML: 'utf-8'"):
        read_yaml(tmp_path / "bad.yaml")


def test_merged_mappings_and_aliases_are_no_doubled_names():
    text = "base: &b {a: 1, c: 2}\nmore: &m {<<: *b, a: 3}\nlast: {<<: [*m, *b], d: [*b, *b]}\n"
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("file", sorted(configs().rglob("*.yaml")), ids=str)
def test_the_suites_own_files_mean_what_they_did(file):
    if file.parent.name not in (
        "screen",
        "shifts",
    ):  # tables by numbers, read by those who use them
        assert read_yaml(file) == yaml.safe_load(file.read_text())


def test_a_date_is_a_text():
    assert parse_yaml("a: 2020-01-02") == {"a": "2020-01-02"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("datasets", "3"),
        ("algos", "{a: b}"),
        ("test_envs", "[[[1]]]"),
        ("trials", "many"),
        ("trials", "1000000000"),
        ("draws", "[1]"),
        ("protocol", "[digits]"),
        ("options", "[steps]"),
        ("options", "{algo: [steps]}"),
        ("vary", "[steps]"),
        ("vary", "{steps: 3}"),
        ("stack", "none"),
        ("estimand", "{}"),
    ],
)
def test_a_sweep_of_another_shape_is_one_message(name, value, tmp_path):
    usual = {"datasets": "colored_mnist", "algos": "erm", "trials": "2", name: value}
    (tmp_path / "bad.yaml").write_text("".join(f"{n}: {v}\n" for n, v in usual.items()))
    code, _, errors = command("sweep", tmp_path / "bad.yaml", "--executor", "commands")
    assert code == 2
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "ranges",
    [
        "3",
        "{algo.learning_rate: 3}",
        "{algo.learning_rate: {LogUniform: [0, 1]}}",
        "{algo.learning_rate: {LogUniform: [1, .inf]}}",
        "{algo.learning_rate: {Uniform: [2, 1]}}",
        "{algo.learning_rate: {Uniform: [a, b]}}",
        "{algo.learning_rate: {Uniform: [1]}}",
        "{algo.learning_rate: {Normal: [0, 1]}}",
        "{algo.learning_rate: {Choice: 3}}",
        "{algo.learning_rate: {Choice: []}}",
    ],
)
def test_a_search_space_of_another_shape_is_one_message(ranges, tmp_path):
    (tmp_path / "bad.yaml").write_text(f"version: 1\nranges: {ranges}\n")
    with pytest.raises(UsageError, match=r"^The search space .*bad\.yaml cannot be read"):
        read_space(str(tmp_path / "bad.yaml"))
