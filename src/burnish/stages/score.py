"""Scoring: what a reward model thinks of responses in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from burnish.data.chat import encode_usable
from burnish.data.examples import Kind
from burnish.data.groups import PromptGroup
from burnish.data.sources import LoadedData, left_out, load_as_one_of
from burnish.errors import ConfigError, DataError, OutputDirError
from burnish.files import atomic_write
from burnish.models.config import Compute, Precision
from burnish.models.heads import ENSEMBLE_RULES, Scorer, demand_members, ensemble_score, scores_of
from burnish.models.placement import pick_device, pick_dtype
from burnish.models.reward import RewardModel, load_reward_model
from burnish.models.trunk import Trunk
from burnish.stages.batches import batches
from burnish.stages.progress import Progress
from burnish.stages.run import model_of

_KINDS: tuple[Kind, ...] = ("preference", "sft")


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a file's responses.

    Attributes:
        kind: `preference` for pairs, `sft` for single responses.
        scores: (examples, 1 or 2) the ensemble's score; of a pair chosen, then rejected.
        members: (members, examples, 1 or 2) each member's own, in the order of the directory; the one that was held
            back comes last and has no part in `scores`.
        origins: where each example stands, as `file:line`.
        too_long: how many more there were that the model's context can't hold.
        out: the file that was written, or none.
    """

    kind: Kind
    scores: torch.Tensor
    members: torch.Tensor
    origins: tuple[str, ...]
    too_long: int = 0
    out: Path | None = None

    @property
    def accuracy(self) -> float | None:
        """The share of pairs whose chosen response has the higher score; none for single responses."""
        if self.kind != "preference":
            return None
        return float((self.scores[:, 0] > self.scores[:, 1]).double().mean())


