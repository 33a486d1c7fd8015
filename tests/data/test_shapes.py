"""Rows to examples: every shape, and every way in which a row can be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.data.conversations import RowError
from burnish.data.examples import Example, Kind, Message, Origin
from burnish.data.shapes import example_from_row

HERE = Origin("data.jsonl", 7)


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def turns(*contents: str, first: str = "user") -> list[dict[str, str]]:
    """Plain dictionaries of alternating turns."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


def read(kind: Kind, **row: Any) -> Example:
    return example_from_row(row, HERE, kind)[0]


def fails(kind: Kind, row: dict[str, Any], field: str, why: str) -> None:
    with pytest.raises(RowError) as caught:
        example_from_row(row, HERE, kind)
    assert caught.value.field == field
    assert why in caught.value.why


# ---- SFT ----


def test_messages() -> None:
    row = [{"role": "system", "content": "Be brief."}, *turns("Hi", "Hello.", "Bye", "See you.")]
    example = read("sft", messages=row, category="chat", id=3)
    assert example.prompt == (system("Be brief."), user("Hi"))
    assert example.responses == ((assistant("Hello."), user("Bye"), assistant("See you.")),)
    assert example.meta == {"category": "chat", "id": 3}
    assert str(example.origin) == "data.jsonl:7"


def test_sharegpt_conversations_and_messages_as_json_text() -> None:
    row = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    for example in (
        read("sft", conversations=row),
        read("sft", messages='[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]'),
    ):
        assert (example.prompt, example.responses) == ((user("Hi"),), ((assistant("Hello."),),))


def test_content_in_text_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    example = read("sft", messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": parts}])
    assert example.responses == ((assistant("Hello."),),)
    image = [{"role": "user", "content": [{"type": "image", "url": "x"}]}, {"role": "assistant", "content": "a"}]
    fails("sft", {"messages": image}, "messages[0].content[0]", "only parts of type 'text'")


@pytest.mark.parametrize("name", ["completion", "response", "output"])
def test_prompt_and_completion(name: str) -> None:
    example = read("sft", prompt="  Hi\n", **{name: " Hello. "})
    assert example.prompt == (user("  Hi\n"),)  # text is kept as it is: templates trim, `none` must not
    assert example.responses == ((assistant(" Hello. "),),)
    assert example.meta == {}


def test_prompt_and_completion_as_messages() -> None:
    example = read("sft", prompt=turns("Hi", "Hello.", "Bye"), completion=turns("See you.", first="assistant"))
    assert example.prompt == (user("Hi"), assistant("Hello."), user("Bye"))
    assert example.responses == ((assistant("See you."),),)


def test_plain_text_is_taken_as_it_stands_and_only_where_there_is_no_conversation() -> None:
    example = read("sft", text=" Once upon a time.\n", source="book")
    assert (example.text, example.prompt, example.responses) == (" Once upon a time.\n", (), ())
    assert example.meta == {"source": "book"}
    assert read("sft", prompt="Hi", completion="Hello.", text="Hi Hello.").text is None
    fails("sft", {"text": " \n"}, "text", "empty text")
    fails("sft", {"text": 3}, "text", "must be text")
    fails("sft", {"text": "a", "completion": "b"}, "prompt", "missing")
    fails("sft", {"text": "a", "chosen": "b", "rejected": "c"}, "", "no known shape")
    fails("preference", {"text": "a"}, "", "no known shape")
    fails("prompt", {"text": "a"}, "", "no known shape")


@pytest.mark.parametrize(("context", "asked"), [("", "Add."), (None, "Add."), ("1, 2", "Add.\n\n1, 2")])
def test_alpaca(context: str | None, asked: str) -> None:
    example = read("sft", instruction="Add.", input=context, output="3", text="Below is ...")
    assert example.prompt == (user(asked),)
    assert example.responses == ((assistant("3"),),)
    assert example.meta["text"] == "Below is ..."


def test_dolly() -> None:
    example = read("sft", instruction="Who?", context="Ada wrote it.", response="Ada.", category="qa")
    assert example.prompt == (user("Who?\n\nAda wrote it."),)
    assert example.meta == {"category": "qa"}


ALPACA_TEXT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nWhat is\nwater?\n\n### Response:\n"
)
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:"
)


