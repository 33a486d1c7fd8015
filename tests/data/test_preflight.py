"""Preflight: each fault made on purpose, found with its number, its place and its remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from burnish.data.chat import ChatTemplate, encode_example, resolve_template
from burnish.data.examples import Example, Message, Origin
from burnish.data.groups import PromptGroup, Response
from burnish.data.preflight import Finding, PreflightReport, neighbourhood, preflight
from burnish.errors import PreflightError


def encode(template: ChatTemplate, tokenizer: Any, answers: Sequence[str]) -> list[PromptGroup]:
    """One example for each answer, as lines 1, 2, ... of a file."""
    examples = [
        Example((Message("user", "Capital?"),), ((Message("assistant", text),),), Origin("d.jsonl", n))
        for n, text in enumerate(answers, start=1)
    ]
    return [encode_example(template, tokenizer, example, index=i) for i, example in enumerate(examples)]


def check(
    groups: Sequence[PromptGroup], tokenizer: Any, template: ChatTemplate, **options: Any
) -> tuple[PreflightReport, list[PromptGroup]]:
    return preflight(groups, tokenizer, template, **{"context": 1000, "embeddings": None, **options})


def only(report: PreflightReport) -> Finding:
    (finding,) = report.findings
    return finding


def test_good_data_has_no_findings(byte_level: Any) -> None:
    template = resolve_template(byte_level, "plain")
    groups = encode(template, byte_level, ["Paris.", "Rome."])
    report, kept = check(groups, byte_level, template, embeddings=torch.eye(len(byte_level)))
    assert report.findings == ()
    assert report.ok
    report.raise_if_failed()
    assert kept == groups
    assert report.n_examples == 2
    assert report.n_prompt_tokens == sum(len(group.prompt) for group in groups)
    assert report.n_loss_tokens == sum(len(group.responses[0].ids) for group in groups)
    assert report.neighbourhoods[0].text == "</s>"
    assert [n.text for n in report.neighbourhoods[1:]].count(":") == 1


def test_plain_texts_need_no_stop_token_and_are_counted(byte_level: Any) -> None:
    template = resolve_template(byte_level, "plain")
    talk = encode(template, byte_level, ["Paris."])
    text = encode_example(template, byte_level, Example((), (), Origin("d.jsonl", 2), {}, "Once upon a time."))
    mixed = only(check([*talk, text], byte_level, template)[0])
    assert (mixed.level, "1 of 2 examples are plain text" in mixed.what) == ("info", True)
    alone = only(check([text], byte_level, template)[0])
    assert (alone.level, alone.where) == ("warning", "d.jsonl:2")
    # The same tokens as a conversation's response are an error: the model would never stop.
    assert only(check([replace(text, plain_text=False)], byte_level, template)[0]).level == "error"


def of_length(prompt: int, *responses: int, origin: str = "", end: int = 9) -> PromptGroup:
    """A group of the given numbers of tokens; every response ends with token `end`, all of it with loss."""
    return PromptGroup((1,) * prompt, tuple(Response.full([3] * (n - 1) + [end]) for n in responses), origin)


class Words:
    """A tokenizer of four words, enough for what preflight asks."""

    special_tokens_map: dict[str, Any]
    chat_template = bos_token = unk_token = None
    eos_token, pad_token = "<eos>", "<pad>"
    ids = {"<eos>": 9, "<pad>": 0, "role": 2, "x": 3}  # noqa: RUF012

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [self.ids[text]]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        names = {i: text for text, i in self.ids.items()}
        return "".join(names.get(i, f"#{i}") for i in token_ids)


@pytest.fixture
def words() -> Any:
    return Words()


TEMPLATE = ChatTemplate("test", "", "<eos>", ("role",))


# ---- lengths ----


@pytest.mark.parametrize(
    ("lengths", "median", "p95"),
    [
        (list(range(1, 21)), 10, 19),  # ranks 20 x 0.5 = 10 and 20 x 0.95 = 19
        (list(range(1, 22)), 11, 20),  # 10.5 and 19.95, rounded up
        ([7], 7, 7),
    ],
)
def test_lengths_by_nearest_rank(words: Any, lengths: list[int], median: int, p95: int) -> None:
    report, _ = check([of_length(n - 1, 1) if n > 1 else of_length(1) for n in reversed(lengths)], words, TEMPLATE)
    assert (report.lengths.p50, report.lengths.p95, report.lengths.max) == (median, p95, lengths[-1])


def test_the_context_holds_the_prompt_and_its_longest_response(words: Any) -> None:
    groups = [of_length(4, 6, 5), of_length(4, 5, 5)]
    report, _ = check(groups, words, TEMPLATE, context=10)
    assert report.findings == ()
    report, _ = check(groups, words, TEMPLATE, context=9)
    assert only(report).what == "1 of 2 examples exceed the context of 9 tokens; the longest has 10"


def test_too_long_is_an_error_with_count_longest_and_places(words: Any) -> None:
    groups = [of_length(5, n, origin=f"d.jsonl:{n}") for n in range(1, 21)]
    report, kept = check(groups, words, TEMPLATE, context=15)
    finding = only(report)
    assert finding.level == "error"
    assert finding.what == "10 of 20 examples exceed the context of 15 tokens; the longest has 25"
    assert finding.where == "d.jsonl:20, d.jsonl:19, d.jsonl:18, d.jsonl:17, d.jsonl:16 and 5 more"
    assert "too_long: skip" in finding.fix
    assert len(kept) == 20
    with pytest.raises(PreflightError, match="10 of 20 examples exceed"):
        report.raise_if_failed()


def test_too_long_can_be_left_out_and_is_counted(words: Any) -> None:
    groups = [of_length(5, n, origin=f"d.jsonl:{n}") for n in range(1, 21)]
    report, kept = check(groups, words, TEMPLATE, context=15, too_long="skip")
    assert only(report).level == "warning"
    assert report.ok
    assert [len(group.responses[0].ids) for group in kept] == list(range(1, 11))
    assert (report.n_examples, report.n_skipped, report.n_prompt_tokens) == (10, 10, 50)
    assert report.n_loss_tokens == 55
    assert report.lengths.max == 25


def test_nothing_left_is_an_error(words: Any) -> None:
    report, kept = check([of_length(9, 9)], words, TEMPLATE, context=5, too_long="skip")
    assert kept == []
    assert [f.what for f in report.findings if f.level == "error"] == [
        "every example exceeds the context, none is left"
    ]
    assert not check([], words, TEMPLATE)[0].ok


def test_prompts_alone_need_no_loss(words: Any) -> None:
    report, _ = check([of_length(5), of_length(12)], words, TEMPLATE, context=10)
    assert only(report).what == "1 of 2 examples exceed the context of 10 tokens; the longest has 12"
    assert report.n_loss_tokens == 0


# ---- loss and stop token ----


def with_loss(group: PromptGroup, loss: Sequence[bool]) -> PromptGroup:
    return replace(group, responses=(Response(group.responses[0].ids, tuple(loss)),))


def test_an_example_without_loss(words: Any) -> None:
    good = of_length(3, 4, origin="d.jsonl:1")
    bad = with_loss(of_length(3, 4, origin="d.jsonl:2"), [False] * 4)
    report, _ = check([good, bad], words, TEMPLATE)
    first = report.findings[0]
    assert first.level == "error"
    assert first.what == "1 example of 2 with a response in which no token carries loss"
    assert first.where == "d.jsonl:2"


def test_a_response_that_does_not_end_with_the_stop_token(words: Any) -> None:
    report, _ = check([of_length(3, 4), of_length(3, 4, 4, origin="d.jsonl:2", end=3)], words, TEMPLATE)
    finding = only(report)
    assert finding.level == "error"
    assert finding.what == "2 responses in 2 examples without the stop token '<eos>' at the end"
    assert finding.where.startswith("d.jsonl:2")


def test_pad_equal_to_eos_hides_the_eos(words: Any) -> None:
    """The bug that others shipped: labels made by masking the padding id lose the stop token."""
    hidden = with_loss(of_length(3, 4, origin="d.jsonl:1"), [True, True, True, False])
    report, _ = check([hidden], words, TEMPLATE)
    assert only(report).what == "1 response in 1 example whose stop token '<eos>' carries no loss"
    words.pad_token = "<eos>"
    report, _ = check([hidden], words, TEMPLATE)
    assert only(report).level == "error"
    assert "pad and stop are the same token, and masking one hides the other" in only(report).what
    assert "from positions, not from token ids" in only(report).fix


def test_pad_equal_to_eos_is_only_mentioned_where_the_eos_is_trained(words: Any) -> None:
    words.pad_token = "<eos>"
    report, _ = check([of_length(3, 4)], words, TEMPLATE)
    assert only(report).level == "info"
    assert report.ok


def test_a_stop_token_inside_a_turn(words: Any) -> None:
    group = PromptGroup((1,), (Response.full([3, 9, 3, 9]),), "d.jsonl:1")
    assert "'<eos>' inside a turn" in only(check([group], words, TEMPLATE)[0]).what
    two_turns = PromptGroup((1,), (Response((3, 9, 3, 3, 9), (True, True, False, True, True)),), "d.jsonl:1")
    assert check([two_turns], words, TEMPLATE)[0].findings == ()


# ---- template ----


def test_a_prompt_without_the_bos_that_the_tokenizer_writes(make_tokenizer: Callable[..., Any], tmp_path: Any) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    template = resolve_template(tokenizer, str(tmp_path / "t.jinja"))
    groups = encode(template, tokenizer, ["Paris."])
    assert check(groups, tokenizer, template)[0].findings == ()  # this tokenizer itself writes none
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    finding = only(check(groups, tokenizer, template)[0])
    assert finding.level == "warning"
    assert finding.what.startswith("1 prompt of 1 without '<s>' at the beginning")
    plain = resolve_template(tokenizer, "plain")
    assert check(encode(plain, tokenizer, ["Paris."]), tokenizer, plain)[0].findings == ()


def test_a_template_that_writes_the_date(words: Any) -> None:
    dated = replace(TEMPLATE, source="{{ strftime_now('%d') }}")
    finding = only(check([of_length(3, 4)], words, dated)[0])
    assert finding.level == "info"
    assert "today's date" in finding.what


# ---- embeddings ----


def rows(*angles: float) -> Tensor:
    """(V, 2) unit rows at the given angles in degrees."""
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles])


def test_neighbourhood_by_hand() -> None:
    """cos 8° = 0.99027 and cos 9° = 0.98769: the threshold of 0.99 lies between. Lengths do not count."""
    embeddings = rows(0, 8, -9, 90, 180, 3) * torch.tensor([[1.0], [5.0], [1.0], [1.0], [1.0], [0.1]])
    found = neighbourhood(embeddings, 0)
    assert (found.token_id, found.n_within, found.nearest_id) == (0, 2, 5)
    assert found.nearest_cosine == pytest.approx(math.cos(math.radians(3)), abs=1e-6)
    alone = neighbourhood(embeddings, 3)
    assert (alone.n_within, alone.nearest_id) == (0, 1)
    assert alone.nearest_cosine == pytest.approx(math.cos(math.radians(82)), abs=1e-6)
    assert neighbourhood(embeddings, 0, threshold=0.98).n_within == 3


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 6, 100])
def test_neighbourhood_does_not_depend_on_the_chunks(chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = rows(0, 8, -9, 90, 180, 3)
    whole = [neighbourhood(embeddings, i) for i in range(6)]
    monkeypatch.setattr("burnish.data.preflight._CHUNK_ELEMENTS", 2 * chunk_rows)
    for expected in whole:
        found = neighbourhood(embeddings, expected.token_id)
        assert (found.n_within, found.nearest_id) == (expected.n_within, expected.nearest_id)
        assert found.nearest_cosine == pytest.approx(expected.nearest_cosine, abs=1e-6)


def test_neighbourhood_is_measured_in_fp32() -> None:
    """In bf16 these cosines would all round to 1."""
    embeddings = rows(0, 4, 0.5).bfloat16()
    found = neighbourhood(embeddings, 0, threshold=0.999)
    assert (found.n_within, found.nearest_id) == (1, 2)


def test_rows_of_zeros_are_equal_to_each_other_only() -> None:
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    found = neighbourhood(embeddings, 0)
    assert (found.n_within, found.nearest_id, found.nearest_cosine) == (1, 2, 1.0)
    assert neighbourhood(embeddings, 1).n_within == 0


def vocabulary(**angles: float) -> Tensor:
    """(10, 2) embedding: far apart, but for the named ids."""
    spread = [float(36 * i) for i in range(10)]
    for name, angle in angles.items():
        spread[int(name.removeprefix("t"))] = angle
    return rows(*spread)


def test_an_untrained_stop_token_is_an_error_with_its_numbers(words: Any) -> None:
    embeddings = vocabulary(t9=36, t8=37, t7=38)  # ids 1, 7 and 8 within 2 degrees of the stop token, 9
    report, _ = check([of_length(3, 4)], words, TEMPLATE, embeddings=embeddings)
    finding = only(report)
    assert finding.level == "error"
    assert "stop token '<eos>' (id 9) looks untrained: 3 other tokens within cosine 0.99" in finding.what
    assert "the nearest '#1' at 1.0000" in finding.what
    assert "plain" in finding.fix
    assert "trainable_tokens: ['<eos>']" in finding.fix
    assert report.neighbourhoods[0].n_within == 3


def test_a_stop_token_whose_row_trains_is_no_error(words: Any) -> None:
    embeddings = vocabulary(t9=36)
    report, _ = check([of_length(3, 4)], words, TEMPLATE, embeddings=embeddings, trainable_tokens=["<eos>"])
    assert only(report).level == "info"
    assert "its row is trained here" in only(report).what
    assert report.ok


def test_an_untrained_role_token_is_a_warning(words: Any) -> None:
    report, _ = check([of_length(3, 4)], words, TEMPLATE, embeddings=vocabulary(t2=36))
    assert only(report).level == "warning"
    assert only(report).what.startswith("the role token 'role' (id 2) looks untrained: 1 other token within")
    assert report.ok


def test_embeddings_that_train_are_not_measured(words: Any) -> None:
    assert check([of_length(3, 4)], words, TEMPLATE, embeddings=None)[0].neighbourhoods == ()


def test_ids_beyond_the_embedding(words: Any) -> None:
    report, _ = check([of_length(3, 4, origin="d.jsonl:1")], words, TEMPLATE, embeddings=vocabulary()[:9])
    assert [f.level for f in report.findings] == ["error", "error"]
    assert report.findings[0].what == "1 example with token ids beyond the model's 9 embedding rows"
    assert report.findings[0].where == "d.jsonl:1"


def test_several_errors_are_raised_together(words: Any) -> None:
    long = with_loss(of_length(20, 4, origin="d.jsonl:1"), [False] * 4)
    report, _ = check([long], words, TEMPLATE, context=10)
    with pytest.raises(PreflightError) as caught:
        report.raise_if_failed()
    text = str(caught.value)
    assert text.startswith("3 things make this unfit to train on:")
    assert "exceed the context" in text
    assert "no token carries loss" in text
    assert "whose stop token '<eos>' carries no loss" in text
    assert text.count("d.jsonl:1") == 3


def test_a_shorter_row_in_the_same_direction_is_no_rival_a_row_as_long_is() -> None:
    """By hand: own row (2, 0). Along it, (1.9, 0.1) has 0.95 of its logit and cosine 0.9986; (1.98, 0.1) has 0.99."""
    embeddings = torch.tensor([[2.0, 0.0], [1.9, 0.1], [0.0, 2.0]])
    found = neighbourhood(embeddings, 0)
    assert (found.n_within, found.n_confusable) == (1, 0)
    embeddings[1] = torch.tensor([1.98, 0.1])
    found = neighbourhood(embeddings, 0)
    assert (found.n_within, found.n_confusable) == (1, 1)
