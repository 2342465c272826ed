"""Adam for parameters that hold those of several runs, each with its own options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

_STATE = ("exp_avg", "exp_avg_sq", "step")


class StackedAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, algorithm 1), run by run.

    Step k of everything is that of :class:`torch.optim.Adam` with run k's options, by its fused
    kernel: the weight decay is added to the gradient. torch's own class refuses a learning rate
    that is a vector.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
    ) -> None:
        """Prepares the first step.

        Args:
            parameters: ``(runs, ...)`` each.
            learning_rates: one a run, above 0.
            weight_decays: one a run, at least 0.
        """
        super().__init__(parameters, {})
        # A call of the kernel has one value of each option: runs that share both share calls.
        self._sharing: dict[tuple[float, float], list[int]] = {}
        for run, options in enumerate(zip(learning_rates, weight_decays, strict=True)):
            self._sharing.setdefault(options, []).append(run)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes every run's step.

        Args:
            closure: computes the gradients, as Lightning hands it over.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Of each parameter: itself, its gradient and its state, each as one view a run.
        views = [
            [values.unbind() for values in (parameter, parameter.grad, *self._state_of(parameter))]
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        for (learning_rate, weight_decay), runs in self._sharing.items():
            parameters, gradients, averages, squares, steps = (
                [each[column][run] for each in views for run in runs] for column in range(5)
            )
            adam(
                parameters,
                gradients,
                averages,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=learning_rate,
                weight_decay=weight_decay,
                eps=1e-8,
                maximize=False,
            )
        return loss

    def _state_of(self, parameter: Tensor) -> list[Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(len(parameter), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return [state[name] for name in _STATE]

    def restart(self, runs: Tensor) -> None:
        """Forgets the moments of some runs, as a fresh Adam would begin.

        Args:
            runs: ``(runs,)``, bool.
        """
        for state in self.state.values():
            for values in state.values():
                values[runs] = 0


def along_runs(values: Tensor, like: Tensor) -> Tensor:
    """One value a run, in shape, type and place to be multiplied with what has runs in front.

    Args:
        values: ``(runs,)``.
        like: ``(runs, ...)``.
    """
    return values.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))
