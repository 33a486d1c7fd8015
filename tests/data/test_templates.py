"""Rendering: the built-in templates' texts, and the same text as Hugging Face's tokenizers give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from burnish.data.chat import BUILTIN, install_template, render, resolve_template, tokenize
from burnish.data.examples import Message
from burnish.data.templates import ChatTemplate
from burnish.errors import TemplateError

SYSTEM, ASK, ANSWER = Message("system", "Be brief."), Message("user", "Capital?\n"), Message("assistant", " Paris. ")
AGAIN, LAST = Message("user", "And <Italié> & co?"), Message("assistant", "Rome.")
TALK = (SYSTEM, ASK, ANSWER, AGAIN, LAST)

# Written out from each family's documented format; <s> and </s> are the test tokenizers' BOS and EOS.
WRITTEN_OUT = {
    "plain": "<s>Be brief.\n\nUser: Capital?\nAssistant: Paris.</s>\nUser: And <Italié> & co?\nAssistant: Rome.</s>",
    "chatml": "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCapital?<|im_end|>\n"
    "<|im_start|>assistant\nParis.<|im_end|>\n<|im_start|>user\nAnd <Italié> & co?<|im_end|>\n"
    "<|im_start|>assistant\nRome.<|im_end|>\n",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nCapital?<end_of_turn>\n<start_of_turn>model\nParis.<end_of_turn>\n"
    "<start_of_turn>user\nAnd <Italié> & co?<end_of_turn>\n<start_of_turn>model\nRome.<end_of_turn>\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nCapital?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nParis.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nAnd <Italié> & co?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nRome.<|eot_id|>",
    "none": "<s>Be brief.Capital?\n Paris. </s>And <Italié> & co?Rome.</s>",
}
OPENINGS = {
    "plain": "<s>User: Capital?\nAssistant:",
    "chatml": "<s><|im_start|>user\nCapital?<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<s><start_of_turn>user\nCapital?<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nCapital?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "none": "<s>Capital?\n",
}

# In the manner of published models' templates.
OWN = {
    "qwen": "{%- if tools %}{{- 'TOOLS' }}{%- endif %}{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    "llama2": "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% else %}{{ '<<SYS>>' + message['content'] + '<</SYS>>' }}{% endif %}{% endfor %}",
    "blocks": "{{ bos_token }}\n  {% for message in messages %}\n    {% if message.role == 'assistant' %}\n"
    "A: {% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}\n    {% else %}\n"
    "U: {{ message.content }}\n    {% endif %}\n  {% endfor %}\n{% if add_generation_prompt %}\nA: {% endif %}",
    "globals": "{{ bos_token }}{% if tools is not none %}T{{ tools | length }}{% endif %}{% if documents %}D{% endif %}"
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{{ m | tojson }}{{ strftime_now('%Y') }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{{ ns.n }}",
}


def as_dicts(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_a_built_in_template_writes_its_familys_format(name: str, tokenizer: Any) -> None:
    template = resolve_template(tokenizer, name)
    assert render(template, tokenizer, TALK, add_generation_prompt=False) == WRITTEN_OUT[name]
    assert render(template, tokenizer, [ASK], add_generation_prompt=True) == OPENINGS[name]


def test_without_bos_the_text_begins_at_once(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(bos_token=None)
    for name, opening in OPENINGS.items():
        text = render(resolve_template(tokenizer, name), tokenizer, [ASK], add_generation_prompt=True)
        assert text == opening.removeprefix("<s>")


def test_chatml_does_not_repeat_a_bos_that_opens_the_turn(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(bos_token="<|im_start|>", eos_token="<|im_end|>")
    text = render(resolve_template(tokenizer, "chatml"), tokenizer, [ASK], add_generation_prompt=True)
    assert text == OPENINGS["chatml"].removeprefix("<s>")


@pytest.mark.parametrize("name", [*sorted(BUILTIN), *sorted(OWN)])
@pytest.mark.parametrize("messages", [TALK[1:2], TALK[1:3], TALK[1:], TALK], ids=["ask", "answered", "talk", "system"])
def test_text_and_ids_are_those_of_apply_chat_template(
    name: str, messages: tuple[Message, ...], make_tokenizer: Callable[..., Any]
) -> None:
    """An installed template must give every other tool the same context."""
    tokenizer = make_tokenizer()
    if name in OWN:
        tokenizer.chat_template = OWN[name]
    else:
        install_template(resolve_template(tokenizer, name), tokenizer)
    template = resolve_template(tokenizer, None)
    assert template.name == "tokenizer"
    for prompt in (False, True):
        text = render(template, tokenizer, messages, add_generation_prompt=prompt)
        theirs = tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=prompt)
        assert text == theirs
        ids = tokenizer.apply_chat_template(as_dicts(messages), add_generation_prompt=prompt, return_dict=False)
        assert tokenize(tokenizer, text) == ids


# ---- what templates may not do ----


def render_one(tokenizer: Any, source: str) -> str:
    return render(ChatTemplate("mine.jinja", source, "</s>"), tokenizer, [ASK], add_generation_prompt=False)


def test_a_syntax_error_names_the_line(byte_level: Any) -> None:
    with pytest.raises(TemplateError, match="not valid Jinja") as caught:
        render_one(byte_level, "{{ bos_token }}\n{% for m in messages %}\n{{ m.content }\n{% endfor %}")
    assert caught.value.where == "template 'mine.jinja', line 3"


def test_a_templates_own_refusal_is_passed_on(byte_level: Any) -> None:
    with pytest.raises(TemplateError, match="refuses these messages: no system role here") as caught:
        render_one(byte_level, "{{ raise_exception('no system role here') }}")
    assert "turns user" in str(caught.value.where)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages[0].content / 2 }}",
        "{% include 'other' %}",
    ],
)
def test_the_sandbox_holds(byte_level: Any, source: str) -> None:
    with pytest.raises(TemplateError):
        render_one(byte_level, source)
