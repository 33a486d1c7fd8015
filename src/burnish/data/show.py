"""Showing what the model will see: the text of examples, which tokens carry loss, and where each turn stops.

Colour helps but is not needed: text with loss stands between marks, and special tokens keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from burnish.data.chat import Tokenizer
from burnish.data.groups import PromptGroup
from burnish.data.preflight import PreflightReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WITH_LOSS, _WITHOUT, _LOSS_SPECIAL, _SPECIAL, _MARK = "green", "bright_black", "bold white on green", "yellow", "bold"
_LEVEL_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def show_examples(groups: Sequence[PromptGroup], tokenizer: Tokenizer, n: int, console: Console) -> None:
    """Print the first `n` examples as the model will see them.

    Text that carries loss is green and stands between ⟦ and ⟧ (`[[` and `]]` where the terminal can't show these);
    special tokens are shown by name, those with loss (the stop token) on green; ⏎ (`\\n`) marks a newline.
    """
    from rich.text import Text

    opening, closing, newline = _marks(console)
    legend = Text("legend: ", style=_MARK)
    legend.append("read, no loss", style=_WITHOUT).append(" · " if newline != "\\n" else " | ")
    legend.append(opening, style=_MARK).append("learned", style=_WITH_LOSS)
    legend.append("<stop>", style=_LOSS_SPECIAL).append(closing, style=_MARK)
    legend.append(f"   {newline} newline", style=_WITHOUT)
    console.print(legend)
    special = {token for text, token in tokenizer.get_added_vocab().items() if text.strip()}
    for number, group in enumerate(groups[:n], start=1):
        counts = f"{len(group.prompt)} prompt tokens, {group.loss_tokens} with loss"
        counts = f"plain text, {group.loss_tokens} tokens with loss" if group.plain_text else counts
        console.print()
        console.print(Text(f"example {number} of {len(groups)}  {group.origin}  ({counts})", style=_MARK))
        prompt = _spans(group.prompt, (False,) * len(group.prompt), (), tokenizer, special, console)
        responses = [
            _spans(response.ids, response.loss, group.prompt, tokenizer, special, console)
            for response in group.responses
        ]
        if len(responses) == 1:  # on the prompt's line, as the model reads it
            prompt, responses = prompt + responses[0], []
        console.print(prompt)
        for index, response_text in enumerate(responses):
            console.print(Text(_response_name(index, len(responses)), style=_MARK))
            console.print(response_text)
        if any(not response.loss[-1] for response in group.responses):
            console.print(Text("a last token carries no loss: the model would not learn to stop", style="red"))


def _response_name(index: int, of: int) -> str:
    name = ("chosen", "rejected")[index] if of == 2 else f"{index + 1} of {of}"
    return f"response: {name}"


def _marks(console: Console) -> tuple[str, str, str]:
    unicode = console.encoding.lower().replace("-", "").startswith("utf")
    return ("⟦", "⟧", "⏎") if unicode else ("[[", "]]", "\\n")


def _spans(
    ids: Sequence[int],
    loss: Sequence[bool],
    before: Sequence[int],
    tokenizer: Tokenizer,
    special: set[int],
    console: Console,
) -> Text:
    """Token ids as one text: runs of equal loss, special tokens apart. `before` is the context they follow."""
    from rich.text import Text

    opening, closing, newline = _marks(console)
    text = Text(overflow="fold")
    inside = False
    for (has_loss, is_special), piece in _pieces(ids, loss, before, tokenizer, special):
        if has_loss != inside:
            text.append(opening if has_loss else closing, style=_MARK)
            inside = has_loss
        plain, named = (_WITH_LOSS, _LOSS_SPECIAL) if has_loss else (_WITHOUT, _SPECIAL)
        text.append(piece.replace("\n", f"{newline}\n"), style=named if is_special else plain)
    if inside:
        text.append(closing, style=_MARK)
    return text


def _pieces(
    ids: Sequence[int], loss: Sequence[bool], before: Sequence[int], tokenizer: Tokenizer, special: set[int]
) -> Iterator[tuple[tuple[bool, bool], str]]:
    """((carries loss, is special), text) of each run of tokens that are alike."""
    # A run is decoded together with what stands before it: decoders drop a leading space, and a character's bytes
    # may lie in several tokens.
    done = list(before)
    for key, run in groupby(zip(ids, loss, strict=True), key=lambda pair: (pair[1], pair[0] in special)):
        start = len(str(tokenizer.decode(done)))
        done += [token for token, _ in run]
        yield key, str(tokenizer.decode(done))[start:]


def show_report(report: PreflightReport, console: Console) -> None:
    """Print a preflight report: counts, lengths, the template's tokens, findings."""
    from rich.text import Text

    n_examples, n_prompt, n_loss = report.n_examples, report.n_prompt_tokens, report.n_loss_tokens
    if report.ok and not n_loss:  # prompts alone, as PPO takes them
        counts = f"{n_examples:,} prompts, {n_prompt:,} tokens"
    else:
        counts = f"{n_examples:,} examples, {n_prompt:,} prompt tokens, {n_loss:,} tokens with loss"
    console.print(Text(counts + (f"; {report.n_skipped:,} left out as too long" if report.n_skipped else "")))
    lengths = report.lengths
    console.print(
        Text(f"length in tokens: median {lengths.p50:,}, 95 % {lengths.p95:,}, longest {lengths.max:,} ")
        + Text(f"(context {report.context:,})")
    )
    for near in report.neighbourhoods:
        console.print(
            Text(f"token {near.text!r} (id {near.token_id}): {near.n_within:,} near-duplicates, ")
            + Text(f"nearest at cosine {near.nearest_cosine:.3f}")
        )
    for finding in report.findings:
        head, _, rest = str(finding).partition(":")
        console.print(Text(head, style=_LEVEL_STYLES[finding.level]) + Text(f":{rest}"))
    if report.ok:
        console.print(Text("fit to train on", style="bold green"))
    else:
        console.print(Text("not fit to train on", style="bold red"))
