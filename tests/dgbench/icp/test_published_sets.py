"""The sets that peers print as accepted, on their data or on data of their models."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from datamodules.scm_presets import irm_paper_sem
from dgbench.icp import icp
from tests.dgbench.icp.tables import environments

# The worked example of causalicp.fit (J. L. Gamella, BSD 3-Clause, https://github.com/juangamella/icp):
# five rows of each environment, the last column is Y.
CAUSALICP_FIT = """
0.46274901 -0.19975643 0.76993618 2.65949677
0.3749258 -0.98625196 -0.1806925 1.23991796
-0.39597772 -1.79540294 -0.39718702 -1.31775062
2.39332284 -3.22549743 0.15317657 1.60679175
-0.56982823 0.5084231 0.41380479 1.19607095
1.45648798 8.29977262 1.05992289 7.49191164
-1.35654212 13.59077259 -1.14624494 5.76580633
-0.48800913 11.15112687 0.48421499 7.20695569
2.74901219 8.82465628 1.49619723 12.48016441
5.35033726 12.91847915 1.69812062 19.40468998
-11.73619893 -6.87502658 -6.71775898 -28.2782561
-16.24118216 -11.26774231 -9.22041168 -42.09076079
-14.85266731 -11.02688079 -8.71264951 -40.37471919
-16.08519052 -11.73497156 -10.58198058 -42.55646184
-17.07817707 -11.29005529 -10.04063011 -45.01702447
"""


def test_the_worked_example_of_causalicp():
    rows = np.array(CAUSALICP_FIT.split(), dtype=float).reshape(15, 4)
    result = icp(rows[:, :3], rows[:, 3], environments(3, 5), test="residuals", bonferroni="R")
    assert result.set_p_values == pytest.approx(
        {
            (): 6.8529852769059795e-06,
            ("X1",): 0.043550405609324994,
            ("X2",): 6.10963528362226e-06,
            ("X3",): 0.009731028782704005,
            ("X1", "X2"): 0.9107055098714101,
            ("X1", "X3"): 0.004160395025223608,
            ("X2", "X3"): 1,
            ("X1", "X2", "X3"): 1,
        },
        rel=1e-6,
    )
    assert set(result.accepted_sets) == {("X1", "X2"), ("X2", "X3"), ("X1", "X2", "X3")}
    assert result.estimate == ("X2",)
    assert result.p_values == pytest.approx({"X1": 1, "X2": 0.0435504, "X3": 0.9107055}, rel=1e-6)
    assert result.intervals is not None
    assert np.array(list(result.intervals.values())) == pytest.approx(
        np.array([[0, 2.3531227], [0.37617783, 0.89116407], [0, 4.25277329]]), abs=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_model_of_causalicps_readme(seed):
    # That of seed 12 of sempler 0.2.0; its rows cannot be drawn again, since what sempler draws has
    # changed. X3 makes X1 and X2, all three make Y; X2 is shifted, then X3 is set.
    random = np.random.default_rng(seed)
    e = np.repeat([0, 1, 2], [100, 130, 98])
    mean, variance = [0.09, -0.16, 0.22, 0.58], np.array([1.22, 1.99, 1.17, 1.12])
    noise = random.normal(mean, variance**0.5, size=(len(e), 4))
    x3 = np.where(e == 2, random.normal(-1, 3**0.5, size=len(e)), noise[:, 2])
    x1 = 1.65 * x3 + noise[:, 0]
    x2 = 1.23 * x3 + noise[:, 1] + (e == 1) * random.normal(3.1, 5.4**0.5, size=len(e))
    target = 1.72 * x1 + 0.67 * x2 + 0.74 * x3 + noise[:, 3]
    result = icp(np.column_stack([x1, x2, x3]), target, e, bonferroni="R")
    assert set(result.accepted_sets) == {("X1", "X2"), ("X2", "X3"), ("X1", "X2", "X3")}
    assert result.estimate == ("X2",)


def test_of_the_first_example_of_r_all_supersets_of_the_causes_are_accepted():
    random = np.random.default_rng(0)
    e = environments(2, 2000)
    inputs = random.normal(size=(4000, 5)) + e[:, None]
    target = inputs[:, 0] + inputs[:, 1] + random.normal(size=4000)
    result = icp(inputs, target, e, alpha=0.01, bonferroni="R")
    others = ("X3", "X4", "X5")
    further = chain.from_iterable(combinations(others, count) for count in range(4))
    assert set(result.accepted_sets) == {("X1", "X2", *more) for more in further}
    assert result.estimate == ("X1", "X2")


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ("FOU", "X1"),  # the cause
        ("FEU", "X2"),  # the effect: noise of Y that changes is against what ICP assumes
    ],
)
def test_of_the_irm_papers_chain_one_set_is_accepted_right_or_wrong(setting, accepted):
    problems = [irm_paper_sem(setting, size=2, seed=seed) for seed in range(20)]
    tables = [problem.sample("train", 1000) for problem in problems]
    estimates = [icp(table.inputs, table.target, table.environment).estimate for table in tables]
    # A set that is invariant is rejected in one of twenty, at the level of 5 %.
    assert estimates.count((accepted,)) >= 17
