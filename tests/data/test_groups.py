"""The layout of prompt groups and the cutting of batches, by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from burnish.data.batching import DataOrder, micro_batches, split
from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import DataError


def group(n_prompt: int, *lengths: int, index: int = 0) -> PromptGroup:
    return PromptGroup(tuple(range(1, n_prompt + 1)), tuple(Response.full([9] * n) for n in lengths), "x:1", index)


def test_shared_layout_by_hand() -> None:
    first = PromptGroup((5, 6), (Response.full([7, 2]), Response((8, 3, 2), (True, False, True))), "a:1", 4)
    batch = collate([first, PromptGroup((9,), (Response.full([2]),), "a:2", 5)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 2, 8, 3, 2], [9, 2, 0, 0, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4], [0, 1, 0, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 1, 2, 2, 2], [0, 1, -1, -1, -1, -1, -1]]
    # The first token of each response is predicted from the prompt's last token, the others from the one before.
    assert batch.predictors.tolist() == [1, 2, 1, 5, 7]
    assert batch.targets.tolist() == [7, 2, 8, 2, 2]
    assert batch.response_of.tolist() == [0, 0, 1, 1, 2]
    assert batch.last_positions.tolist() == [3, 6, 8]
    assert batch.group_of.tolist() == [0, 0, 1]
    assert (batch.n_responses, batch.n_loss_tokens, batch.n_tokens) == (3, 5, 9)
    assert (batch.indices, batch.origins) == ((4, 5), ("a:1", "a:2"))


def test_rows_layout_repeats_the_prompt() -> None:
    batch = collate([PromptGroup((5, 6), (Response.full([7, 2]), Response.full([8, 3, 2])))], layout="rows")
    assert batch.input_ids.tolist() == [[5, 6, 7, 2, 0], [5, 6, 8, 3, 2]]
    assert batch.predictors.tolist() == [1, 2, 6, 7, 8]
    assert batch.response_of.tolist() == [0, 0, 1, 1, 1]


def test_repeated_by_hand() -> None:
    one = PromptGroup((5, 6), (Response.full((7,)), Response((8, 9), (True, False))), "x:1", 4)
    two = PromptGroup((5,), (Response.full((7, 8)),), "x:2", 6)
    twice = collate([one, two]).repeated(2)  # rows of width 5
    assert twice.input_ids.tolist() == [[5, 6, 7, 8, 9], [5, 7, 8, 0, 0]] * 2
    assert twice.position_ids.tolist() == [[0, 1, 2, 2, 3], [0, 1, 2, 0, 0]] * 2
    assert twice.segment_ids.tolist() == [[0, 0, 1, 2, 2], [0, 1, 1, -1, -1]] * 2
    assert twice.predictors.tolist() == [1, 1, 5, 6, 11, 11, 15, 16]
    assert twice.targets.tolist() == [7, 8, 7, 8] * 2
    assert twice.response_of.tolist() == [0, 1, 2, 2, 3, 4, 5, 5]
    assert twice.last_positions.tolist() == [2, 4, 7, 12, 14, 17]
    assert twice.group_of.tolist() == [0, 0, 1, 2, 2, 3]
    assert (twice.indices, twice.origins) == ((4, 6, 4, 6), ("x:1", "x:2", "x:1", "x:2"))


def test_what_can_not_be_laid_out_is_refused() -> None:
    with pytest.raises(DataError, match="at least one token"):
        PromptGroup((), (Response.full([1]),))
    with pytest.raises(DataError, match="loss flags"):
        Response((1, 2), (True,))
    with pytest.raises(DataError, match="at least one group"):
        collate([])


def test_micro_batches_keep_to_the_budget_with_padding_and_lose_nothing() -> None:
    groups = [group(n, 3, index=n) for n in (2, 30, 5, 11, 3, 7, 28)]
    batches = micro_batches(groups, tokens=66)
    assert sorted(g.index for b in batches for g in b) == [2, 3, 5, 7, 11, 28, 30]
    assert all(len(b) * max(g.row_length for g in b) <= 66 for b in batches)
    assert [g.index for b in batches for g in b] == [30, 28, 11, 7, 5, 3, 2]  # longest first


@pytest.mark.parametrize("seed", range(6))
def test_no_other_cut_of_the_batch_computes_less(seed: int) -> None:
    lengths = random.Random(seed).choices(range(4, 60), k=9)
    batches = micro_batches([group(n, 3) for n in lengths], tokens=192)  # a pass counts as 192 / 32 = 6 tokens
    falling = sorted((n + 3 for n in lengths), reverse=True)

    def cost(parts: list[list[int]]) -> int:
        return sum(len(part) * part[0] + 6 for part in parts)

    def cuts(rows: list[int]) -> Iterator[list[list[int]]]:
        if not rows:
            yield []
        for first in range(1, len(rows) + 1):
            if first == 1 or first * rows[0] <= 192:
                yield from ([rows[:first], *rest] for rest in cuts(rows[first:]))

    assert cost([[g.row_length for g in b] for b in batches]) == min(cost(parts) for parts in cuts(falling))


def test_rows_of_one_length_are_not_torn_apart_and_unlike_ones_are_not_padded() -> None:
    lengths = [20] * 4 + [60] * 2
    batches = micro_batches([group(n - 3, 3) for n in lengths], tokens=400)
    # One pass: 6 x 60 = 360. Two: 2 x 60 + 4 x 20 = 200, and a pass more at 400 / 32 = 12.
    assert [[g.row_length for g in b] for b in batches] == [[60, 60], [20] * 4]


def test_where_a_pass_costs_more_rows_are_padded_to_spare_one() -> None:
    lengths = [20] * 4 + [60] * 2
    batches = micro_batches([group(n - 3, 3) for n in lengths], tokens=400, pass_share=2)
    # A pass counts as 400 / 2 = 200 tokens: one costs 360 + 200, two cost 200 + 2 x 200.
    assert [[g.row_length for g in b] for b in batches] == [[60, 60, *[20] * 4]]


def test_a_group_over_the_budget_stands_alone() -> None:
    assert [len(b) for b in micro_batches([group(50, 9), group(2, 2), group(2, 2)], tokens=20)] == [1, 2]


def test_rows_layout_counts_a_row_a_response() -> None:
    # Two responses a group: 2 rows of 8 tokens. Two groups take 32 tokens, three would take 48.
    sizes = [len(b) for b in micro_batches([group(4, 4, 4)] * 3, tokens=32, layout="rows")]
    assert sorted(sizes) == [1, 2]


def test_order_sees_each_example_once_an_epoch_and_differs_between_epochs() -> None:
    order = DataOrder(n=10, batch_size=4, seed=3)
    assert order.steps_per_epoch == 3
    epochs = [[i for step in range(e * 3, e * 3 + 3) for i in order.batch(step)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert order.batch(4) == DataOrder(10, 4, 3).batch(4)
    assert order.batch(0) != DataOrder(10, 4, 4).batch(0)


def test_split_is_disjoint_and_complete() -> None:
    train, held = split(20, 0.1, seed=1)
    assert len(held) == 2
    assert sorted(train + held) == list(range(20))
    assert split(20, 0.1, seed=1) == (train, held)
    assert split(5, 0.0, seed=1) == ([0, 1, 2, 3, 4], [])
    assert len(split(5, 0.01, seed=1)[1]) == 1
