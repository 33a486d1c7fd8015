"""generate and chat as a user sees them, at 80 columns."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from burnish.data.examples import Message
from burnish.errors import TemplateError
from burnish.models.roles import Backbone, Role
from burnish.rollout import speakers as speakers_module
from burnish.rollout.chat import Chat, chat, conversation_of, generate
from burnish.rollout.printing import Wrapped
from burnish.rollout.sampler import Sample, SamplingParams
from burnish.rollout.speakers import Speaker
from tests.models.families import EOS_ID, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PARAMS = SamplingParams(max_new_tokens=60, temperature=0.0)


@pytest.fixture(scope="module")
def role() -> Role:
    return Backbone(tiny("llama", vocab_size=len(TOKENIZER))).role()


class Script:
    """Stands in for `sample`: says what the script gives for the prompt, and keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, say: Callable[[str], str]) -> None:
        self.say = say
        self.prompts: list[str] = []
        self.params: list[SamplingParams] = []
        self.interrupt_after: int | None = None
        monkeypatch.setattr(speakers_module, "sample", self.sample)

    def sample(
        self, role: Role, prompts: Sequence[list[int]], params: SamplingParams, *, n: int = 1, **rest: Any
    ) -> list[list[Sample]]:
        self.params.append(params)
        out = []
        for index, prompt in enumerate(prompts):
            text = TOKENIZER.decode(prompt)
            self.prompts.append(text)
            ids = TOKENIZER(" " + self.say(text), add_special_tokens=False)["input_ids"]
            ids = ids[: params.max_new_tokens] if len(ids) >= params.max_new_tokens else [*ids, EOS_ID]
            for place, token in enumerate(ids):
                if place == self.interrupt_after:
                    raise KeyboardInterrupt
                if rest["on_token"] is not None:
                    rest["on_token"](index, token)
            out.append([Sample(ids, ids[-1] == EOS_ID, [])] * n)
            if rest["progress"] is not None:
                rest["progress"](len(out) * n)
        return out


def console_of(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def shown(console: Console) -> str:
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(cell_len(line) <= console.width for line in text.splitlines()), text
    return text


def two(role: Role) -> list[Speaker]:
    return [Speaker.of("raw", role, TOKENIZER), Speaker.of("sft", role, TOKENIZER, template="plain")]


# ---- wrapping ----


def test_text_in_pieces_is_wrapped_between_words() -> None:
    text = "the quick brown fox jumps\n\n    indented  line\n- item " + "x" * 25 + " end"
    expected = ["the quick", "brown fox", "jumps", "", "    indented", "line", "- item", "x" * 12, "x" * 12, "x end"]
    for step in (1, 2, 7, 1000):
        console = console_of(12)
        out = Wrapped(console)
        for start in range(0, len(text), step):
            out.write(text[start : start + step])
        out.close()
        assert [line.rstrip() for line in shown(console).splitlines()] == expected


def test_wide_characters_count_twice_and_escape_sequences_are_taken_out() -> None:
    console = console_of(10)
    out = Wrapped(console)
    out.write("日本語日本語 \x1b[2Jred\x07\tx [bold]")
    out.close()
    lines = shown(console).splitlines()
    assert [line.rstrip() for line in lines[:2]] == ["日本語日本", "語 [2Jred"]
    assert "[bold]" in shown(console)
    assert "\x1b" not in shown(console)


# ---- generate ----


def test_one_conversation_is_streamed_and_several_models_are_named(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda prompt: "It ends here." if "User:" in prompt else "Q: " * 40)
    console, messages = console_of(), console_of(200)
    answers = generate(two(role), [conversation_of("how?", "Be kind.")], PARAMS, console=console, messages=messages)
    lines = [line.rstrip() for line in shown(console).splitlines()]
    assert lines[0] == "raw (raw text)"
    assert lines[1].startswith("Q: Q: Q:")
    assert lines[-4:-2] == ["(cut off after 60 tokens)", "sft"] or lines[-3:-1] == ["(cut off after 60 tokens)", "sft"]
    assert lines[-1] == "It ends here."
    assert [a[0][0].finished for a in answers] == [False, True]
    assert "raw has no chat template" in shown(messages)
    assert "sft has no" not in shown(messages)


def test_several_conversations_and_samples_are_printed_in_order(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda prompt: "yes" if "one" in prompt else "no")
    console = console_of()
    talks = [conversation_of("one"), conversation_of("two")]
    generate(two(role), talks, PARAMS, console=console, messages=console_of(), n=2)
    block = "> {}\nraw (raw text)\n(1)\n{}\n(2)\n{}\nsft\n(1)\n{}\n(2)\n{}\n\n"
    assert shown(console) == block.format("one", *["yes"] * 4) + block.format("two", *["no"] * 4)


def test_answers_are_written_as_json_lines(role: Role, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Script(monkeypatch, lambda prompt: "été")
    console, out = console_of(), tmp_path / "answers.jsonl"
    generate(two(role)[1:], [conversation_of("hi", "S")], PARAMS, console=console, messages=console_of(), n=2, out=out)
    n_tokens = len(TOKENIZER(" été", add_special_tokens=False)["input_ids"])
    record = {
        "model": "sft",
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}],
        "text": "été",
        "finished": True,
        "n_tokens": n_tokens,
    }
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == [record, record]
    assert shown(console) == ""


