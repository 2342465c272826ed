from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from datamodules.scm_presets import SETTINGS, irm_paper_sem
from dgbench.errors import UsageError
from dgbench.icp import ICPResult, SetTest, icp
from tests.dgbench.icp.tables import Table, chain, flipped_colours, linear

GOOD = linear(np.random.default_rng(5))


def with_entry(values: np.ndarray, entry: float) -> np.ndarray:
    changed = values.astype(float)
    changed.flat[3] = entry
    return changed


# What it answers


def test_it_identifies_both_causes():
    result = icp(*GOOD, variables=["rain", "sun", "crop"])
    assert (result.outcome, result.estimate) == ("identified", ("rain", "sun"))
    assert result.p_values is not None
    assert result.p_values["rain"] < 1e-3 < result.p_values["crop"]
    assert result.defining_sets == (("rain",), ("sun",))
    assert "rain, sun" in result.describe()
    assert "95 %" in result.describe()


def test_a_set_is_accepted_above_the_level_and_not_at_it():
    result = icp(*GOOD)
    p_value = result.set_p_values["X1", "X2"]
    assert icp(*GOOD, alpha=p_value).outcome == "rejected"
    assert icp(*GOOD, alpha=p_value * 0.999).estimate == ("X1", "X2")


@pytest.mark.parametrize("test", ["residuals", "chow"])
def test_noise_that_changes_between_environments_is_rejected(test):
    # The IRM paper's chain X1 -> Y -> X2: with its changing noise there is no estimate. (Not so
    # for every choice of scales: test_level.py has the IRM repository's.)
    random = np.random.default_rng(1)
    steady = icp(*chain(random, noise_changes=False), test=test)
    assert steady.estimate == ("X1",)
    changing = icp(*chain(random, noise_changes=True), test="residuals")
    assert changing.outcome == "rejected"
    assert changing.estimate is None
    assert changing.intervals is None
    assert changing.p_values == {"X1": 1.0, "X2": 1.0}
    assert changing.defining_sets == ()
    assert "noise that changes" in changing.describe()


@pytest.mark.parametrize("setting", SETTINGS)
def test_on_the_irm_papers_models_it_names_causes_or_rejects(setting):
    # Noise of the target that changes (E), mixed inputs (S) and hidden causes (P) break what is
    # assumed; a hidden cause as weak as there is not always seen.
    found = []
    for seed in range(4):
        problem = irm_paper_sem(setting, seed=seed, size=6, scales=(0.2, 0.5, 1.0))
        table = problem.sample("train", 500)
        rows = (table.inputs, table.target, table.environment)
        found.append(icp(*rows, variables=table.variables, estimate_only=True))
    if setting in ("FOU", "POU"):
        assert all(set(result.estimate or ()) <= {"x1", "x2", "x3"} for result in found)
        assert sum(result.outcome == "identified" for result in found) >= 3
    else:
        assert {result.outcome for result in found} == {"rejected"}


def test_near_copies_leave_a_defining_set():
    random = np.random.default_rng(2)
    inputs, target, environment = linear(random)
    copies = inputs[:, [0]] + 0.01 * random.normal(size=(len(target), 1))
    result = icp(np.hstack([inputs[:, :1], copies]), target + 0.7 * inputs[:, 1], environment)
    assert result.outcome == "empty_intersection"
    assert result.estimate == ()
    assert result.defining_sets == (("X1", "X2"),)
    assert "{X1, X2}" in result.describe()


def test_nothing_is_learnt_where_nothing_moves():
    result = icp(*linear(np.random.default_rng(3), shift=0.0))
    assert result.outcome == "empty_set_accepted"
    assert result.estimate == ()
    assert result.defining_sets == ()


def test_early_stopping_gives_the_same_estimate():
    full, early = icp(*GOOD), icp(*GOOD, estimate_only=True)
    assert (early.outcome, early.estimate) == (full.outcome, full.estimate)
    assert early.defining_sets == full.defining_sets
    assert len(early.set_p_values) == 7
    assert early.p_values is None
    assert early.intervals is None
    colours = flipped_colours(np.random.default_rng(4))
    assert list(icp(*colours, estimate_only=True).set_p_values) == [()]


def test_the_test_chooses_itself_by_the_target():
    assert icp(*GOOD).test == "residuals"
    assert icp(*flipped_colours(np.random.default_rng(5))).test == "calibration"


def test_a_test_of_ones_own():
    class Oracle:
        name = "oracle"
        target = "numeric"

        def prepare(self, sample, bonferroni):
            return lambda subset: SetTest(float(subset == (0, 1)))

    result = icp(*GOOD, test=Oracle())  # type: ignore[arg-type]
    assert (result.test, result.estimate) == ("oracle", ("X1", "X2"))
    assert result.intervals is None


def test_groups_are_in_a_set_together():
    inputs, target, environment = linear(np.random.default_rng(5))
    halves = np.random.default_rng(6).normal(size=(len(target), 1))
    # X1 in two columns, which only together say what it is.
    columns = np.column_stack([inputs[:, [0]] - halves, inputs[:, 1:], halves])
    groups = {"first": ("X1", "X4"), "rest": ("X2", "X3")}
    found = icp(columns, target, environment, groups=groups)
    each = icp(columns, target, environment)
    assert found.set_p_values == {
        (): each.set_p_values[()],
        ("first",): each.set_p_values["X1", "X4"],
        ("rest",): each.set_p_values["X2", "X3"],
        ("first", "rest"): each.set_p_values["X1", "X2", "X3", "X4"],
    }
    assert found.intervals is None
    for wrong in ({"first": ("X1", "X4")}, {**groups, "none": ()}, {**groups, "more": ("X1",)}):
        with pytest.raises(UsageError, match="must be in one group"):
            icp(columns, target, environment, groups=wrong)
    with pytest.raises(UsageError, match="cannot be screened"):
        icp(columns, target, environment, groups=groups, screen="lasso")


