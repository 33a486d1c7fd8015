from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from burnish.evaluation.overoptimisation import Finding, Limits, Measurement, alarms, distinct_n, repetition

START = Measurement(
    step=0,
    n=64,
    proxy=0.0,
    proxy_se=0.05,
    held_out=1.0,
    held_out_se=0.05,
    kl=0.0,
    length=40.0,
    repetition=0.01,
    distinct_2=0.6,
    eos_rate=0.9,
)


def history(
    held_out: Sequence[float | None], proxy: Sequence[float], *, se: float = 0.05, proxy_se: float = 0.05
) -> list[Measurement]:
    """Evaluations every 100 steps."""
    return [
        replace(
            START, step=100 * k, held_out=h, held_out_se=None if h is None else se, proxy=float(p), proxy_se=proxy_se
        )
        for k, (h, p) in enumerate(zip(held_out, proxy, strict=True))
    ]


def then(*changes: dict[str, float], **start: float) -> list[Measurement]:
    """The start and one evaluation for each of the changes from it."""
    first = replace(START, **start)  # type: ignore[arg-type]
    return [first, *(replace(first, step=100 * k, **change) for k, change in enumerate(changes, 1))]  # type: ignore[arg-type]


def names(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found]


RISING = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]


@pytest.mark.parametrize(("n", "heard"), [(1, False), (7, False), (8, True)])
def test_a_trend_over_few_prompts_is_not_believed(n: int, heard: bool) -> None:
    """Of one prompt there is no standard error: any fall would be beyond it."""
    falling = [replace(at, n=n) for at in history([1.0, 0.7, 0.4, 0.1], [0.0, 0.3, 0.6, 0.9])]
    assert ("held_out" in [finding.name for finding in alarms(falling)]) == heard


def test_held_out_falls_while_the_proxy_rises() -> None:
    # The line through 1.0, 0.7, 0.9, 0.6: weights -0.9, -0.3, 0.3, 0.9 give -0.30 (the ends alone would give -0.40),
    # with a standard error of 0.05 sqrt(1.8) = 0.067. The proxy: 3 x 0.5 = 1.5, of 0.10 sqrt(1.8) = 0.13.
    (found,) = alarms(history([1.0, 0.7, 0.9, 0.6], RISING[:4], proxy_se=0.1))
    assert (found.name, found.severity) == ("held_out", "alarm")
    assert found.text == (
        "The held-out reward fell by 0.3 (standard error 0.067) while the proxy reward rose by 1.5 (0.13), over the "
        "latest 4 evaluations, steps 0 to 300."
    )


@pytest.mark.parametrize(
    ("se", "proxy_se", "found"),
    [
        # 3 sqrt(1.8) se is below 0.30 up to se = 0.0745; 3 sqrt(1.8) proxy_se is below 1.5 up to 0.373.
        (0.074, 0.37, ["held_out"]),
        (0.075, 0.37, []),
        (0.074, 0.38, []),
        (0.0, 0.0, ["held_out"]),
    ],
)
def test_a_change_within_noise_is_none(se: float, proxy_se: float, found: list[str]) -> None:
    assert names(alarms(history([1.0, 0.9, 0.8, 0.7], RISING[:4], se=se, proxy_se=proxy_se))) == found


def test_only_a_fall_with_a_rise_is_over_optimisation() -> None:
    down, up = [1.0, 0.5, 0.0, -0.5], [0.0, 0.5, 1.0, 1.5]
    assert names(alarms(history(down, up))) == ["held_out"]
    assert alarms(history(up, up)) == []
    assert alarms(history(down, down)) == []
    assert alarms(history(up, down)) == []
    assert alarms(history([1.0] * 4, up)) == []
    assert alarms(history(down, [1.0] * 4)) == []


def test_a_trend_needs_the_windows_evaluations_with_a_held_out_reward() -> None:
    assert alarms(history([1.0, 0.5, 0.0], RISING[:3])) == []
    assert names(alarms(history([1.0, 0.5, 0.0], RISING[:3]), Limits(window=3))) == ["held_out"]
    with_gaps = [1.0, None, 0.5, None, 0.0]
    assert alarms(history(with_gaps, RISING[:5])) == []
    (found,) = alarms(history([*with_gaps, None, -0.5], RISING[:7]))
    assert found.text.endswith("over the latest 4 evaluations, steps 0 to 600.")
    assert alarms(history([None] * 6, RISING[:6])) == []


def test_a_slow_decline_shows_in_a_longer_window() -> None:
    # 0.04 an evaluation at 0.05: over m evaluations 0.04 sqrt(sum of squared steps) / 0.05 standard errors, with sums
    # of squares 5, 10, 17.5 and 42 for m = 4, 5, 6 and 8: 1.8, 2.5, 3.3 and 5.2.
    slow = [1.0 - 0.04 * k for k in range(10)]
    assert alarms(history(slow[:4], RISING[:4])) == []
    assert alarms(history(slow[:5], RISING[:5])) == []
    (found,) = alarms(history(slow[:6], RISING[:6]))
    assert "latest 6 evaluations, steps 0 to 500" in found.text
    (found,) = alarms(history(slow, RISING))
    assert "latest 8 evaluations, steps 200 to 900" in found.text


def test_the_latest_window_is_judged_after_a_rise() -> None:
    # Gold reward's course: up and then down. Seen from the start it rose, from the peak it falls.
    (found,) = alarms(history([0.0, 0.8, 1.6, 2.4, 2.0, 1.6, 1.2], RISING[:7]))
    assert "fell by 1.2" in found.text
    assert "steps 300 to 600" in found.text


