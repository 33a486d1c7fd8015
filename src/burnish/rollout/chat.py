"""What `burnish generate` and `burnish chat` do, without the command line around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from burnish.data.examples import Message
from burnish.errors import BurnishError, ConfigError
from burnish.files import atomic_write
from burnish.rollout.answers import Answer
from burnish.rollout.printing import COLUMN, Below, SideBySide, Voice, fits_side_by_side, harmless, print_name
from burnish.rollout.sampler import Sample, SamplingParams
from burnish.rollout.speakers import RAW_NOTICE, Speaker, TextStream, load_speakers

__all__ = ["Chat", "chat", "conversation_of", "generate", "load_speakers", "notices", "say"]

HELP = "/reset: forget the conversation; /quit or Ctrl-D: leave; Ctrl-C: stop an answer"


def conversation_of(line: str, system: str | None = None) -> list[Message]:
    """A user's line as a conversation, after the system prompt if there is one."""
    opening = [Message("system", system)] if system else []
    return [*opening, Message("user", line)]


def notices(speakers: Sequence[Speaker]) -> list[str]:
    """What the user should know before it begins: who is prompted with raw text."""
    return [f"{speaker.name} {RAW_NOTICE}" for speaker in speakers if speaker.is_raw]


def say(speaker: Speaker, conversation: Sequence[Message], params: SamplingParams, voice: Voice) -> tuple[Answer, bool]:
    """Answer a conversation, streaming the text to `voice`; Ctrl-C ends the answer where it is.

    Returns:
        The answer, and whether it was interrupted.
    """
    stream = TextStream(speaker)
    interrupted = False
    try:
        ((answer,),) = speaker.answers(
            [conversation], params, batch_size=1, on_token=lambda _, token: voice.write(stream.add(token))
        )
    except KeyboardInterrupt:
        answer, interrupted = speaker.answer(Sample(stream.ids, False, [])), True
    voice.write(stream.finish())
    voice.end(answer, interrupted)
    return answer, interrupted


# ---- generate ----


def generate(
    speakers: Sequence[Speaker],
    conversations: Sequence[Sequence[Message]],
    params: SamplingParams,
    *,
    console: Console,
    messages: Console | None = None,
    n: int = 1,
    batch_size: int = 32,
    out: Path | None = None,
) -> list[list[list[Answer]]]:
    """Let every speaker answer every conversation, and print or write the answers.

    A single conversation is streamed; several are answered in batches, with a progress bar.

    Args:
        speakers: who answers.
        conversations: each ends with a user's message.
        params: how tokens are drawn.
        console: where the answers go.
        messages: where notices and the progress bar go; standard error if not given.
        n: answers of each speaker to each conversation.
        batch_size: answers at a time.
        out: a file for the answers as JSON lines in place of the console: model, conversation, answer and its end.

    Returns:
        Answers by speaker, conversation and sample.

    Raises:
        KeyboardInterrupt: Ctrl-C; what a stream has shown stays on the console.
    """
    messages = messages or Console(stderr=True, highlight=False)
    for notice in notices(speakers):
        messages.print(Text(notice, style="yellow"))
    if len(conversations) == 1 and n == 1 and out is None:
        return [[[answer]] for answer in _stream_each(speakers, conversations[0], params, console)]
    answers = []
    for speaker in speakers:
        with _bar(messages) as bar:
            task = bar.add_task(speaker.name, total=len(conversations) * n)

            def progress(done: int, bar: Progress = bar, task: TaskID = task) -> None:
                bar.update(task, completed=done)

            answers.append(speaker.answers(conversations, params, n=n, batch_size=batch_size, progress=progress))
    if out is None:
        _print_all(console, speakers, conversations, answers)
    else:
        count = _write(out, speakers, conversations, answers)
        messages.print(Text(f"{count:,} answers written to {out}"))
    return answers


def _stream_each(
    speakers: Sequence[Speaker], conversation: Sequence[Message], params: SamplingParams, console: Console
) -> list[Answer]:
    answers = []
    for speaker in speakers:
        voice = Below(console, speaker, named=len(speakers) > 1)
        answer, interrupted = say(speaker, conversation, params, voice)
        if interrupted:
            raise KeyboardInterrupt
        answers.append(answer)
    return answers


