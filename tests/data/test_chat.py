"""Conversations to ids: the prefix property, loss up to and with the stop token, BOS once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.data.chat import (
    BUILTIN,
    ChatTemplate,
    decode_response,
    encode_example,
    encode_prompt,
    encode_usable,
    install_template,
    render,
    resolve_template,
    stop_ids,
    tokenize,
)
from burnish.data.examples import Example, Message, Origin
from burnish.data.groups import PromptGroup, Response
from burnish.errors import TemplateError

BEGINNINGS = ["Paris.", "- one\n- two", "* x", '{"city": 1}', "[1]", '"Quoted"', "'q'", "42", "7 is", "HELLO", "1. a"]
BEGINNINGS += ["# T", "...", "–", "é", "中文", "🙂", "`code`", "(a)", "$5", ":", ": a", ":)", "=", "_x_", "\\n", "a"]


def example(*contents: str, system: str | None = None, more: Sequence[str] = ()) -> Example:
    """A question, and all that follows as the response; each of `more` is another response to the question."""
    ask, *rest = contents
    prompt = ((Message("system", system),) if system else ()) + (Message("user", ask),)
    first = tuple(Message(("assistant", "user")[i % 2], text) for i, text in enumerate(rest))
    others = tuple((Message("assistant", text),) for text in more)
    return Example(prompt, (first, *others) if rest else others, Origin("data.jsonl", 7))


def learned(tokenizer: Any, response: Response) -> list[str]:
    """The texts of the runs of tokens that carry loss."""
    runs: list[list[int]] = [[]]
    for token, loss in zip(response.ids, response.loss, strict=True):
        if loss:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


# GPT-2's rule of words splits a double newline according to what follows, so Llama 3's template is not for it.
PAIRS = [
    (kind, name)
    for kind in ("byte_level", "spaces_as_text", "llama_like")
    for name in sorted(BUILTIN)
    if (kind, name) != ("byte_level", "llama3")
]


# `none` writes no separators and trims nothing: whether prompt and response melt is up to the data.
CHATS = [(kind, name) for kind, name in PAIRS if name != "none"]


def in_words(pair: tuple[str, str]) -> str:
    return "-".join(pair)


@pytest.fixture(params=PAIRS, ids=in_words)
def pair(request: pytest.FixtureRequest) -> tuple[Any, ChatTemplate]:
    """Each kind of tokenizer with each built-in template that fits it."""
    kind, name = request.param
    tokenizer = request.getfixturevalue(kind)
    return tokenizer, resolve_template(tokenizer, name)


# ---- prompt, response and loss ----

EXPECTED = {
    "plain": ("<s>User: Capital?\nAssistant:", [" Paris.</s>", " Rome.</s>"], "\nUser: Italy?\nAssistant:"),
    "chatml": (
        "<s><|im_start|>user\nCapital?<|im_end|>\n<|im_start|>assistant\n",
        ["Paris.<|im_end|>", "Rome.<|im_end|>"],
        "\n<|im_start|>user\nItaly?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "gemma": (
        "<s><start_of_turn>user\nCapital?<end_of_turn>\n<start_of_turn>model\n",
        ["Paris.<end_of_turn>", "Rome.<end_of_turn>"],
        "\n<start_of_turn>user\nItaly?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "llama3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nCapital?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ["Paris.<|eot_id|>", "Rome.<|eot_id|>"],
        "<|start_header_id|>user<|end_header_id|>\n\nItaly?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "none": ("<s>Capital?", ["Paris.</s>", "Rome.</s>"], "Italy?"),
}


def test_loss_is_on_the_assistants_turns_up_to_and_with_the_stop_token(pair: tuple[Any, ChatTemplate]) -> None:
    tokenizer, template = pair
    group = encode_example(template, tokenizer, example("Capital?", "Paris.", "Italy?", "Rome."), index=3)
    prompt, answers, between = EXPECTED[template.name]
    (response,) = group.responses
    assert tokenizer.decode(group.prompt) == prompt
    assert learned(tokenizer, response) == answers
    # Nothing follows the last stop token: ChatML's newline is never sampled.
    assert tokenizer.decode(group.prompt + response.ids) == prompt + answers[0] + between + answers[1]
    assert response.ids[-1] == stop_ids(template, tokenizer)[0]
    assert (group.origin, group.index) == ("data.jsonl:7", 3)


@pytest.mark.parametrize("pair", CHATS, ids=in_words, indirect=True)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_what_is_trained_is_what_is_sampled(beginning: str, pair: tuple[Any, ChatTemplate]) -> None:
    """However a response begins, in the first turn and in later ones, each prompt is a prefix of the whole."""
    tokenizer, template = pair
    data = example("Hi?\n", beginning, beginning, beginning, beginning, beginning, system="Be brief.")
    group = encode_example(template, tokenizer, data)
    messages = [*data.prompt, *data.responses[0]]
    whole = tokenize(tokenizer, render(template, tokenizer, messages, add_generation_prompt=False))
    row = [*group.prompt, *group.responses[0].ids]
    assert row == whole[: len(row)]
    for turn in (2, 4, 6):
        prompt = encode_prompt(template, tokenizer, messages[:turn])
        assert row[: len(prompt)] == prompt
        flags = [False] * len(group.prompt) + list(group.responses[0].loss)
        assert not flags[len(prompt) - 1]
        assert flags[len(prompt)]
    assert learned(tokenizer, group.responses[0])[2].strip().startswith(beginning)


@pytest.mark.parametrize("pair", CHATS, ids=in_words, indirect=True)
@pytest.mark.parametrize("padding", [" ", "\n", "\n\n", "\t"])
def test_white_space_around_a_response_is_no_obstacle(padding: str, pair: tuple[Any, ChatTemplate]) -> None:
    tokenizer, template = pair
    bare = encode_example(template, tokenizer, example("Hi", "Paris."))
    assert encode_example(template, tokenizer, example("Hi", f"{padding}Paris.{padding}")) == bare


def test_responses_share_their_prompt(tokenizer: Any) -> None:
    template = resolve_template(tokenizer, "plain")
    group = encode_example(template, tokenizer, example("Capital?", "Paris.", more=["Rome.", "- Oslo"]))
    assert [learned(tokenizer, r) for r in group.responses] == [[" Paris.</s>"], [" Rome.</s>"], [" - Oslo</s>"]]
    alone = encode_example(template, tokenizer, example("Capital?", "Rome."))
    assert group.prompt == alone.prompt
    assert group.responses[1] == alone.responses[0]


def test_a_prompt_alone_has_no_responses(tokenizer: Any) -> None:
    template = resolve_template(tokenizer, "plain")
    group = encode_example(template, tokenizer, example("Capital?"))
    assert group == PromptGroup(
        tuple(encode_prompt(template, tokenizer, [Message("user", "Capital?")])), (), "data.jsonl:7"
    )


def test_bos_stands_once_at_the_beginning(pair: tuple[Any, ChatTemplate]) -> None:
    tokenizer, template = pair
    group = encode_example(template, tokenizer, example("a", "b", "c", "d"))
    row = [*group.prompt, *group.responses[0].ids]
    assert row[0] == tokenizer.bos_token_id
    assert row.count(tokenizer.bos_token_id) == 1


def test_a_template_that_writes_bos_twice_is_refused(byte_level: Any) -> None:
    template = ChatTemplate("mine", "{{ bos_token }}" + BUILTIN["plain"].source, "</s>")
    with pytest.raises(TemplateError, match="begins with '<s>' twice"):
        encode_prompt(template, byte_level, [Message("user", "a")])


# ---- templates that can't be trained with ----

OPEN_END = """{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\
{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}\
{% if add_generation_prompt %}assistant: {% endif %}"""


def test_a_prompt_that_is_no_prefix_is_refused_with_the_first_token_that_differs(tokenizer: Any) -> None:
    """The classic: the prompt ends in a space that belongs to the response's first token."""
    template = ChatTemplate("mine", OPEN_END, "</s>")
    with pytest.raises(TemplateError, match="not a token prefix of prompt \\+ response at turn 2") as caught:
        encode_example(template, tokenizer, example("Capital?", "Paris."))
    assert "is ' ' (id" in caught.value.what
    assert "and ' Paris" in caught.value.what
    assert str(caught.value.where).startswith("data.jsonl:7; template 'mine'; prompt ends ")


def test_a_familys_template_on_another_kind_of_tokenizer_is_refused(byte_level: Any) -> None:
    with pytest.raises(TemplateError, match="not a token prefix"):
        encode_example(resolve_template(byte_level, "llama3"), byte_level, example("Capital?", "Paris."))


def test_raw_text_that_melts_is_refused(byte_level: Any) -> None:
    with pytest.raises(TemplateError, match="not a token prefix"):
        encode_example(resolve_template(byte_level, "none"), byte_level, example("The cap", "ital of France"))


def test_the_prefix_is_demanded_of_every_turn(byte_level: Any) -> None:
    first_ok = OPEN_END.replace(
        "assistant: {% endif %}", "assistant:{% if messages | length > 2 %} {% endif %}{% endif %}"
    )
    template = ChatTemplate("mine", first_ok, "</s>")
    encode_example(template, byte_level, example("Capital?", "Paris."))
    with pytest.raises(TemplateError, match="at turn 4"):
        encode_example(template, byte_level, example("Capital?", "Paris.", "Again?", "Paris."))


def test_a_template_that_opens_a_turn_otherwise_when_it_is_answered(byte_level: Any) -> None:
    source = OPEN_END.replace("assistant: {% endif %}", "<think>{% endif %}")
    with pytest.raises(TemplateError, match="not a token prefix") as caught:
        encode_example(ChatTemplate("mine", source, "</s>"), byte_level, example("Capital?", "Paris."))
    assert "writes the earlier turns, or the opening of this one, otherwise" in str(caught.value.fix)


def test_white_space_that_melts_into_the_prompt_is_named(spaces_as_text: Any) -> None:
    source = BUILTIN["chatml"].source.replace(" | trim", "")
    with pytest.raises(TemplateError, match="not a token prefix") as caught:
        encode_example(ChatTemplate("mine", source, "<|im_end|>"), spaces_as_text, example("Hi", "\n\nParis."))
    assert "begins with white space" in str(caught.value.fix)


def test_thoughts_left_out_of_earlier_turns_are_no_obstacle(byte_level: Any) -> None:
    """As reasoning models have it: only the last answer keeps its thoughts; each turn's context is still a prefix."""
    source = (
        "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    template = ChatTemplate("mine", source, "<|im_end|>")
    thought = "<think>hm</think>"
    group = encode_example(template, byte_level, example("a?", thought + "one", "b?", thought + "two"))
    assert learned(byte_level, group.responses[0]) == ["one<|im_end|>", thought + "two<|im_end|>"]


def test_a_template_that_drops_a_turn_is_refused(byte_level: Any) -> None:
    source = "{{ bos_token }}{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}{% endfor %}"
    with pytest.raises(TemplateError, match="leaves out or changes turn 1, a system turn"):
        encode_example(ChatTemplate("mine", source, "</s>"), byte_level, example("a", "b", system="Be brief."))


def test_a_turn_without_stop_token_is_refused(byte_level: Any) -> None:
    source = BUILTIN["plain"].source.replace("| trim + eos_token", "| trim")
    template = ChatTemplate("mine", source, "</s>")
    with pytest.raises(TemplateError, match="no stop token '</s>' after turn 2"):
        encode_example(template, byte_level, example("a", "b"))
    # One that ends only the last turn leaves the first without.
    only_last = BUILTIN["plain"].source.replace("eos_token", "(eos_token if loop.last else '')")
    with pytest.raises(TemplateError, match="no stop token '</s>' after turn 2"):
        encode_example(ChatTemplate("mine", only_last, "</s>"), byte_level, example("a", "b", "c", "d"))


def test_a_stop_token_in_the_text_is_refused(byte_level: Any) -> None:
    with pytest.raises(TemplateError, match="turn 2 holds the stop token '</s>' in its text") as caught:
        encode_example(resolve_template(byte_level, "plain"), byte_level, example("a", "b </s> c"))
    assert str(caught.value.where) == "data.jsonl:7"


# ---- which template ----


def test_auto_takes_the_tokenizers_own_and_plain_without_one(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    for choice in (None, "auto", ""):
        assert resolve_template(tokenizer, choice).name == "plain"
    tokenizer.chat_template = BUILTIN["chatml"].source
    own = resolve_template(tokenizer, "auto")
    assert (own.name, own.stop_token, own.role_texts) == ("tokenizer", "<|im_end|>", ("<|im_start|>",))
    tokenizer.chat_template = {"default": BUILTIN["gemma"].source, "tools": "x"}
    assert resolve_template(tokenizer, None).stop_token == "<end_of_turn>"
    tokenizer.chat_template = {"a": "x", "b": "y"}
    with pytest.raises(TemplateError, match=r"several chat templates \(a, b\)"):
        resolve_template(tokenizer, None)


def test_a_role_token_may_be_bos_as_well(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = BUILTIN["chatml"].source
    assert resolve_template(tokenizer, None).role_texts == ("<|im_start|>",)


def test_the_stop_token_is_the_first_after_the_text(byte_level: Any, tmp_path: Path) -> None:
    """As Phi has it: <|end|> ends a turn, and EOS the conversation."""
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}<think></think>{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ eos_token }}"
    )
    template = resolve_template(byte_level, str(path))
    assert template.stop_token == "<|im_end|>"
    assert template.name == str(path)
    end, eos = (byte_level.convert_tokens_to_ids(token) for token in ("<|im_end|>", "</s>"))
    assert stop_ids(template, byte_level) == (end, eos)


def test_newlines_are_no_stop_token(spaces_as_text: Any, tmp_path: Path) -> None:
    """Gemma's vocabulary holds newlines as added tokens; a template may write one before the stop token."""
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{{ '\n' + eos_token }}{% endfor %}")
    assert resolve_template(spaces_as_text, str(tmp_path / "t.jinja")).stop_token == "</s>"


def test_plain_stops_with_eos(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    assert resolve_template(tokenizer, "plain").stop_token == "</s>"
    assert stop_ids(BUILTIN["plain"], tokenizer) == (tokenizer.eos_token_id,)
    with pytest.raises(TemplateError, match="no EOS token"):
        resolve_template(make_tokenizer(eos_token=None), "plain")


def test_choices_that_do_not_work(make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(TemplateError, match=r"unknown chat template 'chatlm' \(did you mean 'chatml'\?\)") as caught:
        resolve_template(tokenizer, "chatlm")
    assert "auto, plain, chatml" in str(caught.value.fix)
    (tmp_path / "endless.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(TemplateError, match="puts no stop token after the assistant's text"):
        resolve_template(tokenizer, str(tmp_path / "endless.jinja"))
    (tmp_path / "latin.jinja").write_bytes(b"\xe9")
    with pytest.raises(TemplateError, match="can't read the chat template"):
        resolve_template(tokenizer, str(tmp_path / "latin.jinja"))


def test_a_stop_token_of_another_family_is_refused(byte_level: Any) -> None:
    template = ChatTemplate("phi", BUILTIN["chatml"].source, "<|end|>")
    with pytest.raises(TemplateError, match=r"'<\|end\|>' is not one token of this tokenizer \(\d+ tokens\)"):
        encode_example(template, byte_level, example("a", "b"))


# ---- saved with the tokenizer ----


def test_an_installed_template_is_saved_with_the_tokenizer(make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = make_tokenizer()
    template = resolve_template(tokenizer, "plain")
    install_template(template, tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    data = example("Capital?", "- Paris.", "Italy?", "Rome.")
    again = encode_example(resolve_template(loaded, None), loaded, data)
    assert again == encode_example(template, tokenizer, data)


def test_a_padding_token_is_found_and_eos_is_the_last_resort(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(pad_token=None)
    n_tokens = len(tokenizer)
    install_template(resolve_template(tokenizer, "plain"), tokenizer)
    assert tokenizer.pad_token == "<pad>"
    kept = make_tokenizer(pad_token="<|im_start|>")
    install_template(resolve_template(kept, "plain"), kept)
    assert kept.pad_token == "<|im_start|>"

    class Bare:
        """A vocabulary without padding or unknown token."""

        pad_token = unk_token = bos_token = None
        eos_token, chat_template = "</s>", None

        def get_vocab(self) -> dict[str, int]:
            return {"</s>": 0, "a": 1}

    bare: Any = Bare()
    install_template(BUILTIN["plain"], bare)
    assert bare.pad_token == "</s>"
    assert len(tokenizer) == n_tokens  # the vocabulary did not grow


# ---- answers ----


def test_a_response_is_decoded_up_to_its_stop_token(tokenizer: Any) -> None:
    template = resolve_template(tokenizer, "plain")
    stops = stop_ids(template, tokenizer)
    ids = encode_example(template, tokenizer, example("a", "The capital is Paris (é).")).responses[0].ids
    assert decode_response(tokenizer, ids, stops) == "The capital is Paris (é)."
    assert decode_response(tokenizer, [*ids, *ids], stops) == "The capital is Paris (é)."
    assert decode_response(tokenizer, ids[:-1], stops) == "The capital is Paris (é)."
    assert decode_response(tokenizer, [stops[0]], stops) == ""
    assert decode_response(tokenizer, [], stops) == ""


def test_decoding_does_not_tidy_spaces(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.clean_up_tokenization_spaces = True
    assert decode_response(tokenizer, tokenize(tokenizer, "a , b ."), ()) == "a , b ."


def test_plain_text_is_learned_from_its_second_token_on_without_a_stop(
    pair: tuple[Any, ChatTemplate],
) -> None:
    tokenizer, template = pair
    text = "The Nile floods. Then it falls again.\n\nSo it goes."
    group = encode_example(template, tokenizer, Example((), (), Origin("d.jsonl", 3), {}, text), index=5)
    ids = tokenizer(text)["input_ids"]
    assert (group.prompt, group.responses) == ((ids[0],), (Response.full(ids[1:]),))
    assert (group.plain_text, group.origin, group.index) == (True, "d.jsonl:3", 5)
    assert stop_ids(template, tokenizer)[0] not in group.responses[0].ids


def test_a_text_with_the_stop_token_in_it_is_refused(byte_level: Any) -> None:
    template = resolve_template(byte_level, "plain")
    with pytest.raises(TemplateError, match="holds the stop token '</s>'") as caught:
        encode_example(template, byte_level, Example((), (), Origin("d.jsonl", 3), {}, "One.</s>Two."))
    assert caught.value.where == "d.jsonl:3"


def test_a_text_of_a_single_token_is_refused(byte_level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = resolve_template(byte_level, "plain")
    monkeypatch.setattr(type(byte_level), "encode", lambda self, text: [7])
    with pytest.raises(TemplateError, match="a single token") as caught:
        encode_example(template, byte_level, Example((), (), Origin("d.jsonl", 3), {}, "a"))
    assert caught.value.where == "d.jsonl:3"


def test_rows_that_a_template_refuses_are_left_out_with_their_places_and_reasons(byte_level: Any) -> None:
    """Gemma's own template knows no system turn; a stop token in a text would teach to stop there."""
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template = resolve_template(byte_level, "plain")
    strict = ChatTemplate("strict", source + template.source, template.stop_token)
    rows = [
        replace(one, origin=Origin("d.jsonl", line))
        for line, one in enumerate(
            [example("a", "b"), example("a", "b", system="Be brief."), example("a", "b </s> c"), example("c", "d")], 1
        )
    ]
    groups, refused = encode_usable(strict, byte_level, rows)
    assert groups == [encode_example(strict, byte_level, rows[place], index=place) for place in (0, 3)]
    first, second = map(str, refused)
    assert first.startswith("d.jsonl:2: the chat template refuses these messages: System role not supported")
    assert second.startswith("d.jsonl:3: turn 2 holds the stop token '</s>'")
    with pytest.raises(TemplateError, match="System role") as caught:
        encode_usable(strict, byte_level, rows, on_bad_row="error")
    assert "d.jsonl:2" in (caught.value.where or "")
    with pytest.raises(TemplateError, match="System role"):  # all of them: that is no matter of rows
        encode_usable(strict, byte_level, rows[1:2])
    assert encode_usable(strict, byte_level, []) == ([], [])
