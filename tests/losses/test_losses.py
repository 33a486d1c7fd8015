"""Losses against numbers worked by hand, and a test over the registry that every preference loss must pass."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.losses.preference import PREFERENCE_LOSSES, PairLogps, make_loss, pair_logps, preference_loss
from burnish.losses.sft import sft_loss

# One pair for every loss: log-ratios chosen +1.5 (-3 against -4.5), rejected -0.5 (-6 against -5.5), margin h = 2.
PAIR = {"chosen": -3.0, "rejected": -6.0, "ref_chosen": -4.5, "ref_rejected": -5.5}
GOLDEN: dict[str, list[tuple[dict[str, float], float]]] = {
    # -log sigmoid(0.1 * 2) = log(1 + e^-0.2) = log(1.8187308) = 0.5981389
    # with smoothing 0.1: 0.9 * 0.5981389 + 0.1 * log(1 + e^0.2) = 0.5383250 + 0.1 * 0.7981389
    "sigmoid": [({"beta": 0.1}, 0.5981389), ({"beta": 0.1, "label_smoothing": 0.1}, 0.6181389)],
    # (2 - 1 / (2 * 0.1))^2 = (2 - 5)^2; (2 - 1 / (2 * 0.5))^2 = 1
    "ipo": [({"beta": 0.1}, 9.0), ({"beta": 0.5}, 1.0)],
    # DPO's 0.5981389, and 3 nats over the 3 tokens of the chosen response are 1 nat per token
    "rpo": [({"beta": 0.1}, 1.5981389), ({"beta": 0.1, "alpha": 0.2}, 0.7981389), ({"alpha": 0.0}, 0.5981389)],
}


def pairs(**values: float) -> PairLogps:
    tensors = {k: torch.tensor([v], dtype=torch.float64) for k, v in values.items()}
    return PairLogps(**tensors, chosen_tokens=torch.tensor([3]), rejected_tokens=torch.tensor([4]))


def test_sft_is_the_mean_over_the_tokens_of_the_whole_batch() -> None:
    # Two micro-batches of 1 and 3 tokens: -(−2) / 4 and −(−1 −1 −4) / 4 add up to 8 / 4. The mean of the two
    # micro-batch means would be (2 + 2) / 2 here by luck, so take −5 for the first: 11 / 4 against 3.5.
    first, second = torch.tensor([-5.0]), torch.tensor([-1.0, -1.0, -4.0])
    assert (sft_loss(first, 4) + sft_loss(second, 4)).item() == pytest.approx(11 / 4)
    with pytest.raises(ValueError, match="positive"):
        sft_loss(first, 0)


def test_margin_by_hand() -> None:
    assert pairs(**PAIR).margin.item() == pytest.approx(2.0)


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_every_loss_has_a_golden_row(name: str) -> None:
    assert name in GOLDEN, f"add a row worked by hand for {name}"
    for options, expected in GOLDEN[name]:
        assert make_loss({"name": name, **options})(pairs(**PAIR)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
@pytest.mark.parametrize("margin", [-200.0, -3.0, 0.0, 0.7, 3.0, 200.0])
def test_every_loss_has_finite_gradients_that_equal_finite_differences(name: str, margin: float) -> None:
    loss = make_loss({"name": name})

    def value(chosen: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(1, dtype=torch.float64)
        counts = torch.ones(1, dtype=torch.long)
        return loss(PairLogps(chosen, zero, zero, zero, counts, counts)).sum()

    chosen = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (chosen,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_every_loss_falls_with_the_margin_where_the_policy_starts(name: str) -> None:
    loss, zero = make_loss({"name": name}), torch.zeros(1, dtype=torch.float64)
    counts = torch.ones(1, dtype=torch.long)
    chosen, rejected = zero.clone().requires_grad_(), zero.clone().requires_grad_()
    loss(PairLogps(chosen, rejected, zero, zero, counts, counts)).sum().backward()
    assert chosen.grad.item() < 0 < rejected.grad.item()


@pytest.mark.parametrize("name", sorted(PREFERENCE_LOSSES))
def test_every_loss_names_its_paper_and_equation(name: str) -> None:
    assert "arXiv:" in PREFERENCE_LOSSES[name].paper
    assert "eq." in PREFERENCE_LOSSES[name].paper


def test_gradient_of_dpo_weighs_wrong_pairs_more() -> None:
    # Rafailov et al. 2023, eq. 7's gradient: beta sigmoid(-beta h); for h = 0 it is beta / 2.
    zero, counts = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.long)
    for h, expected in ((0.0, 0.05), (10.0, 0.1 / (1 + math.e)), (-10.0, 0.1 / (1 + math.exp(-1)))):
        chosen = torch.tensor([h], dtype=torch.float64, requires_grad=True)
        make_loss({"name": "sigmoid", "beta": 0.1})(PairLogps(chosen, zero, zero, zero, counts, counts)).backward()
        assert chosen.grad.item() == pytest.approx(-expected)


def test_what_is_asked_of_a_loss_is_checked() -> None:
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        make_loss({"name": "sigmoyd"})
    with pytest.raises(ValueError, match=r"no option 'betta' \(did you mean 'beta'\?\)"):
        make_loss({"name": "ipo", "betta": 0.1})
    with pytest.raises(ValueError, match="must be float, got 'high'"):
        make_loss({"name": "ipo", "beta": "high"})
    with pytest.raises(ValueError, match="above 0"):
        make_loss({"name": "sigmoid", "beta": -1})
    with pytest.raises(ValueError, match="above 0"):
        make_loss({"name": "sigmoid", "beta": float("nan")})
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        make_loss({"name": "sigmoid", "label_smoothing": 0.7})
    with pytest.raises(ValueError, match="alpha must be 0 or above"):
        make_loss({"name": "rpo", "alpha": -1})
    with pytest.raises(TypeError, match="registered already"):
        preference_loss(paper="x")(PREFERENCE_LOSSES["ipo"].function)
    assert make_loss({"name": "ipo", "beta": 1})(pairs(**PAIR)).item() == pytest.approx(1.5**2)


def test_pairs_are_chosen_and_rejected_in_turn() -> None:
    split = pair_logps(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5, 6, 7, 8]))
    assert split.chosen.tolist() == [1.0, 3.0]
    assert split.rejected.tolist() == [2.0, 4.0]
    assert split.rejected_tokens.tolist() == [6, 8]
    assert split.ref_chosen.tolist() == [0.0, 0.0]
