"""Tables for invariant causal prediction from data sets and structural causal models."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from datamodules.base import EnvironmentDataModule
from datamodules.scm_presets import EXAMPLES, SETTINGS, Problem, irm_paper_sem, linear_unit_test
from dgbench import inspect, registry
from dgbench.errors import UsageError
from dgbench.icp.covariates import principal_components
from dgbench.icp_report import Columns
from dgbench.inspect.environments import COMPONENTS, view_numbers
from dgbench.settings import resolve_inspection

TARGET = "target"
# Of each environment of a model.
_ROWS = 1000

_MODELS: Mapping[str, Callable[..., Problem]] = {
    **{f"linear_unit_test_{name}": partial(linear_unit_test, name) for name in EXAMPLES},
    **{f"irm_sem_{name.lower()}": partial(irm_paper_sem, name) for name in SETTINGS},
}


def read(name: str, flags: Sequence[str]) -> Columns:
    """The variables of a data set.

    Of a model (`linear_unit_test_1`, `irm_sem_fou`) these are its columns, 1,000 rows of each
    environment. Of a data set of images they are its views, each a group of columns: its numbers,
    or their first ten principal components, which are found without looking at labels; rows are the
    main splits of the training environments, one for each source image, since rows must be
    independent.

    Args:
        name: of the data set or model.
        flags: which data: options of `inspect`; of a model `--data-seed`.

    Raises:
        UsageError: for names and options that there are not, and data sets without views.
    """
    if name in _MODELS:
        return _of_model(_MODELS[name](seed=_data_seed(flags)))
    known = list(registry.entries("data set"))
    if "." not in name and name not in known:
        raise UsageError(registry.unknown("data set", name, [*known, *_MODELS]))
    return _of_views(inspect.load(resolve_inspection([f"--dataset={name}", *flags])))


def _data_seed(flags: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dgbench icp --dataset MODEL", allow_abbrev=False)
    parser.add_argument("--data-seed", type=int, default=0, help="decides weights and rows")
    seed: int = parser.parse_args(flags).data_seed
    return seed


def _of_model(problem: Problem) -> Columns:
    table = problem.sample("train", _ROWS)
    return Columns(
        table.inputs,
        table.target,
        table.environment,
        table.variables,
        causes=table.parents,
    )


def _of_views(data: EnvironmentDataModule) -> Columns:
    if not data.views:
        raise UsageError("This data set declares no views; its inputs have no variables to test.")
    labels, environment, first = [], [], []
    for index in data.train_environments:
        rows = data.split_indices(index, "main")
        sources = data.environment(index).sources[rows].numpy()
        kept = np.zeros(len(rows), dtype=bool)
        kept[np.unique(sources, return_index=True)[1]] = True
        first.append(kept)
        labels.append(data.environment(index).targets[rows].numpy())
        environment += [data.environment_names[index]] * len(rows)
    chosen = np.concatenate(first)
    views = {
        view: principal_components(values[chosen], COMPONENTS)
        if values.shape[1] > COMPONENTS
        else values[chosen]
        for view, values in view_numbers(data).items()
    }
    groups = {
        view: tuple(f"{view} {column + 1}" for column in range(values.shape[1]))
        for view, values in views.items()
    }
    return Columns(
        np.hstack(list(views.values())),
        np.array(data.class_names)[np.concatenate(labels)[chosen]],
        np.array(environment)[chosen],
        tuple(name for own in groups.values() for name in own),
        groups,
    )
