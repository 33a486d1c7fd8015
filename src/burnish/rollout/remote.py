"""An endpoint as evaluation sees it: it answers conversations, several at a time, and what is answered is kept."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from burnish.data.examples import Message
from burnish.rollout.answers import Answer, Usage
from burnish.rollout.endpoint import ChatClient, Endpoint, EndpointError, EndpointSettings
from burnish.rollout.endpoint_reply import Reply, shorten
from burnish.rollout.response_cache import Keep, ResponseCache

MAX_FAILED = 5
"""After so many prompts without an answer the others are not asked."""


class EndpointResponder:
    """Answers conversations through a chat endpoint. It gives no log-probs, so it scores nothing.

    Args:
        name: what the report calls it.
        endpoint: whom to ask.
        cache: keeps the answers.
        settings: how patiently it is asked.
        names: what errors call the conversations, in their order; else they are counted.

    Raises:
        ConfigError: a key that can't be used.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        *,
        cache: ResponseCache | None = None,
        settings: EndpointSettings | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._name, self.endpoint = name, endpoint
        self.cache = cache or ResponseCache(None)
        self.client = ChatClient(endpoint, settings)
        self.names = names
        self.asked = 0
        """Conversations so far."""
        self.from_cache = 0
        """Of these, whose answer was on the disk."""
        self.left_out: set[str] = set()
        """Settings that the server refused."""
        self.filtered = 0
        """Answers in whose place the provider's content filter stands. They are empty."""
        self.used_up = 0
        """Answers that are empty because the limit of tokens was used up before they began, as reasoning may do."""

    @property
    def name(self) -> str:
        """What the report calls this model."""
        return self._name

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answer each conversation at temperature 0; `progress` is told how many are done so far.

        Raises:
            EndpointError: a conversation got no answer. Those that did are in the cache: the same call goes on there.
        """

        def on_disk(count: int) -> None:
            self.from_cache += count

        def compute(missing: list[int], keep: Keep) -> None:
            asked = [conversations[i] for i in missing]
            labels = [self._label(i, conversations[i]) for i in missing]
            self._ask_all(asked, labels, max_new_tokens, lambda place, reply: keep(missing[place], reply.to_dict()))

        self.asked += len(conversations)
        keys = [self._key(conversation, max_new_tokens) for conversation in conversations]
        values = self.cache.filled(keys, compute, found=on_disk, progress=progress)
        replies = [Reply.from_dict(value) for value in values]
        self.left_out |= {setting for reply in replies for setting in reply.left_out}
        self.filtered += sum(reply.filtered for reply in replies)
        self.used_up += sum(not (reply.text or reply.finished or reply.filtered) for reply in replies)
        return [_answer(reply) for reply in replies]

    def notes(self) -> dict[str, str]:
        """What a reader must know of the answers so far: what it is -> how often it was."""
        found = {}
        if again := self.client.retried:
            found["requests repeated"] = ", ".join(f"{count} ({why})" for why, count in again.most_common())
        if self.filtered:
            found["content filter"] = f"{self.filtered} of {self.asked} answers, which count as empty"
        if self.used_up:
            found["limit used up before the answer"] = (
                f"{self.used_up} of {self.asked} answers, which are empty; reasoning counts for --max-new-tokens"
            )
        return found

    def close(self) -> None:
        """Drop the connections."""
        self.client.close()

    def _key(self, conversation: Sequence[Message], max_new_tokens: int) -> list[object]:
        """All that a reply depends on, as far as it can be known: the server may change the model behind its name."""
        messages = [[message.role, message.content] for message in conversation]
        return ["endpoint", str(self.endpoint), messages, {"max_tokens": max_new_tokens, "temperature": 0}]

    def _label(self, place: int, conversation: Sequence[Message]) -> str:
        called = self.names[place] if self.names is not None else f"{place + 1}"
        return f"prompt {called}: {shorten(conversation[-1].content, 60)!r}"

    def _ask_all(
        self,
        conversations: Sequence[Sequence[Message]],
        labels: Sequence[str],
        max_new_tokens: int,
        kept: Callable[[int, Reply], None],
    ) -> None:
        """Ask with a few threads. Each reply is handed on at once and in this thread.

        What no other request would survive ends the asking; requests under way are still waited for, since they may be
        paid for. An interrupt waits for nothing: the threads are daemons.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(conversations)):
            waiting.put(place)
        done: queue.SimpleQueue[tuple[int, Reply] | None] = queue.SimpleQueue()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                while not self.client.stopped:
                    place = waiting.get_nowait()
                    try:
                        done.put((place, self._ask(conversations[place], max_new_tokens, labels[place])))
                    except BaseException as error:
                        failures.append(error)
                        hopeless = not isinstance(error, EndpointError) or error.hopeless
                        if hopeless or len(failures) >= MAX_FAILED:
                            self.client.stop()
            except queue.Empty:
                pass
            finally:
                done.put(None)

        working = min(self.client.settings.concurrency, len(conversations))
        for _ in range(working):
            threading.Thread(target=work, daemon=True).start()
        answered = 0
        try:
            while working:
                if (item := done.get()) is None:
                    working -= 1
                else:
                    answered += 1
                    kept(*item)
        except BaseException:
            self.client.stop()
            raise
        if failures:
            raise self._summed_up(failures, answered, len(conversations))

    def _ask(self, conversation: Sequence[Message], max_new_tokens: int, label: str) -> Reply:
        return self.client.complete(conversation, max_tokens=max_new_tokens, where=label)

    def _summed_up(self, failures: Sequence[BaseException], answered: int, asked: int) -> BaseException:
        """The first failure, with what became of the others."""
        first = failures[0]
        if not isinstance(first, EndpointError):
            return first
        kept = self.from_cache + answered
        state = f"{asked - answered} of {self.asked} prompts have no answer yet"
        if self.cache.keeps:
            state += f"; the {kept} answers that there are, are kept: the same command asks only for the rest"
        return EndpointError.of(
            first.what, where=first.where or "", fix=f"{first.fix}. {state}", hopeless=first.hopeless
        )


def _answer(reply: Reply) -> Answer:
    usage = None
    if reply.prompt_tokens is not None and reply.completion_tokens is not None:
        usage = Usage(reply.prompt_tokens, reply.completion_tokens, reply.seconds)
    return Answer(reply.text, reply.finished, reply.completion_tokens, usage)
