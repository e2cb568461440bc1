"""Divergences: values by hand, the properties that define them, clips, and slopes against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_train.divergence import DIVERGENCES, Divergence, token_divergence

T, V = 9, 23


def pair(seed=0, *, dtype=torch.float64, scale=2.0, size=(T, V)):
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(size, generator=generator, dtype=dtype) * scale for _ in range(2))
    return torch.log_softmax(one, dim=-1), torch.log_softmax(other, dim=-1)


def value(name, target, student, weight=0.5):
    return DIVERGENCES[name](target, student, weight_on_target=weight).value.sum(-1)


def rows(*values):
    return torch.tensor([values], dtype=torch.float64).log()


def test_values_by_hand():
    target, student = rows(0.5, 0.5), rows(0.25, 0.75)
    assert math.isclose(float(value("forward_kl", target, student)), 0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert math.isclose(float(value("reverse_kl", target, student)), 0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    half = 0.5 * (0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625))
    half += 0.5 * (0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625))
    assert math.isclose(float(value("jsd", target, student)), half)


@pytest.mark.parametrize("weight", [0.05, 0.3, 0.5, 0.9])
def test_jsd_is_the_weighted_sum_of_two_kls_to_the_mixture(weight):
    target, student = pair()
    mixture = (weight * target.exp() + (1 - weight) * student.exp()).log()
    expected = weight * value("forward_kl", target, mixture) + (1 - weight) * value("forward_kl", student, mixture)
    assert torch.allclose(value("jsd", target, student, weight), expected)


@pytest.mark.parametrize("name", DIVERGENCES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30.0))
def test_is_never_negative(name, seed, scale):
    target, student = pair(seed, scale=scale)
    assert (value(name, target, student) >= -1e-13).all()


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_exactly_zero_for_equal_and_positive_for_different_distributions(name, dtype):
    target, student = pair(dtype=dtype)
    equal = token_divergence(target, target.clone(), Divergence(name))
    assert (equal.value == 0).all()
    assert equal.grad_logits.abs().max() <= (1e-6 if dtype == torch.float32 else 1e-14)
    assert (value(name, target, student) > 1e-3).all()


def test_jsd_is_symmetric_at_one_half_and_swaps_with_its_weight():
    target, student = pair()
    assert torch.allclose(value("jsd", target, student), value("jsd", student, target))
    assert torch.allclose(value("jsd", target, student, 0.2), value("jsd", student, target, 0.8))


def test_jsd_is_at_most_ln_two_and_reaches_it_on_disjoint_supports():
    target, student = pair(scale=50.0)
    assert (value("jsd", target, student) <= math.log(2) + 1e-12).all()
    apart = value("jsd", torch.tensor([[0.0, -1e4]]), torch.tensor([[-1e4, 0.0]]))
    assert math.isclose(float(apart), math.log(2), rel_tol=3e-6)


def test_jsd_scaled_by_its_weight_tends_to_the_two_kls():
    target, student = pair()
    assert torch.allclose(value("jsd", target, student, 1e-6) / 1e-6, value("forward_kl", target, student), rtol=1e-4)
    near_one = value("jsd", target, student, 1 - 1e-6) / 1e-6
    assert torch.allclose(near_one, value("reverse_kl", target, student), rtol=1e-4)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_reversal_of_the_two_kls(name):
    target, student = pair()
    other = {"forward_kl": "reverse_kl", "reverse_kl": "forward_kl", "jsd": "jsd"}[name]
    assert torch.allclose(value(name, target, student), value(other, student, target))


@pytest.mark.parametrize("weight", [0.2, 0.5])
def test_a_tiny_divergence_keeps_its_digits_in_float32(weight):
    """1e-9 nats, where log(λ·e^d + 1 − λ) rounds each entry by 6e-8 and log1p(λ·expm1(d)) does not."""
    generator = torch.Generator().manual_seed(2)
    one = torch.randn((5, 400), generator=generator, dtype=torch.float64)
    other = one + 1e-4 * torch.randn((5, 400), generator=generator, dtype=torch.float64)
    target, student = (torch.log_softmax(x, -1) for x in (one, other))
    exact = token_divergence(target, student, Divergence("jsd", weight)).value
    ratio = (target - student).float()  # from log-probabilities in float32 the difference itself would be rounded
    found = token_divergence((student.float() + ratio), student.float(), Divergence("jsd", weight)).value
    assert exact.max() < 3e-9 and torch.allclose(found.double(), exact, rtol=0.5, atol=2e-9)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_impossible_tokens_are_defined(name):
    target, student = (torch.log_softmax(x, -1) for x in torch.randn(2, 3, V, dtype=torch.float64))
    for values in ((-1e4, -1e4), (-math.inf, -math.inf), (-math.inf, -3.0), (-1e4, -3.0)):
        one, other = target.clone(), student.clone()
        one[:, 4], other[:, 4] = values
        result = token_divergence(one, other, Divergence(name))
        finite = name != "reverse_kl" or values[0] != -math.inf or values[1] == -math.inf
        assert result.grad_logits.isfinite().all() or not finite
        assert result.value.isfinite().all()
        assert not result.value.isnan().any()


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize(("clip", "at"), [("none", None), ("per_entry", 0.02), ("per_token", 0.7)])
@pytest.mark.parametrize("weight", [0.2, 0.5])
def test_gradient_by_logits_against_finite_differences(name, clip, at, weight):
    generator = torch.Generator().manual_seed(3)
    target, _ = pair(1)
    logits = 2.0 * torch.randn((T, V), generator=generator, dtype=torch.float64)
    divergence = Divergence(name, weight, clip, at)

    def total(z):
        return token_divergence(target, torch.log_softmax(z, -1), divergence, gradient=False).value

    found = token_divergence(target, torch.log_softmax(logits, -1), divergence).grad_logits
    step = 1e-6
    for v in range(V):
        nudge = torch.zeros(V, dtype=torch.float64)
        nudge[v] = step
        slope = (total(logits + nudge) - total(logits - nudge)) / (2 * step)
        assert torch.allclose(found[:, v], slope, atol=1e-8), v


@pytest.mark.parametrize("name", DIVERGENCES)
def test_rows_do_not_depend_on_each_other(name):
    target, student = pair()
    whole = token_divergence(target, student, Divergence(name))
    parts = [token_divergence(target[i : i + 4], student[i : i + 4], Divergence(name)) for i in range(0, T, 4)]
    assert torch.equal(torch.cat([part.value for part in parts]), whole.value)
    assert torch.equal(torch.cat([part.grad_logits for part in parts]), whole.grad_logits)


def test_entry_clip_caps_entries_before_the_sum_and_can_turn_the_loss_negative():
    target, student = rows(0.6, 0.4), rows(0.2, 0.8)  # entries .6·ln 3 = .659 and .4·ln(1/2) = −.277
    result = token_divergence(target, student, Divergence("forward_kl", clip="per_entry", clip_at=0.05))
    assert math.isclose(float(result.value), 0.05 + 0.4 * math.log(0.5), rel_tol=1e-12)
    assert float(result.value) < 0 and float(result.clipped) == 0.5
    # by hand: free gradient q − p = (−.4, .4); capped slope (0, −.4) − q·(−.4) = (.08, −.08): reversed
    free = token_divergence(target, student, Divergence("forward_kl"))
    assert torch.allclose(free.grad_logits, torch.tensor([[-0.4, 0.4]], dtype=torch.float64))
    assert torch.allclose(result.grad_logits, torch.tensor([[0.08, -0.08]], dtype=torch.float64))


def test_token_clip_caps_the_sum_and_stops_its_gradient():
    target, student = pair()
    limit = float(value("jsd", target, student).median())
    free = token_divergence(target, student, Divergence("jsd"))
    result = token_divergence(target, student, Divergence("jsd", clip="per_token", clip_at=limit))
    capped = free.value > limit
    assert capped.any() and not capped.all()
    assert torch.equal(result.value, free.value.clamp(max=limit))
    assert torch.equal(result.clipped.bool(), capped)
    assert (result.grad_logits[capped] == 0).all()
    assert torch.equal(result.grad_logits[~capped], free.grad_logits[~capped])


def test_wrong_choices_say_what_is_allowed():
    with pytest.raises(ValueError, match="forward_kl"):
        Divergence("forwrd_kl")
    with pytest.raises(ValueError, match="per_entry"):
        Divergence(clip="per_entri", clip_at=1.0)
    with pytest.raises(ValueError, match="clip_at"):
        Divergence(clip="per_entry")
    with pytest.raises(ValueError, match="clip_at"):
        Divergence(clip_at=0.05)
    for weight in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            Divergence("jsd", weight)
    with pytest.raises(ValueError, match="strictly between"):
        DIVERGENCES["jsd"](*pair(), weight_on_target=1.0)
