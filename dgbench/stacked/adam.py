"""Adam for parameters that hold those of several runs, each with its own options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class StackedAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, algorithm 1), run by run.

    Step k of everything is that of :class:`torch.optim.Adam` with run k's options: the weight decay
    is added to the gradient. torch's own refuses a learning rate that is a vector.
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
        self.learning_rates = torch.tensor(learning_rates, dtype=torch.float64)
        self.weight_decays = torch.tensor(weight_decays, dtype=torch.float64)
        self.decays = any(weight_decays)

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
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(len(parameter))
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        if self.decays:
            gradient = gradient.addcmul(parameter, along_runs(self.weight_decays, parameter))
        first, second = (1 - beta ** state["step"].double() for beta in _BETAS)
        state["exp_avg"].lerp_(gradient, 1 - _BETAS[0])
        state["exp_avg_sq"].mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        # Both corrections of the bias as numbers a run: each pass over all parameters costs.
        root = second.sqrt()
        scale = state["exp_avg_sq"].sqrt().add_(along_runs(_EPSILON * root, parameter))
        step = torch.div(state["exp_avg"], scale, out=scale)
        parameter.addcmul_(step, along_runs(-self.learning_rates * root / first, parameter))

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
