"""An OpenAI-compatible chat endpoint: where it is, and one request to it, repeated until it is answered or hopeless.

The key comes from an environment variable: the endpoint's own, or OPENAI_API_KEY. It goes into the requests' header and
nowhere else: what a server says is quoted with the key struck out.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from burnish.data.examples import Message
from burnish.errors import ConfigError, ModelError
from burnish.rollout.endpoint_reply import MalformedReply, Reply, error_text, filtered_prompt, read_reply, shorten
from burnish.rollout.pace import Pace, retry_after

if TYPE_CHECKING:
    import httpx2

PREFIX = "openai:"
KEY = "OPENAI_API_KEY"
_LIMITED, _ADAPTED = "too many requests", "unsupported setting"
_WHOLE = 10
"""Times `read_seconds` that a reply may take from the request to its last byte."""
_EXAMPLE = "write openai:BASE_URL#MODEL, as in openai:http://localhost:8000/v1#my-model"


class EndpointError(ModelError):
    """A request that was not answered, however often it was sent.

    `hopeless` says that other requests would fare no better: no server, a wrong key, an unknown model.
    """

    hopeless = False

    @classmethod
    def of(cls, what: str, *, where: str, fix: str, hopeless: bool) -> EndpointError:
        """The error with its `hopeless` set."""
        error = cls(what, where=where, fix=fix)
        error.hopeless = hopeless
        return error


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind an OpenAI-compatible server.

    Attributes:
        url: the base URL, without a slash at its end; `/chat/completions` follows it.
        model: what the server calls the model.
        key_variable: the environment variable with its key; if none is named, OPENAI_API_KEY, where that is set.
    """

    url: str
    model: str
    key_variable: str | None = None

    @classmethod
    def parse(cls, text: str, *, where: str = "model", key_variable: str | None = None) -> Endpoint:
        """Read `openai:BASE_URL#MODEL`.

        Args:
            text: what to read.
            where: what errors call its place.
            key_variable: see the class.

        Raises:
            ConfigError: it has another form, or holds what may be a secret and would be written into the report.
        """
        url, _, model = text.removeprefix(PREFIX).partition("#")
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            known = False
        if not known or not model.strip():
            raise ConfigError(f"{text!r} is not an endpoint", where=where, fix=_EXAMPLE)
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "the URL of an endpoint can hold neither a user's name or password nor a query: it is written into "
                "the report",
                where=where,
                fix=f"give the key in the environment variable {KEY}",
            )
        return cls(url.rstrip("/"), model.strip(), key_variable)

    def __str__(self) -> str:
        return f"{PREFIX}{self.url}#{self.model}"


def is_endpoint(model: str) -> bool:
    """Whether a model's name is that of an endpoint."""
    return model.strip().startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How patiently an endpoint is asked.

    Attributes:
        concurrency: requests under way at a time, fewer while the server says that they are too many.
        read_seconds: how long a server may send nothing; a whole reply may take ten times as long, for some proxies
            keep one open with white space for ever. The request is repeated then.
        connect_seconds: how long a connection may take.
        tries: how often a request is sent at most.
        timeout_tries: the same where nothing comes back in time.
        malformed_tries: the same where the server answers, but with nothing usable.
        limited_tries: how often in a row, without an answer to any request, a server may say that there are too many
            (429). None of them is counted as a try. The waits of eight add up to more than a minute, for which many
            limits are set.
        first_wait: seconds before the second try; doubled for each further one, of which a random half to the whole
            is waited.
        longest_wait: seconds that are waited at most, whether by our own rule or because the server asks for it.
    """

    concurrency: int = 8
    read_seconds: float = 120.0
    connect_seconds: float = 10.0
    tries: int = 6
    timeout_tries: int = 3
    malformed_tries: int = 2
    limited_tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 120.0

    def __post_init__(self) -> None:
        tries = (self.tries, self.timeout_tries, self.malformed_tries, self.limited_tries)
        if min(self.concurrency, *tries) < 1:
            raise ConfigError("concurrency and tries of an endpoint must be at least 1", where="endpoint")
        if not (self.read_seconds > 0 and self.connect_seconds > 0):
            raise ConfigError("the time-outs of an endpoint must be above 0 seconds", where="endpoint")


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a try failed. `after` is how long the server wants to be left alone, in seconds."""

    kind: str
    what: str
    fix: str
    tries: int
    hopeless: bool = False
    after: float | None = None


_NOT_SENT = _Failure("not sent", "the request was not sent: asking has been stopped", "run the same command again", 1)


