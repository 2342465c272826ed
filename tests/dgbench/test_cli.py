"""Every error that a user can cause is one message with the way out, and exit code 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from dgbench import cli
from dgbench.settings import resolve
from tests.dgbench.tiny import TINY, command

FIT = ("fit", "--algo", "irm", "--test-env", "2", *TINY)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("fut",), ["no command 'fut'", "Did you mean fit", "predict"]),
        (("fit",), ["Name an algorithm with --algo", "erm, icp, irm"]),
        (("fit", "--algo", "imr", "--test-env", "2"), ["Did you mean irm", "vrex"]),
        (("fit", "--algo"), ["--algo needs a value"]),
        (("fit", "--algo", "erm"), ["--test-env", "dgbench list"]),
        ((*FIT, "--dataset", "coloured_mnist"), ["Did you mean colored_mnist"]),
        ((*FIT, "--protocol", "digit"), ["Did you mean digits"]),
        ((*FIT, "--test-env", "7"), ["7 is out of range", "2 = -90%"]),
        ((*FIT, "--test-env", "+95%"), ["+95%", "+90%"]),
        ((*FIT, "--train-env", "2"), ["-90%"]),
        ((*FIT, "--algo.penalty_wieght", "1"), ["--algo.penalty_weight", "There are:"]),
        ((*FIT, "--algo.penalty_weight", "much"), ["--algo.penalty_weight", "float", "much"]),
        ((*FIT, "--algo.estimator", "half"), ["--algo.estimator", "full", "split"]),
        ((*FIT, "--steps", "0"), ["--steps is 0", "at least 1"]),
        ((*FIT, "--steps", "many"), ["--steps", "int"]),
        ((*FIT, "--trainer.max_steps", "3"), ["--trainer.max_steps", "use --steps"]),
        ((*FIT, "--trainer.devics", "1"), ["Did you mean --trainer.devices"]),
        ((*FIT, "--trainer.accumulate_grad_batches", "2"), ["--data.batch_size"]),
        ((*FIT, "--config", "nowhere.yaml"), ["nowhere.yaml", "cannot be read"]),
        ((*FIT, "--out", "/proc/nowhere"), ["/proc/nowhere", "cannot be written"]),
        ((*FIT, "--logger", "tensorbord"), ["tensorbord", "tensorboard"]),
        ((*FIT, "--resume", "last", "--out", "/nowhere"), ["/nowhere", "unfinished"]),
        ((*FIT, "--network.width", "0"), ["network.width is 0"]),
        ((*FIT, "--data.draws", "0"), ["draws"]),
        (
            [
                "fit",
                "--algo",
                "erm",
                "--test-env",
                "0",
                "--dataset",
                "rotated_mnist",
                "--network.logits",
                "one",
            ],
            ["there are 10", "--network.logits all"],
        ),
        (("fit", "--algo", "vrex", "--test-env", "2", "--train-env", "0"), ["at least 2"]),
        (("fit", "--algo", ".Class", "--test-env", "2"), [".Class", "package.module.Class"]),
        ((*FIT, "--trainer.accelerator", "abacus"), ["--trainer.accelerator abacus"]),
        ((*FIT, "--search-space", "domainbd"), ["Did you mean domainbed"]),
        (("fit", "--algo", "nowhere.Class", "--test-env", "2"), ["nowhere", "installed"]),
        (("test", "--checkpoint", "nowhere.ckpt"), ["no checkpoint nowhere.ckpt"]),
        (("leaderboard", "build", "nowhere", "--out", "board"), ["nowhere", "folder"]),
    ],
)
def test_misuse_is_one_message_and_exit_code_2(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = command(*arguments)
    assert code == 2
    assert errors.startswith("dgbench: ")
    assert "Traceback" not in errors
    for part in expected:
        assert part in errors
    assert not (tmp_path / "runs").exists(), "a misused command left something behind"


@pytest.mark.parametrize("content", ["algo: [", "just words", "algo: {nmae: irm}", "stepps: 3"])
def test_an_unreadable_configuration_is_refused(content, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    code, _, errors = command(*FIT, "--config", path)
    assert code == 2
    assert len(errors.strip().splitlines()) == 1


def test_a_misspelt_key_of_a_file_is_answered_like_a_flag(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("algo: {penalty_wieght: 2}")
    code, _, errors = command(*FIT, "--config", path)
    assert code == 2
    assert "Did you mean --algo.penalty_weight" in errors


def test_a_board_that_cannot_be_written_is_refused(tmp_path):
    assert command(*FIT, "--out", tmp_path)[0] == 0
    code, _, errors = command("leaderboard", "build", tmp_path, "--out", "/proc/nowhere")
    assert code == 2
    assert "cannot be written" in errors


def test_help_names_commands_and_options():
    assert all(name in command("--help")[1] for name in ("fit", "predict", "leaderboard"))
    assert "--test-env" in command("fit", "--help")[1]
    code, shown, _ = command("fit", "--algo", "irm", "--help")
    assert code == 0
    assert "--algo.penalty_weight" in shown
    assert "biased upwards" in shown  # the docstring
    assert "penalty_weight LogUniform(0.1, 100000)" in " ".join(shown.split())  # the range
    assert "--algo CONFIG" not in shown


@pytest.mark.parametrize(
    ("algo", "dataset", "protocol", "of_protocol"),
    [
        ("irm", "colored_mnist", "digits", "steps"),
        ("vrex", "colored_mnist", "irm-paper", "network.width"),
        ("irm", "pacs", "domainbed", "first_check"),
        ("erm", "rotated_mnist", "digits", "selection"),
    ],
)
def test_help_shows_the_values_that_a_run_has(algo, dataset, protocol, of_protocol, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    names = ("--algo", algo, "--dataset", dataset, "--protocol", protocol)
    _, shown, _ = command("fit", *names, "--help")
    settings = resolve({"algo": algo, "dataset": dataset, "protocol": protocol, "test_env": [0]})
    sections = {"algo": settings.algo, "data": settings.data, "network": settings.network}
    compared = set()
    for line in re.sub(r"\n {20,}", " ", shown).splitlines():
        stated = re.search(r"^  --([\w.-]+)[ ,].*default: (\S+)\)$", line)
        section, _, option = stated[1].rpartition(".") if stated else ("", "", "")
        flag = option.replace("-", "_")
        if stated and section in sections:
            value = sections[section][option]
        elif flag in ("steps", "check_every", "first_check", "selection", "matmul_precision"):
            value = getattr(settings, flag)
        else:
            continue
        assert stated, line
        assert stated[2] in (str(value), json.dumps(value)), line
        compared.add(stated[1].replace("-", "_"))
        if stated[1].replace("-", "_") == of_protocol:
            assert re.search(r"Set by configs/\S+/protocol.yaml|Set by configs/\S+/vrex.yaml", line)
    assert {of_protocol, "algo.learning_rate", "data.batch_size", "network.backbone"} <= compared


def test_help_shows_what_a_file_of_ones_own_says(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    (tmp_path / "mine.yaml").write_text("algo: {name: irm, penalty_weight: 7.5}\nsteps: 77\n")
    _, shown, _ = command("fit", "--config", tmp_path / "mine.yaml", "--help")
    assert f"Set by {tmp_path / 'mine.yaml'}. (type: float, default: 7.5)" in shown
    assert f"Set by {tmp_path / 'mine.yaml'}. (type: int, default: 77)" in shown


@pytest.mark.parametrize(
    "arguments", [("--help",), ("fit", "--help"), ("list",), ("fit", "--algo", "imr")]
)
def test_names_and_help_never_load_torch(arguments):
    source = (
        "import sys; from dgbench.cli import main; main(sys.argv[1:]); "
        "assert not {'torch', 'pytorch_lightning', 'pandas'} & set(sys.modules)"
    )
    call = [sys.executable, "-c", source, *arguments]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_list_names_everything_there_is():
    code, shown, _ = command("list")
    assert code == 0
    for part in ("irmv2", "2021", "penalty_weight", "colored_mnist", "75deg", "digits"):
        assert part in shown


def test_version():
    code, shown, _ = command("--version")
    assert (code, shown) == (0, "dgbench 0.1.0, benchmark version 2\n")


def test_a_name_acts_in_no_message(tmp_path):
    """An escape in a file's name would clear the terminal, or write what is not so."""
    name = "\x1b[2J\x1b]0;title\x07 \u202e"
    code, _, errors = command("fit", "--config", tmp_path / name)
    assert code == 2
    assert errors.count("\n") == 1
    assert errors.removesuffix("\n").isprintable()
    assert "\\x1b[2J\\x1b]0;title\\x07 \\u202e" in errors


def test_a_message_has_an_end():
    code, _, errors = command("fit", "--algo", "x" * 1_000_000)
    assert code == 2
    assert len(errors) < 10_000


def test_no_memory_is_one_message(monkeypatch):
    def out_of_memory(arguments):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setitem(cli._COMMANDS, "list", out_of_memory)
    code, _, errors = command("list")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("dgbench: out of memory: Unable to allocate 7 TiB.")
