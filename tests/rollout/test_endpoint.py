"""One request to a chat endpoint: what is sent, what is made of every kind of reply, when it is repeated."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from burnish.data.examples import Message
from burnish.errors import ConfigError
from burnish.rollout.endpoint import ChatClient, Endpoint, EndpointError, EndpointSettings
from burnish.rollout.endpoint_reply import Reply
from burnish.rollout.pace import Pace, retry_after
from tests.rollout.fake_openai import Rule, Sent, failed, fake_openai, said

FAST = EndpointSettings(first_wait=0.01, read_seconds=2.0, tries=4)
SECRET = "sk-thekeythatnobodymaysee"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(rule: Rule, *, settings: EndpointSettings = FAST, key: str | None = None):  # type: ignore[no-untyped-def]
    """The reply to one question, and the server that gave it."""
    with fake_openai(rule) as server:
        client = ChatClient(Endpoint(server.url, "m"), settings, key=key)
        try:
            return client.complete([Message("user", "hello")], max_tokens=9, where="prompt a1: 'hello'"), server, client
        finally:
            client.close()


def refusal_of(rule: Rule, **more: object) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        ask(rule, **more)  # type: ignore[arg-type]
    assert "prompt a1: 'hello'" in (caught.value.where or "")
    assert caught.value.fix
    return caught.value


# ---- names of endpoints ----


def test_an_endpoint_is_read_and_written() -> None:
    found = Endpoint.parse("openai:http://host:8000/v1/#org/model:7b")
    assert (found.url, found.model) == ("http://host:8000/v1", "org/model:7b")
    assert Endpoint.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["openai:", "openai:host/v1#m", "openai:http://host/v1", "openai:ftp://host#m", "openai:http://[::1#m"]
)
def test_what_is_no_endpoint_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an endpoint") as caught:
        Endpoint.parse(text)
    assert "openai:http://localhost:8000/v1#my-model" in str(caught.value)


@pytest.mark.parametrize("text", [f"openai:http://me:{SECRET}@host/v1#m", f"openai:http://host/v1?key={SECRET}#m"])
def test_a_url_with_what_may_be_a_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        Endpoint.parse(text)
    assert SECRET not in str(caught.value)


# ---- what is sent, and what comes back ----


def test_a_request_is_greedy_and_its_reply_is_read_with_usage_and_time() -> None:
    started = time.perf_counter()
    reply, server, _ = ask(lambda *_: Sent(body=said(" Hi. \n", usage=(11, 4)).body, after=0.2))
    whole = time.perf_counter() - started
    (sent,) = server.requests
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "temperature": 0,
        "stream": False,
    }
    assert server.keys == [None]
    assert reply == Reply("Hi.", True, 11, 4, reply.seconds)
    assert 0.2 <= reply.seconds <= whole
    assert Reply.from_dict(reply.to_dict()) == reply


def test_an_answer_at_the_limit_is_not_finished() -> None:
    assert not ask(lambda *_: said("and so on", finish="length"))[0].finished


def test_without_usage_tokens_are_unknown_and_not_nought() -> None:
    reply = ask(lambda *_: said("Hi.", usage=None))[0]
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)


def test_an_empty_answer_and_a_refusal_kept_apart_are_answers() -> None:
    assert ask(lambda *_: said(""))[0].text == ""
    assert ask(lambda *_: said(None, refusal="I can't help with that."))[0].text == "I can't help with that."
    assert ask(lambda *_: said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))[0].text == "ab"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi \ud83d", "Hi \ufffd"),
        ("\ude00 Hi", "\ufffd Hi"),
        ("\ud83d\ud83d\ude00\ud83dx", "\ufffd\U0001f600\ufffdx"),
        ([{"text": "Hi \ud83d"}, {"text": "\ude00"}], "Hi \U0001f600"),
    ],
)
def test_half_a_surrogate_pair_becomes_the_replacement_character(content: Any, text: str) -> None:
    """JSON's escapes can name a half that stands alone (RFC 8259, section 8.2); UTF-8 has no form for it."""
    assert ask(lambda *_: said(content))[0].text == text