class ChatClient:
    """Sends chat requests to one endpoint; may be used from several threads.

    Args:
        endpoint: whom.
        settings: how patiently.
        key: in place of the environment's.

    Raises:
        ConfigError: the variable that the endpoint names for its key is not set; a key that no header can hold.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: EndpointSettings | None = None,
        *,
        key: str | None = None,
    ) -> None:
        self.endpoint, self.settings = endpoint, settings or EndpointSettings()
        self.retried: Counter[str] = Counter()
        """Why requests were repeated, and how often."""
        self._key = read_key(endpoint.key_variable) if key is None else _usable_key(key, KEY)
        waits = self.settings
        self._pace = Pace(waits.concurrency, first_wait=waits.first_wait, longest_wait=waits.longest_wait)
        self._lock = threading.Lock()
        self._left_out: tuple[str, ...] = ()
        self._limit_name = "max_tokens"
        self._http: httpx2.Client | None = None

    def stop(self) -> None:
        """End all waiting: requests under way may finish, none is sent any more."""
        self._pace.stop()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._pace.stopped

    def close(self) -> None:
        """Stop, and drop the connections."""
        self.stop()
        if self._http is not None:
            self._http.close()

    def complete(self, messages: Sequence[Message], *, max_tokens: int, where: str) -> Reply:
        """The answer to a conversation, greedily where the server lets us.

        Args:
            messages: the conversation.
            max_tokens: the longest answer.
            where: names the prompt in errors.

        Raises:
            EndpointError: after the last try; the message says what the server said and what can be done.
        """
        tried: Counter[str] = Counter()
        failure: _Failure | None = None
        while True:
            with self._pace.turn() as turn:
                if self.stopped:
                    raise self._error(failure or _NOT_SENT, tried.total(), where)
                outcome = self._try(messages, max_tokens)
                if isinstance(outcome, Reply):
                    self._pace.answered()
                    return outcome
                failure = outcome
                tried[failure.kind] += 1
                if self._given_up(failure, tried, turn):
                    raise self._error(failure, tried.total(), where)
            if failure.kind not in (_LIMITED, _ADAPTED):
                self._pace.hold(failure.after or 0.0)
                self._pace.wait(self._pace.backoff(tried.total() - tried[_LIMITED]))
            with self._lock:
                self.retried[failure.kind] += 1

    def _given_up(self, failure: _Failure, tried: Counter[str], turn: int) -> bool:
        """Whether the request that failed is given up; of a 429 all requests take note, and it uses up no try."""
        if (failure.after or 0.0) > self.settings.longest_wait:
            return True
        if failure.kind == _LIMITED:
            return self._pace.refused(turn, failure.after) >= failure.tries
        return tried[failure.kind] >= failure.tries or tried.total() - tried[_LIMITED] >= self.settings.tries

    # ---- one try ----

    def _try(self, messages: Sequence[Message], max_tokens: int) -> Reply | _Failure:
        import httpx2

        payload, left_out, limit_name = self._payload(messages, max_tokens)
        started = time.perf_counter()
        try:
            response, body = self._exchange(payload)
        except TimeoutError as error:
            fix = f"give the server more time with --timeout; a whole reply may take {_WHOLE} times as long"
            return _Failure("time-out", str(error), fix, self.settings.timeout_tries)
        except httpx2.TimeoutException as error:
            seconds = self.settings
            slow = isinstance(error, httpx2.ConnectTimeout)
            limit = seconds.connect_seconds if slow else seconds.read_seconds
            what = f"no {'connection' if slow else 'reply'} within {limit:g} s"
            return _Failure("time-out", what, "give the server more time with --timeout", seconds.timeout_tries, slow)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            return _Failure("URL", self._quoted(str(error)), _EXAMPLE, 1, True)
        except httpx2.DecodingError as error:
            what = f"the reply's body is not what its Content-Encoding says: {self._quoted(str(error))}"
            fix = "look into the log of the server, or of a proxy before it"
            return _Failure("malformed reply", what, fix, self.settings.malformed_tries)
        except httpx2.TransportError as error:
            said = self._quoted(str(error)) or type(error).__name__
            fix = "is the server running there? Start it and run the same command again"
            return _Failure("connection", f"the endpoint can't be reached: {said}", fix, self.settings.tries, True)
        seconds_taken = time.perf_counter() - started
        if response.status_code != 200:
            unseen = filtered_prompt(body, seconds=seconds_taken, left_out=left_out)
            return unseen or self._refused(response, body, (left_out, limit_name))
        try:
            return read_reply(body, seconds=seconds_taken, left_out=left_out)
        except MalformedReply as error:
            tries = self.settings.malformed_tries if error.again else 1
            return _Failure("malformed reply", self._quoted(error.what), error.fix, tries)

    def _exchange(self, payload: dict[str, Any]) -> tuple[httpx2.Response, bytes]:
        """One request's response and its body; TimeoutError where that goes on for longer than a whole reply may."""
        limit = _WHOLE * self.settings.read_seconds
        until, body = time.monotonic() + limit, bytearray()
        with self._client().stream("POST", f"{self.endpoint.url}/chat/completions", json=payload) as response:
            for piece in response.iter_bytes():
                body += piece
                if time.monotonic() > until:
                    raise TimeoutError(f"the reply has not ended after {limit:g} s")
        return response, bytes(body)

    def _payload(self, messages: Sequence[Message], max_tokens: int) -> tuple[dict[str, Any], tuple[str, ...], str]:
        with self._lock:
            left_out, limit_name = self._left_out, self._limit_name
        payload = {
            "model": self.endpoint.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            limit_name: max_tokens,
            "temperature": 0,
            "stream": False,
        }
        return {name: value for name, value in payload.items() if name not in left_out}, left_out, limit_name

    def _client(self) -> httpx2.Client:
        import httpx2

        with self._lock:
            if self._http is None:
                limits = self.settings
                timeout = httpx2.Timeout(limits.read_seconds, connect=limits.connect_seconds, pool=None)
                headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
                pool = httpx2.Limits(max_connections=limits.concurrency, max_keepalive_connections=limits.concurrency)
                self._http = httpx2.Client(timeout=timeout, headers=headers, limits=pool)
            return self._http

    # ---- what a refusal means ----

    def _refused(self, response: httpx2.Response, content: bytes, sent: tuple[tuple[str, ...], str]) -> _Failure:
        status, tries = response.status_code, self.settings.tries
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        plain = content.decode("utf-8", "replace")
        said = self._quoted(error_text(body) if body else shorten(plain) or response.reason_phrase)
        what = f"the endpoint answers {status}: {said}"
        code = _error_fields(body).get("code")
        if status == 429 and code == "insufficient_quota":
            return _Failure("quota", what, "the account has no credit left: see to it and run again", 1, True)
        if status == 429 or status in (408, 409, 425) or status >= 500:
            fix = "ask less at a time with --concurrency, or run the same command again later"
            after = retry_after(response.headers)
            if status == 429:
                return _Failure(_LIMITED, what, fix, self.settings.limited_tries, True, after)
            return _Failure(f"status {status}", what, fix, tries, False, after)
        if status == 400 and self._adapt(body, sent):
            return _Failure(_ADAPTED, what, "leave the model to its own settings", tries)
        if status in (401, 403):
            state = "the key in it is not accepted" if self._key else "it is not set"
            variable = self.endpoint.key_variable or KEY
            return _Failure("key", what, f"the key is read from the variable {variable}: {state}", 1, True)
        if status in (404, 405) or 300 <= status < 400:
            fix = f"check URL and model's name: {self.endpoint}; a base URL usually ends in /v1"
            return _Failure("not found", what, fix, 1, True)
        fix = "shorten the prompt or leave it out with --prompts, where it is the prompt that the server refuses"
        return _Failure("refused", what, fix, 1)

    def _adapt(self, body: Any, sent: tuple[tuple[str, ...], str]) -> bool:
        """Newer models of some providers refuse `max_tokens` by that name, and a temperature: do without them.

        True also where another thread has done so since the request was sent.
        """
        fields = _error_fields(body)
        said = f"{fields.get('param')} {fields.get('message')}"
        with self._lock:
            if sent != (self._left_out, self._limit_name):
                return True
            if "max_tokens" in said and "max_completion_tokens" in said and self._limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                return True
            if fields.get("param") == "temperature" and "temperature" not in self._left_out:
                self._left_out = (*self._left_out, "temperature")
                return True
        return False

    def _error(self, failure: _Failure, tried: int, where: str) -> EndpointError:
        times = f" ({tried} tries)" if tried > 1 else ""
        what, patience = failure.what, failure.after
        if patience is not None and patience > self.settings.longest_wait:
            what += f"; it asks to be left alone for {patience:.0f} s"
        place = f"{self.endpoint}, {where}"
        return EndpointError.of(what + times, where=place, fix=failure.fix, hopeless=failure.hopeless)

    def _quoted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def read_key(variable: str | None) -> str:
    """The key from an environment variable, without surrounding white space; that of OPENAI_API_KEY may be missing.

    Args:
        variable: its name; none for OPENAI_API_KEY.

    Raises:
        ConfigError: a variable that was named is not set, or the key has characters that no header can hold.
    """
    key = _usable_key(os.environ.get(variable or KEY, ""), variable or KEY)
    if variable is not None and not key:
        raise ConfigError(
            f"the environment variable {variable} is not set", where=variable, fix="set it to the endpoint's key"
        )
    return key


def _usable_key(key: str, variable: str) -> str:
    """The key without surrounding white space. Checked here, for HTTP libraries quote a header that they refuse."""
    key = key.strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            "the key holds characters that no header can hold", where=variable, fix="set the variable to the key alone"
        )
    return key


def _error_fields(body: Any) -> dict[str, Any]:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}
