"""The contract of every registered target, and the identities that define them."""

from __future__ import annotations

import math

import pytest
import torch

from opsd_train.targets import RATIO_LIMIT, TARGETS, TargetParams, get_target, log_ratio, normalise

T, V = 12, 40
ROLES = ("teacher", "reference", "base")
ALL_ROLES = (*ROLES, "student", "wrong_hint", "outcome")


def logp(seed, *, scale=4.0, size=(T, V), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(size, generator=generator, dtype=dtype), dim=-1)


def inputs(name, **options):
    everything = {role: logp(seed, **options) for seed, role in enumerate(ALL_ROLES)}
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
        assert TARGETS[name].needs <= set(ALL_ROLES)

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


GIVEN = {role: logp(seed, dtype=torch.float64) for seed, role in enumerate(ALL_ROLES)}


def test_standard_is_the_teacher():
    assert torch.allclose(combine("standard", GIVEN), GIVEN["teacher"])


@pytest.mark.parametrize("name", [
    "purified", "no_subtraction", "no_centring", "no_clip", "geometric", "rlcsd", "smoothed_ratio", "difference",
    "credited",
])  # fmt: skip
def test_beta_to_infinity_is_the_base(name):
    assert torch.allclose(combine(name, GIVEN, beta=1e12), GIVEN["base"], atol=1e-9)
    assert torch.allclose(combine(name, GIVEN, beta=math.inf), GIVEN["base"])


def test_no_anchor_at_beta_to_infinity_is_uniform():
    assert torch.allclose(combine("no_anchor", GIVEN, beta=math.inf).exp(), torch.tensor(1 / V, dtype=torch.float64))


@pytest.mark.parametrize("name", ["purified", "no_centring", "no_clip", "smoothed_ratio", "difference"])
def test_teacher_equal_to_reference_is_the_base_exactly(name):
    given = {**GIVEN, "reference": GIVEN["teacher"].clone()}
    assert torch.equal(combine(name, given), normalise(GIVEN["base"]))


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


def test_ratios_of_impossible_tokens_by_hand():
    """−inf − −inf is 0; one −inf is the limit, not ∞; a NaN stays."""
    inf, nan = math.inf, math.nan
    above, below = torch.tensor([[-inf, -inf, -3.0, -2e5, nan, -300.0]]), torch.tensor([[-inf, -3.0, -inf, -1.0, -1.0, -450.0]])
    found = log_ratio(above, below)
    assert found[0, [0, 1, 2, 3, 5]].tolist() == [0.0, -RATIO_LIMIT, RATIO_LIMIT, -RATIO_LIMIT, 150.0] and found[0, 4].isnan()
    assert above[0, 0] == -inf, "the inputs stay as they are"


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


def test_geometric_is_the_teacher_at_beta_one_and_no_subtraction_without_its_clip():
    assert torch.allclose(combine("geometric", GIVEN), GIVEN["teacher"])
    for beta in (0.5, 3.0):
        assert torch.allclose(
            combine("geometric", GIVEN, beta=beta), combine("no_subtraction", GIVEN, beta=beta, clip_c=math.inf)
        )


def test_right_hint_equal_to_wrong_hint_is_the_base():
    given = {**GIVEN, "wrong_hint": GIVEN["teacher"].clone()}
    assert torch.equal(combine("rlcsd", given), normalise(GIVEN["base"]))


def test_ad_opsd_mixes_only_where_the_student_is_unsure():
    """Two rows: a sure student leaves the teacher; for an unsure one, u = total variation = .6, so P = .4·π_T + .6·P_0."""
    given = {
        "student": torch.tensor([[0.99, 0.01, 0.0], [0.4, 0.3, 0.3]]).log(),
        "teacher": torch.tensor([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]).log(),
        "base": torch.tensor([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]).log(),
    }
    out = combine("ad_opsd", given).exp()
    assert torch.allclose(out[0], torch.tensor([0.8, 0.1, 0.1]))
    assert torch.allclose(out[1], torch.tensor([0.44, 0.46, 0.1]))


def test_smoothed_ratio_and_difference_leave_tails_that_both_teachers_call_tiny():
    """A tail token that π_T calls 1e-4 and π_ref 1e-9: its log-ratio is 11 nats, its tilt next to nothing."""
    teacher = torch.tensor([[0.9, 0.0999, 1e-4]], dtype=torch.float64).log()
    reference = torch.tensor([[0.9, 0.1 - 1e-9, 1e-9]], dtype=torch.float64).log()
    given = {"teacher": teacher, "reference": reference, "base": torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()}
    assert combine("purified", given).exp()[0, 2] > 0.9
    for name in ("smoothed_ratio", "difference"):
        assert abs(float(combine(name, given).exp()[0, 2]) - 0.1) < 1e-3


