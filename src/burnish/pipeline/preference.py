"""Asking a judge, or a reward model, whose answers are the better ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from burnish.data.chat import encode_example
from burnish.data.examples import Example, Message, Origin
from burnish.data.groups import PromptGroup
from burnish.errors import BurnishError, ConfigError, TemplateError
from burnish.evaluation.judge import JUDGE_PROMPT, JudgedPair, judge_pairs
from burnish.evaluation.preference import Preference
from burnish.evaluation.suite import Card, Record
from burnish.models.fingerprint import digest, model_fingerprint
from burnish.models.heads import ensemble_score
from burnish.models.reward import RewardModel, load_reward_model, reward_members
from burnish.pipeline.fingerprint import code_fingerprint
from burnish.pipeline.report_config import JUDGE, check_comparison
from burnish.pipeline.responders import Asking
from burnish.rollout.endpoint import Endpoint, is_endpoint
from burnish.rollout.remote import EndpointResponder
from burnish.rollout.response_cache import Keep
from burnish.stages.run import model_of
from burnish.stages.score import score_groups

SCORING_TOKENS = 4096
"""Tokens that a reward model reads at a time."""
_CODE = "burnish.stages.score:score_groups"

Show = Callable[[str, str, int, int], None]
"""Told whose answers are compared, by what, how much is done, and of how much."""


def check_preference(
    names: Sequence[str], *, judge: str | None, reward: str | None, baseline: str | None
) -> tuple[Endpoint | None, Path | None]:
    """The judge's endpoint and the reward model's directory, where they are given.

    Raises:
        ConfigError: a judge that is no endpoint, a baseline that is not in the report or has nothing to do.
        ModelError: no reward model.
        OutputDirError: its run is not finished.
    """
    check_comparison(names, judge=judge, reward=reward, baseline=baseline)
    if judge is not None and not is_endpoint(judge):
        fix = "write openai:BASE_URL#MODEL; a reward model goes with --reward"
        raise ConfigError(f"the judge must be an endpoint, and {judge!r} is none", where="judge", fix=fix)
    directory = None if reward is None else Path(model_of(reward)).expanduser()
    if directory is not None:
        reward_members(directory)
    return None if judge is None else Endpoint.parse(judge.strip(), where="judge"), directory


def compare(
    cards: Sequence[Card],
    asking: Asking,
    *,
    judge: Endpoint | None = None,
    reward: Path | None = None,
    baseline: str | None = None,
    show: Show,
) -> Preference:
    """Compare every card's answers with the baseline's.

    Args:
        cards: of the same suite.
        asking: how endpoints are asked, where local models are computed, and the cache.
        judge: a model behind an endpoint that is shown both answers.
        reward: a reward model's directory.
        baseline: the model that the others are compared with; the first if not given.
        show: progress.

    Raises:
        BurnishError: the judge can't be asked, or the reward model can't score; what is there is in the cache.
    """
    by_name = {card.name: card for card in cards}
    base = by_name[baseline] if baseline is not None else cards[0]
    facts: list[tuple[str, str]] = [("preferred to", base.name)]
    judged: dict[str, list[JudgedPair]] = {}
    scores: dict[str, list[float | None]] = {}
    if judge is not None:
        judge = replace(judge, key_variable=asking.keys.get(JUDGE))
        responder = EndpointResponder("the judge", judge, cache=asking.cache, settings=asking.endpoint)
        try:
            for card in cards:
                if card.name != base.name:
                    judged[card.name] = _judged(responder, base, card, show)
        finally:
            responder.close()
        facts.append(("judge", f"{judge}, prompt {digest(JUDGE_PROMPT)[:12]}, {_taken(responder)}"))
        facts += [("judge's settings", f"without {', '.join(sorted(responder.left_out))}")] * bool(responder.left_out)
        facts += [(f"judge, {what}", many) for what, many in responder.notes().items()]
    if reward is not None:
        found = _scores({card.name: card.records for card in cards}, reward, asking, show)
        scores = {name: [None if isinstance(one, str) else one for one in values] for name, values in found.items()}
        facts.append(("reward model", str(reward)))
        if unread := _first_unread(found, base.records):
            facts.append(("reward model, could not score", unread))
    return Preference(base.name, cards[0].suite.seed, judged, scores, tuple(facts))


def _judged(responder: EndpointResponder, base: Card, card: Card, show: Show) -> list[JudgedPair]:
    differing = [a.row.id for a, b in zip(base.records, card.records, strict=True) if a.text.strip() != b.text.strip()]
    responder.names = [f"{identity}, {order}" for identity in differing for order in ("baseline first", "model first")]
    total = len(responder.names)
    try:
        return judge_pairs(
            responder,
            base.records,
            card.records,
            progress=lambda done: show(card.name, "verdicts", done, total),
        )
    except BurnishError as error:
        error.where = f"judge of {card.name}, {error.where}"
        raise


def _taken(responder: EndpointResponder) -> str:
    return f"{responder.asked} verdicts, {responder.from_cache} of them from the cache"


def _scores(
    records: Mapping[str, Sequence[Record]], directory: Path, asking: Asking, show: Show
) -> dict[str, list[float | str]]:
    """Model -> the reward model's score of each of its answers, or why it has none; an ensemble's is the mean of its
    members."""
    loaded: list[RewardModel] = []
    identity = digest(
        [
            "reward",
            [model_fingerprint(str(member)) for member in reward_members(directory)],
            *asking.manner,
            code_fingerprint(_CODE),
        ]
    )
    found = {}
    for name, answered in records.items():

        def compute(missing: list[int], keep: Keep, answered: Sequence[Record] = answered) -> None:
            if not loaded:
                made = load_reward_model(
                    directory, dtype=asking.dtype, device=asking.device, echo=asking.echo, compute=asking.compute
                )
                loaded.append(made)
            for place, value in zip(missing, _score([answered[i] for i in missing], loaded[0]), strict=True):
                keep(place, value)

        def told(done: int, name: str = name, total: int = len(answered)) -> None:
            show(name, "reward", done, total)

        keys = [[identity, [[m.role, m.content] for m in record.row.messages], record.text] for record in answered]
        values = asking.cache.filled(keys, compute, progress=told)
        found[name] = [value if isinstance(value, str) else float(value) for value in values]
    return found


def _first_unread(found: Mapping[str, Sequence[float | str]], records: Sequence[Record]) -> str:
    """How many answers have no score, and why the first of them has none; empty where all have one."""
    why = [
        f"{name} at prompt {record.row.id}: {value}"
        for name, values in found.items()
        for record, value in zip(records, values, strict=True)
        if isinstance(value, str)
    ]
    return f"{len(why)} answers; {why[0]}" if why else ""


def _score(records: Sequence[Record], reward: RewardModel) -> list[float | str]:
    """The reward model's score of each answer after its prompt, or why it can't read that answer: it is longer than the
    context, or holds what ends a turn as text. What a model says must not end the report on it."""
    context = reward.backbone.context_length
    found: list[float | str] = [""] * len(records)
    groups: list[PromptGroup] = []
    for place, record in enumerate(records):
        answer = ((Message("assistant", record.text),),)
        example = Example(record.row.messages, answer, Origin(f"prompt {record.row.id}"))
        try:
            group = encode_example(reward.template, reward.tokenizer, example, index=place)
        except TemplateError as error:
            found[place] = error.what
            continue
        if group.context_length > context:
            found[place] = f"{group.context_length} tokens with its prompt, and the context has {context}"
        else:
            groups.append(group)
    if groups:
        scores = ensemble_score(score_groups(reward.scorers, groups, SCORING_TOKENS).flatten(1)).double().tolist()
        for group, value in zip(groups, scores, strict=True):
            found[group.index] = value
    return found
