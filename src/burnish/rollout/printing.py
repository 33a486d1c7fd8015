"""Answers on a terminal: streamed and wrapped, one model after another or side by side in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish.rollout.answers import Answer
from burnish.rollout.speakers import Speaker

COLUMN = 28
"""The narrowest column that is still read with ease."""
WIDEST = 100
"""Longer lines are hard to read: text is wrapped here, however wide the terminal is."""

# A model may emit escape sequences, which would act on the user's terminal.
_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def harmless(text: str) -> str:
    """Text without control characters but newlines and tabs."""
    return text.translate(_CONTROL)


class Wrapped:
    """Text that comes in pieces, broken between words; a word is written when its end is known.

    Args:
        console: where it goes.
        style: of the text.
    """

    def __init__(self, console: Console, style: str = "") -> None:
        self.console, self.style = console, style
        self.width = min(console.width, WIDEST)
        self._column = 0
        self._word = ""

    def write(self, text: str) -> None:
        """Write what is whole of the text so far."""
        out: list[str] = []
        for char in harmless(text).expandtabs(4):
            if char in " \n":
                self._end_word(out)
                if char == "\n":
                    out.append("\n")
                    self._column = 0
                elif self._column < self.width:
                    out.append(" ")
                    self._column += 1
            else:
                self._word += char
        self._show(out)

    def close(self) -> None:
        """Write the last word and end the line."""
        out: list[str] = []
        self._end_word(out)
        self._show([*out, "\n"])
        self._column = 0

    def _end_word(self, out: list[str]) -> None:
        length = cell_len(self._word)
        if self._column and self._column + length > self.width:
            out.append("\n")
            self._column = 0
        for part in chop_cells(self._word, self.width) if length > self.width else [self._word]:
            if self._column + cell_len(part) > self.width:
                out.append("\n")
                self._column = 0
            out.append(part)
            self._column += cell_len(part)
        self._word = ""

    def _show(self, out: list[str]) -> None:
        if text := "".join(out):
            self.console.print(Text(text, style=self.style), end="", soft_wrap=True)
            self.console.file.flush()


class Voice(Protocol):
    """Where one speaker's answer goes."""

    def write(self, text: str) -> None:
        """Take a piece of the answer."""

    def note(self, text: str) -> None:
        """Take a remark that is not part of the answer."""

    def end(self, answer: Answer, interrupted: bool) -> None:
        """The answer is whole, or the user stopped it."""


def remark_on(answer: Answer, interrupted: bool) -> str:
    """How an answer ended, if not by itself."""
    if interrupted:
        return "(stopped)"
    return "" if answer.finished else f"(cut off after {answer.n_tokens} tokens)"


def print_name(console: Console, speaker: Speaker) -> None:
    """The speaker's name, above its answers."""
    console.print(Text(speaker.name, style="bold cyan").append(" (raw text)" if speaker.is_raw else "", "dim"))


class Below:
    """An answer below what is on the console already, under the speaker's name if that is wanted."""

    def __init__(self, console: Console, speaker: Speaker, *, named: bool) -> None:
        self.console = console
        self._shown = Wrapped(console)
        if named:
            print_name(console, speaker)

    def write(self, text: str) -> None:
        self._shown.write(text)

    def note(self, text: str) -> None:
        self.console.print(Text(harmless(text), style="yellow"))

    def end(self, answer: Answer, interrupted: bool) -> None:
        self._shown.write("" if answer.text else "(says nothing)")
        self._shown.close()
        if remark := remark_on(answer, interrupted):
            self.console.print(Text(remark, style="dim"))


def fits_side_by_side(console: Console, speakers: Sequence[Speaker]) -> bool:
    """Whether every speaker can have a column that is wide enough."""
    return len(speakers) > 1 and console.width // len(speakers) >= COLUMN


class SideBySide:
    """Answers in columns that grow while they come; on anything but a terminal they are printed once, whole."""

    def __init__(self, console: Console, speakers: Sequence[Speaker]) -> None:
        from rich.live import Live

        self.console, self.speakers = console, speakers
        self.texts = [""] * len(speakers)
        self.remarks = [""] * len(speakers)
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8)

    def _table(self) -> Table:
        table = Table(expand=True, pad_edge=False, show_edge=False)
        for speaker in self.speakers:
            title = Text(speaker.name + (" (raw text)" if speaker.is_raw else ""))
            table.add_column(title, ratio=1, overflow="fold", header_style="bold cyan")
        table.add_row(*(Text(harmless(text)) for text in self.texts))
        if any(self.remarks):
            table.add_row(*(Text(harmless(remark), style="dim") for remark in self.remarks))
        return table

    def __enter__(self) -> SideBySide:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self.console.print(self._table())

    def voice(self, index: int) -> Voice:
        """One speaker's column."""
        return _Column(self, index)


class _Column:
    def __init__(self, board: SideBySide, index: int) -> None:
        self.board, self.index = board, index

    def write(self, text: str) -> None:
        self.board.texts[self.index] += text

    def note(self, text: str) -> None:
        before = self.board.remarks[self.index]
        self.board.remarks[self.index] = f"{before}\n{text}" if before else text

    def end(self, answer: Answer, interrupted: bool) -> None:
        if not answer.text:
            self.write("(says nothing)")
        if remark := remark_on(answer, interrupted):
            self.note(remark)
