"""The gated product of a decoder's MLP, act(gate) * up (Shazeer 2020, arXiv:2002.05202), as one node of the graph.

In eager operations it keeps four tensors of the MLP's width: gate, act(gate), up, and the product, which the layer
behind it needs. They are more than half of what a layer keeps. This node keeps gate and up, and the product is made
again in backward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from burnish.models.remade import set_recipe

_Known = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
_Halves = Callable[[Tensor], tuple[Tensor, Tensor]]

# The derivatives are autograd's own: they take the gradient and the activation's input.
_ACTIVATIONS: tuple[_Known, ...] = (
    (F.silu, torch.ops.aten.silu_backward),
    (partial(F.gelu, approximate="tanh"), partial(torch.ops.aten.gelu_backward, approximate="tanh")),
    (F.gelu, torch.ops.aten.gelu_backward),
)


class _GatedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: _Known) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return _product(activation[0], gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        act, act_backward = ctx.activation
        grad_gate = act_backward(grad * up, gate) if ctx.needs_input_grad[0] else None
        grad_up = act(gate).mul_(grad) if ctx.needs_input_grad[1] else None
        return grad_gate, grad_up, None


def _product(act: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
    return act(gate).mul_(up)


def gated_product(gate: Tensor, up: Tensor, activation: _Known) -> Tensor:
    """(..., F) act(gate) * up of two tensors (..., F), which the layer behind it need not keep."""
    if gate.dtype != up.dtype:  # one of them through an adapter, under autocast
        return activation[0](gate) * up
    if not torch.is_grad_enabled():
        return _product(activation[0], gate, up)
    product: Tensor = _GatedProduct.apply(gate, up, activation)
    if product.requires_grad:
        set_recipe(product, partial(_product, activation[0]), gate.detach(), up.detach())
    return product


def fuse_gates(model: nn.Module) -> int:
    """Put `gated_product` into a model's gated MLPs, in place.

    An MLP is taken only if it is one: by the names of its layers, by its activation, and by its output on random input
    of several sizes, large ones too: some MLPs clamp. Others stay as they are.

    Returns:
        How many MLPs were taken.
    """
    n = 0
    for module in model.modules():
        halves = _halves(module)
        activation = None if halves is None else _activation(module)
        if halves is None or activation is None or len(inspect.signature(module.forward).parameters) != 1:
            continue
        forward = _forward(module, halves, activation)
        if _alike(module, forward):
            module.forward = forward
            n += 1
    return n


def _halves(mlp: Any) -> _Halves | None:
    """From an MLP's input to gate and up: two layers, or the halves of one; none if this is no gated MLP."""
    layers = dict(mlp.named_children())
    if layers.keys() >= {"gate_proj", "up_proj", "down_proj"}:
        return lambda x: (mlp.gate_proj(x), mlp.up_proj(x))
    if layers.keys() >= {"gate_up_proj", "down_proj"}:
        return lambda x: mlp.gate_up_proj(x).chunk(2, dim=-1)
    return None


@torch.no_grad()
def _activation(module: nn.Module) -> _Known | None:
    own = getattr(module, "act_fn", getattr(module, "activation_fn", None))
    if not callable(own):
        return None
    x = torch.linspace(-8.0, 8.0, 65, dtype=torch.float64)
    values = own(x)
    return next((known for known in _ACTIVATIONS if torch.allclose(known[0](x), values, rtol=0, atol=1e-9)), None)


def _forward(mlp: Any, halves: _Halves, activation: _Known) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        result: Tensor = mlp.down_proj(gated_product(*halves(x), activation))
        return result

    return forward


@torch.no_grad()
def _alike(mlp: Any, forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether the new form gives the last layer what the MLP's own gives it, and the same output, to the bit."""
    weight: Tensor = (mlp.gate_proj if hasattr(mlp, "gate_proj") else mlp.gate_up_proj).weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    inside: list[Tensor] = []
    watching = mlp.down_proj.register_forward_pre_hook(lambda _, arguments: inside.append(arguments[0]))
    try:
        for size in (1.0, 1e2, 1e4):
            own, new = mlp(x * size), forward(x * size)
            if not isinstance(own, Tensor) or not _equal(own, new) or not _equal(*inside[-2:]):
                return False
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever it wants, it is another kind of MLP
        return False
    finally:
        watching.remove()
    return True


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)  # large input may overflow
