"""What answers cost beside what they are worth: seconds, tokens and, given prices, money. So that "a model of one's own
or an API" is a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.errors import ConfigError, suggest
from burnish.evaluation.intervals import Mean, bootstrap_mean, bootstrap_quantile
from burnish.evaluation.lines import Cell, Line, mean_cell
from burnish.evaluation.suite import Card
from burnish.rollout.answers import Usage

LATENCY_RULE = (
    "Wall time until an answer is whole. Of an endpoint: from sending the request that succeeded until its whole reply "
    "is there, with so many requests under way as --concurrency says; waiting between tries does not count. Of a "
    "local model: from the prompt entering the batch until its last token, in the company of that batch (--batch-size "
    "1 gives the latency of a single user). Answers from the cache keep the time that they took."
)
_TOKENS = "Of a local model by its own tokenizer, template included; of an endpoint as it counts them."
_UNITS = ((1, "an answer"), (1_000, "1k answers"), (1_000_000, "1M answers"))
_NOT_TOLD = "\u2013: not told by the endpoint"


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in a currency of the user's choice."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        """What one answer costs."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6


def make_prices(given: Mapping[str, Sequence[float]] | None, models: Sequence[str]) -> dict[str, Price]:
    """Model -> price, from model -> (of the prompt, of the answer).

    Raises:
        ConfigError: a model that is not in the report, or what is no price.
    """
    prices = {}
    for name, values in (given or {}).items():
        if name not in models:
            raise ConfigError(f"no model of the report is called {name!r}{suggest(name, models)}", where="prices")
        if len(values) != 2 or not all(0 <= value < float("inf") for value in values):
            raise ConfigError(
                f"the price of {name} must be two numbers, of a million tokens of the prompt and of the answer",
                where="prices",
                fix="as in --price api=0.15,0.60",
            )
        prices[name] = Price(float(values[0]), float(values[1]))
    return prices


def cost_lines(cards: Sequence[Card], prices: Mapping[str, Price]) -> list[Line]:
    """The lines of the group `cost`: latency, tokens and cost of each model; a model that does not tell has none.

    No change is marked: a local model that answers in batches and a server elsewhere differ in more than themselves.
    """
    used = [_usages(card) for card in cards]
    if not any(used):
        return []
    seed, n = cards[0].suite.seed, len(cards[0].records)
    lines = []
    for key, title, q in (("latency", "seconds, median", 0.5), ("latency_p95", "seconds, p95", 0.95)):
        cells = [mean_cell(bootstrap_quantile([u.seconds for u in us], q, seed=seed), 2) if us else None for us in used]
        about = "all prompts" if q == 0.5 else f"all prompts; it rests on the slowest {max(1, round(n * (1 - q)))}"
        lines.append(_line(key, title, about, LATENCY_RULE, "seconds", n, cells))
    for key, title in (("prompt_tokens", "prompt tokens"), ("completion_tokens", "completion tokens")):
        counts = [[float(getattr(usage, key)) for usage in us] for us in used]
        cells = [mean_cell(bootstrap_mean(values, seed=seed), 1) if values else None for values in counts]
        rule = f"The mean number of {title.removesuffix(' tokens')} tokens of a prompt, stop token included. {_TOKENS}"
        lines.append(_line(key, title, "all prompts", rule, "tokens", n, cells))
    return lines + _price_line(cards, used, prices)


def _price_line(cards: Sequence[Card], used: Sequence[list[Usage]], prices: Mapping[str, Price]) -> list[Line]:
    """What answers cost, by a unit that keeps the lowest number readable."""
    seed, n = cards[0].suite.seed, len(cards[0].records)
    means: list[Mean | None] = [
        bootstrap_mean([prices[card.name].of(usage) for usage in us], seed=seed) if us and card.name in prices else None
        for card, us in zip(cards, used, strict=True)
    ]
    if not any(means):
        return []
    lowest = min((mean.value for mean in means if mean is not None and mean.value > 0), default=1.0)
    count, unit = next((pair for pair in _UNITS if pair[0] * lowest >= 0.1), _UNITS[-1])
    cells = [None if mean is None else mean_cell(_times(mean, count), 2) for mean in means]
    given = "; ".join(f"{name}: {price.prompt:g} and {price.completion:g}" for name, price in prices.items())
    about = f"in the currency of the prices; \u2013: no price was given ({given})"
    rule = (
        "Tokens of prompt and answer times what a million of each costs, as given with --price; the mean over all "
        "prompts, for so many answers."
    )
    return [_line("cost", f"cost of {unit}", about, rule, f"cost of {count} answers", n, cells)]


def _times(mean: Mean, factor: float) -> Mean:
    interval = type(mean.interval)(mean.interval.low * factor, mean.interval.high * factor)
    return Mean(mean.value * factor, interval, mean.n)


def _usages(card: Card) -> list[Usage]:
    """What each answer took; empty where one of them does not tell."""
    found = [record.usage for record in card.records if record.usage is not None]
    return found if len(found) == len(card.records) else []


def _line(key: str, title: str, about: str, rule: str, unit: str, n: int, cells: Sequence[Cell | None]) -> Line:
    if None in cells and key != "cost":
        about += f"; {_NOT_TOLD}"
    return Line(
        key=key,
        group="cost",
        title=title,
        about=about,
        rule=rule,
        n=n,
        unit=unit,
        higher_is_better=None if unit == "tokens" else False,
        cells=tuple(cells),
        changes=(None,) * len(cells),
    )
