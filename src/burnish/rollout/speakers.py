"""A model that can be talked to: a role with its tokenizer, its chat template and its stop tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.data.chat import ChatTemplate, decode_response, encode_prompt, resolve_template, stop_ids
from burnish.data.examples import Message
from burnish.errors import ConfigError, DataError, ModelError
from burnish.models.config import Compute
from burnish.rollout.answers import Answer, Usage
from burnish.rollout.sampler import Progress, Sample, SamplingParams, sample

if TYPE_CHECKING:
    import torch

    from burnish.models.loading import LoadedModel, ModelSource
    from burnish.models.roles import Backbone, Role

RAW_NOTICE = (
    "has no chat template, so it is prompted with the last user message as raw text; earlier turns and the system "
    "prompt are left out"
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who answers.

    Attributes:
        name: what it is called on the screen and in reports.
        role: whose probabilities.
        tokenizer: its tokenizer.
        template: how a conversation becomes text; none for a raw model, which gets the last user message as it is.
        stop_ids: tokens that end its answer.
    """

    name: str
    role: Role
    tokenizer: Any
    template: ChatTemplate | None
    stop_ids: tuple[int, ...]

    @classmethod
    def of(cls, name: str, role: Role, tokenizer: Any, *, template: str | None = None) -> Speaker:
        """A speaker with the tokenizer's own chat template, or raw if it has none.

        Args:
            template: a chat template by its name or file in place of the tokenizer's own; `raw` for none.

        Raises:
            TemplateError: the template can't be used with this tokenizer.
            ModelError: the tokenizer has no EOS token.
        """
        if template == "raw" or (template in (None, "auto") and not tokenizer.chat_template):
            if tokenizer.eos_token_id is None:
                raise ModelError(f"the tokenizer of {name} has no EOS token, so its answers would never end")
            return cls(name, role, tokenizer, None, (int(tokenizer.eos_token_id),))
        chosen = resolve_template(tokenizer, template)
        return cls(name, role, tokenizer, chosen, stop_ids(chosen, tokenizer))

    @property
    def is_raw(self) -> bool:
        """Whether it is prompted with raw text."""
        return self.template is None

    def prompt(self, conversation: Sequence[Message]) -> list[int]:
        """Token ids of a conversation up to where the answer begins.

        Raises:
            TemplateError: the template refuses the conversation.
            DataError: a raw model is given a conversation without a user message.
        """
        if self.template is not None:
            return encode_prompt(self.template, self.tokenizer, conversation)
        asked = [message.content for message in conversation if message.role == "user"]
        if not asked:
            raise DataError("a raw model needs a user message for its prompt")
        return [int(i) for i in self.tokenizer(asked[-1])["input_ids"]]

    def answer(self, drawn: Sample) -> Answer:
        """A sample as text."""
        text = decode_response(self.tokenizer, drawn.ids, self.stop_ids)
        return Answer(text, drawn.finished, len(drawn.ids) - drawn.finished, ids=tuple(drawn.ids))

    def measured_answer(self, prompt: Sequence[int], drawn: Sample) -> Answer:
        """The same with what it took: the stop token counts, for it was generated."""
        return replace(self.answer(drawn), usage=Usage(len(prompt), len(drawn.ids), drawn.seconds))

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        params: SamplingParams,
        *,
        n: int = 1,
        batch_size: int = 32,
        on_token: Callable[[int, int], None] | None = None,
        on_answer: Callable[[int, Answer], None] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Answer]]:
        """Answer every conversation `n` times; the speaker's stop tokens come on top of `params.stop_ids`.

        `on_answer` is given (conversation's index, answer) as soon as an answer is finished. See `sample` for the
        other arguments and for what is raised.
        """
        prompts = [self.prompt(conversation) for conversation in conversations]
        params = replace(params, stop_ids=tuple(dict.fromkeys((*self.stop_ids, *params.stop_ids))))

        def finished(index: int, one: Sample) -> None:
            if on_answer is not None:
                on_answer(index, self.measured_answer(prompts[index], one))

        drawn = sample(
            self.role,
            prompts,
            params,
            n=n,
            batch_size=batch_size,
            logprobs=False,
            on_token=on_token,
            on_sample=finished,
            progress=progress,
        )
        pairs = zip(prompts, drawn, strict=True)
        return [[self.measured_answer(prompt, one) for one in samples] for prompt, samples in pairs]


