"""Which adapters a forward pass goes through.

A route is handed down to the LoRA layers in a context variable that is set for the length of one forward pass. It
is not a switch on the model: two threads, or a policy and a reference taking turns, can't leave each other in the
wrong state, and nothing has to be switched back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Route:
    """Adapters by rows of the batch.

    Attributes:
        parts: (adapter, rows) in the order of the batch: the first `rows` rows go through `adapter`, and so on; no
            adapter means the plain backbone. A single part takes the whole batch, whatever its `rows`. Several
            parts let several roles read the same rows in one pass.
        dropout: whether LoRA dropout is on.
        merged: weights (`merged.py`) by layer, for a single adapter whose update is in them already; none where the
            adapter's products are computed beside the frozen weights.
        turned: whether linear layers turn products of few rows around (`turned.py`).
        plain: whether an adapter's product is left to autograd, one operation after the other, for comparison.
    """

    parts: tuple[tuple[str | None, int], ...]
    dropout: bool = False
    merged: Mapping[nn.Module, Tensor] | None = field(default=None, compare=False)
    turned: bool = field(default=False, compare=False)
    plain: bool = field(default=False, compare=False)

    @classmethod
    def single(cls, adapter: str | None, *, dropout: bool = False, plain: bool = False) -> Route:
        """The whole batch through one adapter."""
        return cls(((adapter, -1),), dropout, plain=plain)


PLAIN = Route.single(None)
_ROUTE: ContextVar[Route] = ContextVar("burnish_route", default=PLAIN)


def current_route() -> Route:
    """The route of the forward pass that is under way; the plain backbone outside of one."""
    return _ROUTE.get()


@contextmanager
def routed(route: Route) -> Iterator[None]:
    """Send the forward passes within through `route`."""
    token = _ROUTE.set(route)
    try:
        yield
    finally:
        _ROUTE.reset(token)


def recompute_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For gradient checkpointing: the forward's route holds again when backward computes a layer once more."""
    return nullcontext(), routed(current_route())
