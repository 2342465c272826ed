"""One head for each set of variables of an input, and a choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from datamodules.views import variable_names, variables
from dgbench.errors import UsageError
from dgbench.networks import Network, build_joint_network

# A view that the data set knows nothing of: what a trained network makes of an input.
FEATURES = "features"
# 1,023 heads.
MOST_VARIABLES = 10


class SubsetNetwork(Network):
    """A head for each set of variables, of which one predicts, or the label prior.

    No head shares anything with another, so none can learn from what it must not see. The empty
    set's head is the label prior: there is nothing to train. Variables of an image's size go
    through the run's backbone; others are numbers, standardised, and go through an ``mlp``.

    Attributes:
        names: the variables.
        subsets: all sets of them, smaller ones first, beginning with the empty set.
        chosen: position in ``subsets`` of the set that predicts; 0 for the prior.
        log_prior: ``(classes,)``, log-probabilities of the classes without looking.
        centre: ``(numbers,)``, taken off the numbers of all variables.
        scale: ``(numbers,)``, which they are divided by.
        representation: the frozen featurizer behind the variable ``features``, or None.

    Raises:
        UsageError: for more variables than sets of them could be trained for, and networks that
            :func:`dgbench.networks.build_network` did not build.
        DataError: for views that there are not.
    """

    chosen: Tensor
    log_prior: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, like: Network, views: Sequence[str]) -> None:
        """Builds the heads.

        Args:
            like: what a head is like, and what makes the ``features``.
            views: the variables of an image, see :mod:`datamodules.views`; those of a vector are
                its numbers. ``features`` may be among them, for either.
        """
        if like.recipe is None:
            raise UsageError(
                "A head for each set of variables is built like a network of `fit`, which this one "
                "is not. What invariant causal prediction concludes from the linear unit "
                "tests stands beside every algorithm that `screen` tries."
            )
        shape, classes = like.recipe.input_shape, like.recipe.classes
        seen = tuple(view for view in views if view != FEATURES)
        features = FEATURES in views
        names = variable_names(shape, seen) if seen or not features else ()
        names = (*names, FEATURES) if features else names
        if len(names) > MOST_VARIABLES:
            raise UsageError(
                f"{len(names)} variables have {2 ** len(names):,} sets, and each is trained for: "
                f"at most {MOST_VARIABLES} variables are possible. Use fewer, or test sets of many "
                "variables without training by `dgbench icp`."
            )
        subsets = [subset for size in range(len(names) + 1) for subset in combinations(names, size)]
        representation = like.featurizer.requires_grad_(False) if features else None
        example = _variables(torch.zeros(1, *shape), seen, representation)
        numbers = {
            name: value.numel()
            for name, value in example.items()
            if len(shape) == 1 or value.shape[2:] != shape[1:]
        }
        heads = []
        for subset in subsets[1:]:
            width = sum(numbers.get(name, 0) for name in subset)
            images = [shape for name in subset if name not in numbers]
            inputs = images + ([(width,)] if width else [])
            heads.append(build_joint_network(like.recipe, inputs, *subset))
        super().__init__(
            nn.ModuleList(head.featurizer for head in heads),
            nn.ModuleList(head.classifier for head in heads),
            like.rows,
            batch_norm=like.batch_norm,
            channels_last=like.channels_last,
            recipe=like.recipe,
        )
        self.names = names
        self.subsets = subsets
        self._seen = seen
        self._numbers = numbers
        self.representation = representation
        total = sum(numbers.values())
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("log_prior", torch.zeros(classes).log_softmax(dim=0))
        self.register_buffer("centre", torch.zeros(total))
        self.register_buffer("scale", torch.ones(total))

    def variables(self, inputs: Tensor) -> dict[str, Tensor]:
        """An input's variables as they are, by name: ``(n, ...)`` each."""
        return _variables(inputs, self._seen, self.representation)

    def numbers(self, inputs: Tensor) -> Tensor:
        """Of an input's variables those that are numbers, as they are, ``(n, numbers)``."""
        return self._joined(self.variables(inputs))

    def standardise(self, numbers: Tensor) -> None:
        """Lets heads see numbers with mean 0 and standard deviation 1; constant ones become 0.

        Args:
            numbers: ``(n, numbers)``, of training samples.
        """
        spread = numbers.double().std(dim=0, correction=0)
        self.centre.copy_(numbers.double().mean(dim=0))
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def subset_logits(self, inputs: Tensor) -> Tensor:
        """Logits of every set's head, ``(subsets, n, classes)``, for inputs ``(n, ...)``."""
        parts = self._parts(inputs)
        prior = self.log_prior.expand(len(inputs), -1)
        heads = [self._head(position, parts) for position in range(1, len(self.subsets))]
        return torch.stack([prior, *heads])

    def _logits(self, inputs: Tensor) -> Tensor:
        chosen = int(self.chosen)
        if chosen == 0:
            return self.log_prior.expand(len(inputs), -1)
        return self._head(chosen, self._parts(inputs))

    def _head(self, position: int, parts: Mapping[str, Tensor]) -> Tensor:
        subset = self.subsets[position]
        seen = [parts[name] for name in subset if name not in self._numbers]
        numbers = [parts[name] for name in subset if name in self._numbers]
        joined = [torch.cat(numbers, dim=1)] if numbers else []
        assert isinstance(self.featurizer, nn.ModuleList)
        assert isinstance(self.classifier, nn.ModuleList)
        features = self.featurizer[position - 1](seen + joined)
        logits: Tensor = self.classifier[position - 1](features)
        return logits

    def _parts(self, inputs: Tensor) -> dict[str, Tensor]:
        """What heads are given: images with as many channels as inputs have, numbers scaled."""
        found = self.variables(inputs)
        parts = {
            name: value.expand(-1, inputs.shape[1], -1, -1)
            for name, value in found.items()
            if name not in self._numbers
        }
        scaled = (self._joined(found) - self.centre) / self.scale
        cut = torch.split(scaled, list(self._numbers.values()), dim=1)
        return parts | dict(zip(self._numbers, cut, strict=True))

    def _joined(self, found: Mapping[str, Tensor]) -> Tensor:
        numbers = [found[name].flatten(1) for name in self._numbers]
        # No number at all is a tensor without columns.
        return torch.cat([next(iter(found.values())).flatten(1)[:, :0], *numbers], dim=1)


def _variables(
    inputs: Tensor, views: Sequence[str], representation: nn.Module | None
) -> dict[str, Tensor]:
    """An input's variables, and its features where there is a representation."""
    if representation is None:
        return variables(inputs, views)
    training = representation.training
    with torch.no_grad():
        features = representation.eval()(inputs)
    representation.train(training)
    seen = variables(inputs, views) if views else {}
    return {**seen, FEATURES: features}
