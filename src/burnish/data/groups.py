"""The one data shape: a prompt and its k responses, laid out so that each prompt is computed once.

A row of a batch is `[prompt | response 0 | response 1 | ...]`. Position ids restart after the prompt for each
response; a response attends to its prompt and to itself only (`models/attention.py`). SFT has k = 1, reward
modelling and DPO k = 2, PPO 1, GRPO and RLOO k = G.

Legend: B rows, T tokens in a row, R responses in a batch, N response tokens that carry loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from burnish.errors import DataError

PROMPT_SEGMENT = 0
PAD_SEGMENT = -1

Layout = Literal["shared", "rows"]
"""`shared`: a row a group, the prompt computed once. `rows`: a row a response, for layers that can't be masked so."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response: its token ids and, for each, whether it carries loss.

    In a multi-turn conversation the response is all that follows the first prompt; the later user turns in it
    carry no loss.
    """

    ids: tuple[int, ...]
    loss: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.loss):
            raise DataError(f"a response needs as many loss flags as tokens, got {len(self.loss)} for {len(self.ids)}")

    @classmethod
    def full(cls, ids: Sequence[int]) -> Response:
        """A response in which every token carries loss."""
        return cls(tuple(ids), (True,) * len(ids))


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A prompt (token ids, not empty) and its responses. `origin` says where it came from, as `file:line`."""

    prompt: tuple[int, ...]
    responses: tuple[Response, ...]
    origin: str = ""
    index: int = -1
    """The example's place in its data set; reference log-probs are cached under it."""
    plain_text: bool = False
    """No conversation: the text's first token is the prompt, the rest its only response, and nothing says stop."""
    margin: float | None = None
    """Of a pair: how far apart its scores should be, where its row says so."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise DataError(
                "a prompt needs at least one token: the first response token is predicted from the last prompt token",
                where=self.origin or None,
                fix="use a template that begins with BOS, or give a prompt",
            )

    @property
    def row_length(self) -> int:
        """Tokens of this group's row in the shared layout."""
        return len(self.prompt) + sum(len(r.ids) for r in self.responses)

    @property
    def context_length(self) -> int:
        """The longest context that the model must hold: the prompt and its longest response, in tokens."""
        return len(self.prompt) + max((len(r.ids) for r in self.responses), default=0)

    @property
    def loss_tokens(self) -> int:
        """How many tokens of all the responses carry loss."""
        return sum(sum(r.loss) for r in self.responses)


@dataclass(frozen=True, slots=True)
class TrunkStates:
    """What lower layers make of a batch's rows, computed apart from those above (`models/trunk.py`).

    Attributes:
        hidden: (B, T, D) their output; anything at padding.
        trunk: whose layers they are; the roles that share them take up from `hidden`.
    """

    hidden: Tensor
    trunk: Any


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """A padded batch of prompt groups.

    Attributes:
        input_ids: (B, T) token ids; padding is id 0 and is never read by a real token.
        position_ids: (B, T) positions in the sequence that the token belongs to, not in the row.
        segment_ids: (B, T) 0 for the prompt, 1... for the responses of the row, -1 for padding.
        predictors: (N,) flat index (row * T + column) of the position whose hidden state predicts the token.
        targets: (N,) the token to be predicted there.
        response_of: (N,) which of the R responses the token belongs to, ascending.
        last_positions: (R,) flat index of each response's last token (the EOS): what reward and value heads read.
        group_of: (R,) which group of the batch each response belongs to, ascending.
        indices: the groups' places in their data set, in the order of the batch.
        origins: the same for their origins.
        trunk: what lower layers make of these rows, where that is known already.
    """

    input_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    predictors: Tensor
    targets: Tensor
    response_of: Tensor
    last_positions: Tensor
    group_of: Tensor
    indices: tuple[int, ...]
    origins: tuple[str, ...]
    trunk: TrunkStates | None = None

    @property
    def n_responses(self) -> int:
        """R, the number of responses."""
        return int(self.last_positions.shape[0])

    @property
    def n_loss_tokens(self) -> int:
        """N, the number of tokens that carry loss."""
        return int(self.targets.shape[0])

    @property
    def n_tokens(self) -> int:
        """Tokens computed, without padding."""
        return int((self.segment_ids != PAD_SEGMENT).sum())

    def repeated(self, n: int) -> GroupBatch:
        """The batch n times over, one copy below the other: (n B, T), n R responses, n N tokens that carry loss."""

        def shifted(values: Tensor, by: int) -> Tensor:
            return torch.cat([values + copy * by for copy in range(n)])

        size = self.input_ids.numel()
        trunk = self.trunk
        return GroupBatch(
            input_ids=self.input_ids.repeat(n, 1),
            position_ids=self.position_ids.repeat(n, 1),
            segment_ids=self.segment_ids.repeat(n, 1),
            predictors=shifted(self.predictors, size),
            targets=self.targets.repeat(n),
            response_of=shifted(self.response_of, self.n_responses),
            last_positions=shifted(self.last_positions, size),
            group_of=shifted(self.group_of, len(self.indices)),
            indices=self.indices * n,
            origins=self.origins * n,
            trunk=None if trunk is None else TrunkStates(trunk.hidden.repeat(n, 1, 1), trunk.trunk),
        )

    def to(self, device: torch.device | str) -> GroupBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


