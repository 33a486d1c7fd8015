"""`burnish check`: what the model will see, before anything trains on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from burnish.cli.console import messages, results
from burnish.cli.options import Whole, parse_map
from burnish.data.examples import Kind
from burnish.models.loading import resolve_model
from burnish.stages.run import model_of

if TYPE_CHECKING:
    from burnish.data.groups import PromptGroup
    from burnish.data.preflight import PreflightReport
    from burnish.data.sources import LoadedData
    from burnish.data.templates import ChatTemplate
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

    from burnish.data.chat import encode_usable, resolve_template
    from burnish.data.show import show_examples, show_report
    from burnish.data.sources import left_out
    from burnish.models.loading import load_model

    console = results()
    loaded = _read(data, kind, columns=parse_map(map or []), limit=limit, split=split)
    console.print(loaded.summary(), markup=False)
    source = resolve_model(model_of(model))
    found = load_model(source, dtype=torch.bfloat16, echo=messages().print)
    resolved = resolve_template(found.tokenizer, template)
    console.print(f"template: {resolved.name}, stop token {resolved.stop_token!r}; model: {source}\n", markup=False)
    groups, refused = encode_usable(resolved, found.tokenizer, loaded.examples)
    if refused:
        console.print(left_out(refused), markup=False)
    show_examples(groups, found.tokenizer, n, console)
    console.print()
    report = _preflight(found, resolved, groups, max_length, too_long, trainable_tokens or [])
    show_report(report, console)
    stops = bool(loaded.bad_rows or refused) and on_bad_row == "error"
    if stops:
        console.print(
            "a stage would stop at the rows listed above; --on-bad-row skip leaves them out", style="bold red"
        )
    return 0 if report.ok and not stops else 1


def _read(data: str, kind: str, **how: Any) -> LoadedData:
    """The data with its bad rows listed, whatever a stage would do with them."""
    from burnish.data.sources import load_as_one_of, load_examples

    if kind == "auto":
        _, loaded = load_as_one_of(data, kinds=_KINDS, on_bad_row="skip", **how)
        return loaded
    return load_examples(data, kind=cast(Kind, kind), on_bad_row="skip", **how)


def _preflight(
    found: LoadedModel,
    template: ChatTemplate,
    groups: list[PromptGroup],
    max_length: int | None,
    too_long: Literal["error", "skip"],
    trainable_tokens: list[str],
) -> PreflightReport:
    from burnish.data.preflight import preflight

    plain: Any = found.model
    output = plain.get_output_embeddings()  # a stop token must be produced, so the output's rows count
    tied = output.weight is plain.get_input_embeddings().weight
    report, _ = preflight(
        groups,
        found.tokenizer,
        template,
        context=min(max_length or found.context_length, found.context_length),
        embeddings=output.weight,
        trainable_tokens=[*trainable_tokens, *_trained_tokens(found)] if tied else (),
        too_long=too_long,
    )
    return report


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
