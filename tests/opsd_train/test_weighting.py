"""Weightings average 1 over each completion and do what their name says."""

from __future__ import annotations

import pytest
import torch

from opsd_train.weighting import STEERING, WEIGHTINGS, token_stats

LENGTHS = [7, 1, 0, 10]


def stats():
    entropy = torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(0))
    return token_stats(LENGTHS, student_entropy=lambda: entropy), entropy


def test_positions_of_packed_completions():
    found = token_stats([3, 0, 2])
    assert found.position.tolist() == [0, 1, 2, 0, 1]
    assert found.length.tolist() == [3, 3, 3, 2, 2]
    assert token_stats([]).position.shape == token_stats([0, 0]).length.shape == (0,)


@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name not in STEERING])
def test_averages_one_over_each_completion(name):
    weights = WEIGHTINGS[name](stats()[0])
    assert weights.dtype == torch.float32 and (weights >= 0).all() and not weights.requires_grad
    for part, length in zip(weights.split(LENGTHS), LENGTHS, strict=True):
        assert length == 0 or abs(part.mean().item() - 1) < 1e-6


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_no_token_is_no_weight(name):
    assert WEIGHTINGS[name](token_stats([], student_entropy=lambda: torch.zeros(0))).shape == (0,)


@pytest.mark.parametrize("name", sorted(STEERING))
def test_steering_weights_are_finite_signed_and_bounded(name):
    weights = WEIGHTINGS[name](stats()[0])
    assert weights.dtype == torch.float32 and weights.isfinite().all() and not weights.requires_grad
    assert weights.min() < 0 < weights.max() and weights.abs().max() <= 1


def test_linear_in_position_by_hand():
    assert WEIGHTINGS["position_linear"](token_stats([3])).tolist() == [0.5, 1.0, 1.5]


def test_entropy_gate_keeps_the_highest_fifth():
    given, entropy = stats()
    weights = WEIGHTINGS["entropy_top20"](given)
    start = 0
    for length in LENGTHS:
        kept = weights[start : start + length] > 0
        assert int(kept.sum()) == -(-length // 5)
        if 0 < kept.sum() < length:
            part = entropy[start : start + length]
            assert part[kept].min() > part[~kept].max()
        start += length
    with pytest.raises(ValueError, match="student_entropy"):
        WEIGHTINGS["entropy_top20"](token_stats([3]))


def test_entropy_is_computed_only_when_asked_for():
    asked = []
    token = token_stats([5], student_entropy=lambda: asked.append(1) or torch.zeros(5))
    WEIGHTINGS["uniform"](token), WEIGHTINGS["position_linear"](token)
    assert not asked
    WEIGHTINGS["entropy_top20"](token)
    assert asked == [1]


def test_entropy_push_pushes_where_the_gate_would_keep():
    given, _ = stats()
    assert torch.equal(WEIGHTINGS["entropy_push"](given) < 0, WEIGHTINGS["entropy_top20"](given) > 0)
