"""The list of commands, and what becomes of an error: one message, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, Group
from cyclopts.exceptions import MissingArgumentError, UnknownCommandError, UnusedCliTokensError

from burnish import __version__
from burnish.cli.console import messages, print_error
from burnish.errors import BurnishError, ConfigError, suggest

_DEBUG = "--debug"
_BEGIN = Group("Begin here", sort_key=0)
_TRAIN = Group("Train", sort_key=1)
_USE = Group("Look and use", sort_key=2)
_OPTIONS = Group("Options", sort_key=3)

_COMMANDS = (
    (
        _BEGIN,
        "quickstart",
        "recipes:quickstart",
        "The whole story on a small base model, with a report.",
    ),
    (_BEGIN, "run", "recipes:run", "Run a recipe: a graph of stages; what is done is not done again."),
    (_BEGIN, "sweep", "recipes:sweep", "Run a recipe over a grid of settings: alignment against retention."),
    (
        _BEGIN,
        "check",
        "check:check",
        "Show what a model will really see of your data.",
    ),
    (_TRAIN, "sft", "train:sft", "Supervised fine-tuning on prompts with ideal responses."),
    (_TRAIN, "reward", "train:reward", "A reward model, or an ensemble, from pairs of a better and a worse response."),
    (_TRAIN, "dpo", "train:dpo", "Direct preference optimisation on pairs of a better and a worse response."),
    (_TRAIN, "ppo", "train:ppo", "Reinforcement learning from a reward model or a function: PPO, RLOO, GRPO."),
    (_TRAIN, "merge", "train:merge", "Merge an adapter into its base: a model that every other tool loads."),
    (_USE, "report", "report:report", "Measure models side by side: a table, report.json and report.html."),
    (_USE, "score", "score:score", "Let a reward model score responses."),
    (_USE, "generate", "speak:generate", "Let a model answer prompts."),
    (_USE, "chat", "speak:chat", "Talk to one model, or to several at once."),
    (_USE, "models", "models:models", "List the models that come as packages, and which of them are here."),
    (_USE, "version", "models:version", "Show the versions of burnish and of what it stands on."),
)

_USAGE = {
    "quickstart": "[KEY=VALUE ...] [OPTIONS]",
    "run": "RECIPE [KEY=VALUE ...] [OPTIONS]",
    "sweep": "RECIPE KEY=VALUE,VALUE,... [KEY=VALUE ...] --out DIR [OPTIONS]",
    "check": "DATA --model MODEL [OPTIONS]",
    "sft": "--model MODEL --data DATA --out DIR [OPTIONS]",
    "reward": "--model MODEL --data DATA --out DIR [OPTIONS]",
    "dpo": "--model MODEL --data DATA --out DIR [OPTIONS]",
    "ppo": "--model MODEL --reward REWARD --data PROMPTS --out DIR [OPTIONS]",
    "score": "DATA --model REWARD_MODEL [OPTIONS]",
    "merge": "MODEL --out DIR [OPTIONS]",
    "report": "NAME=MODEL ... --out DIR [OPTIONS]",
    "generate": "MODEL [PROMPT ...] [OPTIONS]",
    "chat": "MODEL ... [OPTIONS]",
}


def make_app() -> App:
    """The command line application; modules of commands are imported when they are asked for."""
    app = App(
        name="burnish",
        help="From a raw language model to an assistant, and the evidence of what changed.",
        help_epilogue="`burnish COMMAND --help` explains a command. `--debug` with any of them shows the traceback of "
        "an error.",
        version=__version__,
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )
    for order, (group, name, place, text) in enumerate(_COMMANDS):
        usage = f"Usage: burnish {name} {_USAGE.get(name, '')}"
        options: dict[str, Any] = {"help": text, "group": group, "sort_key": order, "usage": usage}
        app.command(f"burnish.cli.{place}", name=name, help_epilogue="", **options)
    for flag in ("--help", "--version"):
        app[flag].group = _OPTIONS
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; those of the process if not given.

    Returns:
        The exit code: 0, the error's own, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in given
    if debug:
        given.remove(_DEBUG)
    _quieten_libraries()
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            code = make_app()(given)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Whoever read our output has gone, as `burnish models | head` does: nothing is left to say, nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        if debug:
            raise
        messages().print("stopped")
        return 130
    except Exception as error:
        if debug:
            raise
        return _explain(error, given)


def _explain(error: Exception, given: Sequence[str]) -> int:
    """Print an error as one message and give its exit code."""
    console = messages()
    if isinstance(error, CycloptsError):
        error = _usage_error(error, given)
    elif isinstance(error, OSError):
        error = _system_error(error)
    elif type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        fix = "use a smaller --micro-batch-tokens, a shorter --max-length, or --gradient-checkpointing"
        if given[:1] == ["report"]:
            fix = "use a smaller --batch-size"
        error = BurnishError("out of memory", fix=fix)
    if isinstance(error, BurnishError):
        print_error(error, console)
        return error.exit_code
    text = (str(error).strip() or "no message").splitlines()[0]
    unexpected = BurnishError(f"unexpected {type(error).__name__}: {text}", fix="run with --debug to see where")
    print_error(unexpected, console)
    return 1


def _usage_error(error: CycloptsError, given: Sequence[str]) -> ConfigError:
    commands = [name for _, name, _, _ in _COMMANDS]
    command = next((word for word in given if word in commands), None)
    help_command = f"burnish {command} --help" if command else "burnish --help"
    if isinstance(error, UnknownCommandError):
        word = error.unused_tokens[0] if error.unused_tokens else ""
        return ConfigError(f"unknown command {word!r}{suggest(word, commands)}", fix="burnish --help lists them")
    what = str(error).strip()
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        # A flag without its value, or a required one that is not there at all.
        name = error.keyword or error.argument.name
        what = f"{name} needs a value" if name in given else f"{name} is missing"
    elif isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        what = f"unexpected argument {error.unused_tokens[0]!r}"
    return ConfigError(what.removesuffix("."), fix=f"{help_command} explains what can be said")


def _system_error(error: OSError) -> BurnishError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "free some space and run the same command again; what was finished is kept" if full else None
    where = str(error.filename) if error.filename else None
    return BurnishError(f"the system says: {error.strerror or error}", where=where, fix=fix)


def _quieten_libraries() -> None:
    """Their warnings are about themselves; what concerns the user, burnish says."""
    defaults: dict[str, Any] = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
