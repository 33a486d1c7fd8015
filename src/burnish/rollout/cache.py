"""Keys and values of the sequences that are being generated.

A cache row belongs to one sequence, and the key of the token at position p lies in slot p. So the position of every
cached key is known without book-keeping, rows of any length stand side by side, and a row is freed by moving the
last one into its place.

Legend: B cache rows, n rows in use, H key-value heads, S slots, T prompt tokens of the longest prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_GROWTH = 64
"""Slots are added in multiples of it."""


class KVCache:
    """Keys and values of every layer, (B, H, S, head) each, in buffers that are allocated at the first use.

    Args:
        rows: B, the most sequences at a time.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.slots = rows, 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def n_bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(t.numel() * t.element_size() for pair in self._layers.values() for t in pair)

    def reserve(self, slots: int) -> None:
        """Make room for sequences of `slots` tokens. Growing copies; it happens in strides of a quarter or more."""
        if slots <= self.slots:
            return
        wanted = max(slots, self.slots + self.slots // 4)
        self.slots = -(-wanted // _GROWTH) * _GROWTH
        for index, (keys, values) in self._layers.items():
            self._layers[index] = (self._widened(keys), self._widened(values))

    def _widened(self, old: Tensor) -> Tensor:
        new = old.new_zeros(old.shape[0], old.shape[1], self.slots, old.shape[3])
        new[:, :, : old.shape[2]] = old
        return new

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's buffers; at the first use made to fit `key` and `value` (.., H, .., head)."""
        if index not in self._layers:
            # Zeros, not what the memory holds: a masked slot has weight 0, and 0 x NaN would be NaN.
            self._layers[index] = (
                key.new_zeros(self.rows, key.shape[1], self.slots, key.shape[3]),
                value.new_zeros(self.rows, value.shape[1], self.slots, value.shape[3]),
            )
        return self._layers[index]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of row `source` over row `target`."""
        for keys, values in self._layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def spread(self, prefix: KVCache, length: int, rows: Tensor) -> None:
        """Copy the first `length` slots of the one row of `prefix` into each of `rows`."""
        for index, (keys, values) in prefix._layers.items():
            own_keys, own_values = self.layer(index, keys, values)
            own_keys[rows, :, :length] = keys[:, :, :length]
            own_values[rows, :, :length] = values[:, :, :length]

    def filling(self, rows: Tensor, prompts: Tensor, start: int = 0) -> FillingCache:
        """What the model is handed while it reads prompts: cache row `rows[i]` takes up prompt `prompts[i]`.

        Args:
            rows: (n,) cache rows.
            prompts: (n,) the prompt of each.
            start: the position of the prompts' first token. What stands before it lies in the rows already (`spread`),
                and is the same in all of them.
        """
        return FillingCache(self, rows, prompts, start)

    def decoding(self, positions: Tensor, span: int) -> DecodingCache:
        """What the model is handed for one new token of each of the first n rows.

        Args:
            positions: (n,) the new tokens' positions.
            span: the highest of them plus one; the model attends to as many slots.
        """
        return DecodingCache(self, positions, span)


class _ModelCache:
    """The part of transformers' cache protocol that the models use when they get position ids and no mask."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not known: rows differ. The models ask only when they are not given position ids."""
        raise NotImplementedError("the sampler passes position ids")


class FillingCache(_ModelCache):
    """Stores the prompts' keys and values; the prompts attend to themselves and to what stands before them."""

    def __init__(self, cache: KVCache, rows: Tensor, prompts: Tensor, start: int) -> None:
        self.cache, self.rows, self.prompts, self.start = cache, rows, prompts, start

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store (prompts, H, T, head) keys and values; (prompts, H, start + T, head) of all that the prompts see."""
        # Padding is stored too: its slots lie behind the prompt's end and are overwritten before they are seen.
        buffers = self.cache.layer(layer_idx, key, value)
        return self._stored(buffers[0], key), self._stored(buffers[1], value)

    def _stored(self, buffer: Tensor, new: Tensor) -> Tensor:
        buffer[self.rows, :, self.start : self.start + new.shape[2]] = new[self.prompts]
        if not self.start:
            return new
        before = buffer[self.rows[:1], :, : self.start].expand(new.shape[0], -1, -1, -1)
        return torch.cat([before, new], dim=2)


class DecodingCache(_ModelCache):
    """Stores one new key and value a row, and hands out all that the rows hold."""

    def __init__(self, cache: KVCache, positions: Tensor, span: int) -> None:
        self.cache, self.positions, self.span = cache, positions, span
        self.rows = torch.arange(positions.shape[0], device=positions.device)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store (n, H, 1, head) keys and values at their positions; (n, H, span, head) views of the buffers."""
        keys, values = self.cache.layer(layer_idx, key, value)
        keys[self.rows, :, self.positions] = key[:, :, 0]
        values[self.rows, :, self.positions] = value[:, :, 0]
        n = self.rows.shape[0]
        return keys[:n, :, : self.span], values[:n, :, : self.span]
