"""Agreement with R's InvariantCausalPrediction and causalicp on their own terms.

The case causalicp_doc is the worked example of causalicp (BSD 3-Clause).
"""

from __future__ import annotations

import pytest

from dgbench.icp import icp
from tests.dgbench.icp.tables import NAMES, TESTS, case, names

COMPARED = [
    (name, theirs)
    for name in NAMES
    for theirs, expected in case(name).expected.items()
    if theirs in TESTS and expected["tol_abs"] is not None
]
LEVELS = [
    (name, theirs, level)
    for name, theirs in COMPARED
    for level in case(name).expected[theirs].get("alpha", {})
]


def test_every_case_is_compared():
    assert len(NAMES) == 8
    assert len(COMPARED) == 2 * 6 + 3 * 2
    assert len(LEVELS) == 2 * len(COMPARED)


@pytest.mark.parametrize(("name", "theirs"), COMPARED)
def test_p_values_of_all_sets_agree(name, theirs):
    table, expected = case(name).table, case(name).expected[theirs]
    result = icp(*table, test=TESTS[theirs], bonferroni="R")
    assert len(result.set_p_values) == len(expected["set_pvalues"])
    for written, p_value in expected["set_pvalues"].items():
        assert result.set_p_values[names(written)] == pytest.approx(
            p_value, rel=0, abs=expected["tol_abs"]
        )


@pytest.mark.parametrize(("name", "theirs", "level"), LEVELS)
def test_conclusions_agree(name, theirs, level):
    expected = case(name).expected[theirs]
    at_level = expected["alpha"][level]
    result = icp(*case(name).table, test=TESTS[theirs], bonferroni="R", alpha=float(level))
    assert result.outcome == at_level["outcome"]
    assert result.estimate == (
        None if at_level["estimate"] is None else tuple(at_level["estimate"])
    )
    assert set(result.accepted_sets) == {names(written) for written in at_level["accepted"]}
    if "pvalues" in at_level:
        assert result.p_values == pytest.approx(at_level["pvalues"], rel=0, abs=expected["tol_abs"])


@pytest.mark.parametrize(("name", "theirs", "level"), LEVELS)
def test_intervals_agree(name, theirs, level):
    at_level = case(name).expected[theirs]["alpha"][level]
    result = icp(*case(name).table, test=TESTS[theirs], bonferroni="R", alpha=float(level))
    if result.outcome == "rejected":
        assert result.intervals is None
    elif "lower" in at_level:
        # R stops its logistic fits at 1e-6, which moves their intervals by up to 5e-5.
        tolerance = 1e-9 if TESTS[theirs] in ("residuals", "chow") else 1e-4
        assert result.intervals is not None
        for variable, bounds in result.intervals.items():
            expected = (at_level["lower"][variable], at_level["upper"][variable])
            assert bounds == pytest.approx(expected, rel=0, abs=tolerance)
