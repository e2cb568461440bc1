"""The chunked loss against plain PyTorch in float64: value, gradients, masks, chunks, precision, memory."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from opsd_train import loss as loss_module
from opsd_train.divergence import Divergence
from opsd_train.head import Head, project, project_back
from opsd_train.loss import Method, chunked_loss, student_entropy
from opsd_train.targets import TARGETS, TargetParams

N, D, V, PADDED = 21, 16, 60, 67
ROLES = ("teacher", "reference", "base")
METHODS = [Method(name) for name in TARGETS if "outcome" not in TARGETS[name].needs] + [  # see test_outcome.py
    Method("purified", TargetParams(clip_c=3.0, beta=2.0), Divergence("forward_kl", clip="per_entry", clip_at=0.05)),
    Method("purified", divergence=Divergence("reverse_kl", clip="per_token", clip_at=5.0)),
    Method("standard", divergence=Divergence("jsd", 0.2)),
    Method("standard", divergence=Divergence("forward_kl")),
]
METHOD_IDS = [f"{m.target}-{m.divergence.name}-{m.divergence.clip}" for m in METHODS]


def states(dtype=torch.float32, *, n=N, d=D, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = {role: torch.randn((n, d), generator=generator, dtype=torch.float64) for role in (*ROLES, "student", "wrong_hint")}
    weight = torch.randn((PADDED, d), generator=generator, dtype=torch.float64)
    return {role: value.to(dtype) for role, value in hidden.items()}, weight.to(dtype)


def plain(hidden, weight, method, *, vocab=V, weights=None, n_tokens=None):
    """The same loss written out with whole (N, V) tensors and autograd, in the precision of its inputs."""
    weight = weight[:vocab]
    student_logp = torch.log_softmax(hidden["student"] @ weight.T, dim=-1)
    logp = {role: torch.log_softmax(states @ weight.T, dim=-1).detach() for role, states in hidden.items()}
    target = TARGETS[method.target]
    target_logp = target.combine({role: logp[role] for role in target.needs}, method.params)
    choice = method.divergence

    def entries(one, other):
        return one.exp() * (one - other)

    if choice.name == "jsd":
        w = choice.weight_on_target
        mixture = (w * target_logp.exp() + (1 - w) * student_logp.exp()).log()
        value = w * entries(target_logp, mixture) + (1 - w) * entries(student_logp, mixture)
    elif choice.name == "forward_kl":
        value = entries(target_logp, student_logp)
    else:
        value = entries(student_logp, target_logp)
    if choice.clip == "per_entry":
        value = value.clamp(max=choice.clip_at)
    value = value.sum(-1)
    if choice.clip == "per_token":
        value = value.clamp(max=choice.clip_at)
    weights = torch.ones(len(value), dtype=value.dtype) if weights is None else weights.to(value.dtype)
    return (value * weights).sum() / (len(value) if n_tokens is None else n_tokens)


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def needed(hidden, method):
    return {role: value for role, value in hidden.items() if role in {*TARGETS[method.target].needs, "student"}}


def both(method, *, dtype=torch.float32, **options):
    """(value, hidden gradient, head gradient) of the chunked loss, and of the plain one in float64."""
    found = []
    hidden, weight = states(dtype)
    for widen in (False, True):
        hidden_now = {role: value.double() if widen else value.clone() for role, value in hidden.items()}
        weight_now = (weight.double() if widen else weight.clone()).requires_grad_()
        hidden_now["student"].requires_grad_()
        if widen:
            plain_options = {k: v for k, v in options.items() if k in ("weights", "n_tokens")}
            total = plain(hidden_now, weight_now, method, **plain_options)
        else:
            heads = Head(weight_now, None, V)
            total = chunked_loss(needed(hidden_now, method), heads, method=method, **options).loss
        found.append((total.detach(), *torch.autograd.grad(total, (hidden_now["student"], weight_now))))
    return found


@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradients_against_float64(method, dtype, bound):
    found, expected = both(method, dtype=dtype, chunk=8)
    assert math.isclose(float(found[0]), float(expected[0]), rel_tol=max(bound, 1e-12), abs_tol=bound)
    assert relative(found[1], expected[1]) < bound
    assert relative(found[2], expected[2]) < bound
    assert (found[2][V:] == 0).all(), "padding rows of the head get no gradient"


@pytest.mark.parametrize("target", ["standard", "purified"])
def test_a_vocabulary_of_150_000_adds_no_error(target):
    """torch's float32 log_softmax adds such rows up to 1e-5; the loss must not inherit that."""
    generator = torch.Generator().manual_seed(0)
    hidden = {role: 2 * torch.randn((4, 32), generator=generator) for role in (*ROLES, "student")}
    weight = torch.randn((151_936, 32), generator=generator) / 32**0.5
    found, method = {}, Method(target)
    for dtype in (torch.float32, torch.float64):
        given = {role: value.to(dtype, copy=True) for role, value in hidden.items()}
        given["student"].requires_grad_()
        chunked_loss(needed(given, method), Head(weight.to(dtype)), method=method).loss.backward()
        found[dtype] = given["student"].grad.double()
    assert relative(found[torch.float32], found[torch.float64]) < 2e-6


