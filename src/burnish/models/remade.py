"""Inputs that backward makes again instead of keeping them (selective recomputation; Korthikanti et al. 2022,
arXiv:2205.05198).

A LoRA layer needs its input once more for the gradient of A. Where that input is a cheap function of tensors that the
graph keeps anyway - a norm of the residual stream, a gated product - whoever made it says so with `can_be_remade`, and
the layer keeps no copy. The function is the one that made it, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

_RECIPE = "_burnish_recipe"


class Remaker:
    """Makes one input again, for all the nodes that need it; between the first and the last of them it is held."""

    def __init__(self, make: Callable[..., Tensor] | None) -> None:
        self._make = make
        self._waiting = 0
        self._made: Tensor | None = None

    def remade(self, sources: tuple[Tensor, ...]) -> Tensor:
        """The input, from what was kept of it. Called once by each node, in backward."""
        if self._make is None:
            return sources[0]
        made = self._make(*sources) if self._made is None else self._made
        self._waiting -= 1
        self._made = made if self._waiting > 0 else None
        return made


@dataclass(frozen=True, slots=True)
class _Recipe:
    remaker: Remaker
    sources: tuple[Tensor, ...]
    version: int


def can_be_remade(x: Tensor, make: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """Say of a tensor how it is made again; the same tensor, for whoever calls with it next.

    Args:
        x: equals `make(*sources)`.
        make: cheap, and without a graph of its own.
        sources: tensors that are kept for backward in any case.
    """
    setattr(x, _RECIPE, _Recipe(Remaker(make), sources, x._version))
    return x


def to_keep(x: Tensor) -> tuple[Remaker, tuple[Tensor, ...]]:
    """What a node has to keep of its input, for `save_for_backward`, and who makes the input of it in backward.

    The tensors are not held by the remaker: kept by the graph alone they are freed with it, and a checkpoint can put
    its own in their place.
    """
    recipe: _Recipe | None = getattr(x, _RECIPE, None)
    if recipe is None or recipe.version != x._version:  # written to since: no longer what the recipe makes
        return Remaker(None), (x,)
    recipe.remaker._waiting += 1
    return recipe.remaker, recipe.sources
