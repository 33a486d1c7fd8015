"""The machine: what it is, and how fast it multiplies matrices.

python benchmarks/common/machine.py          one line of JSON: FLOP/s in float32 and bfloat16
python benchmarks/common/machine.py cuda     the same of the GPU
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the square matrices: so large that starting a product costs nothing."""
FIRST_SIDE = 256
"""Where the search for a product begins that does not take too long."""
PRODUCTS = 8
PATIENCE = 5.0
"""Seconds that all products of a measurement may take: without units for a dtype a single large one takes many."""


def describe() -> str:
    """Processor, cores, and what of its matrix and vector units matters here."""
    fields = _cpuinfo()
    name, flags = fields.get("model name", platform.machine()), set(fields.get("flags", "").split())
    units = [unit for unit, flag in (("AVX-512", "avx512f"), ("AMX", "amx_bf16")) if flag in flags]
    without = [] if "amx_bf16" in flags else ["no AMX"]
    return ", ".join([name, f"{os.cpu_count()} cores", *units, *without])


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions that multiply bfloat16; without them it is slower than float32."""
    return bool({"amx_bf16", "avx512_bf16"} & set(_cpuinfo().get("flags", "").split()))


def _cpuinfo() -> dict[str, str]:
    """`model name` and `flags` of the last core, where Linux tells them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return {}
    text = cpuinfo.read_text(encoding="utf-8")
    return dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, flags=re.MULTILINE))


def product_rate(dtype: str, *, device: str = "cpu", side: int | None = None, products: int = PRODUCTS) -> float:
    """A device's rate of matrix products, in FLOP/s: the fastest of several of `side` x `side` by `side` x `side`.

    A product counts 2 side^3 operations. The fastest, since whatever disturbs a product can only slow it down. Where
    products of that size would take longer than `PATIENCE`, smaller ones are taken: the largest, by doubling, that do
    not.
    """
    largest = side or SIDE[device]
    side = min(FIRST_SIDE, largest)
    while side < largest and 8 * products * _product_seconds(dtype, device, side, 1) < PATIENCE:  # 2^3 = 8
        side = min(2 * side, largest)
    return 2.0 * side**3 / _product_seconds(dtype, device, side, products)


def _product_seconds(dtype: str, device: str, side: int, products: int) -> float:
    """Seconds of the fastest of several products, after one that warms up."""
    import torch

    left, right = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(products + 1):  # the first one warms up; it is never the fastest
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def synchronize() -> None:
    """Wait until the GPU has done what it was given, if this process uses one: before a clock is read."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def rates_command(device: str = "cpu") -> list[str]:
    """The command of a process that measures the rates, so that the one that asks need not load torch."""
    return [sys.executable, str(Path(__file__).resolve()), device]


def fastest(measured: list[dict[str, Any]]) -> dict[str, float]:
    """The highest rate of each dtype over several measurements."""
    return {dtype: max(float(one[dtype]) for one in measured) for dtype in ("float32", "bfloat16")}


if __name__ == "__main__":
    where = (sys.argv[1:] or ["cpu"])[0]
    print(json.dumps({dtype: product_rate(dtype, device=where) for dtype in ("float32", "bfloat16")}))
