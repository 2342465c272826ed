"""Later wins: signature, protocol.yaml, <algorithm>.yaml, --config, flags."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dgbench.errors import UsageError
from dgbench.protocols import configs
from dgbench.settings import (
    recorded_config,
    resolve,
    resolve_arguments,
    resolve_inspection,
    resolve_recorded,
)
from tests.dgbench.tiny import command

ARGUMENTS = ["--algo", "irm", "--test-env", "2"]


def protocol(name: str) -> dict:
    return yaml.safe_load((configs() / "colored_mnist" / "digits" / name).read_text())


def test_each_layer_overrides_the_one_before(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("algo: {penalty_weight: 7.0, anneal_steps: 5}\nsteps: 11\n")
    settings = resolve_arguments([*ARGUMENTS, "--algo.anneal_steps", "6", "--config", str(file)])
    assert settings.algo["estimator"] == "full"  # signature
    assert settings.network["width"] == protocol("protocol.yaml")["network"]["width"]
    assert settings.algo["l2"] == protocol("irm.yaml")["algo"]["l2"]  # not protocol.yaml's
    assert settings.algo["l2"] != protocol("protocol.yaml")["algo"]["l2"]
    assert settings.algo["penalty_weight"] == 7.0  # --config
    assert settings.steps == 11
    assert settings.algo["anneal_steps"] == 6  # the flag wins, though the file stands behind it
    assert [source.rpartition("/")[2] for source in settings.files] == [
        "protocol.yaml",
        "irm.yaml",
        "mine.yaml",
    ]


def test_flags_and_names_in_a_file_mean_the_same(tmp_path):
    file = tmp_path / "names.yaml"
    file.write_text("algo: {name: irm}\ndata: {name: rotated_mnist}\ntest_env: 75deg\n")
    settings = resolve_arguments(["--config", str(file)])
    assert settings.algo["name"] == "irm"
    assert settings.data["name"] == "rotated_mnist"
    assert settings.test_env == ["75deg"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--test-env", "2"], [2]),
        (["--test-env=-90%"], ["-90%"]),
        (["--test-env", "-90%"], ["-90%"]),
        (["--test-env", "minus90", "--test-env", "0"], ["minus90", 0]),
    ],
)
def test_environments_are_indices_or_names(arguments, expected):
    assert resolve_arguments(["--algo", "erm", *arguments]).test_env == expected


def test_print_config_round_trips_exactly(tmp_path):
    arguments = [*ARGUMENTS, "--algo.penalty_weight", "3.7e-05", "--trainer.precision", "64-true"]
    code, shown, errors = command("fit", *arguments, "--print_config")
    assert code == 0, errors
    file = tmp_path / "printed.yaml"
    file.write_text(shown)
    again = command("fit", "--config", file, "--print_config")[1]
    assert again == shown
    direct, through_file = resolve_arguments(arguments), resolve_arguments(["--config", str(file)])
    names = (["-90%"], ["+90%", "+80%"])
    assert direct.deciding(*names) == through_file.deciding(*names)


def test_python_options_are_those_of_a_file():
    called = resolve({"algo": "irm", "test_env": 2, "dataset": "colored_mnist", "steps": 9})
    typed = resolve_arguments([*ARGUMENTS, "--steps", "9"])
    assert called == typed
    nested = resolve({"algo": {"name": "irm", "penalty_weight": 2.0}, "test_env": [0, "-90%"]})
    assert nested.algo["penalty_weight"] == 2.0
    assert nested.test_env == [0, "-90%"]


def test_what_decides_the_numbers_leaves_out_where_they_are_made():
    names = (["-90%"], ["+90%", "+80%"])
    plain = resolve_arguments(ARGUMENTS).deciding(*names)
    elsewhere = resolve_arguments(
        [*ARGUMENTS, "--out", "o", "--logger", "csv", "--trainer.devices", "2", "--check-all"]
    )
    assert elsewhere.deciding(*names) == plain
    located = resolve_arguments([*ARGUMENTS, "--data.root", "r", "--data.download", "true"])
    assert located.deciding(*names) == plain
    assert not {"root", "download"} & set(plain["data"])
    assert (located.data["root"], located.data["download"]) == ("r", True)
    for flag, value in (
        ("--trainer.precision", "bf16-mixed"),
        ("--trainer.gradient_clip_val", "1.0"),
        ("--matmul-precision", "high"),
        ("--data-seed", "1"),
        ("--algo.learning_rate", "0.5"),
        ("--check-every", "7"),
    ):
        assert resolve_arguments([*ARGUMENTS, flag, value]).deciding(*names) != plain, flag


def seeds(*arguments: str) -> tuple[int, int]:
    settings = resolve_arguments([*ARGUMENTS, *arguments])
    return settings.trial_seed, settings.data_seed


def test_a_trial_has_data_of_its_own_unless_something_says_otherwise(tmp_path):
    assert seeds() == (0, 0)
    assert seeds("--trial-seed", "3") == (3, 3)
    assert seeds("--trial-seed", "3", "--data-seed", "0") == (3, 0)
    assert seeds("--data-seed", "4") == (0, 4)
    file = tmp_path / "fixed.yaml"
    file.write_text("data_seed: 0\n")
    assert seeds("--trial-seed", "3", "--config", str(file)) == (3, 0)
    assert seeds("--trial-seed", "3", "--config", str(file), "--data-seed", "1") == (3, 1)
    assert resolve({"algo": "irm", "test_env": 2, "trial_seed": 3}).data_seed == 3


def test_a_record_keeps_its_data_seed_whatever_the_trial():
    names = (["-90%"], ["+90%", "+80%"])
    decided = resolve_arguments([*ARGUMENTS, "--trial-seed", "3"]).deciding(*names)
    assert (decided["trial_seed"], decided["data_seed"]) == (3, 3)
    run: Any = {"settings": decided, "provenance": {}}
    again = resolve_recorded(run, ["--trial-seed", "5"])
    assert (again.trial_seed, again.data_seed) == (5, 3)


def test_an_inspection_is_of_the_data_that_a_run_of_the_same_seeds_has():
    for flags in (["--trial-seed", "3"], ["--trial-seed", "3", "--data-seed", "1"], []):
        fit = resolve_arguments([*ARGUMENTS, *flags])
        assert resolve_inspection(flags).data_seed == fit.data_seed


def test_a_record_is_a_configuration():
    names = (["-90%"], ["+90%", "+80%"])
    arguments = [*ARGUMENTS, "--trainer.precision", "64-true", "--algo.penalty_weight", "0.1"]
    decided = resolve_arguments(arguments).deciding(*names)
    assert resolve(recorded_config(decided)).deciding(*names) == decided


def test_a_record_holds_what_it_leaves_out_against_its_protocol():
    """A small network has no published weights, so its record says nothing of the protocol's."""
    options = {"backbone": "small_cnn", "weights": "none", "batch_norm": "train"}
    config = {"algo": "erm", "dataset": "pacs", "protocol": "domainbed", "test_env": 0}
    made = resolve({**config, "network": options})
    decided = made.deciding(["sketch"], ["photo"])
    assert not {"weights", "batch_norm"} & set(decided["network"])
    assert resolve(recorded_config(decided)).network == made.network


def test_short_forms_hold_in_files_too(tmp_path):
    file = tmp_path / "short.yaml"
    file.write_text("algo: irm\ndataset: rotated_mnist\ntest_env: 0\n")
    settings = resolve_arguments(["--config", str(file)])
    assert (settings.algo["name"], settings.data["name"]) == ("irm", "rotated_mnist")


@pytest.mark.parametrize("spelt", ["32", "32-true"])
def test_one_precision_has_one_name(spelt):
    names = (["-90%"], ["+90%", "+80%"])
    plain = resolve_arguments(ARGUMENTS).deciding(*names)
    assert resolve_arguments([*ARGUMENTS, "--trainer.precision", spelt]).deciding(*names) == plain


def test_what_no_file_could_say_is_refused(tmp_path):
    with pytest.raises(UsageError, match="represent"):
        resolve({"algo": "irm", "test_env": 2, "out": tmp_path})


def test_an_empty_call_says_what_is_missing():
    with pytest.raises(UsageError, match="Name an algorithm"):
        resolve({"test_env": 2})