def test_difference_is_bounded():
    gain = combine("difference", GIVEN) - GIVEN["base"]
    assert float((gain.max(-1).values - gain.min(-1).values).max()) <= 6.0


def test_agreement_takes_the_teacher_only_where_the_likeliest_token_is_the_same():
    same = {**GIVEN, "teacher": torch.where(torch.arange(T)[:, None] < 5, 2 * GIVEN["base"], GIVEN["teacher"])}
    agree = torch.log_softmax(same["teacher"], -1).argmax(-1) == GIVEN["base"].argmax(-1)
    out = combine("agreement", same)
    assert agree[:5].all() and not agree.all()
    assert torch.allclose(out[agree], torch.log_softmax(same["teacher"], -1)[agree])
    assert torch.allclose(out[~agree], GIVEN["base"][~agree])


def fork(*, sampled, advantage, teacher=(0.1, 0.9, 0.0), **params):
    """``credited`` at one position: student and base (.6, .399, .001), the third token outside the base's support."""
    student = torch.tensor([[0.6, 0.399, 0.001]], dtype=torch.float64)
    outcome = torch.zeros_like(student)
    outcome[0, sampled] = advantage
    given = {"student": student.log(), "base": student.log(), "outcome": outcome}
    given["teacher"] = torch.tensor([teacher], dtype=torch.float64).log()
    return combine("credited", given, **params).exp()[0]


def test_credited_moves_towards_the_teacher_only_where_this_paid():
    """The teacher prefers the second token. P' = (.1, .9, 0) up to what it leaves to the base; gain = P'/π_θ − 1."""
    base = 0.6
    assert float(fork(sampled=0, advantage=0.0)[0]) == pytest.approx(base)
    for sampled, advantage, sign in ((0, 0.5, 1), (0, -0.5, -1), (1, 0.5, -1), (1, -0.5, 1)):
        moved = float(fork(sampled=sampled, advantage=advantage, beta=50.0)[0])
        assert sign * (moved - base) > 0, (sampled, advantage)
    step = 10 / 50 * (-0.5) * (0.1 / 0.6 - 1)
    expected = 0.6 + step * (0.1 - 0.6)
    assert float(fork(sampled=0, advantage=-0.5, beta=50.0)[0]) == pytest.approx(expected)


def test_credited_counts_a_token_that_the_student_hardly_says_at_most_fourfold():
    """gain 20 − 1 is capped at 4, so a verdict of .01 moves by 10 · .01 · 4 = .4 of the way."""
    student, teacher, base = (torch.tensor([p]).log() for p in ([0.04, 0.96], [0.8, 0.2], [0.5, 0.5]))
    given = {"student": student, "teacher": teacher, "base": base, "outcome": torch.tensor([[0.01, 0.0]])}
    assert torch.allclose(combine("credited", given).exp(), torch.tensor([[0.62, 0.38]]), atol=1e-5)


@pytest.mark.parametrize("role", ["teacher", "base", "student"])
def test_credited_hides_no_nan_of_a_token_that_the_base_would_not_say(role):
    given = {name: torch.tensor([[0.6, 0.399, 0.001]]).log() for name in ("student", "teacher", "base")}
    given = {**given, role: given[role].clone(), "outcome": torch.tensor([[0.1, 0.0, 0.0]])}
    given[role][0, 2] = math.nan
    assert combine("credited", given).isnan().any()


def test_ad_opsd_is_defined_where_teacher_and_base_share_no_token():
    """Rounding puts their distance at 1 + 1e-7, and log(1 − that) would be NaN."""
    logits = torch.randn((400, 200), generator=torch.Generator().manual_seed(1))
    teacher, base = logits.clone(), logits.clone()
    teacher[:, ::2], base[:, 1::2] = -math.inf, -math.inf
    given = {"student": torch.zeros(400, 200), "teacher": teacher, "base": base}
    given = {role: torch.log_softmax(value, dim=-1) for role, value in given.items()}
    out = combine("ad_opsd", given)
    assert not out.isnan().any() and torch.allclose(out.exp(), given["base"].exp(), atol=1e-5)


def test_credited_never_teaches_what_the_base_would_not_say():
    out = fork(sampled=0, advantage=-1.0, teacher=(0.05, 0.05, 0.9))
    assert float(out[2]) < 0.002, "the teacher's own token has no support in the base"


def test_credited_moves_at_most_all_the_way():
    assert torch.allclose(fork(sampled=1, advantage=1.0, beta=1e-6)[:2], torch.tensor([0.1, 0.9], dtype=torch.float64))
