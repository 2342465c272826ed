"""Draws of hyper-parameters: each a function of seed and name, the same for ever."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from scipy import stats

from dgbench import registry, search_spaces
from dgbench.errors import UsageError
from dgbench.protocols import protocols
from dgbench.search_space import Choice, LogInt, LogUniform, Range, Uniform, draw
from dgbench.settings import Settings, resolve
from leaderboard import records
from tests.dgbench.tiny import checks, command, fit

ALGORITHMS = tuple(registry.entries("algorithm"))


def settings(algo: str = "irm", **config: object) -> Settings:
    return resolve({"algo": algo, "test_env": 0, **config})


def values(found: Settings) -> dict[str, Any]:
    names = [name.split(".") for name in found.search.ranges]
    sections = {"algo": found.algo, "data": found.data, "network": found.network}
    return {f"{section}.{option}": sections[section][option] for section, option in names}


# Stability


def test_a_draw_is_the_hash_of_its_seed_and_name():
    text = json.dumps(["hparams", 3, "algo.learning_rate"], separators=(",", ":"))
    integer = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    fraction = (integer // 2**11) / 2**53
    (value,) = draw({"algo.learning_rate": Uniform(0.0, 1.0)}, 3).values()
    assert value == pytest.approx(fraction, rel=1e-3)


def test_the_draws_are_these_for_ever():
    found = settings(protocol="domainbed")
    assert [values(found.drawn(seed)) for seed in (1, 2, 1001)] == [
        {
            "algo.penalty_weight": 0.2207,
            "algo.anneal_steps": 1,
            "algo.learning_rate": 7.76e-05,
            "data.batch_size": 9,
        },
        {
            "algo.penalty_weight": 1.958,
            "algo.anneal_steps": 216,
            "algo.learning_rate": 0.0006983,
            "data.batch_size": 9,
        },
        {
            "algo.penalty_weight": 1298.0,
            "algo.anneal_steps": 5,
            "algo.learning_rate": 3.22e-05,
            "data.batch_size": 43,
        },
    ]


def test_another_option_moves_no_draw():
    one: dict[str, Range | Choice] = {"algo.learning_rate": LogUniform(1e-5, 1e-3)}
    more = {"algo.new": Uniform(0, 1), **one, "algo.kind": Choice(("a", "b"))}
    for seed in range(1, 20):
        assert draw(more, seed)["algo.learning_rate"] == draw(one, seed)["algo.learning_rate"]


def test_draw_0_is_what_fit_would_use():
    found = settings()
    assert found.drawn(0) == found
    assert found.algo["penalty_weight"] == 91257.18613115903


def test_algorithms_share_the_draws_of_options_they_share():
    rates = {algo: settings(algo).drawn(4).algo["learning_rate"] for algo in ALGORITHMS}
    assert len(set(rates.values())) == 1


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_integers_stay_integers_and_draws_stay_in_their_ranges(algo):
    found = settings(algo)
    defaults = {f"algo.{name}": value for name, value in found.algo.items()}
    for seed in range(1, 40):
        for name, value in values(found.drawn(seed)).items():
            assert value in found.search.ranges[name]
            assert type(value) is type(defaults[name])


@pytest.mark.parametrize(
    ("space", "law"),
    [
        (Uniform(-2.0, 3.0), stats.uniform(-2.0, 5.0)),
        (LogUniform(1e-3, 1e2), stats.loguniform(1e-3, 1e2)),
    ],
)
def test_draws_follow_their_law(space, law):
    found = [draw({"algo.x": space}, seed)["algo.x"] for seed in range(1, 2000)]
    assert stats.kstest(found, law.cdf).pvalue > 0.01


def test_integers_follow_the_law_of_a_rounded_down_power():
    found = [draw({"data.batch_size": LogInt(8, 512)}, seed) for seed in range(1, 2000)]
    sizes = [each["data.batch_size"] for each in found]
    # floor(2 ** U(3, 9)): a sixth of the draws in each doubling.
    counts = [sum(2**power <= size < 2 ** (power + 1) for size in sizes) for power in range(3, 9)]
    assert sum(counts) == len(sizes)
    assert stats.chisquare(counts).pvalue > 0.01


# Spaces


@pytest.mark.parametrize("name", search_spaces.names())
def test_every_space_of_the_suite_fits_every_protocol(name):
    for dataset in registry.entries("data set"):
        for protocol in protocols(dataset):
            found = settings("erm", dataset=dataset, protocol=protocol, search_space=name)
            drawn = found.drawn(1)
            assert values(drawn).keys() == found.search.ranges.keys()


def test_domainbeds_protocols_search_its_space():
    assert settings(protocol="domainbed").search.name == "domainbed"
    assert settings().search.name == "signatures"
    sizes = settings(protocol="domainbed").search.ranges["data.batch_size"]
    stackable = search_spaces.read("domainbed-stackable").ranges["data.batch_size"]
    assert isinstance(stackable, Choice)
    assert all(size in sizes for size in stackable.values)


def test_what_a_flag_fixes_is_not_drawn():
    found = settings(algo={"name": "irm", "penalty_weight": 3.0})  # type: ignore[arg-type]
    assert found.drawn(5).algo["penalty_weight"] == 3.0
    assert "algo.penalty_weight" not in found.search.ranges
    assert found.drawn(5).algo["learning_rate"] == settings().drawn(5).algo["learning_rate"]


def test_a_space_extends_one_of_the_suite(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("version: 7\nextends: domainbed-224\nranges: {data.batch_size: {Choice: [4]}}")
    base, mine = search_spaces.read("domainbed-224"), search_spaces.read(str(path))
    assert (mine.name, mine.version) == ("mine", 7)
    assert mine.ranges == {**base.ranges, "data.batch_size": Choice((4,))}
    path.write_text("version: 7\nextends: domainbed-22\nranges: {}")
    with pytest.raises(UsageError, match="Did you mean domainbed-224"):
        search_spaces.read(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nranges: {algo.sharpness: {Uniform: [0, 1]}}", "has a range for algo.sharp"),
        ("version: 1\nranges: {algo.learning_rate: {Log: [0, 1]}}", "scales are Uniform"),
        ("ranges: {}", "cannot be read ('version')"),
    ],
)
def test_a_space_that_cannot_be_is_refused(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="mine") as raised:
        settings(search_space=str(path))
    assert message in str(raised.value)


def test_an_unknown_space_is_refused_with_a_hint():
    with pytest.raises(UsageError, match="Did you mean domainbed"):
        settings(search_space="domainbd")


# Runs


def test_a_run_of_a_draw_says_what_it_was_drawn_from_and_resumes(tmp_path):
    folder = fit(tmp_path / "whole", "--hparams-seed", 3, algo="irm")
    run = records.read_run(folder).run
    assert run["settings"]["hparams_seed"] == 3
    assert run["settings"]["algo"] == settings().drawn(3).algo
    assert run["search"] == settings().search.plain()

    (folder / "done.json").unlink()
    before = checks(folder)
    code, _, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    again = records.read_run(folder)
    assert again.state == "finished"
    assert again.run == run
    assert checks(folder) == before


def test_resume_auto_starts_goes_on_and_returns(tmp_path):
    first = fit(tmp_path, "--resume", "auto")
    written = (first / "last.ckpt").stat().st_mtime_ns
    (first / "done.json").unlink()
    assert fit(tmp_path, "--resume", "auto") == first
    assert fit(tmp_path, "--resume", "auto") == first
    assert records.read_run(first).state == "finished"
    assert (first / "last.ckpt").stat().st_mtime_ns == written


def test_a_negative_draw_is_refused():
    with pytest.raises(UsageError, match="at least 0"):
        settings(hparams_seed=-1)
