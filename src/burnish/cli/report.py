"""`burnish report`."""

from __future__ import annotations

import shlex
from pathlib import Path

from burnish.cli.console import field_line, results
from burnish.cli.options import Whole, parse_models
from burnish.models.config import Precision


def report(
    *models: str,
    out: Path,
    prompts: str = "starter/evaluation",
    sample: Whole | None = None,
    max_new_tokens: Whole = 128,
    batch_size: Whole = 32,
    seed: Whole = 0,
    dtype: Precision = "auto",
    device: str = "auto",
    topic_judge: str | None = None,
    lm_eval: str | None = None,
    lm_eval_path: str | None = None,
) -> None:
    """Measure models side by side: what they do (behaviours), what they still can (retention), how long they speak.

    Parameters
    ----------
    models
        `NAME=MODEL`, as in `raw=gemma-3-270m dpo=runs/dpo`. The first is what the others are compared with.
    out
        Where report.html, report.json and report.txt go.
    prompts
        The evaluation prompts: a JSON Lines file, or `starter/evaluation`.
    sample
        A fixed sample of so many prompts, shared among the behaviours; all of them if not given.
    max_new_tokens
        The longest answer.
    batch_size
        Answers sampled at a time.
    seed
        Of the sample and of the intervals.
    dtype
        Of the weights and the activations; `auto` is bfloat16, or float32 on a CPU that multiplies it faster.
    device
        `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
    topic_judge
        The base model that says which conversation makes an answer most likely: a name from the report, or any model.
        The report's first raw model if not given.
    lm_eval
        `TASK` or `TASK,TASK`: tasks of EleutherAI's lm-evaluation-harness (`pip install 'burnish[lm-eval]'`).
    lm_eval_path
        A directory with task files of your own for it.
    """
    from burnish.pipeline.report import report as make_report

    console = results()
    flags = {"--prompts": prompts, "--sample": sample, "--max-new-tokens": max_new_tokens, "--seed": seed}
    flags |= {"--topic-judge": topic_judge, "--lm-eval": lm_eval, "--lm-eval-path": lm_eval_path}
    usual = {"--prompts": "starter/evaluation", "--sample": None, "--max-new-tokens": 128, "--seed": 0}
    said = [word for flag, value in flags.items() if value != usual.get(flag) for word in (flag, str(value))]
    make_report(
        parse_models(models),
        out,
        prompts=prompts,
        sample=sample,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        device=device,
        topic_judge=topic_judge,
        lm_eval=[task.strip() for task in (lm_eval or "").split(",") if task.strip()],
        lm_eval_path=lm_eval_path,
        command=shlex.join(["burnish", "report", *models, "--out", str(out), *said]),
        console=console,
    )
    console.print()
    for name in ("report.html", "report.json"):
        console.print(field_line(name, out / name))
