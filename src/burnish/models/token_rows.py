"""Token rows: an adapter's own, trainable rows of the embedding for chosen tokens.

Where embeddings are tied, the same rows stand in the output projection (`Backbone.head`).

Legend: B rows, T tokens, M chosen tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from burnish.models.routing import current_route


class TokenRowsEmbedding(nn.Module):
    """A frozen embedding in which an adapter may hold its own, trainable rows for chosen tokens."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.rows = nn.ParameterDict()
        self.ids = nn.ParameterDict()

    @property
    def weight(self) -> Tensor:
        """(V, D) the frozen table."""
        return self.base.weight

    def add(self, adapter: str, token_ids: Sequence[int]) -> None:
        """Give an adapter its own rows, as copies of the frozen ones."""
        ids = torch.tensor(sorted(set(token_ids)), dtype=torch.long, device=self.weight.device)
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        self.rows[adapter] = nn.Parameter(self.weight[ids].detach().to(dtype, copy=True))
        self.ids[adapter] = nn.Parameter(ids, requires_grad=False)  # follows the module to its device

    def remove(self, adapter: str) -> None:
        """Forget an adapter's rows."""
        del self.rows[adapter], self.ids[adapter]

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.base(input_ids)
        parts = current_route().parts
        start = 0
        for adapter, rows in parts:
            stop = input_ids.shape[0] if len(parts) == 1 else start + rows
            if adapter is not None and adapter in self.ids:
                where, which = (input_ids[start:stop].reshape(-1, 1) == self.ids[adapter]).nonzero(as_tuple=True)
                # Gemma's embedding layer scales what it looks up.
                factor = getattr(self.base, "embed_scale", 1.0)
                values = (self.rows[adapter][which] * factor).to(out.dtype)
                width = input_ids.shape[1] if input_ids.dim() > 1 else 1
                out = out.reshape(-1, out.shape[-1]).index_put((where + start * width,), values).view(out.shape)
            start = stop
        return out


def add_token_rows(model: nn.Module, adapter: str, token_ids: Sequence[int], rows: Tensor) -> None:
    """Give an adapter its own embedding rows (M, D) for `token_ids`, in that order."""
    embedding = token_rows(model)
    embedding.add(adapter, token_ids)
    order = [token_ids.index(int(i)) for i in embedding.ids[adapter]]
    with torch.no_grad():
        embedding.rows[adapter].copy_(rows[order])


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another one."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def token_rows(model: nn.Module) -> TokenRowsEmbedding:
    """The model's input embedding, ready for rows of adapters."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    if isinstance(embedding, TokenRowsEmbedding):
        return embedding
    path = next(name for name, module in model.named_modules() if module is embedding)
    wrapped = TokenRowsEmbedding(embedding)
    replace_module(model, path, wrapped)
    return wrapped


def token_rows_of(model: nn.Module, adapter: str | None) -> tuple[Tensor, nn.Parameter] | None:
    """An adapter's own embedding rows as (ids, rows), or none."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    if adapter is None or not isinstance(embedding, TokenRowsEmbedding) or adapter not in embedding.ids:
        return None
    return embedding.ids[adapter], embedding.rows[adapter]


def share_token_rows(model: nn.Module, adapter: str, source: str) -> None:
    """Let `adapter` hold the very rows of `source`."""
    embedding = token_rows(model)
    embedding.ids[adapter], embedding.rows[adapter] = embedding.ids[source], embedding.rows[source]