def test_ctrl_c_ends_generate(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda prompt: "one two three")
    script.interrupt_after = 2
    console = console_of()
    with pytest.raises(KeyboardInterrupt):
        generate(two(role), [conversation_of("x")], PARAMS, console=console, messages=console_of())
    assert shown(console).splitlines()[-1] == "(stopped)"


# ---- chat ----


def run_chat(speakers: list[Speaker], lines: list[str], console: Console, **options: Any) -> str:
    given = iter(lines)

    def read() -> str:
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    chat(speakers, PARAMS, console=console, read_line=read, **options)
    return shown(console)


def test_every_model_sees_its_own_conversation(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda prompt: f"answer {prompt.count('User:')}")
    text = run_chat(two(role), ["hi", "again", "/reset", "anew", "/quit", "never"], console_of(), system="Be kind.")
    assert script.prompts == [
        "<bos>hi",
        "<bos>Be kind.\n\nUser: hi\nAssistant:",
        "<bos>again",
        "<bos>Be kind.\n\nUser: hi\nAssistant: answer 1<eos>\nUser: again\nAssistant:",
        "<bos>anew",
        "<bos>Be kind.\n\nUser: anew\nAssistant:",
    ]
    assert "raw text" in text
    assert "forgotten" in text
    assert "/quit" in text


def test_a_single_models_answers_stand_alone(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda prompt: "Paris.")
    text = run_chat(two(role)[1:], ["where?", "/what", ""], console_of())
    assert text.splitlines()[1] == "Paris."
    assert text.splitlines()[2].startswith("no such command: /what")


def test_columns_where_they_fit(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda prompt: "left " * 12 if "User:" not in prompt else "right " * 12)
    text = run_chat(two(role), ["hi"], console_of(80), side_by_side=True)
    both = [line for line in text.splitlines() if "left" in line and "right" in line]
    assert both
    assert any("raw (raw text)" in line and "sft" in line for line in text.splitlines())
    text = run_chat(two(role), ["hi"], console_of(50), side_by_side=True)
    assert not [line for line in text.splitlines() if "left" in line and "right" in line]
    assert "columns need a width of 56" in " ".join(text.split())


def test_columns_on_a_terminal(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda prompt: "left" if "User:" not in prompt else "right " * 80)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, highlight=False)
    Chat(two(role), PARAMS, console, side_by_side=True).tell("hi")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "left" in text
    assert "(cut off after 60" in text


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda prompt: "one two three")
    script.interrupt_after = 2
    talk = Chat(two(role)[::-1], PARAMS, console_of())
    talk.tell("hi")
    assert len(script.prompts) == 1, "the models after it stay silent"
    assert talk.histories[0] == [Message("user", "hi"), Message("assistant", "one two")]
    assert "(stopped)" in shown(talk.console)


def test_a_refused_line_is_told_and_not_kept(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda prompt: "fine")
    talk = Chat(two(role), PARAMS, console_of())
    refuses = TemplateError("the template refuses", where="template 'x'", fix="do otherwise")
    prompt = Speaker.prompt

    def refuse(self: Speaker, conversation: Sequence[Message]) -> list[int]:
        if conversation[-1].content == "bad" and not self.is_raw:
            raise refuses
        return prompt(self, conversation)

    monkeypatch.setattr(Speaker, "prompt", refuse)
    talk.tell("bad")
    talk.tell("good")
    assert "the template refuses" in shown(talk.console)
    assert [message.content for message in talk.histories[1]] == ["good", "fine"]
    assert [message.content for message in talk.histories[0]] == ["bad", "fine", "good", "fine"]


def test_a_conversation_that_outgrows_the_context_loses_its_first_turns_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(monkeypatch, lambda prompt: "yes")
    small = Backbone(tiny("llama", vocab_size=len(TOKENIZER), max_position_embeddings=128)).role()
    talk = Chat([Speaker.of("x", small, TOKENIZER, template="plain")], PARAMS, console_of(), system="the system")
    for number in range(8):
        talk.tell(f"line {number} of the talk")
    assert "context is full: the first 1 turn is forgotten" in shown(talk.console)
    last = script.prompts[-1]
    assert last.startswith("<bos>the system\n\nUser: line")
    assert "line 0 " not in last
    assert last.endswith("line 7 of the talk\nAssistant:")
    assert len(TOKENIZER(last, add_special_tokens=False)["input_ids"]) <= 128 - 60


def test_with_a_seed_every_turn_has_its_own(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda prompt: "yes")
    talk = Chat(two(role)[:1], SamplingParams(seed=5), console_of())
    talk.tell("a")
    talk.tell("b")
    assert [params.seed for params in script.params] == [5, 6]


def test_the_real_sampler_streams(role: Role) -> None:
    console = console_of()
    speaker = Speaker.of("raw", role, TOKENIZER)
    streamed = generate([speaker], [conversation_of("hi")], PARAMS, console=console, messages=console_of())
    assert streamed == [speaker.answers([conversation_of("hi")], PARAMS)]
    assert len(shown(console)) > 20