@pytest.mark.parametrize("method", METHODS[:2], ids=METHOD_IDS[:2])
def test_finite_differences_in_float64(method):
    hidden, weight = states(torch.float64, n=3, d=5)
    frozen = {role: hidden[role] for role in TARGETS[method.target].needs}
    fixed = {role: Head(weight.clone(), None, V) for role in frozen}  # only the student's head moves

    def total(student, head):
        heads = {"student": Head(head, None, V), **fixed}
        return chunked_loss({**frozen, "student": student}, heads, method=method).loss

    at = (hidden["student"].requires_grad_(), weight.clone().requires_grad_())
    for which, gradient in enumerate(torch.autograd.grad(total(*at), at)):
        flat = torch.zeros(at[which].numel(), dtype=torch.float64)
        for i in range(0, len(flat), 7 if which else 1):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [value.detach().clone() for value in at]
                moved[which].view(-1)[i] += step
                sides.append(total(*moved))
            assert abs((sides[0] - sides[1]) / 2e-6 - gradient.reshape(-1)[i]) < 1e-8


def test_a_second_backward_is_refused_rather_than_silently_empty():
    hidden, weight = states()
    hidden["student"].requires_grad_()
    out = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1])
    out.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        out.loss.backward()


@pytest.mark.parametrize("target", ["standard", "purified"])
def test_half_precision_inputs_are_no_worse_than_float32_arithmetic_on_them(target):
    """bf16 states and head: error against float64 on the same inputs, next to plain float32 on the same inputs."""
    method = Method(target)
    hidden, weight = states(torch.bfloat16)
    errors, gradients = {}, {}
    for name, dtype in (("exact", torch.float64), ("float32", torch.float32), ("ours", torch.bfloat16)):
        now = {role: value.to(dtype) for role, value in hidden.items()}
        now["student"] = now["student"].clone().requires_grad_()
        head = weight.to(dtype).clone().requires_grad_()
        if name == "ours":
            total = chunked_loss(needed(now, method), Head(head, None, V), method=method).loss
            assert total.dtype == torch.float32
        else:
            total = plain(now, head, method)
        gradients[name] = [g.to(torch.bfloat16) for g in torch.autograd.grad(total, (now["student"], head))]
        errors[name] = [relative(a, b) for a, b in zip(gradients[name], gradients["exact"], strict=True)]
        if name == "exact":
            exact = total.item()
        else:
            assert math.isclose(total.item(), exact, rel_tol=1e-5)
    # both are rounded to bf16 on the way out; a bf16 logit would show as an error of some 1e-2
    assert all(ours <= max(1.5 * theirs, 1e-3) for ours, theirs in zip(errors["ours"], errors["float32"], strict=True))


