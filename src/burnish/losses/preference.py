"""Preference losses, one function each. The signature of a loss is its schema.

    @preference_loss(paper="...")
    def name(pairs: PairLogps, *, beta: float = 0.1, ...) -> Tensor: ...

`loss: {name: ipo, beta: 0.1}` in a recipe is checked against the keyword arguments; the help and the table of the
documentation are made from them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.errors import suggest


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Summed log-probabilities of the two responses of each pair, in nats.

    Attributes:
        chosen: (P,) log pi(chosen | prompt) under the policy.
        rejected: (P,) the same of the rejected response.
        ref_chosen: (P,) under the reference; zeros for a loss that needs none.
        ref_rejected: (P,) likewise.
        chosen_tokens: (P,) response tokens that carry loss.
        rejected_tokens: (P,) likewise.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def margin(self) -> Tensor:
        """(P,) h = log [pi(c) / ref(c)] - log [pi(r) / ref(r)], DPO's implicit reward margin over beta."""
        return (self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)


PairLoss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class LossEntry:
    """A registered loss.

    Attributes:
        name: the name in recipes.
        function: (P,) losses of a `PairLogps`.
        paper: authors, year, arXiv number, equation.
        reference: whether the loss reads the reference's log-probabilities.
        options: name -> (type, default) of its keyword arguments.
    """

    name: str
    function: PairLoss
    paper: str
    reference: bool
    options: Mapping[str, tuple[type, Any]]


PREFERENCE_LOSSES: dict[str, LossEntry] = {}


def preference_loss(*, paper: str, reference: bool = True) -> Callable[[PairLoss], PairLoss]:
    """Register a preference loss under its function's name.

    Raises:
        TypeError: at import, when an option has no default or no plain type; the signature is the schema.
    """

    def register(function: PairLoss) -> PairLoss:
        hints = get_type_hints(function)
        options: dict[str, tuple[type, Any]] = {}
        for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
            keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            if not keyword or parameter.default is parameter.empty or hints[name] not in (float, int, bool, str):
                raise TypeError(f"{function.__name__}: option {name!r} must be keyword-only, plain and have a default")
            options[name] = (hints[name], parameter.default)
        if function.__name__ in PREFERENCE_LOSSES:
            raise TypeError(f"a preference loss named {function.__name__!r} is registered already")
        entry = LossEntry(function.__name__, function, paper, reference, options)
        PREFERENCE_LOSSES[entry.name] = entry
        return function

    return register


def make_loss(spec: Mapping[str, Any]) -> Callable[[PairLogps], Tensor]:
    """The loss that `{"name": ..., option: value, ...}` asks for, its options checked.

    Raises:
        ValueError: for an unknown name or option, or a value of the wrong type; with the closest known name.
    """
    options = dict(spec)
    name = str(options.pop("name", "sigmoid"))
    entry = PREFERENCE_LOSSES.get(name)
    if entry is None:
        raise ValueError(f"unknown loss {name!r}{suggest(name, PREFERENCE_LOSSES)}; known: {_known()}")
    for key, value in options.items():
        if key not in entry.options:
            raise ValueError(f"loss {name!r} has no option {key!r}{suggest(key, entry.options)}")
        kind = entry.options[key][0]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            options[key] = value = float(value)
        if type(value) is not kind:
            raise ValueError(f"loss {name!r}: option {key!r} must be {kind.__name__}, got {value!r}")
    if not 0.0 < options.get("beta", 1.0) < math.inf:
        raise ValueError(f"loss {name!r}: beta must be above 0, got {options['beta']}")
    nothing = torch.zeros(1)
    entry.function(PairLogps(*[nothing] * 6), **options)  # a value of nonsense raises here, not in the first step
    return lambda pairs: entry.function(pairs, **options)


def _known() -> str:
    return ", ".join(PREFERENCE_LOSSES)


@preference_loss(paper="Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing: Mitchell 2023, cDPO")
def sigmoid(pairs: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """DPO: -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), with h the margin and e the share of flipped labels.

    Returns:
        (P,) losses in nats.
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    h = beta * pairs.margin
    return -(1.0 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)


@preference_loss(paper="Azar et al. 2023, arXiv:2310.12036, eq. 17")
def ipo(pairs: PairLogps, *, beta: float = 0.1) -> Tensor:
    """IPO: (h - 1 / (2 beta))^2, with h the margin of summed log-ratios; beta is the paper's tau.

    A margin beyond 1 / (2 beta) is pulled back, so certain preferences do not push the policy off without end.

    Returns:
        (P,) losses.
    """
    return (pairs.margin - 1.0 / (2.0 * beta)) ** 2


@preference_loss(paper="Pang et al. 2024, arXiv:2404.19733, eq. 1; alpha weighs the likelihood here, DPO there")
def rpo(pairs: PairLogps, *, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    """DPO with a likelihood term: -log sigmoid(beta h) - alpha log pi(chosen) / |chosen|, with h the margin.

    DPO alone may widen the margin while both responses become less probable; the second term, in nats per token, holds
    the chosen one up.

    Returns:
        (P,) losses in nats.
    """
    if not 0.0 <= alpha < math.inf:
        raise ValueError(f"alpha must be 0 or above, got {alpha}")
    return sigmoid(pairs, beta=beta) - alpha * pairs.chosen / pairs.chosen_tokens


def pair_logps(summed: Tensor, tokens: Tensor, reference: Tensor | None = None) -> PairLogps:
    """Split response-wise sums into pairs.

    Args:
        summed: (2 P,) summed log-probs, chosen and rejected of each pair in turn.
        tokens: (2 P,) counts of the tokens that were summed.
        reference: (2 P,) the reference's sums, or none for zeros.
    """
    reference = torch.zeros_like(summed) if reference is None else reference
    return PairLogps(
        chosen=summed[0::2],
        rejected=summed[1::2],
        ref_chosen=reference[0::2],
        ref_rejected=reference[1::2],
        chosen_tokens=tokens[0::2],
        rejected_tokens=tokens[1::2],
    )