@pytest.mark.parametrize(("text", "asked"), [(ALPACA_TEXT, "What is\nwater?"), (ALPACA_INPUT, "Add.\n\n1, 2")])
def test_alpaca_text_in_a_prompt_is_unwrapped_and_counted(text: str, asked: str) -> None:
    example, shape = example_from_row({"prompt": text, "response": "Wet."}, HERE, "sft")
    assert example.prompt == (user(asked),)
    assert shape == "prompt + completion, Alpaca's text unwrapped"


def test_text_that_only_resembles_alpacas_stays() -> None:
    text = ALPACA_TEXT + "and more"
    assert read("sft", prompt=text, response="x").prompt == (user(text),)


def test_a_system_column() -> None:
    assert read("sft", system="Be brief.", prompt="Hi", completion="Yo").prompt == (system("Be brief."), user("Hi"))
    assert read("sft", system="  ", prompt="Hi", completion="Yo").prompt == (user("Hi"),)
    own = [{"role": "system", "content": "Mine."}, *turns("Hi", "Yo")]
    example = read("sft", system="Other.", messages=own)
    assert example.prompt[0] == system("Mine.")
    assert example.meta == {"system": "Other."}


def test_a_blank_system_message_says_nothing() -> None:
    example = read("sft", messages=[{"role": "system", "content": ""}, *turns("Hi", "Yo")])
    assert example.prompt == (user("Hi"),)


@pytest.mark.parametrize(
    ("row", "field", "why"),
    [
        ({"question": "a", "answer": "b"}, "", "the row has 'question', 'answer'; SFT data is 'messages', 'prompt' +"),
        ({}, "", "the row has nothing"),
        ({"prompt": "a", "reply": "b"}, "completion", "missing; the row has 'prompt', 'reply'; SFT data is 'messages'"),
        ({"prompt": "a", "completion": None}, "completion", "is null; the row has 'prompt';"),
        ({"completion": "a"}, "prompt", "missing; the row has 'completion'"),
        ({"instruction": "a", "input": "x"}, "output", "missing"),
        ({"instruction": 5, "output": "x"}, "instruction", "must be text, this is a number"),
        ({"instruction": "a", "input": 5, "output": "x"}, "input", "must be text, this is a number"),
        ({"prompt": "a", "completion": 42}, "completion", "must be text, this is a number"),
        ({"prompt": "a", "completion": True}, "completion", "must be text, this is a boolean"),
        ({"prompt": {"a": 1}, "completion": "b"}, "prompt", "must be a list of messages, this is an object"),
        ({"prompt": "a", "completion": ""}, "completion", "empty response"),
        ({"prompt": "a", "completion": " \n\t"}, "completion", "empty response"),
        ({"prompt": " ", "completion": "a"}, "prompt", "empty prompt"),
        ({"prompt": "a", "completion": "b \ud800"}, "completion", "holds \\ud800, half of a surrogate pair"),
        ({"prompt": turns("a", "b"), "completion": "c"}, "prompt", "ends with an assistant turn"),
        ({"prompt": "a", "completion": turns("b")}, "completion", "must begin with the assistant's turn"),
        ({"prompt": "a", "completion": turns("b", "c", first="assistant")}, "completion", "ends with a user turn"),
    ],
)
def test_bad_sft_rows(row: dict[str, Any], field: str, why: str) -> None:
    fails("sft", row, field, why)