@pytest.mark.parametrize("chunk", [1, 2, 7, N, 100])
def test_any_chunk_gives_the_same_numbers(chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "_ROW_ELEMENTS", {"cpu": 3 * V})
    found, _ = both(METHODS[1], chunk=chunk)
    whole, _ = both(METHODS[1])
    for one, other in zip(found, whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_logits_exist_for_one_chunk_of_positions_at_most_and_roles_share_a_product(monkeypatch):
    from opsd_train import head as head_module

    shapes, project = [], head_module.project
    monkeypatch.setattr(head_module, "project", lambda h, head, *, out: shapes.append(out.shape) or project(h, head, out=out))
    hidden, weight = states()
    hidden["student"].requires_grad_()
    bias = torch.zeros(PADDED)
    chunked_loss(hidden, Head(weight, bias, V), method=Method("purified"), chunk=4).loss.backward()
    assert shapes == [(4 * 4, V)] * 5 + [(4 * 1, V)]
    shapes.clear()
    heads = {"student": Head(weight, bias, V), "base": Head(weight.clone(), bias, V)}
    chunked_loss(hidden, heads, method=Method("purified"), chunk=N).loss.backward()
    assert shapes == [(N, V), (N, V), (2 * N, V)]


def test_automatic_chunk_keeps_to_its_memory():
    for roles, vocab in ((2, 151_936), (4, 151_936), (4, 32), (4, 1_000_000)):
        positions = loss_module.block_positions(roles, vocab)
        assert 16 <= positions <= 1024
        assert positions % 16 == 0
        assert positions == 16 or positions * roles * vocab * 4 <= 160 << 20
    assert [loss_module.even_blocks(n, 64) for n in (0, 1, 64, 65, 130, 512)] == [1, 1, 64, 33, 44, 64]


def test_weights_mask_tokens_and_the_divisor_is_the_callers():
    weights = torch.tensor([1.0, 0.0, 2.5] * (N // 3))
    found, expected = both(METHODS[1], weights=weights, n_tokens=100.0, chunk=4)
    assert math.isclose(float(found[0]), float(expected[0]), rel_tol=1e-5)
    assert relative(found[1], expected[1]) < 1e-5 and relative(found[2], expected[2]) < 1e-5
    assert (found[1][1::3] == 0).all()


def test_masking_equals_leaving_out():
    hidden, weight = states()
    keep = torch.arange(N) % 3 != 1
    masked = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1], weights=keep.float(), n_tokens=14)
    few = {role: value[keep] for role, value in hidden.items()}
    assert torch.allclose(masked.loss, chunked_loss(few, Head(weight, None, V), method=METHODS[1]).loss, rtol=1e-6)


def test_a_masked_token_may_be_nan():
    hidden, weight = states()
    hidden["student"] = hidden["student"].clone()
    hidden["student"][4] = math.nan
    hidden["student"].requires_grad_()
    keep = (torch.arange(N) != 4).float()
    out = chunked_loss(hidden, Head(weight.requires_grad_(), None, V), method=METHODS[1], weights=keep)
    out.loss.backward()
    assert out.loss.isfinite()
    assert hidden["student"].grad.isfinite().all() and (hidden["student"].grad[4] == 0).all()
    assert weight.grad.isfinite().all()


def test_a_nan_that_counts_reaches_the_loss():
    hidden, weight = states()
    hidden["teacher"] = hidden["teacher"].clone()
    hidden["teacher"][4, 0] = math.nan
    assert chunked_loss(hidden, Head(weight, None, V), method=METHODS[1]).loss.isnan()


@pytest.mark.parametrize("n_tokens", [None, 0, 50])
@pytest.mark.parametrize("empty", ["no tokens", "all masked"])
def test_nothing_to_learn_from_is_zero_loss_and_zero_gradient(n_tokens, empty):
    hidden, weight = states()
    weights = torch.zeros(N)
    if empty == "no tokens":
        hidden, weights = {role: value[:0] for role, value in hidden.items()}, weights[:0]
    student, head = hidden["student"].requires_grad_(), weight.requires_grad_()
    out = chunked_loss(hidden, Head(head, None, V), method=METHODS[1], weights=weights, n_tokens=n_tokens)
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert (student.grad == 0).all() and (head.grad == 0).all()


def test_accumulation_over_micro_batches_is_one_batch():
    hidden, weight = states()
    gradients = []
    for cuts in ((0, N), (0, 5, 13, N)):
        student, head = hidden["student"].clone().requires_grad_(), weight.clone().requires_grad_()
        for start, stop in itertools.pairwise(cuts):
            now = {role: value[start:stop] for role, value in {**hidden, "student": student}.items()}
            chunked_loss(now, Head(head, None, V), method=METHODS[1], n_tokens=N).loss.backward()
        gradients.append((student.grad, head.grad))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_backward_scales_by_what_comes_in():
    hidden, weight = states()
    student = hidden["student"].requires_grad_()
    out = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1])
    (once,) = torch.autograd.grad(out.loss, student)
    out = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1])
    (thrice,) = torch.autograd.grad(3.0 * out.loss, student)
    assert torch.allclose(thrice, 3.0 * once)


