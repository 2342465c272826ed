"""The linear unit tests as a gate: what an algorithm does where the answer is known.

Every algorithm trains a line on the examples of Aubin et al. (2021,
https://arxiv.org/abs/2102.10867) or the models of the IRM paper (https://arxiv.org/abs/1907.02893,
section 5.1), beside empirical risk minimisation, its oracle (trained where the spurious inputs are
shuffled) and invariant causal prediction. Records of runs are for data sets of images and their
splits; a screen leaves a table and one JSON file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import repeat
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
import yaml

from datamodules.scm import Table
from datamodules.scm_presets import SETTINGS, Problem, Split, irm_paper_sem, linear_unit_test
from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.errors import UsageError
from dgbench.icp import ICPResult, icp
from dgbench.linear_forms import best_form, make_algorithm
from dgbench.parser import in_our_words, refuse_unknown
from dgbench.protocols import configs
from dgbench.registry import load
from dgbench.runtime import quiet_lightning
from dgbench.search_space import draw, hyperparameters
from dgbench.stacked.model import StackedAlgorithm, obstacle
from leaderboard.statistics import beyond_two_errors, summarize

BASELINE = "erm"
ORACLE = "oracle"
ICP = "icp"
_ENVIRONMENTS_OF_MODELS = 3
# Rows of a stack: more do not get cheaper, and leave the processor's cache.
_ROWS = 200_000
# Rows of an environment that invariant causal prediction tests, and that forms are tried on.
_TESTED_ROWS = 500

Report = Callable[[str], None]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Plan:
    """What a screen does.

    Args:
        algo: the algorithm.
        examples: the linear unit tests, or models of the IRM paper.
        options: options of the algorithm that win over those of every draw.
        environments: environments of each example.
        data_seeds: how many data sets of each example.
        draws: how many settings; the best by mean validation error over the data seeds counts.
        samples: rows of each environment and split.
        steps: optimiser steps, over all rows each.
    """

    algo: str
    examples: tuple[str, ...]
    options: Mapping[str, Any]
    environments: int
    data_seeds: int
    draws: int
    samples: int
    steps: int


@dataclass(frozen=True)
class Result:
    """What one algorithm did on one example.

    Attributes:
        draw: the chosen draw.
        options: its options.
        errors: test error, ``(data seeds, environments)``; of the IRM paper's models the error of
            the weights, ``(data seeds, causes and effects)``.
        mean: mean over both.
        deviation: standard deviation over data seeds, averaged over the columns, as published.
    """

    draw: int
    options: Mapping[str, Any]
    errors: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean error over data seeds and environments."""
        return float(self.errors.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over data seeds (ddof 0), averaged over environments."""
        return float(self.errors.std(axis=0).mean())


@dataclass(frozen=True)
class Published:
    """A printed error.

    Attributes:
        mean: over data seeds and the columns of errors.
        deviation: over data seeds (ddof 0), averaged over the columns.
        data_seeds: how many.
        how: what else it was made of, in words.
    """

    mean: float
    deviation: float
    data_seeds: int
    how: str

    def difference(self, result: Result) -> tuple[float, bool | None]:
        """Ours minus theirs, and whether that is beyond two of its standard errors.

        None where we have one data seed alone. Their error comes from a deviation that is averaged
        over the columns: at least that of the mean over them, so no flag is raised too early.
        """
        difference = result.mean - self.mean
        ours = summarize(result.errors.mean(axis=1).tolist()).standard_error
        theirs = self.deviation / math.sqrt(self.data_seeds - 1)
        return difference, beyond_two_errors(difference, ours, theirs)


@dataclass(frozen=True)
class Line:
    """One example.

    Attributes:
        example: which one.
        error: what errors are: squared ones, shares of wrong labels, or squared ones of weights.
        results: by name: the algorithm, the baseline and the oracle; where weights are measured,
            invariant causal prediction.
        icp: outcome of invariant causal prediction, one a data seed.
        published: what is printed for it, by name; empty for numbers of environments without.
    """

    example: str
    error: Literal["squared", "share", "weights"]
    results: Mapping[str, Result]
    icp: tuple[str, ...]
    published: Mapping[str, Published]


def run(plan: Plan, report: Report = lambda text: None) -> list[Line]:
    """Runs a screen.

    Args:
        plan: what to do.
        report: told what is being trained.

    Raises:
        UsageError: when there are fewer settings than draws are asked for, or the IRM paper's
            models are asked for in other than their three environments.
    """
    models = [example for example in plan.examples if example in SETTINGS]
    if models and plan.environments != _ENVIRONMENTS_OF_MODELS:
        raise UsageError(
            f"--environments is {plan.environments}; {', '.join(models)} have "
            f"{_ENVIRONMENTS_OF_MODELS}: leave it out, or screen linear unit tests alone."
        )
    named = {plan.algo: plan.algo, BASELINE: BASELINE, ORACLE: BASELINE}
    settings = {name: draws(algo, plan) for name, algo in named.items()}
    lines = []
    for example in plan.examples:
        problems = [_problem(example, plan, seed) for seed in range(plan.data_seeds)]
        results = {}
        for name, algo in named.items():
            report(f"example {example}: {name}")
            kind = load("algorithm", algo)
            results[name] = _result(kind, settings[name], problems, plan, name == ORACLE)
        report(f"example {example}: invariant causal prediction")
        if example in SETTINGS:
            found = [icp_result(problem, plan.samples) for problem in problems]
            errors = [icp_errors(p, plan.samples, f) for p, f in zip(problems, found, strict=True)]
            results[ICP] = Result(0, {}, np.array(errors))
        else:
            found = [icp_result(problem) for problem in problems]
        lines.append(
            Line(
                example=example,
                error=_error(problems[0]),
                results=results,
                icp=tuple(each.outcome for each in found),
                published=published(example, plan.environments),
            )
        )
    return lines


def draws(algo: str, plan: Plan) -> list[dict[str, Any]]:
    """Settings of an algorithm: published ones where a file lists them, else of its signature.

    Args:
        algo: the algorithm.
        plan: how many, and what wins over them where it is the screened one.

    Raises:
        UsageError: when a file lists fewer.
    """
    overriding = plan.options if algo == plan.algo else {}
    path = configs() / "screen" / f"{algo}.yaml"
    if path.exists():
        content = yaml.safe_load(path.read_text())
        listed = content["draws"]
        if plan.draws > len(listed):
            raise UsageError(
                f"--draws is {plan.draws}; it must be at most {len(listed)}, the settings that "
                f"configs/screen/{path.name} lists."
            )
        times = dict.fromkeys(content.get("per_environment", ()), plan.environments)
        return [
            {
                **{name: value * times.get(name, 1) for name, value in options.items()},
                **overriding,
            }
            for options in listed[: plan.draws]
        ]
    ranges = {
        option.name: option.range
        for option in hyperparameters(load("algorithm", algo))
        if option.range is not None
    }
    return [{**draw(ranges, seed), **overriding} for seed in range(plan.draws)]


def algorithm_options(algo: str, flags: Sequence[str]) -> dict[str, Any]:
    """The algorithm's options that a command line gives, as ``--algo.NAME=VALUE``.

    Args:
        algo: the algorithm.
        flags: what is left of the command line.

    Raises:
        UsageError: for other flags, and values that an option cannot have.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    kind = load("algorithm", algo)
    parser.add_class_arguments(kind, "algo", skip={"network", "n_environments"}, instantiate=False)
    refuse_unknown(parser, flags)
    try:
        parsed = parser.parse_args(list(flags)).algo
    except ArgumentError as error:
        raise UsageError(in_our_words(error, f"fit --algo {algo}")) from None
    given = {flag.partition("=")[0].removeprefix("--algo.") for flag in flags if flag[:2] == "--"}
    return {name: parsed[name] for name in given}


def icp_result(problem: Problem, rows: int = _TESTED_ROWS) -> ICPResult:
    """What invariant causal prediction says about an example's rows.

    Args:
        problem: the example.
        rows: how many of each environment.
    """
    table = problem.sample("train", rows)
    return icp(
        table.inputs, table.target, table.environment,
        variables=table.variables, estimate_only=True,
    )  # fmt: skip


def icp_errors(problem: Problem, rows: int, found: ICPResult) -> tuple[float, float]:
    """Errors of the weights of a regression on what it names as causes.

    Args:
        problem: a model of the IRM paper.
        rows: of each environment.
        found: what it said about them.
    """
    table = problem.sample("train", rows)
    causes = [table.variables.index(name) for name in found.estimate or ()]
    line = np.zeros(len(table.variables))
    design = np.column_stack([table.inputs[:, causes], np.ones(len(table.target))])
    line[causes] = np.linalg.lstsq(design, table.target, rcond=None)[0][:-1]
    return problem.weight_errors(line)


def published(example: str, environments: int) -> dict[str, Published]:
    """Published errors on an example, by name of the algorithm.

    Args:
        example: the example.
        environments: number of environments; of linear unit tests, 2 to 10 are published.
    """
    if example in SETTINGS:
        content = _publication("published_sem")
        columns = content["errors"][example]
    else:
        content = _publication("published")
        errors = content["errors"].get(environments, {}).get(example, {})
        columns = {name: [figure] for name, figure in errors.items()}
    found = {}
    for name, figures in columns.items():
        mean, deviation = np.mean(figures, axis=0).tolist()
        found[name] = Published(mean, deviation, content["data_seeds"], content["how"])
    return found


@cache
def _publication(name: str) -> Mapping[str, Any]:
    path = configs() / "screen" / f"{name}.yaml"
    content: Mapping[str, Any] = yaml.safe_load(path.read_text())
    return content


def _problem(example: str, plan: Plan, seed: int) -> Problem:
    if example in SETTINGS:
        return irm_paper_sem(example, seed=seed)
    return linear_unit_test(example, environments=plan.environments, seed=seed)


def _error(problem: Problem) -> Literal["squared", "share", "weights"]:
    if problem.name in SETTINGS:
        return "weights"
    return "squared" if problem.is_regression else "share"


def _result(
    kind: type[Algorithm],
    settings: Sequence[Mapping[str, Any]],
    problems: Sequence[Problem],
    plan: Plan,
    oracle: bool,
) -> Result:
    """Trains all draws on all data seeds and measures the best draw."""

    def sample(problem: Problem, split: Split) -> Table:
        return problem.sample(split, plan.samples, shuffled=oracle or split == "test")

    form = best_form(kind, settings[0], problems[0].sample("train", _TESTED_ROWS))
    tables = [sample(problem, "train") for problem in problems]
    algorithms = [
        make_algorithm(form, kind, options, table, seed)
        for table in tables
        for seed, options in enumerate(settings)
    ]
    batches = [form.batch(table) for table in tables for _ in settings]
    train(algorithms, batches, plan.steps)
    of_weights = _error(problems[0]) == "weights"
    by_split = {}
    for split in ("validation", "test"):
        measured = [
            problem.weight_errors(form.line(algorithm, table.inputs.shape[1]))
            if of_weights and split == "test"
            else form.errors(algorithm, table)
            for problem, own in zip(problems, _grouped(algorithms, len(settings)), strict=True)
            for table in [sample(problem, split)]
            for algorithm in own
        ]
        by_split[split] = np.reshape(measured, (len(problems), len(settings), -1))
    best = int(by_split["validation"].mean(axis=(0, 2)).argmin())
    return Result(best, settings[best], by_split["test"][:, best])


def train(algorithms: Sequence[Algorithm], batches: Sequence[EnvironmentBatch], steps: int) -> None:
    """Trains each algorithm on its own full batch, stacked where the algorithm allows it.

    Args:
        algorithms: of one class and one shape; they are trained in place.
        batches: one for each, of one shape.
        steps: optimiser steps.
    """
    at_once = max(1, _ROWS // len(batches[0].targets))
    for own, data in zip(_grouped(algorithms, at_once), _grouped(batches, at_once), strict=True):
        if obstacle(own) is not None or not _train_stacked(own, data, steps):
            for algorithm, batch in zip(own, data, strict=True):
                _train_alone(algorithm, batch, steps)


def _train_stacked(
    algorithms: Sequence[Algorithm], batches: Sequence[EnvironmentBatch], steps: int
) -> bool:
    """Trains them as one, unless their objective looks at values, which cannot be traced."""
    stack = StackedAlgorithm(algorithms)
    columns = (
        torch.stack([getattr(batch, column.name) for batch in batches])
        for column in fields(EnvironmentBatch)
    )
    try:
        step = stack.traced_step(EnvironmentBatch(*columns), stack.configure_optimizers())
    except RuntimeError:
        return False
    for _ in range(steps):
        step()
    stack.write_back(algorithms)
    return True


def _train_alone(algorithm: Algorithm, batch: EnvironmentBatch, steps: int) -> None:
    with quiet_lightning():
        trainer = pl.Trainer(max_steps=steps, accelerator="cpu", devices=1, barebones=True)
        trainer.fit(algorithm, _Repeated(batch, steps))


@dataclass(frozen=True)
class _Repeated:
    """One batch again and again, which Lightning would take for several loaders in a list."""

    batch: EnvironmentBatch
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[EnvironmentBatch]:
        return repeat(self.batch, self.steps)


def _grouped(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Neighbours in groups of a size, the last one smaller if need be."""
    return (values[start : start + size] for start in range(0, len(values), size))