def _bar(console: Console) -> Progress:
    """A progress bar over answers, gone when it is full."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _print_all(
    console: Console,
    speakers: Sequence[Speaker],
    conversations: Sequence[Sequence[Message]],
    answers: list[list[list[Answer]]],
) -> None:
    for i, conversation in enumerate(conversations):
        console.print(Text(f"> {harmless(conversation[-1].content)}", style="bold"))
        for speaker, of_speaker in zip(speakers, answers, strict=True):
            if len(speakers) > 1:
                print_name(console, speaker)
            for number, answer in enumerate(of_speaker[i], start=1):
                if len(of_speaker[i]) > 1:
                    console.print(Text(f"({number})", style="dim"))
                voice = Below(console, speaker, named=False)
                voice.write(answer.text)
                voice.end(answer, interrupted=False)
        console.print()


def _write(
    out: Path,
    speakers: Sequence[Speaker],
    conversations: Sequence[Sequence[Message]],
    answers: list[list[list[Answer]]],
) -> int:
    """Write the answers as JSON lines; how many there are."""
    lines = []
    for speaker, of_speaker in zip(speakers, answers, strict=True):
        for conversation, samples in zip(conversations, of_speaker, strict=True):
            prompt = [{"role": message.role, "content": message.content} for message in conversation]
            records = [{"model": speaker.name, "prompt": prompt, **_as_record(answer)} for answer in samples]
            lines += [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    atomic_write(out, "".join(lines))
    return len(lines)


def _as_record(answer: Answer) -> dict[str, Any]:
    """What was said; what it took differs from run to run and is left out."""
    return {name: value for name, value in asdict(answer).items() if name not in ("usage", "ids")}


# ---- chat ----


class Chat:
    """A conversation of the user with one or several models. Each model sees its own answers.

    Args:
        speakers: who answers, in this order.
        params: how tokens are drawn; with a seed every turn draws from a seed of its own.
        console: where it all goes.
        system: the system prompt.
        side_by_side: answers in columns, where the console is wide enough; else one below the other.
    """

    def __init__(
        self,
        speakers: Sequence[Speaker],
        params: SamplingParams,
        console: Console,
        *,
        system: str | None = None,
        side_by_side: bool = False,
    ) -> None:
        if not speakers:
            raise ConfigError("a chat needs at least one model", where="models")
        self.speakers, self.params, self.console, self.system = speakers, params, console, system
        self.in_columns = side_by_side and fits_side_by_side(console, speakers)
        self.turn = 0
        self.histories: list[list[Message]] = []
        self.reset()

    def reset(self) -> None:
        """Forget the conversation; the system prompt stays."""
        opening = [Message("system", self.system)] if self.system else []
        self.histories = [list(opening) for _ in self.speakers]

    def tell(self, line: str) -> None:
        """Let every model answer a line. Ctrl-C stops the model that speaks; those after it stay silent.

        A model that can't answer (a template that refuses, a line longer than its context) says why; the line is
        then not part of its conversation.
        """
        if self.in_columns:
            with SideBySide(self.console, self.speakers) as board:
                self._tell(line, board.voice)
        else:
            named = len(self.speakers) > 1
            self._tell(line, lambda index: Below(self.console, self.speakers[index], named=named))
        self.turn += 1

    def _tell(self, line: str, voice_of: Callable[[int], Voice]) -> None:
        params = self.params
        if params.seed is not None:
            params = replace(params, seed=params.seed + self.turn)
        for index, speaker in enumerate(self.speakers):
            voice = voice_of(index)
            try:
                asked = self._within_context(index, [*self.histories[index], Message("user", line)], voice)
                answer, interrupted = say(speaker, asked, params, voice)
            except BurnishError as error:
                voice.note(str(error))
                continue
            self.histories[index] = [*asked, Message("assistant", answer.text)]
            if interrupted:
                return

    def _within_context(self, index: int, asked: list[Message], voice: Voice) -> list[Message]:
        """The conversation without its first turns, should it have outgrown the model's context; that is told."""
        speaker = self.speakers[index]
        limit = speaker.role.backbone.context_length - self.params.max_new_tokens
        first = 1 if self.system else 0
        kept = list(asked)
        while len(kept) > first + 2 and len(speaker.prompt(kept)) > limit:
            del kept[first : first + 2]  # a line and its answer
        if forgotten := (len(asked) - len(kept)) // 2:
            turns = "turn is" if forgotten == 1 else "turns are"
            voice.note(f"(the model's context is full: the first {forgotten} {turns} forgotten)")
        return kept


def chat(
    speakers: Sequence[Speaker],
    params: SamplingParams,
    *,
    console: Console,
    system: str | None = None,
    side_by_side: bool = False,
    read_line: Callable[[], str] | None = None,
) -> None:
    """Talk to models until /quit or the end of the input.

    Args:
        speakers: who answers every line.
        params: how tokens are drawn.
        console: where it all goes.
        system: the system prompt.
        side_by_side: answers in columns, where the console is wide enough.
        read_line: gives the next line, or raises EOFError; the terminal's input if not given.
    """
    talk = Chat(speakers, params, console, system=system, side_by_side=side_by_side)
    for notice in notices(speakers):
        console.print(Text(notice, style="yellow"))
    if side_by_side and len(speakers) > 1 and not talk.in_columns:
        needed = COLUMN * len(speakers)
        console.print(Text(f"columns need a width of {needed}: answers come one below the other", style="yellow"))
    console.print(Text(HELP, style="dim"))
    read = read_line or (lambda: console.input(Text("> ", style="bold green")))
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line == "/quit":
            return
        if line == "/reset":
            talk.reset()
            console.print(Text("the conversation is forgotten", style="dim"))
        elif line.startswith("/"):
            console.print(Text(f"no such command: {harmless(line)}; {HELP}", style="yellow"))
        elif line:
            talk.tell(line)
