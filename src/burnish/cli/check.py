"""`burnish check`: what the model will see, before anything trains on it."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from burnish.cli.console import results
from burnish.cli.options import parse_map


def check(
    data: str,
    *,
    model: str,
    kind: Literal["auto", "sft", "preference", "prompt"] = "auto",
    n: int = 3,
    template: str = "auto",
    map: Annotated[list[str] | None, Parameter(negative=(), metavar="OLD=NEW...", consume_multiple=True)] = None,
    on_bad_row: Literal["error", "skip"] = "skip",
    limit: int | None = None,
    split: str | None = None,
    max_length: int | None = None,
    too_long: Literal["error", "skip"] = "error",
    trainable_tokens: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
) -> None:
    """Show examples as the model will see them (text, loss, stop token) and say whether the data is fit to train on.

    Parameters
    ----------
    data
        A file (JSONL, JSON, CSV, Parquet), a directory of them, a hub id, or `starter/NAME`.
    model
        Whose tokenizer, template, context and embeddings count.
    kind
        What a row must yield; `auto` tries sft, preference and prompt in this order.
    n
        Examples to show.
    template
        `auto` (the tokenizer's own, else `plain`), a built-in name, or a Jinja file.
    map
        Column names of the data: `old=new`.
    on_bad_row
        List the rows that are not usable and go on, or stop.
    limit
        Look at the first so many examples only.
    split
        Of a hub id or a directory.
    max_length
        The longest prompt + response in tokens; the model's context if not given.
    too_long
        Whether longer examples are an error, or would be left out.
    trainable_tokens
        Tokens whose embedding rows will train although the rest is frozen.
    """
    from burnish.data.chat import encode_example, resolve_template
    from burnish.data.preflight import preflight
    from burnish.data.show import show_examples, show_report
    from burnish.data.sources import load_examples

    columns = parse_map(map or [])
    console = results()
    chosen = _kind(data, columns, split) if kind == "auto" else kind
    loaded = load_examples(data, kind=chosen, columns=columns, on_bad_row=on_bad_row, limit=limit, split=split)
    console.print(loaded.summary(), markup=False)
    found, source = _load(model)
    resolved = resolve_template(found.tokenizer, template)
    console.print(f"template: {resolved.name}, stop token {resolved.stop_token!r}; model: {source}\n", markup=False)
    groups = [encode_example(resolved, found.tokenizer, e, index=i) for i, e in enumerate(loaded.examples)]
    show_examples(groups, found.tokenizer, n, console)
    console.print()
    report, _ = preflight(
        groups,
        found.tokenizer,
        resolved,
        context=min(max_length or found.context_length, found.context_length),
        embeddings=found.model.get_input_embeddings().weight,
        trainable_tokens=trainable_tokens or (),
        too_long=too_long,
    )
    show_report(report, console)
    report.raise_if_failed()
