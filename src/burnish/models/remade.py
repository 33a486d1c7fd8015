"""Inputs that backward makes again instead of keeping them (selective recomputation; Korthikanti et al. 2022,
arXiv:2205.05198).

A LoRA layer needs its input once more for the gradient of A. Where that input is a cheap function of tensors that the
graph keeps anyway - a norm of the residual stream, a gated product - whoever made it sets a recipe, and the layer
keeps no copy. The function is the one that made it, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

_RECIPE = "_burnish_recipe"


class Remaker:
    """Makes one input again for the nodes that need it; between the first and the last of them it is held.

    The tensors that it is made of are not held here: kept by the graph alone they are freed with it, and a checkpoint
    can put its own in their place.
    """

    def __init__(self, make: Callable[..., Tensor]) -> None:
        self._make = make
        self._made: Tensor | None = None
        self._nodes = self._visits = 0

    def add_node(self) -> None:
        """One more node will ask, once in each backward pass."""
        self._nodes += 1

    def remade(self, sources: tuple[Tensor, ...]) -> Tensor:
        """The input, made of what was kept for it."""
        made = self._make(*sources) if self._made is None else self._made
        self._visits += 1
        self._made = made if self._visits % self._nodes else None
        return made


@dataclass(frozen=True, slots=True)
class _Recipe:
    remaker: Remaker
    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]

    def holds(self, x: Tensor) -> bool:
        """Whether neither the input nor what it is made of was written to since."""
        return self.versions == tuple(tensor._version for tensor in (x, *self.tensors))


def set_recipe(x: Tensor, make: Callable[..., Tensor], *sources: Tensor) -> None:
    """Say of a tensor how it is made again, for whoever calls `to_save` on this very object.

    Args:
        x: equals `make(*sources)`.
        make: cheap, and without a graph of its own.
        sources: detached tensors that are kept for backward in any case.
    """
    versions = tuple(tensor._version for tensor in (x, *sources))
    setattr(x, _RECIPE, _Recipe(Remaker(make), sources, versions))


def to_save(x: Tensor) -> tuple[Remaker | None, tuple[Tensor, ...]]:
    """What a node has to save of its input for backward, and who makes the input of it; none if it is the input."""
    recipe: _Recipe | None = getattr(x, _RECIPE, None)
    if recipe is None or not recipe.holds(x):
        return None, (x,)
    recipe.remaker.add_node()
    return recipe.remaker, recipe.tensors