def score_data(
    model: str,
    data: str,
    *,
    out: Path | None = None,
    rule: str = "mean",
    spread_penalty: float | None = None,
    columns: dict[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    too_long: Literal["error", "skip"] = "error",
    micro_batch_tokens: int = 2048,
    dtype: Precision = "auto",
    device: str = "auto",
    compute: Compute = "fast",
    console: Console | None = None,
) -> Scored:
    """Score every response of a file with a reward model.

    Args:
        model: the directory of a run of the stage reward, or its `model/`.
        data: pairs, or prompts with one response, in any of the shapes and places that the stages read.
        out: takes one JSON line a row, with its place, its scores and those of the members.
        rule: how the members of an ensemble become one score: mean, worst, mean-std.
        spread_penalty: how many standard deviations `mean-std` takes off; 1 if not given.
        columns: `{old: new}` names of columns.
        split: of a hub id or a directory.
        limit: the first n rows only.
        on_bad_row: stop at a row that can't be used, or count and list it.
        too_long: stop at a row that the model's context can't hold, or leave it out and count it.
        micro_batch_tokens: tokens computed at once.
        dtype: of the weights and the activations.
        device: where to compute.
        compute: whether fast paths are taken.
        console: takes what was read and the progress; standard error if not given.

    Raises:
        BurnishError: no reward model, data that can't be used, an `out` that exists, a setting that would do nothing.
    """
    console = console or Console(stderr=True)
    _check_rule(rule, spread_penalty)
    if out is not None and out.exists():
        raise OutputDirError("the output file exists", where=str(out), fix="choose another --out; nothing was touched")
    kind, loaded = load_as_one_of(data, kinds=_KINDS, columns=columns, on_bad_row=on_bad_row, limit=limit, split=split)
    if loaded.bad_rows:
        console.print(loaded.summary(), highlight=False, markup=False)
    place = pick_device(device)
    reward = load_reward_model(
        Path(model_of(model)),
        dtype=pick_dtype(dtype, place),
        device=place,
        echo=lambda line: console.print(line),
        compute=compute,
    )
    demand_members(rule, reward.scorers, model=model, where="rule")
    encoded, n_long = _encode(loaded, reward, on_bad_row, too_long, console)
    scorers = [*reward.scorers, *([reward.judge] if reward.judge is not None else [])]
    with Progress("score", console) as progress:
        members = score_groups(scorers, encoded, micro_batch_tokens, progress)
    used = members[: len(reward.scorers)]
    penalty = 1.0 if spread_penalty is None else spread_penalty
    scores = ensemble_score(used.flatten(1), rule, spread_penalty=penalty).reshape(members.shape[1:])
    scored = Scored(kind, scores, members, tuple(group.origin for group in encoded), n_long, out)
    if out is not None:
        atomic_write(out, "".join(json.dumps(row) + "\n" for row in _rows(scored)))
    return scored


def _check_rule(rule: str, spread_penalty: float | None) -> None:
    if rule not in ENSEMBLE_RULES:
        raise ConfigError(f"unknown rule {rule!r}", where="rule", fix=f"use one of: {', '.join(ENSEMBLE_RULES)}")
    if spread_penalty is not None and rule != "mean-std":
        raise ConfigError(
            f"the rule {rule} takes no spread off",
            where="spread_penalty",
            fix="leave it away, or use the rule mean-std",
        )


def _encode(
    loaded: LoadedData,
    reward: RewardModel,
    on_bad_row: Literal["error", "skip"],
    too_long: Literal["error", "skip"],
    console: Console,
) -> tuple[list[PromptGroup], int]:
    """The groups that are scored, and how many are left out because the context can't hold them."""
    encoded, refused = encode_usable(reward.template, reward.tokenizer, loaded.examples, on_bad_row=on_bad_row)
    if refused:
        console.print(left_out(refused), highlight=False, markup=False)
    if too_long == "error":
        check_lengths(encoded, reward)
    kept = [group for group in encoded if group.context_length <= reward.backbone.context_length]
    if not kept:
        raise DataError(f"none of the {len(loaded.examples)} examples can be scored", where=loaded.source)
    return kept, len(encoded) - len(kept)


@torch.no_grad()
def score_groups(
    scorers: Sequence[Scorer], groups: Sequence[PromptGroup], tokens: int, progress: Progress | None = None
) -> torch.Tensor:
    """(scorers, groups, responses of each) scores of groups that have equally many responses.

    The scorers share each pass, over the rows once for each: the budget of `tokens` holds for all these rows together.
    Lower layers that they have in common are computed once.
    """
    trunk = Trunk.shared_by([scorer.role for scorer in scorers]) if len(scorers) > 1 else None
    out = torch.empty(len(scorers), len(groups), len(groups[0].responses))
    order = {id(group): place for place, group in enumerate(groups)}
    for micro, batch in batches(scorers[0].role.backbone, groups, tokens // len(scorers), progress, trunk=trunk):
        places = [order[id(group)] for group in micro]
        out[:, places] = scores_of(scorers, batch).float().cpu().reshape(len(scorers), len(micro), -1)
    return out


def check_lengths(groups: Sequence[PromptGroup], reward: RewardModel) -> None:
    """Refuse examples that the reward model can't hold.

    Raises:
        DataError: naming the first.
    """
    context = reward.backbone.context_length
    long = [group for group in groups if group.context_length > context]
    if long:
        raise DataError(
            f"{len(long)} of {len(groups)} examples are longer than the model's context of {context} tokens",
            where=long[0].origin,
            fix="shorten these rows, or leave them out (burnish score: --too-long skip)",
        )


def _rows(scored: Scored) -> list[dict[str, object]]:
    names = ("chosen", "rejected") if scored.kind == "preference" else ("score",)
    rows: list[dict[str, object]] = []
    for place, origin in enumerate(scored.origins):
        row: dict[str, object] = {"origin": origin}
        row |= {name: float(scored.scores[place, i]) for i, name in enumerate(names)}
        if scored.members.shape[0] > 1:
            row["members"] = scored.members[:, place].tolist()
        rows.append(row)
    return rows
