"""Splits without leakage."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def split_by(rows: Sequence[Row], key: Callable[[Row], Hashable], n: int, *, seed: int) -> tuple[list[Row], list[Row]]:
    """(rest, held out): rows with the same key are all on one side, at most `n` held out; each side in its old order.

    Raises:
        ValueError: when n leaves no row on one side.
    """
    if not 0 < n < len(rows):
        raise ValueError(f"can't hold out {n} of {len(rows)} rows")
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[key(row)].append(place)
    groups = list(places.values())
    random.Random(seed).shuffle(groups)
    held: set[int] = set()
    for group in groups:
        if len(held) + len(group) <= n:
            held.update(group)
    return [r for i, r in enumerate(rows) if i not in held], [r for i, r in enumerate(rows) if i in held]
