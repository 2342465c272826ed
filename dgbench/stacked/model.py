"""Several runs' algorithms as one module, by torch.func."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import count
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call

from datamodules.base import EVALUATION_BATCH_SIZE
from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.errors import UsageError
from dgbench.networks import Network
from dgbench.stacked.adam import StackedAdam, along_runs
from dgbench.stacked.traced import trace

# What every module has of its own accord; what an algorithm adds to it are its options.
_LIGHTNINGS_OWN = frozenset(vars(pl.LightningModule()))


class StackedAlgorithm(pl.LightningModule):
    """K algorithms of one class as one module: entry k of everything is the k-th's own.

    Parameters and buffers are those of one algorithm with one more dimension in front; options that
    are numbers may differ. Every step is each algorithm's own, up to the order in which sums are
    rounded. Draws inside a network, such as dropout's, differ between the K and are not those that
    each would make alone.

    It needs no Trainer: ``training_step``, ``backward`` and the optimiser of
    ``configure_optimizers`` will do.

    Args:
        algorithms: what is stacked; they stay as they are.

    Attributes:
        algorithm: one of them, whose parameters and buffers are those of all.
        outputs: what the last objectives returned, ``(K, ...)`` each, detached.

    Raises:
        UsageError: when they cannot be stacked; :func:`obstacle` says why.
    """

    def __init__(self, algorithms: Sequence[Algorithm]) -> None:
        super().__init__()
        reason = obstacle(algorithms)
        if reason is not None:
            raise UsageError(f"These runs cannot be stacked: {reason}.")
        self._step = _Step(copy.deepcopy(algorithms[0]))
        for name, parameter in self.algorithm.named_parameters():
            parameter.data = torch.stack([a.get_parameter(name).detach() for a in algorithms])
        for name, buffer in self.algorithm.named_buffers():
            buffer.data = torch.stack([a.get_buffer(name) for a in algorithms])
        self._options = {
            name: _column([vars(a)[name] for a in algorithms]) for name in _differing(algorithms)
        }
        self._learning_rates = [a.learning_rate for a in algorithms]
        self._weight_decays = [a.weight_decay for a in algorithms]
        self._restarts = [a.anneal_steps if a.restart_optimizer else 0 for a in algorithms]
        self.outputs: dict[str, Tensor] = {}

    @property
    def algorithm(self) -> Algorithm:
        """One of the algorithms, whose parameters and buffers are those of all."""
        return self._step.algorithm

    def logits_of(self, chosen: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """What some of the networks make of the same inputs, with their weights of now.

        Args:
            chosen: which of the K.

        Returns:
            A function from inputs ``(n, ...)`` to logits ``(len(chosen), n, classes)``.
        """
        network = self.algorithm.network
        named = (*network.named_parameters(), *network.named_buffers())
        states = {name: value.detach()[list(chosen)] for name, value in named}

        def own(state: dict[str, Tensor], inputs: Tensor) -> Tensor:
            found: Tensor = functional_call(network, state, (inputs,))
            return found

        if len(chosen) == 1:
            # vmap of one costs as much as a small network's pass.
            alone = {name: value[0] for name, value in states.items()}
            return lambda inputs: own(alone, inputs).unsqueeze(0)
        return lambda inputs: torch.vmap(own, (0, None))(states, inputs)

    def rows(self, networks: int) -> int:
        """How many inputs some of the networks take in one pass, at the least as many as one alone.

        A check of small networks is many small passes, each of which costs its dispatch.

        Args:
            networks: how many.
        """
        most = self.algorithm.network.rows or 0
        return max(EVALUATION_BATCH_SIZE, most // networks)

    def network(self, position: int) -> Network:
        """A copy of one of the networks.

        Args:
            position: which of the K.
        """
        network = copy.deepcopy(self.algorithm.network)
        for value in (*network.parameters(), *network.buffers()):
            value.data = value.data[position].clone()
        return network

    # Lightning's hooks

    def training_step(self, batch: EnvironmentBatch, batch_idx: int) -> Tensor:
        """K objectives in one pass; the sum has each one's gradient.

        Args:
            batch: of K runs, see :class:`datamodules.stacked_streams.StackedStream`.
            batch_idx: its number.
        """
        state = dict((*self._step.named_parameters(), *self._step.named_buffers()))
        losses, outputs = torch.vmap(self._one, randomness="different")(
            state, self._options_beside(batch), _columns(batch)
        )
        self._keep(outputs.pop("state", {}))
        self.outputs = {name: value.detach() for name, value in outputs.items()}
        total: Tensor = losses.sum()
        return total

    def traced_step(self, batch: EnvironmentBatch, optimizer: StackedAdam) -> Callable[[], None]:
        """A step on a batch that stays the same, traced once.

        It takes the steps of ``training_step`` without the cost of ``vmap``, without what only the
        loss's value needs and without what depends on the batch alone, which are most of a small
        problem's step; ``outputs`` stay as they are.

        Args:
            batch: of K runs.
            optimizer: that of ``configure_optimizers``.
        """
        parameters = dict(self._step.named_parameters())
        buffers = dict(self._step.named_buffers())
        options, columns = self._options_beside(batch), _columns(batch)

        def loss(
            own: dict[str, Tensor], state: dict[str, Tensor], values: Any, rows: Any
        ) -> tuple[Tensor, Any]:
            value, outputs = self._one({**own, **state}, values, rows)
            return value, outputs.get("state", {})

        gradients = torch.vmap(torch.func.grad(loss, has_aux=True), randomness="different")
        weights = {name: value.detach() for name, value in parameters.items()}
        gradients_at = trace(gradients, (weights, buffers), (options, columns))
        taken = count()

        def step() -> None:
            self.restart_where_due(optimizer, next(taken))
            with torch.no_grad():
                found, state = gradients_at(weights, buffers)
            for name, gradient in found.items():
                parameters[name].grad = gradient
            self._keep(state)
            optimizer.step()

        return step

    def _options_beside(self, batch: EnvironmentBatch) -> dict[str, Tensor]:
        """The options that differ, in the type and place of what they meet."""
        dtype = next(self.parameters()).dtype
        return {
            name: values.to(batch.inputs.device, dtype if values.is_floating_point() else None)
            for name, values in self._options.items()
        }

    def _keep(self, state: Mapping[str, Tensor]) -> None:
        """Takes what objectives found over into the buffers, and counts the step."""
        for name, value in state.items():
            self.algorithm.get_buffer(name).copy_(value.detach())
        self.algorithm.steps_taken += 1

    def write_back(self, algorithms: Sequence[Algorithm]) -> None:
        """Copies everything that was trained into algorithms of its own.

        Args:
            algorithms: the K of which this is made, in order.
        """
        for name, values in self.algorithm.state_dict().items():
            for algorithm, value in zip(algorithms, values, strict=True):
                algorithm.state_dict()[name].copy_(value)

    def _one(
        self, state: dict[str, Tensor], options: dict[str, Tensor], batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Any]]:
        found: tuple[Tensor, dict[str, Any]] = functional_call(self._step, state, (options, batch))
        return found

    def on_train_batch_start(self, batch: EnvironmentBatch, batch_idx: int) -> None:
        """Forgets the moments of those whose penalty switches on, if they ask for it."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, StackedAdam)
        self.restart_where_due(optimizer, self.global_step)

    def restart_where_due(self, optimizer: StackedAdam, step: int) -> None:
        """Forgets the moments of those whose penalty switches on at a step, if they ask for it.

        Args:
            optimizer: that of ``configure_optimizers``.
            step: the step to come, from 0.
        """
        if step in self._restarts and step > 0:
            optimizer.restart(torch.tensor(self._restarts) == step)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips each one's gradient by its own norm, which a norm over all would not."""
        if gradient_clip_val is None or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
            return
        found = [p.grad for p in self.parameters() if p.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in found]).norm(dim=0)
        factors = (gradient_clip_val / (norms + 1e-6)).clamp(max=1.0)
        for gradient in found:
            gradient.mul_(along_runs(factors, gradient))

    def configure_optimizers(self) -> StackedAdam:
        """Adam with each one's learning rate and weight decay."""
        return StackedAdam(self.parameters(), self._learning_rates, self._weight_decays)


