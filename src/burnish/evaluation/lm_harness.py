"""Tasks of EleutherAI's lm-evaluation-harness on a local model: an optional extra (`pip install burnish[lm-eval]`).

`BurnishLM` is the harness's view of a model. Texts are raw, as everywhere in retention; tokens are the tokenizer's own,
with BOS where it adds one (the harness's own Hugging Face model does so with `add_bos_token=True`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from burnish.data.batching import micro_batches
from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import ModelError
from burnish.evaluation.harness_results import HarnessResult
from burnish.evaluation.harness_tasks import HarnessTask, faults, generation_params, until_of
from burnish.models.roles import predicting_hidden
from burnish.ops.logprobs import token_logprobs
from burnish.rollout.responder import SCORING_TOKENS, ModelResponder
from burnish.rollout.sampler import SamplingParams, sample

_LOGITS_AT_A_TIME = 2**24


class BurnishLM(LM):  # type: ignore[misc]
    """A local model as the harness asks it.

    Args:
        responder: the model.

    Attributes:
        truncated: requests whose context was cut from the left because the model's own is too short.
    """

    def __init__(self, responder: ModelResponder) -> None:
        super().__init__()
        self.responder = responder
        self.role = responder.speaker.role
        self.tokenizer = responder.speaker.tokenizer
        self.context_length = self.role.backbone.context_length
        self.truncated = 0

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation): the continuation's summed log p in nats, and whether each of its tokens is
        the most probable one where it stands.

        The two are tokenised together; what lies beyond the context's own number of tokens is the continuation. An
        empty context stands for BOS, or EOS where there is none.
        """
        return self._score([self._pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """The summed log p in nats of each whole text; of a long one in windows, each token with as much context as
        the model holds."""
        pairs: list[tuple[list[int], list[int]]] = []
        counts = []
        for request in requests:
            ids = self._ids(request.args[0], special=False)
            windows = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=ids,
                    prefix_token=self._prefix(),
                    max_seq_len=self.context_length - 1,
                    context_len=1,
                )
            ]
            pairs += [(list(context), list(rest)) for context, rest in windows]
            counts.append(len(windows))
        scores = iter(self._score(pairs))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """For each (context, settings) what the model writes, up to the first of the settings' `until` texts.

        Raises:
            ConfigError: a setting that the sampler does not know, or that has no sense.
        """
        found = [""] * len(requests)
        by_settings: dict[SamplingParams, list[int]] = {}
        for place, request in enumerate(requests):
            params = generation_params(request.args[1], self.responder.speaker.stop_ids, "lm_eval")
            by_settings.setdefault(params, []).append(place)
        for params, places in by_settings.items():
            prompts = [self._prompt(requests[place].args[0], params.max_new_tokens) for place in places]
            drawn = sample(self.role, prompts, params, batch_size=self.responder.batch_size, logprobs=False)
            for place, (one,) in zip(places, drawn, strict=True):
                ids = one.ids[:-1] if one.finished else one.ids
                text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
                found[place] = _before(text, until_of(requests[place].args[1]))
        return found

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        spaces = len(context) - len(context.rstrip())
        if spaces:  # a word brings its own space
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        if not context:
            ids = self._ids(continuation, special=False)
            return [self._prefix()], ids
        whole = self._ids(context + continuation)
        split = min(len(self._ids(context)), len(whole) - 1)
        given, rest = whole[:split], whole[split:]
        if len(whole) > self.context_length:
            self.truncated += 1
            room = self.context_length - len(rest)
            given = given[-room:] if room > 0 else []
        if not given:
            raise ModelError(
                f"a continuation of {len(rest):,} tokens does not fit the model's context of {self.context_length:,}",
                where=f"{continuation[:60]!r}",
            )
        return given, rest

    def _prompt(self, context: str, new_tokens: int) -> list[int]:
        ids = self._ids(context) or [self._prefix()]
        room = max(1, self.context_length - new_tokens)
        self.truncated += len(ids) > room
        return ids[-room:]

    def _prefix(self) -> int:
        bos = self.tokenizer.bos_token_id
        return int(bos if bos is not None else self.tokenizer.eos_token_id)

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=special)["input_ids"]]

    @torch.no_grad()
    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Each pair's summed log p and whether it is greedy; pairs of one context share it."""
        by_context: dict[tuple[int, ...], list[int]] = {}
        for place, (given, _) in enumerate(pairs):
            by_context.setdefault(tuple(given), []).append(place)
        groups = [
            PromptGroup(given, tuple(Response.full(pairs[place][1]) for place in places), index=number)
            for number, (given, places) in enumerate(by_context.items())
        ]
        order = list(by_context.values())
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        layout = self.role.backbone.layout
        for part in micro_batches(groups, tokens=SCORING_TOKENS, layout=layout):
            batch = collate(part, layout=layout).to(self.role.backbone.device)
            self.responder.tokens_scored += batch.n_tokens
            hidden, head = predicting_hidden(self.role, batch), self.role.head()
            logps = token_logprobs(hidden, head, batch.targets)
            step = max(1, _LOGITS_AT_A_TIME // self.role.backbone.vocabulary)
            starts = range(0, hidden.shape[0], step)
            best = torch.cat([head.logits(hidden[start : start + step]).argmax(-1) for start in starts])
            n = batch.n_responses
            sums = torch.zeros(n, dtype=torch.float64, device=hidden.device)
            sums.index_add_(0, batch.response_of, logps.double())
            missed = torch.zeros(n, dtype=torch.long, device=hidden.device)
            missed.index_add_(0, batch.response_of, (best != batch.targets).long())
            values = iter(zip(sums.tolist(), (missed == 0).tolist(), strict=True))
            for group in part:
                for place in order[group.index]:
                    found[place] = next(values)
        return found


def run_task(responder: ModelResponder, task: HarnessTask) -> tuple[HarnessResult, ...]:
    """Ask one model a task of the harness, or a group of tasks.

    Args:
        responder: the model.
        task: what is asked.

    Raises:
        ConfigError: the task fails at one of its documents, or at what the model says.
        ModelError: a continuation does not fit the model's context.
    """
    model = BurnishLM(responder)
    with faults(f"lm-eval's task {task.name!r} fails", task.source, task.directory):
        out = simple_evaluate(
            model, tasks=list(task.parts), task_manager=task.manager, bootstrap_iters=1000, log_samples=True
        )
    return tuple(_results(out or {}, model.truncated))


def _results(out: Mapping[str, Any], truncated: int) -> list[HarnessResult]:
    found = []
    for task, values in out.get("results", {}).items():
        rows = out.get("samples", {}).get(task, [])
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            if metric.endswith("_stderr") or not kind or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{kind}")
            samples = [row[metric] for row in rows if row.get("filter") == kind and metric in row]
            found.append(
                HarnessResult(
                    task=task,
                    metric=metric,
                    filter=kind,
                    value=float(value),
                    stderr=float(error) if isinstance(error, (int, float)) else None,
                    n=len(samples) or int(out.get("n-samples", {}).get(task, {}).get("effective", 0)),
                    higher_is_better=out.get("higher_is_better", {}).get(task, {}).get(metric),
                    samples=_that_average_to(samples, float(value)),
                    truncated=truncated,
                )
            )
    return found


def _that_average_to(samples: Sequence[Any], value: float) -> tuple[float, ...] | None:
    """The documents' values where the metric is their mean; none where it is made of them in another way."""
    if not samples or not all(isinstance(one, (bool, int, float)) for one in samples):
        return None
    numbers = tuple(float(one) for one in samples)
    return numbers if abs(sum(numbers) / len(numbers) - value) < 1e-9 else None


def _before(text: str, until: Sequence[str]) -> str:
    """The text up to where the first of the others begins."""
    places = [place for end in until if (place := text.find(end)) >= 0]
    return text[: min(places)] if places else text
