from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins.precision import DoublePrecision, Precision
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from dgbench.evaluation import (
    ClassificationMetrics,
    all_splits,
    evaluate,
    splits_for_selection,
)
from dgbench.networks import Network
from leaderboard.metrics import all_metrics
from tests.synthetic import FEATURES, make_algorithm, make_data

CPU = torch.device("cpu")


def predictions(count: int = 500, classes: int = 4, size: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = size * torch.randn(count, classes, generator=generator)
    return logits, torch.randint(classes, (count,), generator=generator)


def measure(*batches: tuple[Tensor, Tensor]) -> dict[str, Any]:
    metrics = ClassificationMetrics()
    for logits, targets in batches:
        metrics.update(logits, targets)
    return {**metrics.compute()}


# Metrics


@pytest.mark.parametrize("classes", [2, 4, 10])
@pytest.mark.parametrize("size", [0.0, 0.1, 2.0, 40.0])
def test_metrics_equal_the_leaderboards(classes, size):
    logits, targets = predictions(classes=classes, size=size)
    expected = all_metrics(logits.numpy(), targets.numpy())
    assert measure((logits, targets)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_first_of_equal_logits_is_the_prediction():
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    assert measure((logits, torch.tensor([0, 1, 0])))["accuracy"] == 1.0
    assert measure((logits, torch.tensor([1, 2, 2])))["accuracy"] == 0.0


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_equal_torchmetrics(classes):
    logits, targets = predictions(classes=classes)
    probabilities = logits.double().softmax(dim=1)
    found = measure((logits, targets))
    calibration = MulticlassCalibrationError(classes, n_bins=15, norm="l1")
    accuracy = MulticlassAccuracy(classes, average="micro")
    assert found["ece"] == pytest.approx(calibration(probabilities, targets).item(), abs=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy(probabilities, targets).item(), abs=1e-6)
    assert found["n"] == 500


@pytest.mark.parametrize("sizes", [[500], [1] * 20 + [480], [7] * 71 + [3], [499, 1]])
def test_the_cut_into_batches_does_not_matter(sizes):
    logits, targets = predictions()
    whole = measure((logits, targets))
    parts = list(zip(logits.split(sizes), targets.split(sizes), strict=True))
    assert measure(*parts) == pytest.approx(whole, rel=1e-12, abs=1e-15)


def test_the_metrics_of_two_devices_add_up_to_those_of_one():
    logits, targets = predictions()
    devices = [ClassificationMetrics() for _ in range(2)]
    for rank, device in enumerate(devices):
        device.update(logits[rank::2], targets[rank::2])
    devices[0].merge_state(devices[1])
    expected = measure((logits, targets))
    assert devices[0].compute() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert devices[1].compute()["n"] == expected["n"] / 2


def test_a_right_and_certain_network_has_nothing_to_lose():
    targets = torch.arange(10) % 3
    certain = 1000.0 * nn.functional.one_hot(targets, 3)
    expected = {"accuracy": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0, "n": 10}
    assert measure((certain, targets)) == expected


# Evaluation


def make_network() -> Network:
    """A network with dropout: another mode gives other logits."""
    featurizer = nn.Sequential(nn.Linear(FEATURES, 16), nn.Dropout(0.5))
    return Network(featurizer, nn.Linear(16, 2))


def run(network: Network, splits: Any, precision: Precision | None = None) -> dict[str, Any]:
    return {**evaluate(network, make_data(), splits, CPU, precision or Precision())}


def test_evaluation_measures_every_sample_of_a_split_once():
    network = make_network().eval()
    data = make_data()
    found = run(network, [(0, "main"), (4, "holdout")])
    assert list(found) == ["north/main", "zenith/holdout"]
    for (index, split), metrics in zip([(0, "main"), (4, "holdout")], found.values(), strict=True):
        environment = data.environment(index)
        chosen = environment.main if split == "main" else environment.holdout
        with torch.no_grad():
            logits = network(environment.inputs[chosen])
        expected = all_metrics(logits.numpy(), environment.targets[chosen].numpy())
        assert metrics == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_in_evaluation_mode_and_leaves_the_mode_as_it_was(training):
    network = make_network().train(training)
    first, second = (run(network, [(0, "main")]) for _ in range(2))
    assert first == second
    assert all(module.training == training for module in network.modules())


def test_evaluation_leaves_weights_gradients_and_random_state_alone():
    network = make_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    run(network, all_splits(make_data()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_evaluation_follows_the_runs_precision():
    network = make_network()
    plain = run(network, [(0, "main")])["north/main"]
    double = run(network.double(), [(0, "main")], DoublePrecision())["north/main"]
    assert double == pytest.approx(plain, rel=1e-5)
    assert double["nll"] != plain["nll"]


def test_an_algorithms_network_is_what_is_measured():
    data = make_data()
    network = make_algorithm("erm", data).network
    head = network.classifier
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 1.0]))
    targets = data.environment(1).targets[data.environment(1).main]
    found = run(network, [(1, "main")])["east/main"]
    assert found["accuracy"] == pytest.approx(np.mean(targets.numpy() == 1))


def test_selection_reads_the_holdout_of_training_and_all_of_held_out_environments():
    data = make_data(test_envs=[4, "south"], train_envs=[1, 3])
    assert splits_for_selection(data) == [
        (1, "holdout"),
        (3, "holdout"),
        (4, "main"),
        (4, "holdout"),
        (2, "main"),
        (2, "holdout"),
    ]
    assert all_splits(data) == [(i, split) for i in range(5) for split in ("main", "holdout")]


def test_empty_splits_are_left_out():
    data = make_data()
    environment = data.environment(0)
    object.__setattr__(environment, "holdout", torch.empty(0, dtype=torch.int64))
    assert (0, "holdout") not in splits_for_selection(data)
    assert (0, "holdout") not in all_splits(data)
    assert (0, "main") in all_splits(data)