class _Step(nn.Module):
    """What a step differentiates, as a module that ``functional_call`` can call."""

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(
        self, options: Mapping[str, Tensor], batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Any]]:
        with _having(self.algorithm, options):
            return self.algorithm.differentiated(EnvironmentBatch(*batch))


@contextlib.contextmanager
def _having(algorithm: Algorithm, options: Mapping[str, Tensor]) -> Iterator[None]:
    """Gives an algorithm other options for a while."""
    before = {name: vars(algorithm)[name] for name in options}
    vars(algorithm).update(options)
    try:
        yield
    finally:
        vars(algorithm).update(before)


def obstacle(algorithms: Sequence[Algorithm]) -> str | None:
    """Why algorithms cannot be stacked, None if they can.

    Args:
        algorithms: those of the runs.
    """
    first = algorithms[0]
    names = {type(algorithm).__name__ for algorithm in algorithms}
    if len({type(algorithm) for algorithm in algorithms}) > 1:
        return f"{', '.join(sorted(names))} are different algorithms"
    hooks = overridden_hooks(type(first))
    if hooks:
        return f"{type(first).__name__} has a {', '.join(hooks)} of its own"
    shapes = [{n: v.shape for n, v in algorithm.state_dict().items()} for algorithm in algorithms]
    if any(each != shapes[0] for each in shapes):
        return "their parameters and buffers have different shapes"
    for name in _differing(algorithms):
        if not all(is_number(vars(algorithm)[name]) for algorithm in algorithms):
            return f"they differ in {name}, which is no number"
    return None


def overridden_hooks(algorithm: type[Algorithm]) -> list[str]:
    """What of Lightning's an algorithm does in a way of its own, so that it cannot be stacked.

    Args:
        algorithm: the class.
    """
    own = algorithm.__mro__[: algorithm.__mro__.index(Algorithm)]
    named = {name for owner in own for name in vars(owner) if not name.startswith("__")}
    return sorted(named & set(dir(pl.LightningModule)))


def _differing(algorithms: Sequence[Algorithm]) -> list[str]:
    """Names of the attributes, of those that algorithms add to a module, in which these differ."""
    first = vars(algorithms[0])
    names = first.keys() - _LIGHTNINGS_OWN - {"outputs"}
    return sorted(
        name for name in names if any(not _same(vars(a)[name], first[name]) for a in algorithms)
    )


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def is_number(value: object) -> bool:
    """Whether an option may differ between stacked runs.

    Args:
        value: the option's.
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def _columns(batch: EnvironmentBatch) -> tuple[Tensor, ...]:
    """What a batch is made of, as ``vmap`` takes it."""
    return tuple(getattr(batch, field.name) for field in fields(batch))


def _column(values: Sequence[float]) -> Tensor:
    """One entry a run: int64 if all are integers, float64 otherwise."""
    integers = all(isinstance(value, int) for value in values)
    return torch.tensor(values, dtype=torch.int64 if integers else torch.float64)
