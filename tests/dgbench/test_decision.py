"""From held-out predictions of every set to what predicts."""

from __future__ import annotations

import numpy as np
import pytest

from dgbench.decision import Decision, Labels, PredictWith, decide

ROWS = 3000
COLOUR, SHAPE, BOTH = ("colour",), ("shape",), ("colour", "shape")


def odds(probability):
    """Logits (0, z) of two classes."""
    score = np.log(probability / (1 - probability))
    return np.column_stack([np.zeros_like(score), score])


def drawn(*, shares=(0.5, 0.5), shape_noise=(0.25, 0.25), flips=(0.1, 0.2), moved=0.0, seed=0):
    """Two environments of labels, a cause and what follows the label, and everyone's best heads."""
    random = np.random.default_rng(seed)
    environment = np.repeat([0, 1], ROWS)
    digit = random.random(2 * ROWS) < np.take(shares, environment)
    target = digit ^ (random.random(2 * ROWS) < np.take(shape_noise, environment))
    colour = target ^ (random.random(2 * ROWS) < np.take(flips, environment))
    noise, flip = np.mean(shape_noise), np.mean(flips)
    from_digit = np.where(digit, 1 - noise, noise)
    from_colour = np.where(colour, 1 - flip, flip)
    joint = from_digit * from_colour
    joint = joint / (joint + (1 - from_digit) * (1 - from_colour))
    logits = {
        (): odds(np.full(2 * ROWS, 0.5)),
        COLOUR: odds(from_colour),
        SHAPE: odds(from_digit),
        BOTH: odds(joint),
    }
    labels = Labels(target.astype(np.int64), environment, np.arange(2 * ROWS))
    variables = {
        "colour": colour[:, None] + 0.1 * random.normal(size=(2 * ROWS, 2)),
        "shape": digit[:, None]
        + 0.1 * random.normal(size=(2 * ROWS, 2))
        + moved * environment[:, None],
    }
    return logits, labels, variables


def decided(rule: PredictWith = "intersection", alpha=0.01, **options) -> Decision:
    logits, labels, variables = drawn(**options)
    return decide(logits, labels, labels, variables, alpha=alpha, rule=rule)


def test_on_colours_that_change_the_shape_is_accepted_and_nothing_is_identified():
    strict, best = decided("intersection"), decided("best_accepted")
    assert strict.result.outcome == best.result.outcome == "empty_set_accepted"
    assert strict.result.accepted_sets == ((), SHAPE)
    assert strict.chosen == ()
    assert best.chosen == SHAPE
    assert "Predicts the label prior of the training environments: the empty set is accepted." in (
        strict.describe()
    )
    assert "Predicts from {shape}: the accepted set with the lowest held-out loss." in (
        best.describe()
    )


def test_environments_that_move_the_cause_identify_it():
    for rule in ("intersection", "best_accepted"):
        found = decided(rule, shares=(0.35, 0.65))
        assert found.result.outcome == "identified"
        assert found.chosen == SHAPE
    assert "what all accepted sets have in common" in decided(shares=(0.35, 0.65)).describe()


@pytest.mark.parametrize("rule", ["intersection", "best_accepted"])
def test_where_nothing_is_accepted_the_prior_predicts(rule):
    found = decided(rule, shares=(0.2, 0.8), shape_noise=(0.1, 0.4))
    assert found.result.outcome == "rejected"
    assert found.chosen == ()
    assert "Predicts the label prior of the training environments: no set is accepted." in (
        found.describe()
    )


def test_a_rejection_without_covariate_shift_stands_and_one_with_it_may_be_misfit():
    still = decided()
    assert min(still.moved.values()) > 0.01
    assert "Not invariant at level 0.01: {colour}, {colour, shape}" in still.describe()
    assert "only misfit" not in still.describe()
    shifted = decided(moved=0.2)
    assert shifted.moved["shape"] < 1e-10
    assert "Not invariant at level 0.01: {colour}." in shifted.describe()
    assert "Rejected, but perhaps only misfit: {colour, shape}. The environments move {shape}," in (
        shifted.describe()
    )


def test_the_loss_of_a_set_is_its_cross_entropy_averaged_over_environments():
    logits, labels, variables = drawn()
    kept = np.concatenate([np.arange(100), np.arange(ROWS, ROWS + 900)])
    some = {subset: values[kept] for subset, values in logits.items()}
    labels = Labels(*(values[kept] for values in labels))
    variables = {name: values[kept] for name, values in variables.items()}
    found = decide(some, labels, labels, variables, alpha=0.05, rule="intersection")
    probability = np.exp(some[SHAPE][:, 1]) / (1 + np.exp(some[SHAPE][:, 1]))
    losses = -np.log(np.where(labels.targets == 1, probability, 1 - probability))
    assert found.losses[SHAPE] == pytest.approx((losses[:100].mean() + losses[100:].mean()) / 2)
    assert found.losses[()] == pytest.approx(np.log(2))


def test_a_head_that_diverged_is_never_accepted():
    logits, labels, variables = drawn()
    logits[SHAPE] = np.full_like(logits[SHAPE], np.nan)
    found = decide(logits, labels, labels, variables, alpha=0.01, rule="best_accepted")
    assert found.result.set_p_values[SHAPE] == 0
    assert found.losses[SHAPE] is None
    assert found.chosen == ()


def test_the_empty_set_is_tested_on_all_samples_and_repeated_images_count_once():
    logits, labels, variables = drawn()
    unlucky = Labels(*(np.tile(values, 20) for values in drawn(seed=4, shares=(0.49, 0.51))[1]))
    independent = unlucky._replace(sources=np.arange(len(unlucky.targets)))
    p_values = [
        decide(
            logits, labels, all_rows, variables, alpha=0.05, rule="intersection"
        ).result.set_p_values[()]
        for all_rows in (labels, unlucky, independent)
    ]
    assert p_values[0] != p_values[1]
    assert p_values[1] > 0.001 > p_values[2]


def test_what_is_recorded_says_it_all():
    found = decided("best_accepted")
    content = found.to_dict()
    assert content["outcome"] == "empty_set_accepted"
    assert content["predictor"] == ["shape"]
    assert [tested["variables"] for tested in content["sets"]] == [
        [],
        ["colour"],
        ["shape"],
        list(BOTH),
    ]
    assert content["sets"][2]["p_value"] == found.result.set_p_values[SHAPE]
    assert content["text"] == found.describe()
