"""`burnish report`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from burnish.cli.console import field_line, results
from burnish.cli.options import Whole, flag, parse_flags, parse_models
from burnish.errors import ConfigError
from burnish.models.config import Compute, Precision
from burnish.pipeline.report_config import ReportConfig


def report(
    *models: str,
    out: Path,
    prompts: str = "starter/evaluation",
    choices: str = "starter/mcq",
    prose: str = "starter/prose",
    sample: Whole | None = None,
    max_new_tokens: Whole = 128,
    batch_size: Whole = 128,
    seed: Whole = 0,
    dtype: Precision = "auto",
    device: str = "auto",
    compute: Compute = "fast",
    topic_judge: str | None = None,
    dialogues: bool = True,
    lm_eval: str | None = None,
    lm_eval_path: str | None = None,
    judge: str | None = None,
    reward: str | None = None,
    baseline: str | None = None,
    price: Annotated[list[str] | None, Parameter(metavar="NAME=IN,OUT", negative=())] = None,
    api_key: Annotated[list[str] | None, Parameter(metavar="NAME=VARIABLE", negative=())] = None,
    concurrency: Whole = 8,
    timeout: float = 120.0,
    two_bases: bool = True,
    cache: bool = True,
) -> None:
    """Measure models side by side: what they do (behaviours), what they still can (retention), how long they speak.

    Parameters
    ----------
    models
        `NAME=MODEL`, as in `raw=gemma-3-270m dpo=runs/dpo`. The first is what the others are compared with. A model
        behind an OpenAI-compatible endpoint is `NAME=openai:BASE_URL#MODEL`; its key is read from OPENAI_API_KEY.
    out
        Where report.html, report.json and report.txt go.
    prompts
        The evaluation prompts: `starter/evaluation`, a JSON Lines file, a directory of them (your own), or IFEval,
        XSTest, AdvBench, SelfAware or pairs in their own formats, known by their columns or said: `ifeval:file.jsonl`.
    choices
        The multiple-choice questions: `starter/mcq`, a JSON Lines file, a directory of them, MMLU's CSV files or
        TruthfulQA; `truthfulqa-mc2:mc_task.json` for its MC2.
    prose
        The held-out texts whose nats per token are measured: `starter/prose`, a JSON Lines file of `{"id", "text"}`, or
        a directory of them (your own domain's).
    sample
        A fixed sample of so many prompts, shared among the behaviours; all of them if not given.
    max_new_tokens
        The longest answer.
    batch_size
        Answers sampled at a time; the more, the sooner, and the more memory their keys and values take.
    seed
        Of the sample and of the intervals.
    dtype
        Of the weights and the activations; `auto` is bfloat16, or float32 on a CPU that multiplies it faster.
    device
        `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
    compute
        `plain` takes none of the fast paths: slow, to compare with.
    topic_judge
        The base model that says which conversation makes an answer most likely: a name from the report, or any model.
        The report's first raw model if not given.
    dialogues
        Let models also hold the conversations of `topic` themselves, turn by turn; an answer more for each turn.
    lm_eval
        `TASK` or `TASK,TASK`: tasks of EleutherAI's lm-evaluation-harness (`pip install 'burnish[lm-eval]'`).
    lm_eval_path
        A directory with task files of your own for it.
    judge
        An endpoint, `openai:BASE_URL#MODEL`, that compares every model's answers with the baseline's, in both orders.
    reward
        A reward model (its run's directory) that scores all answers.
    baseline
        The model that judge and reward model compare the others with; the first if not given.
    price
        What a million tokens of the prompt and of the answer cost, for the costs in the table: `--price api=0.15,0.60`.
        May be given for several models.
    api_key
        The environment variable with an endpoint's key, where it is not OPENAI_API_KEY: `--api-key api=MY_KEY`, and
        `judge=MY_KEY` for the judge. May be given for several.
    concurrency
        Requests to an endpoint under way at a time.
    timeout
        Seconds that an endpoint may send nothing before a request is repeated.
    two_bases
        Hold the first model and one on another base in memory together, for the KL between them; without it that is not
        measured.
    cache
        Take answers from burnish's cache (`BURNISH_CACHE`) and keep them in it, so that a report that was cut off, or
        one with one more model, asks only what is new.
    """
    from burnish.pipeline.report import report as make_report

    if not models:
        raise ConfigError("a report needs at least one model", fix="as in raw=gemma-3-270m")
    config: ReportConfig = parse_flags(
        ReportConfig,
        {
            "models": parse_models(models),
            "out": out,
            "prompts": prompts,
            "choices": choices,
            "prose": prose,
            "sample": sample,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "seed": seed,
            "dtype": dtype,
            "device": device,
            "compute": compute,
            "topic_judge": topic_judge,
            "dialogues": dialogues,
            "lm_eval": lm_eval or (),
            "lm_eval_path": lm_eval_path,
            "judge": judge,
            "reward": reward,
            "baseline": baseline,
            "prices": parse_prices(price or []),
            "api_keys": parse_keys(api_key or []),
            "concurrency": concurrency,
            "timeout": timeout,
            "two_bases": two_bases,
            "cache": cache,
        },
    )
    console = results()
    repeated = {"--price": price or [], "--api-key": api_key or []}
    make_report(config, command=_command(models, config, repeated), console=console)
    console.print()
    for name in ("report.html", "report.json"):
        console.print(field_line(name, out / name))


def parse_prices(pairs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`NAME=IN,OUT` as name -> (in, out).

    Raises:
        ConfigError: for what has another form, or a name that comes twice.
    """
    prices: dict[str, tuple[float, float]] = {}
    for text in pairs:
        name, _, numbers = text.rpartition("=")
        try:
            first, second = (float(number) for number in numbers.split(","))
        except ValueError:
            first = second = -1.0
        if not name or min(first, second) < 0:
            raise ConfigError(f"{text!r} is not NAME=IN,OUT", where="--price", fix="as in --price api=0.15,0.60")
        if name in prices:
            raise ConfigError(f"{name} has two prices", where="--price")
        prices[name] = (first, second)
    return prices


def parse_keys(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=VARIABLE` as name -> variable. Errors do not quote what stands there, for it could be a key.

    Raises:
        ConfigError: for what has another form, or a name that comes twice.
    """
    variables: dict[str, str] = {}
    for text in pairs:
        name, equals, variable = text.partition("=")
        if not (name and equals and variable):
            raise ConfigError("not NAME=VARIABLE", where="--api-key", fix="as in --api-key api=MY_KEY")
        if name in variables:
            raise ConfigError(f"{name} has two keys", where="--api-key")
        variables[name] = variable
    return variables


_TOLD = (
    *("prompts", "choices", "prose", "sample", "max_new_tokens", "seed"),
    *("judge", "reward", "baseline", "topic_judge"),
    *("dialogues", "two_bases", "lm_eval", "lm_eval_path", "batch_size", "dtype", "device", "compute"),
)
"""What a report says it was made by, besides models, prices and keys; the others (cache, patience with endpoints)
change no answer."""


def _command(models: Sequence[str], config: ReportConfig, repeated: Mapping[str, Sequence[str]]) -> str:
    """The command, with the flags of what is not as usual."""
    words = ["burnish", "report", *models, "--out", str(config.out)]
    for name in _TOLD:
        value = getattr(config, name)
        if value is False:
            words.append(flag(name).replace("--", "--no-", 1))
        elif value != ReportConfig.model_fields[name].default:
            words += [flag(name), ",".join(value) if isinstance(value, tuple) else str(value)]
    words += [word for name, texts in repeated.items() for text in texts for word in (name, text)]
    return shlex.join(words)
