"""The made tokenizers as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from tests.data.made_tokenizers import LLAMA3_WORDS, make_byte_level, make_spaces_as_text


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """Shared: a test that changes a tokenizer makes its own."""
    return make_byte_level()


@pytest.fixture(scope="session")
def spaces_as_text() -> PreTrainedTokenizerFast:
    """Shared: a test that changes a tokenizer makes its own."""
    return make_spaces_as_text()


@pytest.fixture(scope="session")
def llama_like() -> PreTrainedTokenizerFast:
    """Byte-level BPE with Llama 3's rule of what a word is: newlines stick to what stands before them."""
    return make_byte_level(LLAMA3_WORDS)


@pytest.fixture(params=["byte_level", "spaces_as_text", "llama_like"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Each of the three kinds."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """A tokenizer of its own; `make_tokenizer(eos_token=None)` leaves a special token away."""
    return make_byte_level