def test_a_frozen_head_gets_no_gradient_buffer(monkeypatch):
    hidden, weight = states()
    hidden["student"].requires_grad_()
    seen = []
    monkeypatch.setattr(loss_module, "add_head_gradient", lambda *a, **k: seen.append(a))
    chunked_loss(hidden, Head(weight, None, V), method=METHODS[1]).loss.backward()
    assert not seen and hidden["student"].grad is not None and weight.grad is None


def test_without_any_gradient_nothing_is_computed_for_it(monkeypatch):
    hidden, weight = states()
    monkeypatch.setattr(loss_module, "project_back", lambda *a: pytest.fail("a gradient was computed"))
    out = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1])
    assert not out.loss.requires_grad and out.loss > 0


def test_a_head_of_its_own_for_a_role_and_a_bias():
    hidden, weight = states(torch.float64)
    other = weight + 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    bias = torch.linspace(-1, 1, PADDED, dtype=torch.float64).requires_grad_()
    student = hidden["student"].requires_grad_()
    heads = {"student": Head(weight, bias, V), "teacher": Head(other, None, V)}
    out = chunked_loss({"student": student, "teacher": hidden["teacher"]}, heads, method=Method("standard"))
    found = torch.autograd.grad(out.loss, (student, bias))
    student_logp = torch.log_softmax(student @ weight[:V].T + bias[:V], -1)
    teacher_logp = torch.log_softmax(hidden["teacher"] @ other[:V].T, -1)
    mixture = (0.5 * student_logp.exp() + 0.5 * teacher_logp.exp()).log()
    total = 0.5 * (teacher_logp.exp() * (teacher_logp - mixture) + student_logp.exp() * (student_logp - mixture)).sum(-1)
    assert torch.allclose(out.loss, total.mean())
    for one, two in zip(found, torch.autograd.grad(total.mean(), (student, bias)), strict=True):
        assert torch.allclose(one, two)


def test_a_head_wider_than_a_panel_in_half_precision(monkeypatch):
    from opsd_train import head as head_module

    monkeypatch.setattr(head_module, "_PANEL_BYTES", 4 * D * 7)
    hidden, weight = states(torch.bfloat16)
    found = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1]).loss
    wide = {role: value.float() for role, value in hidden.items()}
    assert torch.allclose(found, chunked_loss(wide, Head(weight.float(), None, V), method=METHODS[1]).loss, rtol=1e-6)


@pytest.mark.parametrize("width", [64, 1536])
def test_products_through_onednn_equal_those_of_the_blas(monkeypatch, width):
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(20_000, width, generator=generator))
    rows, found = torch.randn(7, width, generator=generator), {}
    grad = torch.randn(7, 20_000, generator=generator) / 20_000
    for way in ("onednn", "blas"):
        if way == "blas":
            monkeypatch.setattr("opsd_train.head._onednn", lambda weight, rows: None)
        found[way] = project(rows, head, out=torch.empty(7, 20_000)), project_back(grad, head)
    for one, other in zip(found["onednn"], found["blas"], strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-5)
    exact = grad.double() @ head.weight.double()
    assert float((found["onednn"][1] - exact).norm() / exact.norm()) < 1e-5


