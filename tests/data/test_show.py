"""What is shown of examples: readable with and without colour, in 80 columns."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from tokenizers import decoders

from burnish.data.chat import encode_example, resolve_template
from burnish.data.examples import Example, Message, Origin
from burnish.data.groups import PromptGroup, Response
from burnish.data.preflight import Finding, Lengths, Neighbourhood, PreflightReport
from burnish.data.show import show_examples, show_report
from tests.data.made_tokenizers import make_spaces_as_text


def printed(groups: list[PromptGroup], tokenizer: Any, n: int, *, colour: bool = False, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=stream, width=80, force_terminal=colour, color_system="standard" if colour else None)
    show_examples(groups, tokenizer, n, console)
    stream.flush()
    return raw.getvalue().decode(encoding)


def encode(tokenizer: Any, *responses: tuple[str, ...]) -> PromptGroup:
    turns = tuple(
        tuple(Message(("assistant", "user")[i % 2], text) for i, text in enumerate(response)) for response in responses
    )
    example = Example((Message("user", "Capital?"),), turns, Origin("d.jsonl", 7))
    return encode_example(resolve_template(tokenizer, "plain"), tokenizer, example)


def test_marks_show_what_is_learned_without_colour(tokenizer: Any) -> None:
    text = printed([encode(tokenizer, ("Paris é.", "Italy?", "[bold]Rome[/bold] 🙂"))], tokenizer, 5)
    assert text.splitlines()[0] == "legend: read, no loss · ⟦learned<stop>⟧   ⏎ newline"
    assert "example 1 of 1  d.jsonl:7  (" in text
    # The text of a response is shown as it is: it is no markup.
    assert text.splitlines()[-4:] == [
        "<s>User: Capital?⏎",
        "Assistant:⟦ Paris é.</s>⟧⏎",
        "User: Italy?⏎",
        "Assistant:⟦ [bold]Rome[/bold] 🙂</s>⟧",
    ]


def test_a_decoder_that_drops_the_first_space_shows_it_all_the_same() -> None:
    """As Llama's does: a response decoded alone would lose the space that it begins with."""
    tokenizer = make_spaces_as_text()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(parts)
    group = encode(tokenizer, ("Paris.",))
    assert tokenizer.decode(group.responses[0].ids) == "Paris.</s>"
    assert "Assistant:⟦ Paris.</s>⟧" in printed([group], tokenizer, 1)


def test_a_terminal_without_unicode_gets_ascii_marks(byte_level: Any) -> None:
    text = printed([encode(byte_level, ("Paris.",))], byte_level, 5, encoding="ascii")
    assert "legend: read, no loss | [[learned<stop>]]   \\n newline" in text
    assert "Assistant:[[ Paris.</s>]]" in text


def test_colour_sets_loss_and_stop_token_apart(byte_level: Any) -> None:
    text = printed([encode(byte_level, ("Paris.",))], byte_level, 5, colour=True)
    green, on_green = "\x1b[32m", "\x1b[1;37;42m"
    assert f"{green} Paris.\x1b[0m{on_green}</s>\x1b[0m" in text
    assert f"{green}Capital" not in text


def test_pairs_are_named_and_only_n_examples_are_shown(byte_level: Any) -> None:
    pair = encode(byte_level, ("Paris.",), ("Rome.",))
    text = printed([pair, pair, pair], byte_level, 2)
    assert text.count("response: chosen\n⟦ Paris.</s>⟧") == 2
    assert text.count("response: rejected\n⟦ Rome.</s>⟧") == 2
    assert "example 2 of 3" in text
    assert "example 3" not in text


def test_lines_fit_80_columns(byte_level: Any) -> None:
    text = printed([encode(byte_level, ("word " * 60 + "x" * 200,))], byte_level, 1)
    assert max(map(len, text.splitlines())) <= 80
    assert text.replace("\n", "").count("x" * 200) == 1


def test_a_stop_token_without_loss_is_pointed_at(byte_level: Any) -> None:
    good = encode(byte_level, ("Paris.",))
    ids = good.responses[0].ids
    hidden = PromptGroup(good.prompt, (Response(ids, (True,) * (len(ids) - 1) + (False,)),))
    text = printed([hidden], byte_level, 1)
    assert "⟦ Paris.⟧</s>" in text
    assert "a last token carries no loss" in text
    assert "a last token" not in printed([good], byte_level, 1)


REPORT = PreflightReport(
    n_examples=1200,
    n_skipped=3,
    n_prompt_tokens=24000,
    n_loss_tokens=6003,
    lengths=Lengths(41, 65, 910),
    context=512,
    findings=(),
    neighbourhoods=(),
)


@pytest.mark.parametrize(("level", "verdict"), [("warning", "fit to train on"), ("error", "not fit to train on")])
def test_a_report_has_its_numbers_and_its_verdict(level: Any, verdict: str) -> None:
    stream = io.StringIO()
    report = replace(
        REPORT,
        findings=(Finding(level, "something [odd]", "d.jsonl:1", "mend it"),),
        neighbourhoods=(Neighbourhood(106, 4707, 1354, 0.9952, "<end>"),),
    )
    show_report(report, Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "1,200 examples, 24,000 prompt tokens, 6,003 tokens with loss; 3 left out as too ",
        "long",
        "length in tokens: median 41, 95 % 65, longest 910 (context 512)",
        "token '<end>' (id 106): 4,707 near-duplicates, nearest at cosine 0.995",
        f"{level}: something [odd]",
        "  where: d.jsonl:1",
        "  to do: mend it",
        verdict,
    ]


def test_prompts_alone_are_counted_as_prompts() -> None:
    stream = io.StringIO()
    report = replace(REPORT, n_examples=20, n_skipped=1, n_prompt_tokens=1302, n_loss_tokens=0)
    show_report(report, Console(file=stream, width=80))
    assert stream.getvalue().splitlines()[0] == "20 prompts, 1,302 tokens; 1 left out as too long"