class TextStream:
    """Text of a response that comes token by token: what `decode_response` gives in the end, in pieces.

    A piece is held back while it may still change: bytes of an unfinished character, white space that may be the end.
    """

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """Take up a token; the text that is new and sure."""
        self.ids.append(token)
        now = decode_response(self.speaker.tokenizer, self.ids, self.speaker.stop_ids)
        return self._emit(now.rstrip("\ufffd").rstrip())

    def finish(self) -> str:
        """The text that was still held back."""
        return self._emit(decode_response(self.speaker.tokenizer, self.ids, self.speaker.stop_ids))

    def _emit(self, now: str) -> str:
        if not now.startswith(self.text):
            return ""
        new, self.text = now[len(self.text) :], now
        return new


def load_speakers(
    models: Sequence[str],
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    template: str | None = None,
    compute: Compute = "fast",
    echo: Callable[[str], None] = print,
) -> list[Speaker]:
    """Load models to talk to; adapters on one base share its weights.

    Args:
        models: names as `load_model` takes them, each maybe as `NAME=MODEL` with the name to show.
        dtype: of the weights.
        device: where they go.
        template: a chat template for all of them in place of their own; `raw` prompts all of them with raw text.
        compute: whether fast paths are taken.
        echo: takes lines on a conversion or download, and the models' notices.

    Raises:
        ConfigError: no model, or two of the same name.
        ModelError, TemplateError: a model can't be loaded or prompted.
    """
    from burnish.models.loading import load_model, resolve_model
    from burnish.models.roles import Backbone

    named = [_split_name(model) for model in models]
    if not named:
        raise ConfigError("name at least one model", where="models")
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two models are called {twice[0]!r}", where="models", fix="write NAME=MODEL for one of them")
    sources = [resolve_model(model) for _, model in named]  # a wrong name is told before anything is loaded
    bases: dict[str, tuple[LoadedModel, Backbone]] = {}
    speakers = []
    for number, ((name, _), source) in enumerate(zip(named, sources, strict=True)):
        if base_key(source) in bases:
            loaded, backbone = bases[base_key(source)]
            tokenizer = _tokenizer_of(source, loaded)
        else:
            loaded = load_model(source, dtype=dtype, device=device, echo=echo)
            for notice in loaded.notices:
                echo(f"{name}: {notice}")
            source, tokenizer, backbone = loaded.source, loaded.tokenizer, Backbone(loaded.model, compute=compute)
            bases[base_key(source)] = (loaded, backbone)
        speakers.append(Speaker.of(name, _role_of(source, backbone, f"speaker-{number}"), tokenizer, template=template))
    return speakers


def _split_name(model: str) -> tuple[str, str]:
    name, equals, rest = model.partition("=")
    if equals and name and rest and not Path(model).exists():
        return name, rest
    return model, model


def base_key(source: ModelSource) -> str:
    """The same for models on the same weights, however their directory is written."""
    plain = source.plain
    return str(plain.path.resolve()) if plain.path is not None else f"{plain.kind}:{plain.id}@{plain.revision}"


def _role_of(source: ModelSource, backbone: Backbone, adapter: str) -> Role:
    from burnish.models.adapters import load_adapter

    if source.adapter is None:
        return backbone.role()
    load_adapter(backbone.model, source.adapter, adapter)
    return backbone.role(adapter)


def _tokenizer_of(source: ModelSource, loaded: LoadedModel) -> Any:
    """The tokenizer of a model whose base is loaded: the adapter's own if it has one, else the base's."""
    from transformers import AutoTokenizer

    own = source.adapter
    directory = own if own is not None and (own / "tokenizer_config.json").is_file() else loaded.directory
    return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
