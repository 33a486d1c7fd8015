"""`burnish generate` and `burnish chat`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from burnish.cli.console import messages, results
from burnish.cli.options import Whole, parse_models
from burnish.errors import ConfigError
from burnish.models.config import Compute, Precision
from burnish.stages.run import model_of

if TYPE_CHECKING:
    from burnish.rollout.sampler import SamplingParams
    from burnish.rollout.speakers import Speaker


@Parameter(name="*")
@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: Whole = 256
    """The longest answer, in tokens."""
    temperature: float = 0.0
    """Logits are divided by it; 0 takes the most probable token every time (greedy)."""
    top_p: float = 1.0
    """Draw from the smallest set of most probable tokens that holds this probability."""
    top_k: Whole = 0
    """Draw from the k most probable tokens; 0 for all."""
    seed: Whole | None = None
    """The same seed gives the same answers."""
    decoding: Literal["auto", "merged", "adapter", "plain"] = "auto"
    """Through an adapter, or through a copy of the weights with the adapter in it; `auto` merges where that changes
    nothing but rounding; `plain` is for comparison."""


@Parameter(name="*")
@dataclass(frozen=True)
class Loading:
    """How models are loaded and prompted."""

    system: str | None = None
    """The system prompt."""
    template: str | None = None
    """A chat template in place of the model's own: a built-in name, a Jinja file, or `raw` for raw text."""
    dtype: Precision = "auto"
    """Of the weights and the activations; `auto` is bfloat16, or float32 on a CPU that multiplies it faster."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""
    compute: Compute = "fast"
    """`plain` takes none of the fast paths: slow, to compare with."""


_SAMPLING, _LOADING = Sampling(), Loading()


def generate(
    model: str,
    /,
    *prompts: str,
    n: Whole = 1,
    batch_size: Whole = 32,
    out: Path | None = None,
    sampling: Sampling = _SAMPLING,
    loading: Loading = _LOADING,
) -> None:
    """Let a model answer prompts: one is streamed, several are answered in batches.

    Parameters
    ----------
    model
        A catalog name, a directory (of a run, a model or an adapter), or a hub id.
    prompts
        What to answer; lines of the standard input if there is none.
    n
        Answers to each prompt.
    batch_size
        Answers at a time.
    out
        A file for the answers, as JSON lines.
    """
    from burnish.rollout.chat import conversation_of
    from burnish.rollout.chat import generate as answer_all

    asked = list(prompts) or _prompts_from_input()
    params = _params(sampling, n)
    speakers = _speakers([model], loading)
    conversations = [conversation_of(prompt, loading.system) for prompt in asked]
    answer_all(
        speakers, conversations, params, console=results(), messages=messages(), n=n, batch_size=batch_size, out=out
    )


def chat(
    *models: str,
    columns: Annotated[bool, Parameter(negative=())] = False,
    sampling: Sampling = _SAMPLING,
    loading: Loading = _LOADING,
) -> None:
    """Talk to a model in the terminal; several models answer the same line.

    Parameters
    ----------
    models
        Each a model, or `NAME=MODEL`.
    columns
        Answers side by side, where the terminal is wide enough.
    """
    from burnish.rollout.chat import chat as talk

    if not models:
        raise ConfigError("name a model to talk to", fix="as in burnish chat smollm2-135m-instruct")
    params = _params(sampling)
    talk(_speakers(models, loading), params, console=results(), system=loading.system, side_by_side=columns)


def _params(sampling: Sampling, n: int = 1) -> SamplingParams:
    """Raises ConfigError where an option is without effect: greedy answers are all the same."""
    from burnish.rollout.sampler import SamplingParams

    idle = {"--top-p": sampling.top_p != 1.0, "--top-k": sampling.top_k != 0, "--n": n > 1}
    if sampling.temperature == 0.0 and any(idle.values()):
        name = next(name for name, given in idle.items() if given)
        raise ConfigError(f"{name} has no effect at temperature 0 (greedy)", fix="give --temperature 0.7, say")
    return SamplingParams(**asdict(sampling))


def _speakers(models: Sequence[str], loading: Loading) -> list[Speaker]:
    from burnish.models.placement import pick_device, pick_dtype
    from burnish.rollout.speakers import load_speakers

    named = parse_models(models)
    device = pick_device(loading.device)
    return load_speakers(
        [f"{name}={model_of(model)}" for name, model in named.items()],
        dtype=pick_dtype(loading.dtype, device),
        device=str(device),
        template=loading.template,
        compute=loading.compute,
        echo=lambda line: messages().print(line, markup=False),
    )


def _prompts_from_input() -> list[str]:
    """A prompt a line.

    Raises:
        ConfigError: nothing is piped in.
    """
    if sys.stdin.isatty():
        raise ConfigError("no prompt", fix='as in burnish generate MODEL "What is the capital of France?"')
    found = [line.strip() for line in sys.stdin if line.strip()]
    if not found:
        raise ConfigError("no prompt: the standard input is empty", fix="give one as an argument, or pipe lines in")
    return found
