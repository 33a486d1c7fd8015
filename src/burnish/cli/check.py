"""`burnish check`: what the model will see, before anything trains on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from burnish.cli.console import messages, results
from burnish.cli.options import Whole, parse_map
from burnish.data.examples import Kind
from burnish.models.loading import resolve_model
from burnish.stages.run import model_of

if TYPE_CHECKING:
    from burnish.models.loading import LoadedModel

_KINDS: tuple[Kind, ...] = ("preference", "sft", "prompt")


def check(
    data: str,
    /,
    *,
    model: str,
    kind: Literal["auto", "sft", "preference", "prompt"] = "auto",
    n: Whole = 3,
    template: str = "auto",
    map: Annotated[list[str] | None, Parameter(negative=(), metavar="OLD=NEW...", consume_multiple=True)] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    limit: Whole | None = None,
    split: str | None = None,
    max_length: Whole | None = None,
    too_long: Literal["error", "skip"] = "error",
    trainable_tokens: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
) -> int:
    """Show examples as the model will see them (text, loss, stop token) and say whether the data is fit to train on.

    Parameters
    ----------
    data
        A file (JSONL, JSON, CSV, Parquet), a directory of them, a hub id, or `starter/NAME`.
    model
        Whose tokenizer, template, context and embeddings count.
    kind
        What a row must yield; `auto` takes what most of the first rows can be, prompts only if nothing else.
    n
        Examples to show.
    template
        `auto` (the tokenizer's own, else `plain`), a built-in name, or a Jinja file.
    map
        Column names of the data: `old=new`.
    on_bad_row
        Rows that are not usable make the data unfit, or are left out. They are listed in both cases.
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
    import torch

    from burnish.data.chat import encode_examples, resolve_template
    from burnish.data.preflight import preflight
    from burnish.data.show import show_examples, show_report
    from burnish.data.sources import load_as_one_of, load_examples
    from burnish.models.loading import load_model

    columns = parse_map(map or [])
    console = results()
    if kind == "auto":
        _, loaded = load_as_one_of(data, kinds=_KINDS, columns=columns, on_bad_row="skip", limit=limit, split=split)
    else:
        loaded = load_examples(data, kind=kind, columns=columns, on_bad_row="skip", limit=limit, split=split)
    console.print(loaded.summary(), markup=False)
    source = resolve_model(model_of(model))
    found = load_model(source, dtype=torch.bfloat16, echo=messages().print)
    resolved = resolve_template(found.tokenizer, template)
    console.print(f"template: {resolved.name}, stop token {resolved.stop_token!r}; model: {source}\n", markup=False)
    groups = encode_examples(resolved, found.tokenizer, loaded.examples)
    show_examples(groups, found.tokenizer, n, console)
    console.print()
    plain: Any = found.model
    output = plain.get_output_embeddings()  # a stop token must be produced, so the output's rows count
    tied = output.weight is plain.get_input_embeddings().weight
    report, _ = preflight(
        groups,
        found.tokenizer,
        resolved,
        context=min(max_length or found.context_length, found.context_length),
        embeddings=output.weight,
        trainable_tokens=[*(trainable_tokens or ()), *_trained_tokens(found)] if tied else (),
        too_long=too_long,
    )
    show_report(report, console)
    refused = bool(loaded.bad_rows) and on_bad_row == "error"
    if refused:
        console.print(
            "a stage would stop at the rows listed above; --on-bad-row skip leaves them out", style="bold red"
        )
    return 0 if report.ok and not refused else 1


def _trained_tokens(found: LoadedModel) -> list[str]:
    """The tokens whose rows an adapter brings along: they have been trained, whatever the base's rows are."""
    from burnish.models.adapters import load_adapter
    from burnish.models.token_rows import token_rows_of

    if found.source.adapter is None:
        return []
    load_adapter(found.model, found.source.adapter, "checked")
    own = token_rows_of(found.model, "checked")
    tokenizer: Any = found.tokenizer
    return [] if own is None else list(tokenizer.convert_ids_to_tokens(own[0].tolist()))
