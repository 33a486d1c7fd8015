"""Useful floating-point operations: what a training step must compute, however it is done.

Counted are the products with weights, over real tokens (no padding), each prompt once for all of its responses. A
multiplication and an addition are two operations. With N weights in the decoder's linear layers, n in their LoRA pairs
(r (inputs + outputs) a layer), a vocabulary V and a width D:

    a token, forward                 2 N + 2 n
    a token, backward                2 N + 4 n      the frozen weights pass gradients on and get none; LoRA's do both
    a response token, output matrix  2 V D forward, 2 V D backward (frozen, too); none for a reward model
    the reference (DPO)              2 N a token and 2 V D a response token more, forward alone

Not counted: attention's products of tokens with tokens, a reward model's scalar head, norms, activations, embeddings,
the loss, the optimiser. Backward of the first layer is counted in full, although nobody needs its input's gradient.

Both sides are held against these same numbers: a side that computes a prompt twice, or padding, or the output matrix
over prompt positions, needs more time for the same useful work, and its share of the machine's rate is lower. burnish
leaves out a part of the output matrix's product in backward (the columns that are negligible for all tokens of a tile):
counted in full, its share of the rate credits work that it avoids; `head_kept` counts only what it computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Lengths = tuple[int, Sequence[int]]
"""Tokens of a prompt, and of each of its responses (all of which carry loss)."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What of a model the count needs.

    Attributes:
        linear: N, weights in the decoder's linear layers, without embeddings and output matrix.
        widths: inputs + outputs, summed over these layers; r times that are LoRA's parameters.
        hidden: D.
        vocabulary: V.
    """

    linear: int
    widths: int
    hidden: int
    vocabulary: int


def step_flops(
    stage: str,
    size: ModelSize,
    groups: Iterable[Lengths],
    *,
    rank: int,
    reference: bool = False,
    head_kept: float = 1.0,
) -> float:
    """Useful operations of one optimiser step.

    Args:
        stage: sft, reward or dpo.
        size: of the model.
        groups: the prompts and responses of the step.
        rank: r, LoRA's.
        reference: whether the reference's log-probs are computed in the step.
        head_kept: the share of the output matrix's product in backward that counts.
    """
    tokens = predicted = 0
    for prompt, responses in groups:
        tokens += prompt + sum(responses)
        predicted += sum(responses)
    head = 0 if stage == "reward" else size.vocabulary * size.hidden
    trained = tokens * (4 * size.linear + 6 * rank * size.widths) + predicted * (2 + 2 * head_kept) * head
    frozen = tokens * 2 * size.linear + predicted * 2 * head
    return float(trained + (frozen if reference else 0))


def full_flops(size: ModelSize, groups: Iterable[Lengths]) -> float:
    """Useful operations of a step of SFT that trains all weights: 6 N a token and 6 V D a response token."""
    tokens = predicted = 0
    for prompt, responses in groups:
        tokens += prompt + sum(responses)
        predicted += sum(responses)
    return float(6 * (tokens * size.linear + predicted * size.vocabulary * size.hidden))


def ppo_flops(
    size: ModelSize,
    prompts: Sequence[int],
    new_tokens: int,
    *,
    rank: int,
    epochs: int,
    upper: float = 1.0,
    head_kept: float = 1.0,
) -> float:
    """Useful operations of an update of PPO in which every role is LoRA on one model.

    Sampling (`sampling_flops`); a forward pass each of reference, critic and reward model over prompt and response;
    in each epoch forward and backward of policy and critic. The reference and the policy have log-probs of the
    response tokens, critic and reward model a scalar head. What the layers below LoRA's make of the responses is
    counted once: it is the same for all roles and epochs, and no gradient goes there.

    Args:
        size: of the model.
        prompts: tokens of each prompt.
        new_tokens: tokens of each response.
        rank: r, LoRA's.
        epochs: over each rollout.
        upper: the share of the layers that have LoRA.
        head_kept: as in `step_flops`.
    """
    predicted = len(prompts) * new_tokens
    tokens = sum(prompts) + predicted
    head, linear, lora = size.vocabulary * size.hidden, upper * size.linear, upper * rank * size.widths
    below = tokens * 2 * (size.linear - linear)
    reading = tokens * (3 * 2 * linear + 2 * 2 * lora) + predicted * 2 * head
    learning = 2 * tokens * (4 * linear + 6 * lora) + predicted * (2 + 2 * head_kept) * head
    return sampling_flops(size, prompts, new_tokens) + below + reading + epochs * learning


def sampling_flops(size: ModelSize, prompts: Iterable[int], new_tokens: int) -> float:
    """Useful operations of sampling `new_tokens` tokens to each prompt: 2 N a token that is read (the last one drawn
    is not), 2 V D a token that is drawn."""
    total = 0
    for prompt in prompts:
        total += (prompt + new_tokens - 1) * 2 * size.linear + new_tokens * 2 * size.vocabulary * size.hidden
    return float(total)
