"""The contract of every registered target, and the identities that define them."""

from __future__ import annotations

import math

import pytest
import torch

from opsd_train.targets import TARGETS, TargetParams, get_target

T, V = 12, 40
ROLES = ("teacher", "reference", "base")


def logp(seed, *, scale=4.0, size=(T, V), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(size, generator=generator, dtype=dtype), dim=-1)


def inputs(name, **options):
    everything = {role: logp(seed, **options) for seed, role in enumerate((*ROLES, "student"))}
    return {role: everything[role] for role in TARGETS[name].needs}


@pytest.mark.parametrize("name", TARGETS)
class TestContract:
    """What holds for every target, those added later included."""

    def test_is_a_distribution(self, name):
        out = TARGETS[name].combine(inputs(name), TargetParams())
        assert out.shape == (T, V) and out.dtype == torch.float32
        assert torch.allclose(out.exp().sum(-1), torch.ones(T), atol=1e-5)

    def test_is_finite_where_logits_are_minus_ten_thousand(self, name):
        given = inputs(name)
        for i, role in enumerate(sorted(given)):
            logits = torch.randn(T, V)
            logits[:, i : i + V // 2] = -1e4
            given[role] = torch.log_softmax(logits, dim=-1)
        out = TARGETS[name].combine(given, TargetParams())
        assert out.isfinite().all()
        assert torch.allclose(out.exp().sum(-1), torch.ones(T), atol=1e-4)

    def test_a_token_impossible_under_every_role_changes_nothing(self, name):
        """−inf − −inf is 0, so the entry enters no ratio; it may only take a share of the mean, which is unclipped."""
        given = inputs(name)
        for role in given:
            given[role][:, 7] = -math.inf
            given[role] = torch.log_softmax(given[role], dim=-1)
        out = TARGETS[name].combine(given, TargetParams())
        assert out.isfinite().all()
        if "base" in given or name == "standard":
            assert (out[:, 7].exp() == 0).all()

    def test_any_chunking_and_order_gives_the_same_rows(self, name):
        given, target = inputs(name), TARGETS[name]
        whole = target.combine(given, TargetParams())
        order = torch.randperm(T, generator=torch.Generator().manual_seed(0))
        shuffled = target.combine({role: value[order] for role, value in given.items()}, TargetParams())
        assert torch.equal(shuffled, whole[order])
        parts = [
            target.combine({role: value[start : start + 5] for role, value in given.items()}, TargetParams())
            for start in range(0, T, 5)
        ]
        assert torch.equal(torch.cat(parts), whole)

    def test_has_no_gradient_and_leaves_its_inputs_alone(self, name):
        given = {role: value.requires_grad_() for role, value in inputs(name).items()}
        before = {role: value.detach().clone() for role, value in given.items()}
        out = TARGETS[name].combine(given, TargetParams())
        assert not out.requires_grad
        assert all(torch.equal(given[role], before[role]) for role in given)
        assert all(out.data_ptr() != value.data_ptr() for value in given.values())

    def test_reads_exactly_what_it_needs(self, name):
        class Watched(dict):
            def __init__(self, values):
                super().__init__(values)
                self.read = set()

            def __getitem__(self, key):
                self.read.add(key)
                return super().__getitem__(key)

        watched = Watched(inputs(name))
        TARGETS[name].combine(watched, TargetParams())
        assert watched.read == TARGETS[name].needs
        assert TARGETS[name].needs <= {*ROLES, "student"}

    def test_keeps_double_precision(self, name):
        assert TARGETS[name].combine(inputs(name, dtype=torch.float64), TargetParams()).dtype == torch.float64

    def test_a_nan_is_never_hidden(self, name):
        given = inputs(name)
        for role in given:
            spoiled = {**given, role: given[role].clone()}
            spoiled[role][3, 5] = math.nan
            out = TARGETS[name].combine(spoiled, TargetParams())
            assert out[3].isnan().any() and out[4].isfinite().all()

    def test_is_registered_under_its_name(self, name):
        assert get_target(name).name == name


def combine(name, given, **params):
    return TARGETS[name].combine(given, TargetParams(**params))


GIVEN = {role: logp(seed, dtype=torch.float64) for seed, role in enumerate(ROLES)}


def test_standard_is_the_teacher():
    assert torch.allclose(combine("standard", GIVEN), GIVEN["teacher"])


@pytest.mark.parametrize("name", ["purified", "no_subtraction", "no_centring", "no_clip"])
def test_beta_to_infinity_is_the_base(name):
    assert torch.allclose(combine(name, GIVEN, beta=1e12), GIVEN["base"], atol=1e-9)
    assert torch.allclose(combine(name, GIVEN, beta=math.inf), GIVEN["base"])


def test_no_anchor_at_beta_to_infinity_is_uniform():
    assert torch.allclose(combine("no_anchor", GIVEN, beta=math.inf).exp(), torch.tensor(1 / V, dtype=torch.float64))


@pytest.mark.parametrize("name", ["purified", "no_centring", "no_clip"])
def test_teacher_equal_to_reference_is_the_base_exactly(name):
    given = {**GIVEN, "reference": GIVEN["teacher"].clone()}
    assert torch.equal(combine(name, given), torch.log_softmax(GIVEN["base"], dim=-1))


@pytest.mark.parametrize("name", ["purified", "no_centring"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_clip_to_infinity_is_base_times_the_ratio(name, beta):
    expected = torch.log_softmax(GIVEN["base"] + (GIVEN["teacher"] - GIVEN["reference"]) / beta, dim=-1)
    assert torch.allclose(combine(name, GIVEN, clip_c=1e9, beta=beta), expected, atol=1e-7)
    assert torch.allclose(combine(name, GIVEN, clip_c=math.inf, beta=beta), expected)
    assert torch.allclose(combine("no_clip", GIVEN, beta=beta), expected)


def test_no_subtraction_as_clip_goes_to_infinity_is_standard_at_beta_one_and_the_geometric_mean_beyond():
    assert torch.allclose(combine("no_subtraction", GIVEN, clip_c=1e9), combine("standard", GIVEN), atol=1e-7)
    mean = torch.log_softmax(0.75 * GIVEN["base"] + 0.25 * GIVEN["teacher"], dim=-1)
    assert torch.allclose(combine("no_subtraction", GIVEN, clip_c=math.inf, beta=4.0), mean)


def test_purified_by_hand():
    """Two entries: Δ = (ln 2, −ln 2), mean 0, c = 1: tanh(ln 2) = 3/5, so the log-odds of a fair base are 2·0.6."""
    given = {
        "teacher": torch.tensor([[2 / 3, 1 / 3]]).log(),
        "reference": torch.tensor([[0.5, 0.5]]).log() + torch.tensor([[0.0, 0.0]]),
        "base": torch.tensor([[0.5, 0.5]]).log(),
    }
    # log-ratios ln(4/3) and ln(2/3); their mean removed leaves ± ln(2)/2; tanh(ln(2)/2) = 1/3
    out = combine("purified", given, clip_c=1.0)
    assert math.isclose(float(out[0, 0] - out[0, 1]), 2 / 3, rel_tol=1e-5)


def test_centring_ignores_a_shift_and_no_centring_does_not():
    shifted = {**GIVEN, "teacher": GIVEN["teacher"] + 3.0}
    assert torch.allclose(combine("purified", shifted), combine("purified", GIVEN), atol=1e-9)
    assert not torch.allclose(combine("no_centring", shifted), combine("no_centring", GIVEN), atol=1e-2)


def test_no_clip_lets_through_what_the_clip_stops():
    teacher = torch.log_softmax(torch.tensor([[60.0] + [0.0] * (V - 1)], dtype=torch.float64), dim=-1)
    flat = torch.full((1, V), -math.log(V), dtype=torch.float64)
    given = {"teacher": teacher, "reference": flat, "base": flat}
    gain = {name: float((combine(name, given) - flat)[0, 0] - (combine(name, given) - flat)[0, 1])
            for name in ("purified", "no_clip")}  # fmt: skip
    assert math.isclose(gain["no_clip"], 60.0, rel_tol=1e-9)
    assert gain["purified"] < 20.0


def test_one_sided_impossible_tokens_are_defined():
    given = {role: value.clone() for role, value in GIVEN.items()}
    given["teacher"][0, 3] = -math.inf
    given["reference"][1, 3] = -math.inf
    for name in TARGETS:
        assert combine(name, {role: given[role] for role in TARGETS[name].needs}).isfinite().all()
    assert float(combine("no_clip", given)[0, 3].exp()) == 0.0


def test_unknown_and_impossible_values_say_what_is_allowed():
    with pytest.raises(ValueError, match="purified"):
        get_target("purifed")
    with pytest.raises(ValueError, match="beta is 0"):
        TargetParams(beta=0.0)
    with pytest.raises(ValueError, match="clip_c"):
        TargetParams(clip_c=math.nan)
