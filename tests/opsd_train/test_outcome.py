"""How completions ended, and what each token's completion is worth against the others."""

from __future__ import annotations

import pytest
import torch

from opsd_train.divergence import Divergence
from opsd_train.head import Head
from opsd_train.loss import Method, Outcome, chunked_loss
from opsd_train.outcome import advantages, verdicts
from opsd_train.targets import TARGETS, TargetParams


def test_a_verdict_reads_the_end_and_only_of_what_ended():
    ratio = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.7, 3.0, 1.0, 1.0, 1.0])
    assert verdicts(ratio, [6, 0, 3], [True, True, True]).tolist() == pytest.approx([0.7, 0.0, 1.0])
    assert verdicts(ratio, [6, 0, 3], [True, True, False]).tolist() == pytest.approx([0.7, 0.0, 0.0])
    assert verdicts(torch.ones(30), [30], [True]).tolist() == [1.0]
    long = torch.ones(30)
    long[21] = 0.0
    assert verdicts(long, [30], [True]).tolist() == [1.0], "at most the last eight tokens count"


def test_advantages_leave_the_own_completion_out():
    assert advantages(torch.tensor([1.0, 0.0, 0.5]), [2, 0, 1]).tolist() == pytest.approx([0.75, 0.75, 0.0])
    assert advantages(torch.tensor([0.3]), [4]).tolist() == [0.0] * 4


def test_the_expected_step_has_the_sign_of_the_gain():
    """One decision drawn ten times, a ends well and b badly, π_θ = (.6, .4): towards the teacher iff it prefers a."""
    student = torch.tensor([[0.6, 0.4]]).repeat(10, 1).double()
    worth = torch.tensor([1.0] * 6 + [0.0] * 4)
    sampled = torch.tensor([0] * 6 + [1] * 4)
    advantage = advantages(worth, [1] * 10).double()
    outcome = torch.zeros(10, 2, dtype=torch.float64).scatter_(1, sampled[:, None], advantage[:, None])
    for teacher in (0.9, 0.7, 0.5, 0.1):
        given = {"student": student.log(), "base": student.log(), "outcome": outcome,
                 "teacher": torch.tensor([[teacher, 1 - teacher]]).repeat(10, 1).double().log()}  # fmt: skip
        moved = TARGETS["credited"].combine(given, TargetParams(beta=100.0)).exp().mean(0) - student[0]
        assert float(moved[0]) > 0, "towards a, whether the teacher prefers it (pull) or not (push)"


def test_the_loss_hands_each_block_its_outcome():
    generator = torch.Generator().manual_seed(0)
    hidden = {role: torch.randn(9, 5, generator=generator, dtype=torch.float64) for role in ("student", "teacher", "base")}
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    outcome = Outcome(torch.arange(9) % 7, torch.linspace(-1, 1, 9, dtype=torch.float64))
    method = Method("credited", divergence=Divergence("forward_kl"))
    logp = {role: torch.log_softmax(states @ weight.T, -1) for role, states in hidden.items()}
    logp["outcome"] = torch.zeros(9, 7, dtype=torch.float64).scatter_(1, outcome.sampled[:, None], outcome.advantage[:, None])
    target = TARGETS["credited"].combine(logp, TargetParams())
    expected = (target.exp() * (target - logp["student"])).sum(-1).mean()
    for chunk in (2, 9):
        found = chunked_loss(hidden, Head(weight), method=method, outcome=outcome, chunk=chunk)
        assert float(found.loss) == pytest.approx(float(expected), rel=1e-9)
    with pytest.raises(ValueError, match="reads how completions ended"):
        chunked_loss(hidden, Head(weight), method=method)
