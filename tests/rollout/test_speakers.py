"""Speakers: how conversations become prompts, streams of text, and models loaded to be talked to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from burnish.data.chat import decode_response, install_template, resolve_template
from burnish.data.examples import Message
from burnish.errors import ConfigError, DataError, ModelError
from burnish.models.adapters import save_adapter
from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.roles import Backbone, Role
from burnish.rollout.answers import Answer
from burnish.rollout.sampler import Sample, SamplingParams
from burnish.rollout.speakers import Speaker, TextStream, load_speakers
from tests.models.families import BOS_ID, EOS_ID, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TALK = [Message("system", "Be short."), Message("user", "hi"), Message("assistant", "yes"), Message("user", "the end")]


@pytest.fixture(scope="module")
def role() -> Role:
    return Backbone(tiny("llama", vocab_size=len(TOKENIZER))).role()


def test_a_raw_speaker_gets_the_last_user_message_as_plain_text(role: Role) -> None:
    speaker = Speaker.of("x", role, TOKENIZER)
    assert speaker.is_raw
    assert speaker.stop_ids == (EOS_ID,)
    assert TOKENIZER.decode(speaker.prompt(TALK)) == "<bos>the end"
    assert speaker.prompt(TALK)[0] == BOS_ID
    with pytest.raises(DataError, match="user message"):
        speaker.prompt([Message("system", "x")])


def test_a_template_of_the_tokenizers_own_or_one_that_is_asked_for_is_used(role: Role) -> None:
    plain = "<bos>Be short.\n\nUser: hi\nAssistant: yes<eos>\nUser: the end\nAssistant:"
    own = tiny_tokenizer()
    install_template(resolve_template(own, "plain"), own)
    for speaker in (Speaker.of("x", role, own), Speaker.of("x", role, TOKENIZER, template="plain")):
        assert not speaker.is_raw
        assert TOKENIZER.decode(speaker.prompt(TALK)) == plain
    assert Speaker.of("x", role, own, template="raw").is_raw


def test_an_answer_is_text_without_the_stop_token(role: Role) -> None:
    speaker = Speaker.of("x", role, TOKENIZER)
    ids = TOKENIZER(" hello world", add_special_tokens=False)["input_ids"]
    assert speaker.answer(Sample([*ids, EOS_ID], True, [])) == Answer("hello world", True, len(ids))
    assert speaker.answer(Sample(ids, False, [])) == Answer("hello world", False, len(ids))


def test_answers_stop_at_the_speakers_stop_token(role: Role) -> None:
    speaker = Speaker.of("x", role, TOKENIZER)
    free = Speaker("x", role, TOKENIZER, None, ())
    params = SamplingParams(max_new_tokens=12, temperature=0.0)
    told: list[int] = []
    free.answers([TALK], params, on_token=lambda _, token: told.append(token))
    stopping = Speaker("x", role, TOKENIZER, None, (told[3],))
    ((answer,),) = stopping.answers([TALK], params)
    place = told.index(told[3])
    assert (answer.finished, answer.n_tokens) == (True, place)
    assert answer.text == decode_response(TOKENIZER, told[:place], ())
    ((answer,),) = speaker.answers([TALK], SamplingParams(max_new_tokens=12, temperature=0.0, stop_ids=(told[3],)))
    assert answer.finished


@pytest.mark.parametrize(
    "text", [" hello  world \n", "à bientôt", "日本語のテキスト", "a\n\n- b\n- c", "🙂 ok 🙂", "   ", "end \ufffd"]
)
def test_a_stream_gives_in_pieces_what_decoding_gives_at_once(role: Role, text: str) -> None:
    speaker = Speaker.of("x", role, TOKENIZER)
    ids = [*TOKENIZER(text, add_special_tokens=False)["input_ids"], EOS_ID]
    stream = TextStream(speaker)
    pieces = [stream.add(token) for token in ids]
    assert "\ufffd" not in "".join(pieces), "a character is shown when all of its bytes are there"
    assert "".join(pieces) + stream.finish() == text.strip()


def test_a_stream_of_bytes_that_are_no_text_ends_as_decoding_does(role: Role) -> None:
    speaker = Speaker.of("x", role, TOKENIZER)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ids = torch.randint(3, len(TOKENIZER), (30,), generator=generator).tolist()
        stream = TextStream(speaker)
        assert "".join([*map(stream.add, ids), stream.finish()]) == decode_response(TOKENIZER, ids, ())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw base model, and two adapters on it: one with a chat template, one without a tokenizer."""
    root = tmp_path_factory.mktemp("models")
    model = tiny("llama", vocab_size=len(TOKENIZER))
    model.save_pretrained(root / "base")
    TOKENIZER.save_pretrained(root / "base")
    for seed, name in enumerate(("tuned", "bare")):
        inject(model, name, LoRAConfig(rank=2), seed=seed)
        with torch.no_grad():
            for i, p in enumerate(adapter_parameters(model, name).values()):
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i + 100 * seed)))
        (root / name).mkdir()
        save_adapter(model, name, root / name, base=str(root / "base"))
    tokenizer = tiny_tokenizer()
    install_template(resolve_template(tokenizer, "plain"), tokenizer)
    tokenizer.save_pretrained(root / "tuned")
    return root


def test_adapters_on_one_base_share_its_weights_and_answer_as_if_alone(saved: Path) -> None:
    base, tuned, bare = (str(saved / name) for name in ("base", "tuned", "bare"))
    speakers = load_speakers([f"sft={tuned}", base, bare], dtype=torch.float32)
    assert [s.name for s in speakers] == ["sft", base, bare]
    assert [s.is_raw for s in speakers] == [False, True, True]
    assert len({id(s.role.backbone) for s in speakers}) == 1
    params = SamplingParams(max_new_tokens=10, temperature=0.0)
    together = [s.answers([TALK], params)[0][0].text for s in speakers]
    assert len(set(together)) == 3
    for spec, text in zip((tuned, base, bare), together, strict=True):
        (alone,) = load_speakers([spec], dtype=torch.float32)
        assert alone.answers([TALK], params)[0][0].text == text


def test_wrong_names_are_told_before_anything_is_loaded(saved: Path) -> None:
    base = str(saved / "base")
    with pytest.raises(ConfigError, match="at least one model"):
        load_speakers([], dtype=torch.float32)
    with pytest.raises(ConfigError, match="two models are called 'a'"):
        load_speakers([f"a={base}", f"a={base}"], dtype=torch.float32)
    with pytest.raises(ModelError, match="no such directory"):
        load_speakers([base, "./nowhere"], dtype=torch.float32)
