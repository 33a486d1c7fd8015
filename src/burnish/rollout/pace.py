"""How fast an endpoint is asked. A limit (429) is the account's and no single request's, so that all requests of a
client share one pace: they wait together, fewer are sent at a time, and how often it was met counts for all of them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

_STEADY = 10
"""After so many answers without a 429 one request more may be under way."""


class Pace:
    """Says when the next request may be sent; for several threads.

    Requests under way are halved by a 429 and grow again one by one, as TCP's window does (additive increase,
    multiplicative decrease).

    Args:
        most: requests under way at a time, where nothing limits them.
        first_wait: see `EndpointSettings`.
        longest_wait: likewise.
    """

    def __init__(self, most: int, *, first_wait: float, longest_wait: float) -> None:
        self.at_once = most
        """Requests that may be under way now."""
        self.stopped = False
        """Whether `stop` was called."""
        self._most, self._first_wait, self._longest_wait = most, first_wait, longest_wait
        self._under_way = 0
        self._not_before = 0.0
        self._round = 0
        self._refused = 0
        self._steady = 0
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[int]:
        """Wait until a request may be sent, or nobody waits any more; the number that is given goes to `refused`."""
        with self._changed:
            while not self.stopped:
                rest = self._not_before - time.monotonic()
                if rest <= 0 and self._under_way < self.at_once:
                    break
                self._changed.wait(rest if rest > 0 else None)
            self._under_way += 1
            now = self._round
        try:
            yield now
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def answered(self) -> None:
        """The server answers: what it refused before is forgotten."""
        with self._changed:
            self._refused = 0
            self._steady += 1
            if self._steady >= _STEADY and self.at_once < self._most:
                self.at_once, self._steady = self.at_once + 1, 0
                self._changed.notify_all()

    def refused(self, turn: int, after: float | None) -> int:
        """A request was one too many: nobody asks for as long as the back-off or, if longer, the server says.

        Requests that were sent before the last refusal was known tell nothing new: of those that are refused together
        the first counts.

        Args:
            turn: what `turn` gave.
            after: how long the server wants to be left alone, in seconds.

        Returns:
            How many refusals count since the server last answered any request.
        """
        with self._changed:
            wait = after or 0.0
            if turn == self._round:
                self._round += 1
                self._refused += 1
                self.at_once, self._steady = max(1, self.at_once // 2), 0
                wait = max(wait, self.backoff(self._refused))
            self._hold(wait)
            return self._refused

    def backoff(self, tried: int) -> float:
        """Seconds before a request is sent again: doubled for each try, of which a random half to the whole."""
        whole = min(self._longest_wait, self._first_wait * 2.0 ** (tried - 1))
        return whole * random.uniform(0.5, 1.0)

    def hold(self, seconds: float) -> None:
        """Nobody asks for so long."""
        with self._changed:
            self._hold(seconds)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self.stopped, timeout=seconds)

    def stop(self) -> None:
        """End all waiting."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the Retry-After header, which has seconds or a date; a date is taken by the server's clock."""
    text = (headers.get("retry-after") or "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text)) if float(text) < float("inf") else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(text).timestamp()
        now = parsedate_to_datetime(headers["date"]).timestamp() if headers.get("date") else time.time()
    except (ValueError, TypeError):
        return None
    return max(0.0, until - now)
