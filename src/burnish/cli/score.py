"""`burnish score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from burnish.cli.console import field_line, messages, results
from burnish.cli.options import Whole, parse_map
from burnish.models.config import Compute, Precision

if TYPE_CHECKING:
    from burnish.stages.score import Scored

LISTED = 10
"""So many rows are shown where no file takes them all."""
_WIDTH = 20


def score(
    data: str,
    *,
    model: str,
    out: Path | None = None,
    rule: Literal["mean", "worst", "mean-std"] = "mean",
    spread_penalty: float | None = None,
    map: Annotated[list[str] | None, Parameter(negative=(), metavar="OLD=NEW...", consume_multiple=True)] = None,
    split: str | None = None,
    limit: Whole | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    too_long: Literal["error", "skip"] = "error",
    micro_batch_tokens: Whole = 2048,
    dtype: Precision = "auto",
    device: str = "auto",
    compute: Compute = "fast",
) -> None:
    """Let a reward model score responses: pairs, or prompts with one response each.

    Parameters
    ----------
    data
        A file (JSONL, JSON, CSV, Parquet), a directory of them, a hub id, or `starter/NAME`.
    model
        The directory of a run of burnish reward.
    out
        A file for the scores, one JSON line a row.
    rule
        How the members of an ensemble become one score.
    spread_penalty
        How many standard deviations `mean-std` takes off; 1 if not given.
    map
        Column names of the data: `old=new`.
    split
        Of a hub id, or of a directory with a file or folder for each split.
    limit
        The first n rows only.
    on_bad_row
        Stop at a row that can't be used, or count and list such rows and go on.
    too_long
        Stop at a row that is longer than the model's context, or leave such rows out and say how many.
    micro_batch_tokens
        Tokens that are computed at once.
    dtype
        Of the weights and the activations; `auto` is bfloat16, or float32 on a CPU that multiplies it faster.
    device
        `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
    compute
        `plain` takes none of the fast paths: slow, to compare with.
    """
    from burnish.stages.score import score_data

    scored = score_data(
        model,
        data,
        out=out,
        rule=rule,
        spread_penalty=spread_penalty,
        columns=parse_map(map or []),
        split=split,
        limit=limit,
        on_bad_row=on_bad_row,
        too_long=too_long,
        micro_batch_tokens=micro_batch_tokens,
        dtype=dtype,
        device=device,
        compute=compute,
        console=messages(),
    )
    _show(scored)


def _show(scored: Scored) -> None:
    from burnish.evaluation.intervals import wilson

    console = results()
    console.print(field_line("rows", len(scored.origins), _WIDTH))
    if scored.too_long:
        console.print(field_line("left out", f"{scored.too_long} longer than the model's context", _WIDTH))
    console.print(field_line("score", f"mean {scored.scores.mean():.3f}, deviation {scored.scores.std():.3f}", _WIDTH))
    if scored.accuracy is not None:
        n_right, n = round(scored.accuracy * len(scored.origins)), len(scored.origins)
        sure = wilson(n_right, n)
        found = f"{scored.accuracy:.1%} ({n_right} of {n}; 95 %: {100 * sure.low:.0f} to {100 * sure.high:.0f})"
        console.print(field_line("chosen is higher", found, _WIDTH))
    if scored.out is not None:
        console.print(field_line("scores", scored.out, _WIDTH))
        return
    for origin, values in list(zip(scored.origins, scored.scores.tolist(), strict=True))[:LISTED]:
        console.print(field_line(origin, "".join(f"{value:9.3f}" for value in values), _WIDTH))
    if len(scored.origins) > LISTED:
        console.print(f"and {len(scored.origins) - LISTED} more: --out FILE takes them all", highlight=False)
