"""Measures a network on the splits of a data set, every sample once, on any number of devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.base import EVALUATION_BATCH_SIZE, EnvironmentDataModule
from datamodules.environments import Split
from dgbench.collectives import gathered_rows, rank, world_size
from dgbench.networks import Network
from leaderboard import records

CALIBRATION_BINS = 15


class ClassificationMetrics(Metric):
    """Accuracy, negative log-likelihood, Brier score and expected calibration error.

    The leaderboard defines them in numpy (:mod:`leaderboard.metrics`); here they are sums of
    float64, so that devices add up theirs to the numbers that one device would have found.
    """

    full_state_update = False
    sums: Tensor
    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        # n, correct, negative log-likelihood, Brier
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        # correct and confidence, for each bin of confidence
        bins = torch.zeros(2, CALIBRATION_BINS, dtype=torch.float64)
        self.add_state("bins", bins, dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Adds samples.

        Args:
            logits: ``(n, classes)``, float.
            targets: ``(n,)``, int64.
        """
        # The leaderboard's definition: logits that are not finite have no metrics at all.
        nothing = torch.where(logits.isfinite().all(), 0.0, torch.nan).double()
        log_probabilities = logits.double().log_softmax(dim=-1)
        probabilities = log_probabilities.exp()
        confidence, predicted = probabilities.max(dim=-1)
        correct = (predicted == targets).double()
        one_hot = F.one_hot(targets, logits.shape[-1])
        self.sums += torch.stack(
            [
                torch.full_like(correct, 1.0).sum(),
                correct.sum() + nothing,
                F.nll_loss(log_probabilities, targets, reduction="sum") + nothing,
                (probabilities - one_hot).square().sum() + nothing,
            ]
        )
        # Bin b holds the confidences in (b / 15, (b + 1) / 15].
        edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64)[1:-1]
        bin_index = torch.bucketize(confidence, edges.to(confidence.device))
        members = F.one_hot(bin_index, CALIBRATION_BINS).double()
        self.bins += torch.stack([correct, confidence]) @ members + nothing

    def compute(self) -> records.SplitMetrics:
        """The metrics of all samples added on all devices."""
        count, correct, nll, brier = self.sums.tolist()
        gaps = (self.bins[0] - self.bins[1]).abs().sum().item()
        return {
            "accuracy": correct / count,
            "nll": nll / count,
            "brier": brier / count,
            "ece": gaps / count,
            "n": round(count),
        }


# Told, on the first process alone, the predictions of a whole split.
Keep = Callable[[str, Tensor, Tensor, Tensor], None]


@torch.no_grad()
def evaluate(
    network: Network,
    data: EnvironmentDataModule,
    splits: Iterable[tuple[int, Split]],
    device: torch.device,
    precision: Precision,
    keep: Keep | None = None,
) -> dict[str, records.SplitMetrics]:
    """Measures a network on splits, never augmented, in evaluation mode.

    Args:
        network: what is measured; its mode is as it was afterwards.
        data: the data set.
        splits: pairs of environment index and split; empty ones are left out.
        device: where the network is.
        precision: Lightning's precision plugin of the run.
        keep: given each split's name, logits ``(n, classes)``, targets ``(n,)`` and indices
            ``(n,)``, of all devices in the order of the split.

    Returns:
        Metrics by ``<environment>/<split>``.
    """
    training = network.training
    network.eval()
    measured = {}
    passed = _passed(
        lambda inputs: network(inputs).unsqueeze(0), 1, data, splits, device, precision
    )
    for name, logits, targets, indices in passed:
        measured[name] = _metrics(logits[0], targets)
        if keep is not None:
            whole = [gathered_rows(part) for part in (logits[0], targets, indices)]
            if rank() == 0:
                keep(name, *whole)
    network.train(training)
    return measured


@torch.no_grad()
def evaluate_stacked(
    logits_of: Callable[[Tensor], Tensor],
    networks: int,
    data: EnvironmentDataModule,
    splits: Iterable[tuple[int, Split]],
    device: torch.device,
    precision: Precision,
    rows: int = EVALUATION_BATCH_SIZE,
) -> list[dict[str, records.SplitMetrics]]:
    """Measures several networks on the same splits in one pass, never augmented.

    Args:
        logits_of: maps inputs ``(n, ...)`` to logits ``(networks, n, classes)``.
        networks: how many there are; in evaluation mode.
        data: the data set.
        splits: pairs of environment index and split; empty ones are left out.
        device: where the networks are.
        precision: Lightning's precision plugin of the run.
        rows: inputs of a pass.

    Returns:
        For each network, metrics by ``<environment>/<split>``.
    """
    measured: list[dict[str, records.SplitMetrics]] = [{} for _ in range(networks)]
    passed = _passed(logits_of, networks, data, splits, device, precision, rows)
    for name, logits, targets, _ in passed:
        for position in range(networks):
            measured[position][name] = _metrics(logits[position], targets)
    return measured


def _passed(
    logits_of: Callable[[Tensor], Tensor],
    networks: int,
    data: EnvironmentDataModule,
    splits: Iterable[tuple[int, Split]],
    device: torch.device,
    precision: Precision,
    rows: int = EVALUATION_BATCH_SIZE,
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Each split's name and this device's share of it, which may have no row.

    That is logits ``(networks, n, classes)``, targets and indices ``(n,)``.
    """
    for environment, split in splits:
        logits = [torch.zeros(networks, 0, len(data.class_names), device=device)]
        targets = [torch.zeros(0, dtype=torch.int64)]
        indices = [torch.zeros(0, dtype=torch.int64)]
        for inputs, labels, chosen in data.evaluation_batches(
            environment, split, batch_size=rows, rank=rank(), world_size=world_size()
        ):
            with precision.forward_context():
                logits.append(logits_of(precision.convert_input(inputs.to(device))))
            targets.append(labels)
            indices.append(chosen)
        name = f"{data.environment_names[environment]}/{split}"
        parts = logits[1:] or logits
        yield name, torch.cat(parts, dim=1), torch.cat(targets).to(device), torch.cat(indices)


def _metrics(logits: Tensor, targets: Tensor) -> records.SplitMetrics:
    metrics = ClassificationMetrics().to(logits.device)
    if len(targets):
        metrics.update(logits, targets)
    return metrics.compute()


def splits_for_selection(data: EnvironmentDataModule) -> list[tuple[int, Split]]:
    """The splits that some selection rule reads, and the one whose accuracy is a run's number.

    That is the holdout of training environments, and both splits of held-out ones.

    Args:
        data: the data set, with its environments' roles.
    """
    train: list[tuple[int, Split]] = [(index, "holdout") for index in data.train_environments]
    test: list[tuple[int, Split]] = [
        (index, split) for index in data.test_environments for split in ("main", "holdout")
    ]
    return [pair for pair in train + test if len(data.split_indices(*pair))]


def all_splits(data: EnvironmentDataModule) -> list[tuple[int, Split]]:
    """Every split of every environment that has samples.

    Args:
        data: the data set.
    """
    pairs: list[tuple[int, Split]] = [
        (index, split)
        for index in range(len(data.environment_names))
        for split in ("main", "holdout")
    ]
    return [pair for pair in pairs if len(data.split_indices(*pair))]
