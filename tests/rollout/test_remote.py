"""Many questions to an endpoint: at most so many at once, in order, and nothing that was answered is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from burnish.data.examples import Message
from burnish.evaluation.answers import Responder
from burnish.rollout.answers import Usage
from burnish.rollout.endpoint import Endpoint, EndpointError, EndpointSettings
from burnish.rollout.remote import MAX_FAILED, EndpointResponder
from burnish.rollout.response_cache import ResponseCache
from tests.rollout.fake_openai import FakeOpenAI, Sent, TokenBucket, failed, fake_openai, said

FAST = EndpointSettings(concurrency=4, first_wait=0.01, read_seconds=5.0, tries=2)
TALKS = [[Message("user", f"question {i}")] for i in range(12)]
SECRET = "sk-thekeythatnobodymaysee"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def responder(server: FakeOpenAI, cache: Path | None, settings: EndpointSettings = FAST) -> EndpointResponder:
    return EndpointResponder("api", Endpoint(server.url, "m"), cache=ResponseCache(cache), settings=settings)


def echo(prompt: str, _: int) -> Sent:
    """The shorter the number, the later the answer: replies come in another order than questions."""
    return Sent(body=said(f"re: {prompt}", usage=(5, 2)).body, after=0.05 if prompt[-1] in "02468" else 0.01)


def test_answers_stand_in_the_order_of_the_questions_with_what_they_took() -> None:
    done: list[int] = []
    with fake_openai(echo) as server:
        started = time.perf_counter()
        answers = responder(server, None).answer(TALKS, max_new_tokens=8, progress=done.append)
        whole = time.perf_counter() - started
        assert server.most_at_once <= 4
        assert server.most_at_once > 1
    assert [answer.text for answer in answers] == [f"re: question {i}" for i in range(12)]
    assert {(answer.finished, answer.n_tokens) for answer in answers} == {(True, 2)}
    usages = [answer.usage for answer in answers if isinstance(answer.usage, Usage)]
    assert {(usage.prompt_tokens, usage.completion_tokens) for usage in usages} == {(5, 2)}
    assert len(usages) == 12
    assert min(usage.seconds for usage in usages) >= 0.01
    # Of the request alone: four at a time can't take more than this together; with the wait for their turn they would.
    assert sum(usage.seconds for usage in usages) <= 4 * whole
    assert done == list(range(13))  # 0 from the cache, then one by one


def test_an_endpoint_scores_nothing() -> None:
    assert not isinstance(EndpointResponder("api", Endpoint("http://host/v1", "m")), Responder)


def test_a_second_report_asks_nothing_and_one_with_more_prompts_only_those(tmp_path: Path) -> None:
    with fake_openai(echo) as server:
        first = responder(server, tmp_path).answer(TALKS[:8], max_new_tokens=8)
        again = responder(server, tmp_path)
        assert again.answer(TALKS, max_new_tokens=8)[:8] == first
        assert (again.asked, again.from_cache) == (12, 8)
        assert sorted(server.prompts) == sorted(talk[0].content for talk in TALKS)
        kept = responder(server, tmp_path)
        assert [a.usage for a in kept.answer(TALKS[:8], max_new_tokens=8)] == [a.usage for a in first]


def test_an_answer_cut_within_a_surrogate_pair_is_kept_as_every_other(tmp_path: Path) -> None:
    """As servers that cut JavaScript's strings send it: half of an emoji's two UTF-16 units."""
    with fake_openai(lambda *_: said("Hi \ud83d")) as server:
        first = responder(server, tmp_path).answer(TALKS[:2], max_new_tokens=8)
        again = responder(server, tmp_path)
        assert again.answer(TALKS[:2], max_new_tokens=8) == first
        assert again.from_cache == 2
    assert [answer.text for answer in first] == ["Hi \ufffd"] * 2


def test_other_settings_another_model_or_other_turns_are_other_answers(tmp_path: Path) -> None:
    with fake_openai(echo) as server:
        responder(server, tmp_path).answer(TALKS[:1], max_new_tokens=8)
        responder(server, tmp_path).answer(TALKS[:1], max_new_tokens=9)
        other = EndpointResponder("api", Endpoint(server.url, "n"), cache=ResponseCache(tmp_path), settings=FAST)
        other.answer(TALKS[:1], max_new_tokens=8)
        responder(server, tmp_path).answer([[Message("system", "Be brief."), *TALKS[0]]], max_new_tokens=8)
        assert len(server.requests) == 4


def test_a_server_that_dies_half_way_loses_nothing_and_the_rest_is_asked_later(tmp_path: Path) -> None:
    """The one with the number 6 or more finds no server until it is up again."""
    up = False

    def dying(prompt: str, before: int) -> Sent:
        return echo(prompt, before) if up or int(prompt.split()[1]) < 6 else Sent(status=0)

    with fake_openai(dying) as server:
        with pytest.raises(EndpointError, match="can't be reached") as caught:
            responder(server, tmp_path).answer(TALKS, max_new_tokens=8)
        asked_before = len(server.requests)
        assert "6 of 12 prompts have no answer yet; the 6 answers that there are, are kept" in (caught.value.fix or "")
        assert "question " in (caught.value.where or "")
        up = True
        again = responder(server, tmp_path)
        answers = again.answer(TALKS, max_new_tokens=8)
        assert again.from_cache == 6
        assert [int(p.split()[1]) for p in sorted(server.prompts[asked_before:], key=lambda p: int(p.split()[1]))] == [
            6, 7, 8, 9, 10, 11,
        ]  # fmt: skip
    assert [answer.text for answer in answers] == [f"re: question {i}" for i in range(12)]


def test_a_prompt_that_the_server_refuses_does_not_keep_the_others_from_their_answers(tmp_path: Path) -> None:
    def rule(prompt: str, before: int) -> Sent:
        return failed(400, "too long") if prompt == "question 3" else echo(prompt, before)

    with fake_openai(rule) as server, pytest.raises(EndpointError, match="400: too long") as caught:
        responder(server, tmp_path).answer(TALKS, max_new_tokens=8)
    assert "prompt 4: 'question 3'" in (caught.value.where or "")
    assert "1 of 12 prompts" in (caught.value.fix or "")


def test_where_every_prompt_fails_not_all_are_asked() -> None:
    with fake_openai(lambda *_: failed(400, "no")) as server:
        with pytest.raises(EndpointError, match="400"):
            responder(server, None, EndpointSettings(concurrency=1)).answer(TALKS, max_new_tokens=8)
        assert len(server.requests) == MAX_FAILED
    with fake_openai(lambda *_: failed(401, "no")) as server:
        with pytest.raises(EndpointError, match="401") as caught:
            responder(server, None, EndpointSettings(concurrency=1)).answer(TALKS, max_new_tokens=8)
        assert len(server.requests) == 1
    assert "kept" not in (caught.value.fix or "")  # without a cache nothing is


def test_empty_answers_are_told_by_their_reason_also_from_the_cache(tmp_path: Path) -> None:
    """Of the questions 0 to 11 three are filtered, two used up in thought, and one is answered with nothing."""
    special = {f"question {i}": said("", finish="content_filter") for i in (1, 4, 9)}
    special |= {f"question {i}": said(None, finish="length") for i in (2, 5)} | {"question 7": said("")}
    for _ in range(2):
        with fake_openai(lambda prompt, before: special.get(prompt) or echo(prompt, before)) as server:
            one = EndpointResponder("api", Endpoint("http://host/v1", "m"), cache=ResponseCache(tmp_path))
            one.client = responder(server, None).client
            answers = one.answer(TALKS, max_new_tokens=8)
        assert [i for i, answer in enumerate(answers) if not answer.text] == [1, 2, 4, 5, 7, 9]
        assert [i for i, answer in enumerate(answers) if not answer.finished] == [1, 2, 4, 5, 9]
        notes = one.notes()
        assert list(notes) == ["content filter", "limit used up before the answer"]
        assert notes["content filter"].startswith("3 of 12 answers")
        assert notes["limit used up before the answer"].startswith("2 of 12 answers")
    assert one.from_cache == 12


def test_429_holds_all_requests_back(tmp_path: Path) -> None:
    """While the server wants to be left alone, no other thread asks either."""
    limited: list[float] = []

    def rule(prompt: str, before: int) -> Sent:
        if prompt == "question 0" and not before:
            limited.append(time.monotonic())
            return failed(429, headers={"Retry-After": "1"})
        return Sent(body=said("x").body, after=0.1)

    with fake_openai(rule) as server:
        one = responder(server, None)
        one.answer(TALKS, max_new_tokens=8)
        early = [at for at in server.at if limited[0] + 0.3 < at < limited[0] + 0.9]
    assert early == []
    assert one.client.retried == {"too many requests": 1}


def test_a_rate_limited_server_answers_everything_in_one_go() -> None:
    """A bucket of one request in 30 ms for 40 prompts, eight at a time: however often a prompt meets the limit, the
    others' answers say that it passes.

    At the start 8, then 4, then 2 requests can meet the limit together. From then on one is under way, and meets it at
    most once between two answers; were eight of them sent each time, that would be seven times 40.
    """
    bucket, settings = TokenBucket(0.03), EndpointSettings(concurrency=8, first_wait=0.03, tries=2, limited_tries=3)
    talks = [[Message("user", f"question {i}")] for i in range(40)]
    with fake_openai(bucket) as server:
        one = responder(server, None, settings)
        answers = one.answer(talks, max_new_tokens=8)
    assert [answer.text for answer in answers] == [f"re: question {i}" for i in range(40)]
    assert one.client.retried == {"too many requests": bucket.refused}
    assert bucket.refused <= 8 + 4 + 2 + 40


def test_a_limit_that_never_passes_ends_the_asking_for_all() -> None:
    """All requests meet the same limit, so that it counts once for all that were sent together."""
    settings = EndpointSettings(concurrency=4, first_wait=0.01, limited_tries=3)
    with fake_openai(lambda *_: failed(429, "come back tomorrow")) as server:
        with pytest.raises(EndpointError, match="429: come back tomorrow") as caught:
            responder(server, None, settings).answer(TALKS, max_new_tokens=8)
        assert 3 <= len(server.requests) <= 4 + 2 + 1
    assert caught.value.hopeless
    assert "12 of 12 prompts have no answer yet" in (caught.value.fix or "")


def test_what_is_kept_holds_neither_key_nor_prompt(tmp_path: Path) -> None:
    with fake_openai(lambda *_: said("an answer")) as server:
        responder(server, tmp_path).answer(TALKS, max_new_tokens=8)
        assert set(server.keys) == {f"Bearer {SECRET}"}
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) == 12
    assert not any(SECRET in text or "question" in text for text in texts)


@pytest.mark.process
def test_a_killed_report_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL in the middle: the answers that had come are on disk, whole."""
    code = """
import sys
from pathlib import Path
from burnish.data.examples import Message
from burnish.rollout.endpoint import Endpoint, EndpointSettings
from burnish.rollout.remote import EndpointResponder
from burnish.rollout.response_cache import ResponseCache
talks = [[Message("user", f"question {i}")] for i in range(12)]
cache = ResponseCache(Path(sys.argv[2]))
EndpointResponder("api", Endpoint(sys.argv[1], "m"), cache=cache, settings=EndpointSettings(concurrency=1)).answer(
    talks, max_new_tokens=8)
"""
    with fake_openai(lambda p, n: Sent(body=said(f"re: {p}").body, after=0.15)) as server:
        process = subprocess.Popen([sys.executable, "-c", code, server.url, str(tmp_path)], env=os.environ)
        while len(server.requests) < 5:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        again = responder(server, tmp_path)
        answers = again.answer(TALKS, max_new_tokens=8)
    assert again.from_cache >= 3
    assert again.cache.damaged == 0
    assert [answer.text for answer in answers] == [f"re: question {i}" for i in range(12)]


@pytest.mark.process
def test_an_interrupt_waits_for_nothing(tmp_path: Path) -> None:
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
from burnish.data.examples import Message
from burnish.rollout.endpoint import Endpoint
from burnish.rollout.remote import EndpointResponder
try:
    EndpointResponder("api", Endpoint(sys.argv[1], "m")).answer([[Message("user", "x")]] * 9, max_new_tokens=8)
except KeyboardInterrupt:
    sys.exit(130)
"""
    with fake_openai(lambda *_: Sent(body=said("x").body, after=30.0)) as server:
        process = subprocess.Popen([sys.executable, "-c", code, server.url], env=os.environ)
        while len(server.requests) < 8:
            time.sleep(0.02)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert time.monotonic() - started < 10
