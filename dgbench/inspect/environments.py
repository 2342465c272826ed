"""Whether training environments differ enough to tell what is invariant from what is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy import stats

from datamodules.base import EnvironmentDataModule
from datamodules.views import variables
from dgbench.errors import UsageError
from dgbench.icp.classification import calibration_p_value, fit_logistic, fit_multinomial

LEVEL = 0.05
# A view of many numbers is tested through its first principal components.
COMPONENTS = 10

_BATCH = 1024

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ViewTest:
    """One view of the inputs, as a predictor of the class.

    Attributes:
        view: its name.
        accuracy: of the pooled logistic fit, on the rows it was fitted to.
        p_value: of the calibration test: small where the view says different things about the
            class in different environments.
    """

    view: str
    accuracy: float
    p_value: float


@dataclass(frozen=True)
class EnvironmentReport:
    """How training environments differ.

    Attributes:
        environments: names of those compared.
        label_p_value: of a chi-squared test that all have the same shares of classes.
        label_distance: largest total variation distance between two environments' shares, 0 to 1.
        commonest: share of the commonest class: what a view must beat to say anything.
        views: one test a view.
    """

    environments: tuple[str, ...]
    label_p_value: float
    label_distance: float
    commonest: float
    views: tuple[ViewTest, ...]

    def differs(self, test: ViewTest) -> bool:
        """Whether a view changes, at `LEVEL` over all views."""
        return test.p_value * len(self.views) < LEVEL

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "environments": list(self.environments),
            "label_p_value": self.label_p_value,
            "label_distance": self.label_distance,
            "commonest_class": self.commonest,
            "views": [
                {
                    "view": test.view,
                    "accuracy": test.accuracy,
                    "p_value": test.p_value,
                    "differs": self.differs(test),
                }
                for test in self.views
            ],
        }


def compare(data: EnvironmentDataModule) -> EnvironmentReport:
    """Compares the main splits of the training environments.

    A view passes through its first `COMPONENTS` principal components into one logistic fit over
    all environments; ``calibration_p_value`` then asks whether that fit is calibrated alike in
    each. Methods like IRM need a view that changes: where none does, the training environments
    look like one, and nothing tells a spurious view from a causal one. A view that passes is not
    proved invariant; one that is rejected may be misfit, as a linear fit is a rough one.

    Args:
        data: the data set; its training environments are compared.

    Raises:
        UsageError: with fewer than two training environments.
    """
    trained = data.train_environments
    if len(trained) < 2:
        raise UsageError(
            f"--environments compares training environments and there are {len(trained)}; hold "
            "out fewer with --test-env."
        )
    targets = [
        data.environment(index).targets[data.split_indices(index, "main")].numpy()
        for index in trained
    ]
    classes = len(data.class_names)
    counts = np.array([np.bincount(labels, minlength=classes) for labels in targets])
    counts = counts[:, counts.sum(axis=0) > 0]
    shares = counts / counts.sum(axis=1, keepdims=True)
    distances = np.abs(shares[:, None] - shares).sum(axis=2) / 2
    labels = np.concatenate(targets)
    environment = np.repeat(np.arange(len(trained)), [len(of_one) for of_one in targets])
    return EnvironmentReport(
        tuple(data.environment_names[index] for index in trained),
        float(stats.chi2_contingency(counts, correction=False).pvalue),
        float(distances.max()),
        float(counts.sum(axis=0).max() / counts.sum()),
        tuple(_tests(data, labels, environment, classes)),
    )


def _tests(
    data: EnvironmentDataModule,
    labels: npt.NDArray[np.int64],
    environment: npt.NDArray[np.int64],
    classes: int,
) -> Iterator[ViewTest]:
    for view, values in view_numbers(data).items():
        columns = _components(values)
        if classes == 2:
            scores = fit_logistic(columns, labels == 1).scores
            guessed = (scores > 0).astype(np.int64)
        else:
            scores = fit_multinomial(columns, labels, classes).logits
            guessed = scores.argmax(axis=1)
        p_value = calibration_p_value(scores, labels, environment)
        yield ViewTest(view, float((guessed == labels).mean()), p_value)


def view_numbers(data: EnvironmentDataModule) -> dict[str, FloatArray]:
    """The views of the training environments' main splits, ``(n, numbers)`` each.

    Args:
        data: the data set.
    """
    parts = [
        {
            view: values.flatten(1).double().numpy()
            for view, values in variables(inputs, data.views).items()
        }
        for index in data.train_environments
        for inputs, _, _ in data.evaluation_batches(index, "main", batch_size=_BATCH)
    ]
    return {view: np.concatenate([part[view] for part in parts]) for view in parts[0]}


def _components(values: FloatArray) -> FloatArray:
    """The first principal components, of length 1 each; directions that do not vary left out."""
    centred = torch.from_numpy(values - values.mean(axis=0))
    strengths, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    kept = (strengths > 1e-9 * strengths[-1].clamp(min=1e-30)).nonzero()[-COMPONENTS:, 0].flip(0)
    found: FloatArray = (centred @ directions[:, kept] / strengths[kept].sqrt()).numpy()
    return found


def show(console: Console, found: EnvironmentReport) -> None:
    """Prints how environments differ.

    Args:
        console: where to print.
        found: what was compared.
    """
    names = ", ".join(found.environments)
    table = Table(title=escape(f"Training environments {names}"), title_justify="left")
    table.add_column("view")
    for column in ("accuracy", "p-value"):
        table.add_column(column, justify="right")
    table.add_column("what it says of the class")
    for test in found.views:
        table.add_row(
            escape(test.view),
            f"{100 * test.accuracy:.1f} %",
            f"{test.p_value:.3f}" if test.p_value >= 0.001 else f"{test.p_value:.0e}",
            "changes" if found.differs(test) else "no change found",
        )
    console.print(table)
    console.print(
        f"Accuracy of the commonest class: {100 * found.commonest:.1f} %. Shares of classes differ "
        f"by {found.label_distance:.3f} at the most (total variation; p = "
        f"{found.label_p_value:.3g}).",
        highlight=False,
    )
    console.print(_verdict(found), highlight=False)


def _verdict(found: EnvironmentReport) -> str:
    changing = [test.view for test in found.views if found.differs(test)]
    steady = [test.view for test in found.views if not found.differs(test)]
    if not changing:
        return "No view changes: these environments cannot tell an invariant view from another."
    if not steady:
        return "Every view changes: none of them is invariant, or the linear fits are too rough."
    return f"Changing: {', '.join(changing)}. Perhaps invariant: {', '.join(steady)}."