@pytest.mark.parametrize(
    ("messages", "field", "why"),
    [
        ("Hi there", "messages", "must be a list of messages, this is text"),
        (5, "messages", "must be a list of messages, this is a number"),
        ([], "messages", "is an empty list"),
        (["Hi"], "messages[0]", "must be an object with 'role' and 'content', this is a string"),
        ([{"content": "Hi"}], "messages[0].role", "missing; the message has 'content'"),
        ([{"role": "user"}], "messages[0].content", "missing; the message has 'role'"),
        ([{"role": "user", "content": 3}], "messages[0].content", "must be text, this is a number"),
        ([*turns("Hi"), {"role": "tool", "content": "x"}], "messages[1].role", "unknown role 'tool'"),
        ([*turns("Hi"), {"role": "User", "content": "x"}], "messages[1].role", "unknown role 'User'"),
        ([*turns("Hi"), {"role": ["a"], "content": "x"}], "messages[1].role", "unknown role ['a']"),
        (turns("Hi", ""), "messages[1].content", "empty response"),
        (turns(" ", "a"), "messages[0].content", "empty user turn"),
        (turns("Hi", "a", "b"), "messages", "ends with a user turn"),
        (turns("Hi"), "messages", "has no assistant turn"),
        (turns("Hi", first="assistant"), "messages", "the first turn after the system message must be the user's"),
        ([{"role": "system", "content": "x"}], "messages", "has no user turn"),
        ([*turns("Hi", "a"), *turns("b", first="assistant")], "messages", "turns 2 and 3 are both the assistant's"),
        (
            [{"role": "system", "content": "x"}, *turns("Hi"), *turns("b", "c")],
            "messages",
            "turns 2 and 3 are both the user's",
        ),
        ([*turns("Hi"), {"role": "system", "content": "x"}], "messages", "turn 2 is a system message"),
        (
            [*turns("Hi"), {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}],
            "messages[1]",
            "calls a tool",
        ),
    ],
)
def test_malformed_conversations(messages: Any, field: str, why: str) -> None:
    fails("sft", {"messages": messages}, field, why)


# ---- preferences ----

PAIR = (assistant("Paris."), assistant("Rome."))


def as_pair(example: Example) -> tuple[Message, Message]:
    (chosen,), (rejected,) = example.responses
    return chosen, rejected


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Capital?", "chosen": "Paris.", "rejected": "Rome."},
        {"prompt": turns("Capital?"), "chosen": "Paris.", "rejected": "Rome."},
        {
            "prompt": "Capital?",
            "chosen": turns("Paris.", first="assistant"),
            "rejected": turns("Rome.", first="assistant"),
        },
        # As UltraFeedback's binarised form has it: the prompt, and in each conversation again.
        {"prompt": "Capital?", "chosen": turns("Capital?", "Paris."), "rejected": turns("Capital?", "Rome.")},
        {"chosen": turns("Capital?", "Paris."), "rejected": turns("Capital?", "Rome.")},
        {"chosen": "\n\nHuman: Capital?\n\nAssistant: Paris.", "rejected": "\n\nHuman: Capital?\n\nAssistant: Rome."},
        {"prompt": "\n\nHuman: Capital?\n\nAssistant:", "chosen": " Paris.", "rejected": " Rome."},
    ],
)
def test_pairs(row: dict[str, Any]) -> None:
    example = read("preference", **row, score=1)
    assert example.prompt == (user("Capital?"),)
    assert tuple(message.content.strip() for message in as_pair(example)) == ("Paris.", "Rome.")
    assert example.meta == {"score": 1}


def test_an_implicit_prompt_is_all_the_turns_in_common() -> None:
    opening = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nwith a blank line\n\nHuman: Capital?\n\nAssistant:"
    example = read("preference", chosen=opening + " Paris.", rejected=opening + " Rome.")
    assert example.prompt == (user("Hi"), assistant("Hello.\n\nwith a blank line"), user("Capital?"))
    assert as_pair(example) == PAIR


