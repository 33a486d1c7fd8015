"""RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) as one node of the graph: y = x / rms(x) * w.

Written out in eager operations, as transformers has it, a norm keeps three fp32 copies of its input for backward and
makes a dozen passes over memory. Gemma 3 has six norms a layer. This one keeps its input, which is kept anyway, and one
number a row; of these its output is made again in backward, where a layer behind it needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from burnish.models.remade import set_recipe

# torch's own kernels: what nn.functional.rms_norm calls on a GPU, with the rows' factors, of which backward makes use.
_kernel = torch.ops.aten._fused_rms_norm
_kernel_backward = torch.ops.aten._fused_rms_norm_backward


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offset: float, eps: float) -> tuple[Tensor, Tensor]:
        ctx.offset, ctx.kernel = offset, _kernel_takes(x, weight, offset)
        normed, inverse = _norm(x, weight, offset, eps)
        ctx.save_for_backward(x, inverse, weight)
        ctx.mark_non_differentiable(inverse)
        return normed, inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        if ctx.kernel:
            needs = list(ctx.needs_input_grad[:2])
            found = _kernel_backward(grad, x, weight.shape, inverse, weight, needs)
            return *(one if need else None for one, need in zip(found, needs, strict=True)), None, None
        normed = _divided(x, inverse, x.to(inverse.dtype))
        grad, grad_weight = grad.to(inverse.dtype), None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        scaled = grad * (weight.to(inverse.dtype) + ctx.offset)
        along = (scaled * normed).mean(-1, keepdim=True)
        grad_x = scaled.sub_(normed.mul_(along)).mul_(inverse).to(x.dtype)
        return grad_x, grad_weight, None, None


def _norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> tuple[Tensor, Tensor]:
    """The norm and 1 / rms, by torch's kernel or in eager operations. What is wide is made so first: operations on two
    dtypes at once take twice as long."""
    if _kernel_takes(x, weight, offset):
        normed, inverse = _kernel(x, weight.shape, weight, eps)
        return normed, inverse
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = torch.rsqrt(norm.square_().div_(x.shape[-1]).add_(eps))
    return _weighted(_divided(x, inverse, wide), weight, offset, x.dtype), inverse


def _divided(x: Tensor, inverse: Tensor, wide: Tensor) -> Tensor:
    """x / rms(x) in the dtype of `inverse`, in the memory of `wide`: x in that dtype, unless it is x itself."""
    return x * inverse if wide is x else wide.mul_(inverse)


def _weighted(divided: Tensor, weight: Tensor, offset: float, dtype: torch.dtype) -> Tensor:
    return divided.mul_(weight.to(divided.dtype) + offset).to(dtype)


def _scaled(offset: float, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    return _weighted(_divided(x, inverse, x.to(inverse.dtype)), weight, offset, x.dtype)


def _kernel_takes(x: Tensor, weight: Tensor, offset: float) -> bool:
    """Whether torch has a kernel for it: on a GPU, with a weight of the input's dtype. Gemma's 1 + w would have to be
    rounded to that first."""
    return x.is_cuda and x.dtype == weight.dtype and offset == 0.0


def _made_by_kernel(eps: float, x: Tensor, _: Tensor, weight: Tensor) -> Tensor:
    normed: Tensor = _kernel(x, weight.shape, weight, eps)[0]
    return normed


def rms_norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """(..., D) x / rms(x) * (weight + offset), of x (..., D) and weight (D,); a layer behind it need not keep it."""
    normed: Tensor
    if not torch.is_grad_enabled():
        return _norm(x, weight, offset, eps)[0]
    normed, inverse = _RMSNorm.apply(x, weight, offset, eps)
    if x.requires_grad:
        make = partial(_made_by_kernel, eps) if _kernel_takes(x, weight, offset) else partial(_scaled, offset)
        set_recipe(normed, make, x.detach(), inverse, weight.detach())
    return normed


def fuse_norms(model: nn.Module) -> int:
    """Put `_RMSNorm` in the place of a model's RMSNorm layers, in place.

    A layer is taken only if it is one: by its name and its parameters, and by its output on random input, which tells
    whether the weight stands for w or for w - 1 (Gemma). Others stay as they are.

    Returns:
        How many layers were taken.
    """
    n = 0
    for module in model.modules():
        if not type(module).__name__.endswith("RMSNorm") or [name for name, _ in module.named_parameters()] != [
            "weight"
        ]:
            continue
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if eps is None or next(module.parameters()).dim() != 1:
            continue
        offset = _offset(module, float(eps))
        if offset is not None:
            module.forward = _forward(module, offset, float(eps))
            n += 1
    return n


@torch.no_grad()
def _offset(module: nn.Module, eps: float) -> float | None:
    """0 or 1, whichever makes the fused form equal the layer's own; None if neither does."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[0], generator=generator).to(weight.device, weight.dtype)
    own = module(x)
    if not isinstance(own, Tensor) or own.dtype != x.dtype:
        return None
    tolerance = 1e-5 if weight.dtype in (torch.float32, torch.float64) else 2e-2
    for offset in (0.0, 1.0):
        fused = rms_norm(x, weight, offset, eps)
        if torch.allclose(fused.float(), own.float(), rtol=tolerance, atol=tolerance):
            return offset
    return None


def _forward(module: nn.Module, offset: float, eps: float) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        weight: Tensor = module.weight  # type: ignore[assignment]
        return rms_norm(x, weight, offset, eps)

    return forward
