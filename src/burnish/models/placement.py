"""Where a model's weights lie and in which dtype it computes: what `auto` means on this machine."""

from __future__ import annotations

import sys
import time
from functools import cache

import torch

from burnish.errors import ConfigError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

WORTH = 1.25
"""float32 takes twice the memory of bfloat16: it must be so many times faster to be chosen."""


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:1` means.

    Raises:
        ConfigError: when it does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the device {name!r} can't be used: {reason}", where="device", fix="use auto or cpu"
        ) from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `bfloat16`, `float32` or `auto` means on a device.

    `auto` is bfloat16, but float32 on a CPU that multiplies float32 faster: matrix units (AMX) are far quicker in
    bfloat16, while server CPUs that know bfloat16 without such a unit may be slower in it.

    Raises:
        ConfigError: for another name.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise ConfigError(f"unknown dtype {name!r}", where="dtype", fix=f"use one of: auto, {', '.join(DTYPES)}")
    if device.type == "cpu" and product_seconds(torch.float32) * WORTH < product_seconds(torch.bfloat16):
        return torch.float32
    return torch.bfloat16


@cache
def product_seconds(dtype: torch.dtype) -> float:
    """The least of some timings of one matrix product on this CPU, of the size of a small model's layer."""
    left, right = torch.ones(512, 640).to(dtype), torch.ones(2048, 640).to(dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - started)
    return best


def peak_memory_gb() -> float:
    """The most memory that the process has held, in GB (1e9 bytes): on the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