def test_it_is_written_as_json():
    inputs, target, environment = GOOD
    constant = np.column_stack([inputs, np.ones(len(target))])
    for result in (icp(*GOOD), icp(constant, target, environment), icp(*GOOD, alpha=0.99)):
        document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert document["outcome"] == result.outcome
        assert len(document["sets"]) == len(result.set_p_values)


def test_conclusions_from_p_values_of_elsewhere():
    p_values = {("b",): 0.3, (): 0.001, ("a",): 0.01, ("a", "b"): 0.2}
    result = ICPResult.from_p_values(p_values, ["a", "b"], alpha=0.05, test="held out")
    assert result.estimate == ("b",)
    assert result.accepted_sets == (("b",), ("a", "b"))
    assert result.p_values == {"a": 0.3, "b": 0.01}


def test_the_bonferroni_rules():
    two, three = (linear(np.random.default_rng(6), count=k, shift=0.2) for k in (2, 3))
    for drawn, ratio in ((two, 1.0), (three, 1.5)):
        recommended, theirs = icp(*drawn), icp(*drawn, bonferroni="R")
        small = [s for s, p in recommended.set_p_values.items() if p < 1]
        assert small
        for names in small:
            expected = theirs.set_p_values[names] * ratio
            assert recommended.set_p_values[names] == pytest.approx(expected)


# Many variables


def wide(seed: int, count: int = 40) -> Table:
    random = np.random.default_rng(seed)
    inputs, target, environment = linear(random, rows=200)
    return Table(
        np.hstack([inputs, random.normal(size=(len(target), count - 3))]), target, environment
    )


@pytest.mark.parametrize("screen", ["boosting", "lasso", "stability"])
def test_a_screen_keeps_the_causes_and_says_what_it_costs(screen):
    result = icp(*wide(7), screen=screen, keep=6)
    assert result.estimate == ("X1", "X2")
    assert len(result.variables) <= 6
    assert len(result.variables) + len(result.screened_out) == 40
    assert any("only if these hold every parent" in note for note in result.notes)


def test_a_screen_may_keep_more_variables_than_rows_allow():
    random = np.random.default_rng(8)
    inputs, target, environment = linear(random, rows=20)
    many = np.hstack([inputs, random.normal(size=(60, 100))])
    for screen in ("boosting", "lasso", "stability"):
        assert len(icp(many, target, environment, screen=screen, keep=3).variables) == 3


def test_a_screen_that_leaves_nothing_out_changes_nothing():
    assert icp(*GOOD, screen="lasso").set_p_values == icp(*GOOD).set_p_values
    assert icp(*GOOD, screen="lasso").notes == icp(*GOOD).notes


# What it refuses


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (lambda t: t._replace(inputs=with_entry(t.inputs, np.nan)), {}, "NaN.*first at row 1"),
        (lambda t: t._replace(target=with_entry(t.target, np.inf)), {}, "infinite"),
        (lambda t: t._replace(target=with_entry(t.target, np.nan)), {}, "missing in 1 rows"),
        (lambda t: t._replace(inputs=t.inputs[:, 0]), {}, r"shape \(300,\)"),
        (lambda t: t._replace(inputs=t.inputs.astype(str) + "x"), {}, "not numbers"),
        (lambda t: t._replace(target=t.target[1:]), {}, r"must be \(300,\)"),
        (lambda t: t._replace(target=np.ones(300)), {}, "nothing to explain"),
        (lambda t: t._replace(environment=np.zeros(300)), {}, "at least 2 to"),
        (lambda t: t._replace(environment=with_entry(t.environment, 9)), {}, "single row: 9.0"),
        (lambda t: t._replace(environment=with_entry(t.environment, np.nan)), {}, "missing"),
        (lambda t: Table(np.tile(t.inputs[::55], 2), *(v[::55] for v in t[1:])), {}, "has 6 rows"),
        (lambda t: Table(*(v[::55] for v in t)), {"test": "chow"}, "needs 5"),
        (lambda t: t._replace(target=t.target > 0), {"test": "chow"}, "not numeric"),
        (lambda t: t._replace(target=1 * (t.target > 0)), {"test": "residuals"}, "two values"),
        (lambda t: t._replace(inputs=np.tile(t.inputs, 6)), {}, r"2\^18 subsets.*screen='lasso'"),
        (lambda t: t, {"variables": ["a", "b"]}, "3 columns"),
        (lambda t: t, {"variables": ["a", "b", "a"]}, "name of its own"),
        (lambda t: t, {"alpha": 0}, "alpha is 0"),
        (lambda t: t, {"alpha": 5}, "alpha is 5"),
        (lambda t: t, {"test": "anova"}, "one of residuals, ranks, chow"),
        (lambda t: t, {"bonferroni": "none"}, "recommended, R"),
        (lambda t: t, {"intervals": "wide"}, "marginal, simultaneous"),
        (lambda t: t, {"screen": "ridge"}, "boosting, lasso, stability"),
        (lambda t: t, {"screen": "lasso", "keep": 0}, "keep is 0"),
    ],
)
def test_misuse_is_one_message_with_a_way_out(change, options, expected):
    with pytest.raises(UsageError, match=expected):
        icp(*change(GOOD), **options)


def test_importing_it_is_cheap():
    source = "import sys, dgbench.icp; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "pytorch_lightning", "sklearn", "pandas", "matplotlib", "scipy.stats"}
    assert not heavy & set(done.stdout.split())