def collate(groups: Sequence[PromptGroup], *, layout: Layout = "shared", pad_to_multiple: int = 1) -> GroupBatch:
    """Lay prompt groups out as one batch.

    The first token of every response is predicted from the prompt's last token, the next ones from their
    predecessor within the response (the shift happens here and nowhere else).

    Args:
        groups: at least one group with at least one response each.
        layout: `shared` gives a row a group, `rows` a row a response with the prompt repeated.
        pad_to_multiple: T is rounded up to a multiple of it (a few shapes compile and warm up sooner).

    Raises:
        DataError: on an empty batch, or a group without responses.
    """
    if not groups or any(not g.responses for g in groups):
        raise DataError("a batch needs at least one group, and each group at least one response")
    rows: list[tuple[PromptGroup, tuple[Response, ...]]] = []
    for group in groups:
        if layout == "shared":
            rows.append((group, group.responses))
        else:
            rows.extend((group, (response,)) for response in group.responses)

    width = max(len(g.prompt) + sum(len(r.ids) for r in responses) for g, responses in rows)
    width = -(-width // pad_to_multiple) * pad_to_multiple
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    position_ids = torch.zeros(len(rows), width, dtype=torch.long)
    segment_ids = torch.full((len(rows), width), PAD_SEGMENT, dtype=torch.long)
    predictors: list[int] = []
    targets: list[int] = []
    response_of: list[int] = []
    last_positions: list[int] = []

    for row, (group, responses) in enumerate(rows):
        n_prompt = len(group.prompt)
        ids, positions, segments = list(group.prompt), list(range(n_prompt)), [PROMPT_SEGMENT] * n_prompt
        for segment, response in enumerate(responses, start=1):
            start, length = len(ids), len(response.ids)
            for offset, (token, carries_loss) in enumerate(zip(response.ids, response.loss, strict=True)):
                if carries_loss:
                    before = start + offset - 1 if offset else n_prompt - 1
                    predictors.append(row * width + before)
                    targets.append(token)
                    response_of.append(len(last_positions))
            ids += response.ids
            positions += range(n_prompt, n_prompt + length)
            segments += [segment] * length
            last_positions.append(row * width + len(ids) - 1)
        input_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[row, : len(ids)] = torch.tensor(positions)
        segment_ids[row, : len(ids)] = torch.tensor(segments)

    return GroupBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        segment_ids=segment_ids,
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        response_of=torch.tensor(response_of, dtype=torch.long),
        last_positions=torch.tensor(last_positions, dtype=torch.long),
        group_of=torch.tensor([i for i, g in enumerate(groups) for _ in g.responses], dtype=torch.long),
        indices=tuple(g.index for g in groups),
        origins=tuple(g.origin for g in groups),
    )
