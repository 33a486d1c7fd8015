"""A chat endpoint made of rules, on a port of its own in this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rule = Callable[[str, int], "Sent"]
"""What is sent back to (the last message, how often it was asked before)."""

_BETWEEN_SPACES = 0.05


@dataclass
class Sent:
    """One reply: its status, body and headers, after so many seconds; a status of 0 hangs up without a word.

    Before the body goes white space for `trickle` seconds, a character at a time.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0
    trickle: float = 0.0


def said(
    text: str | None, *, finish: str | None = "stop", usage: tuple[int, int] | None = (7, 3), **message: Any
) -> Sent:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    value: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "choices": [choice],
    }
    if usage is not None:
        value["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Sent(body=json.dumps(value).encode())


def failed(status: int, message: str = "no", **more: Any) -> Sent:
    """An error in OpenAI's form; `headers` go into the head."""
    headers = more.pop("headers", {})
    return Sent(status, json.dumps({"error": {"message": message, **more}}).encode(), headers)


class TokenBucket:
    """A rule that answers one request in so many seconds, and to the others says 429 and how long to wait."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.refused = seconds, 0
        self._next, self._lock = 0.0, threading.Lock()

    def __call__(self, prompt: str, before: int) -> Sent:
        with self._lock:
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self.seconds
                return said(f"re: {prompt}")
            self.refused += 1
            return failed(429, "one at a time", headers={"Retry-After": f"{self.seconds:g}"})


@dataclass
class FakeOpenAI:
    """What was asked of the server, in order."""

    url: str
    rule: Rule
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def prompts(self) -> list[str]:
        """The last message of each request."""
        return [request["messages"][-1]["content"] for request in self.requests]

    def take(self, payload: dict[str, Any], key: str | None) -> Sent:
        prompt = payload["messages"][-1]["content"]
        with self._lock:
            before = self.prompts.count(prompt)
            self.requests.append(payload)
            self.keys.append(key)
            self.at.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            sent = self.rule(prompt, before)
            time.sleep(sent.after)
            return sent
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def fake_openai(rule: Rule) -> Iterator[FakeOpenAI]:
    """Serve by a rule until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self.send_error(404)
            sent = fake.take(payload, self.headers.get("Authorization"))
            if not sent.status:
                self.close_connection = True
                return None
            try:
                self.send_response(sent.status)
                spaces = round(sent.trickle / _BETWEEN_SPACES)
                for name, value in {**sent.headers, "Content-Length": str(spaces + len(sent.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                for _ in range(spaces):
                    self.wfile.write(b" ")
                    time.sleep(_BETWEEN_SPACES)
                self.wfile.write(sent.body)
            except OSError:
                pass  # the client had waited long enough
            return None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake = FakeOpenAI(f"http://127.0.0.1:{server.server_address[1]}/v1", rule)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
