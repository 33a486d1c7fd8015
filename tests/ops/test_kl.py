"""KL estimators by hand, by enumeration of a small vocabulary; controllers by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from burnish.ops.kl import KL_ESTIMATORS, AdaptiveKLController, FixedKLController, k1, k2, k3, kl_estimator

LN2 = math.log(2.0)


@pytest.mark.parametrize(
    ("name", "twice", "half"),
    [
        # The policy finds the token twice as likely as the reference (logratio 0.6931472), and half as likely.
        ("k1", 0.6931472, -0.6931472),
        ("k2", 0.2402265, 0.2402265),  # 0.6931472^2 / 2
        ("k3", 0.1931472, 0.3068528),  # 1/2 - 1 + 0.6931472;  2 - 1 - 0.6931472
    ],
)
def test_estimators_by_hand(name: str, twice: float, half: float) -> None:
    found = kl_estimator(name)(torch.tensor([[LN2], [-LN2], [0.0]], dtype=torch.float64))
    assert found.shape == (3, 1)
    assert found[:, 0].tolist() == pytest.approx([twice, half, 0.0], abs=1e-7)


def test_every_estimator_has_a_test_by_hand() -> None:
    assert set(KL_ESTIMATORS) == {"k1", "k2", "k3"}


# A vocabulary of three, summed over instead of sampled from.
POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return sum(p[i] * (p[i].log() - q[i].log()) for i in range(len(p)))


def test_k1_and_k3_are_unbiased_for_policy_against_reference() -> None:
    logratio = POLICY.log() - REFERENCE.log()
    exact = kl(POLICY, REFERENCE).item()
    assert exact != pytest.approx(kl(REFERENCE, POLICY).item(), abs=0.01)
    assert (POLICY * k1(logratio)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (POLICY * k3(logratio)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (POLICY * k2(logratio)).sum().item() != pytest.approx(exact, abs=0.001)


def test_gradients_as_terms_of_a_loss_are_those_that_the_docstrings_claim() -> None:
    def gradient(value) -> torch.Tensor:
        logits = POLICY.log().requires_grad_()
        value(torch.log_softmax(logits, -1)).backward()
        return logits.grad

    def expected(estimator) -> torch.Tensor:
        return gradient(lambda logp: (POLICY * estimator(logp - REFERENCE.log())).sum())

    torch.testing.assert_close(expected(k1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(expected(k2), gradient(lambda logp: kl(logp.exp(), REFERENCE)))
    torch.testing.assert_close(expected(k3), gradient(lambda logp: kl(REFERENCE, logp.exp())))


def test_k3_keeps_its_digits_where_the_policy_is_near_the_reference() -> None:
    # For small x: x^2 / 2 - x^3 / 6, which is 4.99983e-9 at 1e-4; exp(-x) - 1 in fp32 knows x only to 6e-8.
    assert k3(torch.tensor(1e-4)).item() == pytest.approx(4.99983e-9, rel=0.01)
    near = torch.logspace(-9, 0, 2000)
    assert k3(near).min().item() >= 0.0
    assert k3(-near).min().item() >= 0.0


def test_unknown_estimators_are_refused_with_the_closest_name() -> None:
    with pytest.raises(ValueError, match=r"unknown KL estimator 'kl3' \(did you mean 'k3'\?\); known: k1, k2, k3"):
        kl_estimator("kl3")
    with pytest.raises(ValueError, match=r"unknown KL estimator 'full'; known"):
        kl_estimator("full")


def test_adaptive_controller_by_hand() -> None:
    controller = AdaptiveKLController(0.1, target=6.0)
    for measured, expected in (
        (12.0, 0.102),  # error 1, clipped to 0.2: 0.1 * (1 + 0.1 * 0.2)
        (5.4, 0.10098),  # error -0.1: 0.102 * (1 - 0.1 * 0.1)
        (6.0, 0.10098),  # on target
        (6.9, 0.1024947),  # error 0.15: 0.10098 * 1.015
        (0.0, 0.100444806),  # error -1, clipped to -0.2: 0.1024947 * 0.98
        (-3.0, 0.09843590988),  # an estimate may be negative: 0.100444806 * 0.98
    ):
        controller.update(measured)
        assert controller.coefficient == pytest.approx(expected, rel=1e-9)


def test_fixed_controller_stays() -> None:
    controller = FixedKLController(0.05)
    controller.update(100.0)
    assert controller.coefficient == 0.05


def test_controllers_go_on_to_the_same_bits() -> None:
    measured = [7.1, 3.3, 12.0, 6.2, 0.1, 9.9]
    whole = AdaptiveKLController(0.1, target=6.0)
    for value in measured:
        whole.update(value)
    first = AdaptiveKLController(0.1, target=6.0)
    for value in measured[:3]:
        first.update(value)
    second = AdaptiveKLController(0.1, target=6.0)
    second.load_state(json.loads(json.dumps(first.state())))
    for value in measured[3:]:
        second.update(value)
    assert second.coefficient == whole.coefficient
    fixed = FixedKLController(0.2)
    fixed.load_state(FixedKLController(0.3).state())
    assert fixed.coefficient == 0.3


def test_what_is_asked_of_controllers_is_checked() -> None:
    with pytest.raises(ValueError, match="0 or above"):
        FixedKLController(-0.1)
    with pytest.raises(ValueError, match="must start above 0"):
        AdaptiveKLController(0.0)
    with pytest.raises(ValueError, match="target must be above 0"):
        AdaptiveKLController(0.1, target=0.0)
    with pytest.raises(ValueError, match="gain must lie"):
        AdaptiveKLController(0.1, gain=5.0)
    controller = AdaptiveKLController(0.1)
    with pytest.raises(ValueError, match="must be finite"):
        controller.update(math.nan)
    assert controller.coefficient == 0.1
    assert FixedKLController(0.0).coefficient == 0.0
