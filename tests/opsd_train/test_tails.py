"""Tails: bf16 states whose probabilities neither bf16 nor float32 can hold, against float64 on the same inputs.

40 tokens share nearly all probability; the other 260 lie 10 to 400 nats below, and bf16 ends at −92. At 400 nats float32
rounds to 3e-5, and a target adds up to ten such numbers: hence 5e-4 nats. Gradients leave in bf16: 2⁻⁸ of their norm.
"""

from __future__ import annotations

import math

import pytest
import torch

from opsd_train import objective
from opsd_train.data import load_data
from opsd_train.diagnostics import diagnose
from opsd_train.divergence import DIVERGENCES, Divergence, token_divergence
from opsd_train.head import Head
from opsd_train.loss import Method, Outcome, chunked_loss, sampled_logp, student_entropy
from opsd_train.objective import frozen_batch
from opsd_train.policy import load_policy, load_tokenizer
from opsd_train.rollouts import Rollout
from opsd_train.scoring import completion_hidden
from opsd_train.targets import TARGETS, TargetParams

N, D, V, LIKELY = 13, 32, 300, 40
NATS, OUT = 5e-4, 2.0**-8
ROLES = ("student", "teacher", "reference", "base", "wrong_hint")
CLIPS = [("none", None), ("per_entry", 0.01), ("per_token", 0.02)]
SMALLEST_BF16 = -133 * math.log(2)  # its smallest subnormal number


@pytest.fixture(scope="module")
def given():
    """Hidden states (N, D) by role and a head (V, D), all bf16: one direction of each state decides likely or not.

    At two positions each, teacher and base find likely what the student finds impossible.
    """
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn((V, D), generator=generator) / 8
    weight[:, 0] = torch.cat([torch.ones(LIKELY), torch.linspace(0.9, -3.0, V - LIKELY)])
    common = torch.randn((N, D), generator=generator)
    hidden = {role: common + 0.7 * torch.randn((N, D), generator=generator) for role in ROLES}
    for states in hidden.values():
        states[:, 0] = 100.0
    hidden["teacher"][:2, 0] = hidden["base"][2:4, 0] = -20.0
    return {role: states.bfloat16() for role, states in hidden.items()}, weight.bfloat16()


def logp_of(given, dtype):
    """Log-probabilities (N, V) of every role, computed in ``dtype`` from the bf16 inputs."""
    hidden, weight = given
    return {role: torch.log_softmax(states.to(dtype) @ weight.to(dtype).T, dim=-1) for role, states in hidden.items()}


def outcome_rows(dtype):
    return torch.zeros((N, V), dtype=dtype).index_fill_(1, torch.tensor([3]), 0.5)


def target_of(name, logp):
    rows = {**logp, "outcome": outcome_rows(logp["base"].dtype)}
    return TARGETS[name].combine({role: rows[role] for role in TARGETS[name].needs}, TargetParams())


def test_most_probabilities_are_0_in_bf16_and_none_is_in_float64(given):
    exact = logp_of(given, torch.float64)["student"]
    assert (exact < SMALLEST_BF16).double().mean() > 0.6 and (exact.exp() > 0).all()
    assert (exact.exp().bfloat16() == 0).double().mean() > 0.6 and (exact.exp().float() == 0).double().mean() > 0.6
    assert -(exact.exp() * exact).sum(-1).min() > 0.5, "and the likely tokens still compete"


@pytest.mark.parametrize("name", TARGETS)
def test_targets_keep_their_tails(given, name):
    found, exact = (target_of(name, logp_of(given, dtype)) for dtype in (torch.float32, torch.float64))
    assert found.isfinite().all()
    assert torch.allclose(found.exp().double(), exact.exp(), rtol=NATS, atol=1e-6)
    if name not in ("credited", "ad_opsd"):  # which mix probabilities: what underflows is log 0 there
        assert torch.allclose(found.double(), exact, rtol=0, atol=NATS)


@pytest.mark.parametrize(("clip", "at"), CLIPS)
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("target", ["standard", "purified"])
def test_divergences_of_tails(given, target, name, clip, at):
    choice, found = Divergence(name, clip=clip, clip_at=at), {}
    for dtype in (torch.float32, torch.float64):
        logp = logp_of(given, dtype)
        found[dtype] = token_divergence(target_of(target, logp), logp["student"], choice)
    ours, exact = found[torch.float32], found[torch.float64]
    for one, other in ((ours.value, exact.value), (ours.grad_logits, exact.grad_logits)):
        assert one.isfinite().all() and torch.allclose(one.double(), other, rtol=NATS, atol=1e-5)
    assert torch.allclose(ours.clipped.double(), exact.clipped, rtol=0, atol=1e-6)
    assert clip == "none" or exact.clipped.max() > 0


