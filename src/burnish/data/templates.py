"""Chat templates as Jinja: the built-in ones, and rendering as Hugging Face's tokenizers render.

A template decides what a model sees, so it is saved with the tokenizer and every other tool that applies it must get
the same text. The sandbox, its filters and its globals therefore follow `apply_chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from burnish.data.examples import Message
from burnish.errors import TemplateError

EOS = "{eos}"
"""As a template's `stop_token`: whatever the tokenizer's end-of-sequence token is."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How messages become text.

    Attributes:
        name: for messages: a built-in's name, a file's path, or `tokenizer` for the tokenizer's own.
        source: Jinja, with the variables that Hugging Face's tokenizers give (`messages`, `bos_token`, ...).
        stop_token: what ends an assistant's turn, one token of the tokenizer; or `EOS`.
        role_texts: the texts that mark the roles, whose tokens the model must know.
    """

    name: str
    source: str
    stop_token: str
    role_texts: tuple[str, ...] = ()


# The prompt ends in "Assistant:" and the response brings its own space, because most vocabularies hold words with the
# space before them: after "Assistant: " nearly every response begins with other tokens than the prompt's last space.
_PLAIN = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] == 'system' -%}
    {{- message['content'] | trim + '\\n\\n' -}}
  {%- elif message['role'] == 'user' -%}
    {%- if not loop.first and loop.previtem['role'] == 'assistant' -%}
      {{- '\\n' -}}
    {%- endif -%}
    {{- 'User: ' + message['content'] | trim -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '\\nAssistant: ' + message['content'] | trim + eos_token -}}
  {%- else -%}
    {{- raise_exception('unknown role ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '\\nAssistant:' -}}
{%- endif -%}
"""

# Some tokenizers name <|im_start|> as their BOS (SmolLM2): the first turn begins with it anyhow.
_CHATML = """\
{%- if bos_token is defined and bos_token and bos_token != '<|im_start|>' -%}
  {{- bos_token -}}
{%- endif -%}
{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

# Gemma has no system role: its text opens the first user turn.
_GEMMA = """\
{{- bos_token -}}
{%- set opening = namespace(text='') -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' -%}
    {%- set opening.text = message['content'] | trim + '\\n\\n' -%}
  {%- else -%}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' -}}
    {{- opening.text + message['content'] | trim + '<end_of_turn>\\n' -}}
    {%- set opening.text = '' -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""

_LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

_NONE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- message['content'] -}}
  {%- if message['role'] == 'assistant' -%}
    {{- eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""

BUILTIN: Mapping[str, ChatTemplate] = {
    # For base models: roles are ordinary words and the stop token is the EOS, all of them trained in pre-training.
    "plain": ChatTemplate("plain", _PLAIN, EOS, ("User:", "Assistant:")),
    "chatml": ChatTemplate("chatml", _CHATML, "<|im_end|>", ("<|im_start|>",)),
    "gemma": ChatTemplate("gemma", _GEMMA, "<end_of_turn>", ("<start_of_turn>",)),
    "llama3": ChatTemplate("llama3", _LLAMA3, "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    # Raw text: the prompt as it is, its continuation, EOS. No roles, no spaces of its own, nothing trimmed.
    "none": ChatTemplate("none", _NONE, EOS),
}


def render_source(
    template: ChatTemplate,
    special_tokens: Mapping[str, Any],
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
) -> str:
    """Messages as text, in a sandbox.

    Args:
        special_tokens: the tokenizer's `special_tokens_map`: `bos_token`, `eos_token`, ...

    Raises:
        TemplateError: when the Jinja is wrong, or refuses these messages.
    """
    compiled = _compile(template.source, template.name)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        # Templates tell "no tools" from "undefined": apply_chat_template gives both names, as none.
        return compiled(
            messages=turns, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **special_tokens
        )
    except Exception as error:  # a template is a program: it can fail in any way
        raise TemplateError(
            f"the chat template refuses these messages: {error}",
            where=f"template {template.name!r}, {_roles(messages)}",
            fix="mend the conversation, or choose another template",
        ) from None


def _roles(messages: Sequence[Message]) -> str:
    return "turns " + ", ".join(message.role for message in messages)


@lru_cache(maxsize=32)
def _compile(source: str, name: str) -> Callable[..., str]:
    """A template's render function."""
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.exceptions import TemplateError as JinjaError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """`{% generation %}` marks the assistant's text for other tools; here its body is simply rendered."""

        tags = {"generation"}  # noqa: RUF012  # Jinja reads it from the class

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise JinjaError(message)

    def to_json(value: Any, **options: Any) -> str:
        """Jinja's own filter escapes for HTML, which no model was trained on."""
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda style: datetime.now().strftime(style)
    try:
        return environment.from_string(source).render
    except TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template is not valid Jinja: {error.message}",
            where=f"template {name!r}, line {error.lineno}",
            fix="mend that line",
        ) from None
