"""The decomposition: by hand, its identity, its four geometries, and blocks of positions."""

from __future__ import annotations

import math

import pytest
import torch

from opsd_train import diagnostics
from opsd_train.diagnostics import VARIANTS, decomposition, diagnose, kl, mass_outside_top, position_values, summarise
from opsd_train.head import Head
from opsd_train.loss import Method, chunked_loss
from opsd_train.targets import TargetParams

T, V, D = 14, 60, 12
ROLES = ("student", "teacher", "reference", "base")


def logps(dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return {r: torch.log_softmax(scale * torch.randn((T, V), generator=generator, dtype=dtype), -1) for r in ROLES}


def test_by_hand():
    """Two entries, log-odds of teacher, reference, student at 3, 1, 0."""
    logp = {r: torch.tensor([[x, 0.0]]).log_softmax(-1) for r, x in (("teacher", 3.0), ("reference", 1.0), ("student", 0.0))}
    found = decomposition(logp, top_k=1)
    # centred: every Δ is a multiple of (1/2, −1/2): total 3, ref 1, it 2
    assert found["cos_total_ref_centred"].item() == pytest.approx(1.0)
    assert found["cos_total_it_centred"].item() == pytest.approx(1.0)
    assert found["norm_ratio_centred"].item() == pytest.approx(1 / 3)
    total = [math.log(2 / (1 + math.exp(-3))), math.log(2 / (1 + math.exp(3)))]
    ref = [math.log(2 / (1 + math.exp(-1))), math.log(2 / (1 + math.exp(1)))]
    assert found["norm_ratio_plain"].item() == pytest.approx(math.hypot(*ref) / math.hypot(*total), rel=1e-5)
    assert found["norm_ratio_weighted"].item() == pytest.approx(found["norm_ratio_plain"].item(), rel=1e-5)  # fair student
    # all three prefer entry 0 (the tied student lists it first), so the union of the top 1 is that entry alone
    assert found["norm_ratio_topk"].item() == pytest.approx(abs(ref[0] / total[0]), rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_three_numbers_are_two(variant):
    found = decomposition(logps(), top_k=5)
    a, r = found[f"cos_total_ref_{variant}"], found[f"norm_ratio_{variant}"]
    identity = (1 - r * a) / torch.sqrt(1 + r**2 - 2 * r * a)
    assert torch.allclose(found[f"cos_total_it_{variant}"], identity, atol=1e-9)
    assert (found[f"cos_total_ref_{variant}"].abs() <= 1 + 1e-12).all()


def test_plain_cosine_sees_a_shift_of_the_normaliser_and_the_centred_one_does_not():
    logp = logps()
    shifted = {**logp, "reference": logp["reference"] - 5.0}
    one, other = decomposition(logp), decomposition(shifted)
    assert torch.allclose(one["cos_total_ref_centred"], other["cos_total_ref_centred"])
    assert not torch.allclose(one["cos_total_ref_plain"], other["cos_total_ref_plain"], atol=0.05)


def test_weighted_ignores_what_the_student_never_says():
    logp = logps()
    logp["student"][:, 11] = -60.0
    noisy = {**logp, "teacher": logp["teacher"].clone()}
    noisy["teacher"][:, 11] -= 40.0
    one, other = decomposition(logp), decomposition(noisy)
    assert torch.allclose(one["cos_total_ref_weighted"], other["cos_total_ref_weighted"], atol=1e-9)
    assert not torch.allclose(one["cos_total_ref_plain"], other["cos_total_ref_plain"], atol=1e-2)


def test_top_union_counts_each_entry_once():
    logp = logps()
    top = decomposition(logp, top_k=3)
    for t in range(T):
        union = sorted({int(i) for r in ROLES[:3] for i in logp[r][t].topk(3).indices})
        total = (logp["teacher"] - logp["student"])[t, union]
        ref = (logp["reference"] - logp["student"])[t, union]
        assert top["cos_total_ref_topk"][t].item() == pytest.approx((total @ ref / (total.norm() * ref.norm())).item())
    everything, plain = decomposition(logp, top_k=V), decomposition(logp)
    assert torch.allclose(everything["norm_ratio_topk"], plain["norm_ratio_plain"])
    with pytest.raises(ValueError, match="top_k"):
        decomposition(logp, top_k=0)


def test_zero_norm_is_nan_and_counted():
    logp = logps()
    logp["teacher"] = logp["teacher"].clone()
    logp["teacher"][:4] = logp["student"][:4]
    found = decomposition(logp)
    assert found["cos_total_ref_plain"][:4].isnan().all() and found["norm_ratio_plain"][:4].isnan().all()
    summary = summarise(found)
    assert summary["cos_total_ref_plain_nan"] == 4
    assert summary["cos_total_ref_plain"] == pytest.approx(found["cos_total_ref_plain"][4:].mean().item())
    assert math.isnan(summarise({"x": torch.full((3,), torch.nan)})["x"])
    assert math.isnan(summarise({"x": torch.zeros(0)})["x"])


def test_distance_entropy_and_mass():
    logp = logps()
    values = position_values(logp, method=Method("purified", TargetParams(clip_c=2.0)), top_k=5)
    assert (values["kl_from_base"] > 0).all() and (kl(logp["base"], logp["base"]) == 0).all()
    assert torch.allclose(values["entropy_base"], torch.distributions.Categorical(logits=logp["base"]).entropy())
    flat, sure = torch.full((1, V), -math.log(V)), torch.log_softmax(torch.tensor([[50.0] + [0.0] * (V - 1)]), -1)
    assert mass_outside_top(flat, sure, top_k=6).item() == pytest.approx(1 - 6 / V, rel=1e-5)
    assert mass_outside_top(sure, sure, top_k=1).item() == pytest.approx(0, abs=1e-6)


def test_blocks_of_positions_give_the_values_of_the_whole(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    hidden = {r: torch.randn((T, D), generator=generator) for r in ROLES}
    weight = torch.randn((V + 5, D), generator=generator)
    head, method = Head(weight, None, V), Method("purified")
    whole = diagnose(hidden, head, method=method, top_k=5)
    monkeypatch.setattr(diagnostics, "block_positions", lambda *a, **k: 4)
    monkeypatch.setattr(diagnostics, "row_positions", lambda *a, **k: 3)
    parts = diagnose(hidden, head, method=method, top_k=5)
    direct = position_values({r: torch.log_softmax(h @ weight[:V].T, -1) for r, h in hidden.items()}, method=method, top_k=5)
    for name, value in whole.items():
        assert value.shape == (T,)
        assert torch.allclose(value, parts[name], rtol=1e-4, atol=1e-6), name
        assert torch.allclose(value, direct[name], rtol=1e-4, atol=1e-6), name
    in_loss = chunked_loss(hidden, head, method=method).stats
    assert torch.allclose(in_loss["kl_from_base"], whole["kl_from_base"], rtol=1e-4)
    assert torch.allclose(in_loss["student_entropy"], whole["entropy_student"], rtol=1e-4)
    assert diagnose({r: h[:0] for r, h in hidden.items()}, head, method=method) == {}
    with pytest.raises(ValueError, match="base"):
        diagnose({r: hidden[r] for r in ROLES[:3]}, head, method=method)


def test_means_by_class_of_token():
    values = {"x": torch.tensor([1.0, 2.0, 3.0, torch.nan, 7.0])}
    summary = summarise(values, classes=torch.tensor([0, 0, 1, 1, -1]), names=("marker", "digit", "other"))
    assert summary["x"] == 3.25 and summary["x_nan"] == 1
    assert summary["x[marker]"] == 1.5 and summary["x[digit]"] == 3.0 and math.isnan(summary["x[other]"])


def test_tokens_are_classed_by_what_they_are_and_the_boxed_answer_by_where_it_is():
    from opsd_eval.testbed.vocabulary import build_tokenizer
    from opsd_train.diagnosis import CLASSES, token_classes

    tokenizer = build_tokenizer()
    text = "maybe 68 check 1 + 1 = 2 ; was 68 wait \\boxed{4} 5"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert [CLASSES[kind] for kind in token_classes(tokenizer, ids)] == [
        "marker", "number", "marker", "number", "operator", "number", "operator", "number", "other", "other", "number",
        "marker", "other", "answer", "other", "number",
    ]  # fmt: skip