def test_statistics_by_token():
    hidden, weight = states(torch.float64)
    method = Method("purified", divergence=Divergence("jsd", clip="per_entry", clip_at=0.01))
    stats = chunked_loss(hidden, Head(weight, None, V), method=method, chunk=4).stats
    student, base = (torch.log_softmax(hidden[role] @ weight[:V].T, -1) for role in ("student", "base"))
    assert torch.allclose(stats["student_entropy"].double(), -(student.exp() * student).sum(-1), rtol=1e-5)
    assert torch.allclose(stats["kl_from_base"].double(), (student.exp() * (student - base)).sum(-1), rtol=1e-5)
    assert torch.equal(stats["negative"], (stats["loss"] < 0).float())
    assert ((stats["clipped"] >= 0) & (stats["clipped"] <= 1)).all() and stats["clipped"].max() > 0
    assert all(value.shape == (N,) and not value.requires_grad for value in stats.values())
    standard = chunked_loss({role: hidden[role] for role in ("student", "teacher")}, Head(weight, None, V), method=Method("standard"))  # fmt: skip
    assert "kl_from_base" not in standard.stats
    with_base = chunked_loss(hidden, Head(weight, None, V), method=Method("standard"))
    assert torch.allclose(with_base.stats["kl_from_base"], stats["kl_from_base"])


def test_student_entropy_in_blocks():
    hidden, weight = states()
    expected = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1]).stats["student_entropy"]
    assert torch.allclose(student_entropy(hidden["student"], Head(weight, None, V)), expected, rtol=1e-5)


def test_overflowing_logits_give_nan_and_underflowing_ones_do_not():
    hidden, weight = states()
    hidden = {role: 1e3 * value for role, value in hidden.items()}
    hidden["student"].requires_grad_()
    out = chunked_loss(hidden, Head(weight, None, V), method=METHODS[1])
    out.loss.backward()
    assert out.loss.isfinite() and hidden["student"].grad.isfinite().all()
    broken = {role: torch.full_like(value, 1e38) for role, value in hidden.items()}
    assert not chunked_loss(broken, Head(weight.abs(), None, V), method=METHODS[1]).loss.isfinite()


def test_bad_input_says_what_to_do():
    hidden, weight = states()
    head = Head(weight, None, V)
    with pytest.raises(ValueError, match="reference"):
        chunked_loss({role: hidden[role] for role in ("student", "teacher", "base")}, head, method=Method("purified"))
    with pytest.raises(ValueError, match="same completion tokens"):
        chunked_loss({**hidden, "teacher": hidden["teacher"][:-1]}, head, method=Method("standard"))
    with pytest.raises(ValueError, match="weights"):
        chunked_loss(hidden, head, method=Method("standard"), weights=torch.ones(3))
    with pytest.raises(ValueError, match="different vocabularies"):
        chunked_loss(hidden, {"student": head, "base": Head(weight, None, V + 2)}, method=Method("purified"))
    with pytest.raises(ValueError, match="chunk"):
        chunked_loss(hidden, head, method=Method("standard"), chunk=0)
    with pytest.raises(ValueError, match="purified"):
        Method("purifed")
    with pytest.raises(ValueError, match="do not belong together"):
        Head(weight, None, PADDED + 1)


def test_a_student_equal_to_the_base_is_at_distance_0_on_a_large_vocabulary():
    generator = torch.Generator().manual_seed(3)
    same, weight = torch.randn((4, 8), generator=generator), torch.randn((100_000, 8), generator=generator)
    hidden = dict.fromkeys(("student", "teacher", "reference", "base"), same)
    stats = chunked_loss(hidden, Head(weight), method=Method("purified")).stats
    assert stats["kl_from_base"].abs().max() < 1e-6
