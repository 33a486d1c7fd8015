"""Where the commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from burnish.errors import BurnishError, Interrupted


def messages() -> Console:
    """For progress, warnings and errors. Made anew at each call, so that it follows a redirected stream."""
    return Console(stderr=True, highlight=False)


def results() -> Console:
    """For what the user asked for."""
    return Console(highlight=False)


def print_error(error: BurnishError, console: Console) -> None:
    """One message: what is wrong, where, and what to do. A run that was asked to stop is no error."""
    if isinstance(error, Interrupted):
        text = Text(error.what, style="yellow", overflow="fold")
    else:
        text = Text("error: ", style="bold red", overflow="fold").append(error.what, style="red")
    for label, value in (("where", error.where), ("to do", error.fix)):
        if value:
            text.append(f"\n  {label}: ", style="bold").append(value, style="default")
    console.print(text)


def field_line(label: str, value: object, width: int = 14) -> Text:
    """A line `label   value` of a summary; the value is never broken, so that it can be copied."""
    return Text(f"{label:{width}}", style="bold", no_wrap=True, overflow="ignore").append(str(value), style="default")
