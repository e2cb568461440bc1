"""Weightings average 1 over each completion and do what their name says."""

from __future__ import annotations

import pytest
import torch

from opsd_train.weighting import RATIO_CAP, STEERING, WEIGHTINGS, token_stats, verdict

LENGTHS = [7, 1, 0, 10]


def stats():
    entropy = torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(0))
    logp = {"teacher": -2 * torch.rand(len(entropy)), "student": -2 * torch.rand(len(entropy))}
    return token_stats(LENGTHS, student_entropy=lambda: entropy, sampled_logp=logp.__getitem__), entropy


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
    empty = token_stats([], student_entropy=lambda: torch.zeros(0), sampled_logp=lambda role: torch.zeros(0))
    assert WEIGHTINGS[name](empty).shape == (0,)


@pytest.mark.parametrize("name", sorted(STEERING))
def test_steering_weights_are_finite_signed_and_bounded(name):
    weights = WEIGHTINGS[name](stats()[0])
    assert weights.dtype == torch.float32 and weights.isfinite().all() and not weights.requires_grad
    assert weights.min() < 0 < weights.max() and weights.abs().max() <= RATIO_CAP


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


def credit_of(lengths, ratios, *, finished=None):
    """Weights of ``credit`` for given π_T/π_θ of the sampled tokens."""
    logp = {"teacher": torch.tensor(ratios).log(), "student": torch.zeros(len(ratios))}
    return WEIGHTINGS["credit"](token_stats(lengths, sampled_logp=logp.__getitem__, finished=finished))


def test_credit_by_hand():
    """First completion: the teacher dislikes its first token (.5) and accepts its end (1); second: likes the first
    token (2), refuses the end (0). So R = 1 and 0, advantages +1 and −1, weights (ratio − 1)·advantage."""
    weights = credit_of([2, 2], [0.5, 1.0, 2.0, 0.0])
    assert weights.tolist() == pytest.approx([-0.5, 0.0, -1.0, 1.0])


def test_credit_is_zero_where_the_teacher_agrees_or_nothing_differs():
    assert credit_of([3, 2], [1.0] * 5).abs().max() == 0
    assert credit_of([4], [0.1, 3.0, 1.0, 0.2]).abs().max() == 0, "one completion has no other to compare with"


def test_credit_estimates_the_gain_of_moving_towards_the_teacher():
    """One decision: a ends well, b badly; π_θ = (.6, .4). E[w] has the sign of (π_T(a) − π_θ(a))."""
    for teacher_prob, sign in ((0.9, 1), (0.1, -1)):
        ratio = {"a": teacher_prob / 0.6, "b": (1 - teacher_prob) / 0.4}
        ends = {"a": 1.0, "b": 0.0}
        drawn = ["a"] * 6 + ["b"] * 4
        flat = [x for arm in drawn for x in (ratio[arm], 1.0, 1.0, ends[arm])]
        weights = credit_of([4] * 10, flat).view(10, 4)[:, 0]
        expected = (teacher_prob - 0.6) * 10 / 9  # leave-one-out baseline of ten completions
        assert sign * float(weights.mean()) > 0 and float(weights.mean()) == pytest.approx(expected, abs=1e-6)


def test_a_verdict_reads_the_end_and_an_unfinished_completion_gets_none():
    ratio = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.7, 3.0, 1.0, 1.0, 1.0])
    assert verdict(token_stats([6, 3]), ratio).tolist() == pytest.approx([0.7, 1.0])
    assert verdict(token_stats([6, 3], finished=[True, False]), ratio).tolist() == pytest.approx([0.7, 0.0])
    with pytest.raises(ValueError, match="sampled_logp"):
        WEIGHTINGS["credit"](token_stats([3]))