def test_half_a_surrogate_pair_in_a_refusal_does_too() -> None:
    assert ask(lambda *_: said(None, refusal="I can't \ud83d"))[0].text == "I can't \ufffd"


def test_half_a_surrogate_pair_in_a_servers_words_does_not_break_the_message() -> None:
    error = refusal_of(lambda *_: failed(400, "too long: Hi \ud83d"))
    assert error.what == "the endpoint answers 400: too long: Hi \ufffd"


@pytest.mark.parametrize("finish", ["length", "stop"])
def test_where_reasoning_is_all_that_came_the_answer_is_empty(finish: str) -> None:
    """Servers send null where the limit was reached while the model still thought; some show the thoughts beside it."""
    thoughts = {} if finish == "length" else {"reasoning_content": "The user greets me."}
    reply, server, _ = ask(lambda *_: said(None, finish=finish, usage=(7, 9), **thoughts))
    assert reply == Reply("", finish == "stop", 7, 9, reply.seconds)
    assert len(server.requests) == 1


def test_what_the_content_filter_took_is_an_answer_of_its_own_kind() -> None:
    """It cuts an answer, or keeps a prompt from the model with an error (as Azure's does)."""
    cut = ask(lambda *_: said("I think", finish="content_filter", usage=(7, 2)))[0]
    assert cut == Reply("", False, 7, 2, cut.seconds, filtered=True)
    unseen, server, _ = ask(lambda *_: failed(400, "management policy", code="content_filter", param="prompt"))
    assert unseen == Reply("", False, 0, 0, unseen.seconds, filtered=True)
    assert len(server.requests) == 1
    assert Reply.from_dict(cut.to_dict()) == cut


@pytest.mark.parametrize(
    ("sent", "words", "asked"),
    [
        (Sent(body=b"<html>Welcome</html>"), "not JSON: <html>Welcome", 2),
        (Sent(body=b""), "not JSON: it is empty", 2),
        (Sent(body=b"[1]"), "no object", 2),
        (Sent(body=b'{"choices": []}'), "no choices", 2),
        (Sent(body=b'{"choices": [{"finish_reason": "stop"}]}'), "no message", 2),
        (Sent(body=b'{"error": {"message": "overloaded"}}'), "is an error: overloaded", 2),
        (said(None), "content is no text", 2),
        (said("x", finish=None), "no finish_reason", 2),
        (said(None, finish="tool_calls", tool_calls=[{"id": "1"}]), "calls a tool", 1),
        (said([{"type": "image"}], finish="length"), "content is no text", 2),  # type: ignore[arg-type]
        (Sent(body=said("x").body, headers={"Content-Encoding": "gzip"}), "not what its Content-Encoding says", 2),
        (Sent(500, b"plain", {"Content-Encoding": "gzip"}), "not what its Content-Encoding says", 2),
    ],
)
def test_a_malformed_reply_is_an_error_that_names_the_prompt(sent: Sent, words: str, asked: int) -> None:
    """It is asked for once more where that may help, and no more: a server at temperature 0 says the same again."""
    seen: list[str] = []
    error = refusal_of(lambda prompt, _: (seen.append(prompt), sent)[1])
    assert words in error.what
    assert len(seen) == asked
    assert not error.hopeless


def test_a_malformed_reply_that_mends_itself_is_no_error() -> None:
    reply, _, client = ask(lambda _, before: said("Hi.") if before else Sent(body=b"oops"))
    assert reply.text == "Hi."
    assert client.retried == {"malformed reply": 1}


# ---- repeating ----


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_what_may_pass_is_repeated(status: int) -> None:
    reply, server, client = ask(lambda _, before: said("Hi.") if before == 2 else failed(status))
    assert reply.text == "Hi."
    assert len(server.requests) == 3
    assert client.retried.total() == 2


