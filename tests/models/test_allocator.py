"""Freed tensors go back to the system: read off glibc's own count of the bytes that have mappings of their own."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys

import pytest

from burnish.models import allocator

MEBIBYTE = 1 << 20
PROBE = """
import ctypes, json, sys

class Info(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "set":
    from burnish.models.allocator import return_freed_tensors
    done = return_freed_tensors()
else:
    done = None
libc.free(libc.malloc(24 << 20))  # from here on glibc would keep blocks of up to 24 MiB on its heap
before = libc.mallinfo2().hblkhd
block = libc.malloc(4 << 20)
print(json.dumps([done, libc.mallinfo2().hblkhd - before]))
"""

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33"
)


def probe(how: str, **environment: str) -> tuple[bool | None, int]:
    kept = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_")}
    run = subprocess.run(
        [sys.executable, "-c", PROBE, how], env=kept | environment, capture_output=True, text=True, check=True
    )
    done, mapped = json.loads(run.stdout)
    return done, mapped


@glibc
def test_a_block_has_a_mapping_of_its_own_whatever_was_freed_before() -> None:
    assert probe("leave")[1] < 4 * MEBIBYTE  # what the setting is for: the block went to the heap
    done, mapped = probe("set")
    assert done is True
    assert mapped >= 4 * MEBIBYTE


@glibc
@pytest.mark.parametrize(
    "own",
    [{"MALLOC_MMAP_THRESHOLD_": "33554432"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432"}],
    ids=["variable", "tunable"],
)
def test_the_users_own_setting_stays(own: dict[str, str]) -> None:
    done, mapped = probe("set", **own)
    assert done is False
    assert mapped < 4 * MEBIBYTE


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("asked a library that is not glibc"))
    assert allocator.return_freed_tensors() is False