def test_a_prompt_column_may_repeat_all_the_turns_or_the_last_ones() -> None:
    chosen, rejected = turns("Hi", "Hello.", "Capital?", "Paris."), turns("Hi", "Hello.", "Capital?", "Rome.")
    for prompt in ("Capital?", turns("Hi", "Hello.", "Capital?")):
        assert len(read("preference", prompt=prompt, chosen=chosen, rejected=rejected).prompt) == 3
    fails("preference", {"prompt": "Hi", "chosen": chosen, "rejected": rejected}, "prompt", "differs from the turns")


def test_conversations_that_part_early_keep_their_later_turns() -> None:
    example = read("preference", chosen=turns("a", "b", "c", "d"), rejected=turns("a", "B", "c", "d"))
    assert example.prompt == (user("a"),)
    assert example.responses == (
        (assistant("b"), user("c"), assistant("d")),
        (assistant("B"), user("c"), assistant("d")),
    )


@pytest.mark.parametrize(
    ("row", "field", "why"),
    [
        ({"prompt": "a"}, "", "preference data is 'prompt' + 'chosen' + 'rejected'"),
        ({"prompt": "a", "chosen": "b"}, "rejected", "missing; the row has 'prompt', 'chosen'"),
        ({"chosen": "b", "rejected": "c"}, "prompt", "missing"),
        ({"prompt": "a", "chosen": "b", "rejected": " b\n"}, "rejected", "is the same as 'chosen'"),
        ({"chosen": turns("a", "b"), "rejected": turns("a", "b")}, "rejected", "is the same as 'chosen'"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "chosen", "empty response"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, "rejected", "must be text, this is a number"),
        ({"prompt": "a", "chosen": [], "rejected": "b"}, "chosen", "is an empty list"),
        ({"chosen": turns("a", "b"), "rejected": turns("A", "c")}, "rejected", "a user turn: the prompts differ"),
        ({"chosen": turns("a", "b"), "rejected": turns("a", "b", "c", "d")}, "rejected", "only the beginning"),
        ({"chosen": turns("a", "b", "c"), "rejected": turns("a", "d")}, "chosen", "ends with a user turn"),
        ({"prompt": "a", "chosen": turns("a", "b"), "rejected": "c"}, "rejected", "the other does not"),
        ({"prompt": "x", "chosen": turns("a", "b"), "rejected": turns("a", "c")}, "prompt", "differs from the turns"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant:"},
            "rejected",
            "empty response",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: d"},
            "chosen",
            "turns 2 and 3 are both the assistant's",
        ),
    ],
)
def test_bad_pairs(row: dict[str, Any], field: str, why: str) -> None:
    fails("preference", row, field, why)


# ---- prompts ----


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Capital?"},
        {"prompt": turns("Capital?")},
        {"messages": turns("Capital?")},
        {"messages": turns("Capital?", "Paris.")},
        {"instruction": "Capital?", "input": ""},
        {"chosen": turns("Capital?", "Paris."), "rejected": turns("Capital?", "Rome.")},
        {"prompt": "\n\nHuman: Capital?\n\nAssistant:"},
    ],
)
def test_prompts_alone(row: dict[str, Any]) -> None:
    example = read("prompt", **row, answer="Paris")
    assert example.prompt == (user("Capital?"),)
    assert example.responses == ()
    assert example.meta["answer"] == "Paris"


def test_a_prompt_of_several_turns() -> None:
    assert len(read("prompt", messages=turns("a", "b", "c")).prompt) == 3
    assert len(read("prompt", messages=turns("a", "b", "c", "d")).prompt) == 3


@pytest.mark.parametrize(
    ("row", "field", "why"),
    [
        ({"question": "a"}, "", "prompt data is 'prompt', 'messages'"),
        ({"prompt": ""}, "prompt", "empty prompt"),
        ({"prompt": turns("a", "b")}, "prompt", "ends with an assistant turn"),
    ],
)
def test_bad_prompts(row: dict[str, Any], field: str, why: str) -> None:
    fails("prompt", row, field, why)