def test_waits_double_and_are_partly_random(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    wait_for = Pace.wait
    monkeypatch.setattr(Pace, "wait", lambda pace, seconds: (asked.append(seconds), wait_for(pace, seconds))[1])
    settings = EndpointSettings(first_wait=0.2, tries=4)
    _, server, _ = ask(lambda _, before: said("Hi.") if before == 3 else failed(500), settings=settings)
    waits = [b - a for a, b in zip(server.at, server.at[1:], strict=False)]
    for wait, seconds, whole in zip(waits, asked, (0.2, 0.4, 0.8), strict=True):
        assert 0.5 * whole <= seconds <= whole
        assert wait >= seconds


def test_after_the_last_try_it_is_an_error_with_the_servers_words() -> None:
    error = refusal_of(lambda *_: failed(503, "the model is loading"))
    assert error.what == "the endpoint answers 503: the model is loading (4 tries)"


@pytest.mark.parametrize("header", ["1", "date"])
def test_429_waits_as_long_as_the_server_says(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    hold = Pace._hold
    monkeypatch.setattr(Pace, "_hold", lambda pace, seconds: (held.append(seconds), hold(pace, seconds))[1])

    def rule(_: str, before: int) -> Sent:
        if before:
            return said("Hi.")
        now = time.time()
        later = {"Retry-After": "1"} if header == "1" else {"Retry-After": formatdate(now + 1, usegmt=True)}
        return failed(429, "slow down", headers={"Date": formatdate(now, usegmt=True), **later})

    _, server, client = ask(rule)
    assert held == [1.0]
    assert server.at[1] - server.at[0] >= 0.95
    assert client.retried == {"too many requests": 1}


def test_retry_after_in_seconds_and_as_a_date_by_the_servers_own_clock() -> None:
    """RFC 9110, section 10.2.3. The server's clock may be wrong by years: only its own two dates compare."""
    assert retry_after({"retry-after": "120"}) == 120
    assert retry_after({"retry-after": "0"}) == 0
    dates = {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Fri, 31 Dec 1999 23:59:29 GMT"}
    assert retry_after(dates) == 30
    assert retry_after({**dates, "date": "Sat, 01 Jan 2000 00:00:00 GMT"}) == 0
    assert retry_after({"retry-after": formatdate(time.time() + 50)}) == pytest.approx(50, abs=2)
    for nonsense in ("soon", "", "inf", "nan-ish"):
        assert retry_after({"retry-after": nonsense}) is None


def test_a_wait_that_is_too_long_is_an_error_and_not_a_night() -> None:
    error = refusal_of(lambda *_: failed(429, "day's limit", headers={"Retry-After": "86400"}))
    assert "left alone for 86400 s" in error.what
    assert error.hopeless


def test_a_used_up_quota_is_not_asked_again() -> None:
    seen: list[int] = []
    error = refusal_of(lambda _, n: (seen.append(n), failed(429, "quota", code="insufficient_quota"))[1])
    assert (seen, error.hopeless) == ([0], True)
    assert "credit" in (error.fix or "")


def test_a_reply_that_takes_too_long_is_a_time_out() -> None:
    settings = EndpointSettings(read_seconds=0.2, first_wait=0.01, tries=2)
    error = refusal_of(lambda *_: Sent(body=b"x", after=1.0), settings=settings)
    assert error.what == "no reply within 0.2 s (2 tries)"
    assert "--timeout" in (error.fix or "")


def test_a_reply_that_is_kept_open_with_white_space_is_a_time_out_after_ten_times_as_long() -> None:
    """As proxies do: each piece comes in time, the answer never."""
    settings = EndpointSettings(read_seconds=0.2, first_wait=0.01, tries=2)
    assert ask(lambda *_: replace(said("Hi."), trickle=1.0), settings=settings)[0].text == "Hi."
    started = time.monotonic()
    error = refusal_of(lambda *_: replace(said("Hi."), trickle=20.0), settings=settings)
    assert 4 <= time.monotonic() - started < 10
    assert error.what == "the reply has not ended after 2 s (2 tries)"
    assert "--timeout" in (error.fix or "")


def test_a_connection_that_is_not_made_is_a_time_out_of_its_own() -> None:
    # A listener that accepts nothing and whose queue is full drops further attempts, as an unreachable host does.
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        client = ChatClient(Endpoint(url, "m"), EndpointSettings(connect_seconds=0.3, tries=1))
        with pytest.raises(EndpointError, match=r"no connection within 0\.3 s") as caught:
            client.complete([Message("user", "hello")], max_tokens=9, where="prompt")
    assert caught.value.hopeless


def test_a_server_that_hangs_up_or_is_not_there_can_not_be_reached() -> None:
    assert "can't be reached" in refusal_of(lambda *_: Sent(status=0)).what
    client = ChatClient(Endpoint("http://127.0.0.1:9/v1", "m"), EndpointSettings(tries=1))
    with pytest.raises(EndpointError, match="can't be reached") as caught:
        client.complete([Message("user", "hello")], max_tokens=9, where="prompt")
    assert caught.value.hopeless


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (failed(401, "bad key"), "OPENAI_API_KEY: it is not set"),
        (failed(404, "no such model"), "check URL and model's name"),
        (failed(400, "too long"), "shorten the prompt"),
        (Sent(301, headers={"Location": "https://elsewhere"}), "check URL"),
    ],
)
def test_what_will_not_pass_is_not_repeated(sent: Sent, words: str) -> None:
    seen: list[int] = []
    error = refusal_of(lambda _, n: (seen.append(n), sent)[1])
    assert seen == [0]
    assert words in (error.fix or "")


def test_settings_that_a_model_refuses_are_left_out_from_then_on() -> None:
    """As newer models of some providers do: another name for the limit, and no temperature."""
    rules = {
        "max_tokens": failed(400, "Use 'max_completion_tokens' in place of 'max_tokens'.", param="max_tokens"),
        "temperature": failed(400, "Only the default (1) value is supported.", param="temperature"),
    }
    with fake_openai(lambda *_: said("Hi.")) as server:
        server.rule = lambda *_: next(
            (sent for name, sent in rules.items() if name in server.requests[-1]), said("Hi.")
        )
        client = ChatClient(Endpoint(server.url, "m"), FAST)
        for _ in range(2):
            reply = client.complete([Message("user", "hello")], max_tokens=9, where="prompt")
            assert reply.left_out == ("temperature",)
        client.close()
    assert len(server.requests) == 4
    assert server.requests[-1] == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 9,
        "stream": False,
    }


