"""Shared by the tests of models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.models.test_core import TrueFloat64


@pytest.fixture
def true_float64() -> Iterator[None]:
    """Float64 models stay in float64; see `TrueFloat64`."""
    with TrueFloat64():
        yield