def test_length_runs_away() -> None:
    assert alarms(then({"length": 80.0})) == []
    (once,) = alarms(then({"length": 50.0}, {"length": 90.0}))
    assert (once.name, once.severity) == ("length", "warning")
    assert once.text == (
        "Responses are 90 tokens long at step 200, 2.2 times the 40 tokens of step 0; the limit is 2 times."
    )
    (twice,) = alarms(then({"length": 90.0}, {"length": 90.0}))
    assert twice.severity == "alarm"
    # Against the start, and not against the evaluation before; and only the latest counts.
    (slowly,) = alarms(then({"length": 60.0}, {"length": 78.0}, {"length": 100.0}))
    assert slowly.severity == "warning"
    assert alarms(then({"length": 90.0}, {"length": 50.0})) == []
    assert names(alarms(then({"length": 61.0}), Limits(length_factor=1.5))) == ["length"]
    assert names(alarms(then({"length": 3.0}, length=0.0))) == ["length"]


def test_kl_over_budget() -> None:
    assert alarms(then({"kl": 25.0}, {"kl": 25.0})) == []
    (found,) = alarms(then({"kl": 31.26}))
    assert (found.name, found.severity) == ("kl", "warning")
    assert found.text == (
        "The KL divergence from the start is 31.3 nats per response at step 100, over the budget of 25."
    )
    assert alarms(then({"kl": 31.0}, {"kl": 32.0}))[0].severity == "alarm"
    assert alarms(then({"kl": -0.3})) == []
    assert names(alarms(then({"kl": 7.0}), Limits(kl_budget=6.0))) == ["kl"]


def test_repetition_above_the_limit() -> None:
    assert alarms(then({"repetition": 0.2})) == []
    (found,) = alarms(then({"repetition": 0.345, "distinct_2": 0.2}))
    assert (found.name, found.severity) == ("repetition", "warning")
    assert found.text == (
        "34.5% of the 4-grams are repeated at step 100, above the limit of 20.0% (1.0% at step 0); distinct-2 is "
        "0.200, from 0.600."
    )
    assert names(alarms(then({"repetition": 0.06}), Limits(repetition=0.05))) == ["repetition"]


def test_eos_rate_collapses() -> None:
    assert alarms(then({"eos_rate": 0.45})) == []
    (found,) = alarms(then({"eos_rate": 0.44}))
    assert (found.name, found.severity) == ("eos", "warning")
    assert found.text == "44.0% of the responses end with EOS at step 100, below 0.5 times the 90.0% of step 0."
    assert alarms(then({"eos_rate": 0.0}, {"eos_rate": 0.1}))[0].severity == "alarm"
    assert alarms(then({"eos_rate": 0.0}, eos_rate=0.0)) == []  # it never had any


def test_several_rules_find_something_at_once() -> None:
    worst = {"kl": 60.0, "length": 200.0, "repetition": 0.6, "eos_rate": 0.0}
    assert names(alarms(then(worst, worst))) == ["length", "kl", "repetition", "eos"]
    # One evaluation has nothing before it: a limit passed there is a warning.
    assert [(f.name, f.severity) for f in alarms([replace(START, kl=60.0)])] == [("kl", "warning")]
    assert alarms([]) == []


@pytest.mark.parametrize("name", ["proxy", "held_out", "kl", "length", "repetition", "eos_rate", "proxy_se"])
def test_a_nan_passes_every_limit_and_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"step 7: {name} is nan"):
        replace(START, step=7, **{name: float("nan")})  # type: ignore[arg-type]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="must rise"):
        alarms([START, START])
    with pytest.raises(ValueError, match="come together"):
        replace(START, held_out=None)
    with pytest.raises(ValueError, match="negative"):
        replace(START, held_out_se=-1.0)
    with pytest.raises(ValueError, match="eos_rate is 90"):
        replace(START, eos_rate=90.0)
    with pytest.raises(ValueError, match="at least 3"):
        Limits(window=2)
    with pytest.raises(ValueError, match="above 0"):
        Limits(kl_budget=0.0)


def test_repetition_by_hand() -> None:
    # abcd bcda cdab dabc abcd: five 4-grams, four different.
    assert repetition(["a b c d a b c d"]) == pytest.approx(1 / 5)
    assert repetition([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    # The mean over responses; one of two tokens repeats nothing, and what two responses share is no repetition.
    assert repetition(["a b c d a b c d", "x y"]) == pytest.approx(1 / 10)
    assert repetition(["a b c d", "a b c d"]) == 0.0
    assert repetition([[7] * 13]) == pytest.approx(1 - 1 / 10)
    assert repetition(["a b a b"], n=2) == pytest.approx(1 / 3)


def test_distinct_n_by_hand() -> None:
    # ab ba ab | ab: two different bigrams in six tokens.
    assert distinct_n(["a b a b", "a b"]) == pytest.approx(2 / 6)
    assert distinct_n([[1, 2, 1, 2], [1, 2]]) == pytest.approx(2 / 6)
    assert distinct_n(["a b a b", "a c"], n=1) == pytest.approx(3 / 6)
    # No bigram "b c" over the end of the first.
    assert distinct_n(["a b", "c d"]) == pytest.approx(2 / 4)
    assert distinct_n(["", ""]) == 0.0


def test_one_text_or_none_is_refused() -> None:
    for measure in (repetition, distinct_n):
        with pytest.raises(ValueError, match="got one text"):
            measure("a b c d")
        with pytest.raises(ValueError, match="at least one"):
            measure([])
