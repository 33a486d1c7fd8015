"""The benchmarks are scripts: they find each other in their own directory, and watch burnish for the length of their
process, which the tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]


@pytest.fixture(autouse=True)
def _watched_no_longer() -> Iterator[None]:
    """What a side puts in place of burnish's own is burnish's own again after the test."""
    from common.sides import restore

    yield
    restore()