@pytest.mark.parametrize("choice", [*(Divergence(clip=c, clip_at=at) for c, at in CLIPS), Divergence("forward_kl")], ids=repr)
@pytest.mark.parametrize("name", TARGETS)
def test_the_loss_of_bf16_states_and_head_is_that_of_float64(given, name, choice):
    found = {}
    for dtype in (torch.bfloat16, torch.float64):
        hidden = {role: states.to(dtype, copy=True) for role, states in given[0].items()}
        student, head = hidden["student"].requires_grad_(), given[1].to(dtype, copy=True).requires_grad_()
        output = chunked_loss(
            {role: hidden[role] for role in (TARGETS[name].needs | {"student", "base"}) - {"outcome"}},
            Head(head, None, V), method=Method(name, divergence=choice), chunk=5,
            outcome=Outcome(torch.full((N,), 3), torch.full((N,), 0.5)),
        )  # fmt: skip
        output.loss.backward()
        found[dtype] = output.loss.detach().double(), student.grad.double(), head.grad.double(), output.stats
    (loss, *grads, stats), (exact_loss, *exact_grads, exact) = found[torch.bfloat16], found[torch.float64]
    assert math.isclose(loss, exact_loss, rel_tol=NATS, abs_tol=1e-6)
    for one, other in zip(grads, exact_grads, strict=True):
        assert one.isfinite().all() and (one - other).norm() <= OUT * other.norm() + 1e-9
    assert set(stats) == {"loss", "student_entropy", "clipped", "negative", "kl_from_base"} == set(exact)
    for key in ("loss", "student_entropy", "clipped", "kl_from_base"):
        assert stats[key].isfinite().all() and torch.allclose(stats[key], exact[key], rtol=NATS, atol=1e-5), key
    sure = exact["loss"].abs() > 1e-5  # a sign that rounding cannot turn
    assert torch.equal(stats["negative"][sure], exact["negative"][sure])


def test_autocast_of_the_passes_rounds_no_logit(config, monkeypatch):
    """The same states give the same bits with ``--run.precision bf16`` as without it."""
    tokenizer = load_tokenizer(config.model)
    data, policy = load_data(config, tokenizer), load_policy(config.model, config.method, tokenizer, seed=0)
    ids = tuple(tokenizer.encode("maybe 57", add_special_tokens=False))
    rollouts = [Rollout(p.problem_id, 0, ids, data.prompts[p.problem_id], "stop", "") for p in data.problems[:3]]
    batch = frozen_batch(policy, rollouts, ["teacher", "reference", "base"])
    fixed = completion_hidden(policy.model, batch.prompts("student"), batch.completions).detach()
    heads, states = policy.heads(list(batch.frozen_hidden)), fixed.clone().requires_grad_()
    weights = objective.token_weights("entropy_top20", [len(ids)] * 3, states, heads["student"])
    plain = chunked_loss({**batch.frozen_hidden, "student": states}, heads, method=Method("purified"), n_tokens=6, weights=weights)
    plain.loss.backward()
    found = [(plain.loss.detach(), states.grad, *plain.stats.values())]
    for enabled in (False, True):
        states = fixed.clone().requires_grad_()
        monkeypatch.setattr(objective, "completion_hidden", lambda *a, states=states, **k: states)
        compute = objective.student_loss(policy, batch, method=Method("purified"), weighting="entropy_top20", n_tokens=6)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, stats = compute(policy.model)
        loss.backward()
        found.append((loss.detach(), states.grad, *stats.values()))
    assert all(torch.equal(one, other) for one, other in zip(*found[:2], strict=True)) and found[0][1].abs().sum() > 0
    assert all(torch.equal(one, other) for one, other in zip(*found[1:], strict=True))


def test_entropies_and_distances_of_the_diagnosis(given):
    found = {}
    for dtype in (torch.bfloat16, torch.float64):
        hidden = {role: states.to(dtype) for role, states in given[0].items()}
        found[dtype] = diagnose(hidden, Head(given[1].to(dtype)), method=Method("purified"))
    for key, exact in found[torch.float64].items():
        value = found[torch.bfloat16][key].double()
        assert value.isfinite().all() and torch.allclose(value, exact, rtol=NATS, atol=NATS), key


def test_entropy_and_sampled_log_probabilities_of_the_tail(given):
    hidden, weight = given
    ids = torch.arange(V - N, V)  # the least likely tokens, some −400 nats
    exact = logp_of(given, torch.float64)["student"]
    found = sampled_logp(hidden["student"], Head(weight), ids)
    assert found.max() < -300 and torch.allclose(found.double(), exact[torch.arange(N), ids], rtol=0, atol=NATS)
    entropy = student_entropy(hidden["student"], Head(weight))
    assert torch.allclose(entropy.double(), -(exact.exp() * exact).sum(-1), rtol=NATS)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("target", ["standard", "no_centring", "purified"])
def test_a_token_that_every_head_forbids_is_left_out(given, target, name):
    """A bias of −inf: the token is neither drawn nor learnt from, and its entry is 0 everywhere, not 0 · ∞."""
    bias, found = torch.zeros(V).index_fill_(0, torch.tensor([LIKELY - 1]), -math.inf), {}
    keep = torch.arange(V) != LIKELY - 1
    for label, head in (("forbidden", Head(given[1], bias)), ("absent", Head(given[1][keep]))):
        hidden = {role: states.clone() for role, states in given[0].items() if role in ("student", "teacher", "reference", "base")}
        student = hidden["student"].requires_grad_()
        output = chunked_loss(hidden, head, method=Method(target, divergence=Divergence(name)))
        output.loss.backward()
        found[label] = output.loss.detach(), student.grad, *output.stats.values()
    assert all(value.isfinite().all() for value in found["forbidden"])
    if target != "purified":  # whose vocabulary mean has one entry more
        for one, other in zip(found["forbidden"], found["absent"], strict=True):
            assert (one - other).norm() <= OUT * other.norm() + 1e-6