# ---- the key ----


def test_the_key_is_sent_and_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    reply, server, _ = ask(lambda *_: said("Hi."))
    assert server.keys == [f"Bearer {SECRET}"]
    assert SECRET not in str(reply)
    for sent in (failed(401, f"wrong key {SECRET}"), failed(500, SECRET), Sent(body=SECRET.encode())):
        error = refusal_of(lambda *_, sent=sent: sent)
        assert SECRET not in f"{error}{error.__cause__}{error.__context__}"
        assert "***" in error.what
    assert "is not accepted" in (refusal_of(lambda *_: failed(403)).fix or "")


def test_an_endpoint_s_own_variable_is_read_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("MY_KEY", SECRET)
    with fake_openai(lambda *_: failed(401, f"wrong key {SECRET}")) as server:
        endpoint = Endpoint.parse(f"openai:{server.url}#m", key_variable="MY_KEY")
        with pytest.raises(EndpointError) as caught:
            ChatClient(endpoint, FAST).complete([Message("user", "Hi")], max_tokens=4, where="here")
        assert server.keys == [f"Bearer {SECRET}"]
    assert "MY_KEY" in (caught.value.fix or "")
    assert "OPENAI_API_KEY" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert str(endpoint) == f"openai:{server.url}#m"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_was_named_must_be_set(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Never the common key in its place: that would go to a server that it was not meant for."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match="the environment variable MY_KEY is not set"):
        ChatClient(Endpoint("http://host/v1", "m", "MY_KEY"))
    monkeypatch.delenv("OPENAI_API_KEY")
    ChatClient(Endpoint("http://host/v1", "m"))  # a server of one's own may want none


@pytest.mark.parametrize("key", [f"{SECRET}\nx", f"{SECRET}\u2014", f"{SECRET} x"])
def test_a_key_that_no_header_can_hold_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigError, match="characters") as caught:
        ChatClient(Endpoint("http://host/v1", "m"), key=key)
    assert SECRET not in str(caught.value)


def test_settings_of_nonsense_are_refused() -> None:
    for settings in ({"concurrency": 0}, {"tries": 0}, {"read_seconds": 0.0}):
        with pytest.raises(ConfigError, match="must be"):
            EndpointSettings(**settings)  # type: ignore[arg-type]
