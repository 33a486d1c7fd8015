"""The pace of requests by itself: who may send, how many at a time, and how long everybody waits after a 429."""

from __future__ import annotations

import threading
import time

from burnish.rollout.pace import Pace


def refuse(pace: Pace, after: float | None = None) -> int:
    with pace.turn() as turn:
        return pace.refused(turn, after)


def test_a_refusal_halves_and_steady_answers_grow_by_one() -> None:
    pace = Pace(8, first_wait=0.0, longest_wait=1.0)
    widths = []
    for _ in range(4):
        refuse(pace)
        widths.append(pace.at_once)
    assert widths == [4, 2, 1, 1]
    for answers in (9, 1, 10, 200):
        for _ in range(answers):
            pace.answered()
        widths.append(pace.at_once)
    assert widths[4:] == [1, 2, 3, 8]


def test_refusals_of_requests_that_were_sent_together_count_once() -> None:
    pace = Pace(8, first_wait=0.0, longest_wait=1.0)
    with pace.turn() as first, pace.turn() as second:
        assert (pace.refused(first, None), pace.refused(second, None)) == (1, 1)
    assert pace.at_once == 4
    assert refuse(pace) == 2
    pace.answered()
    assert refuse(pace) == 1


def test_everybody_waits_for_the_longer_of_back_off_and_retry_after() -> None:
    """The back-off of the n-th refusal in a row is 2^(n-1) times the first wait, of which at least the half."""
    for refusals, after, least in ((1, 0.2, 0.2), (3, 0.01, 0.5 * 4 * 0.08)):
        pace = Pace(4, first_wait=0.08, longest_wait=10.0)
        for _ in range(refusals):
            refuse(pace, after)
        started = time.monotonic()
        with pace.turn():
            assert time.monotonic() - started >= least - 0.01
    assert 1.5 <= Pace(1, first_wait=1.0, longest_wait=3.0).backoff(9) <= 3.0


def test_stop_ends_every_waiting() -> None:
    pace = Pace(1, first_wait=60.0, longest_wait=60.0)
    refuse(pace)
    ended = []

    def wait_for_a_turn() -> None:
        with pace.turn():
            ended.append(pace.stopped)

    threads = [threading.Thread(target=wait_for_a_turn) for _ in range(3)]
    threads.append(threading.Thread(target=pace.wait, args=(60.0,)))
    for thread in threads:
        thread.start()
    pace.stop()
    for thread in threads:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in threads)
    assert ended == [True] * 3
