"""The testbed's problems: nothing leaks, kinds mean what they say, every choice is documented."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_eval import testbed
from opsd_eval.testbed import chains, traces
from opsd_eval.testbed.bases import bases_table
from opsd_eval.testbed.chance import answer_chance, chance
from opsd_eval.testbed.design import DESIGN, design_table
from opsd_eval.testbed.worlds import SPLITS, SWEEP, WORLDS, canonical_problems

FAMILIES = ("hunch", "slips", "search")
TEST_SPLITS = ("id", "longer", "larger", "heldout_mix")


def test_chain_by_hand():
    chain = chains.Chain(17, (("+", 5), ("*", 2), ("-", 3)))
    assert chain.values == (22, 44, 41)
    assert chain.question == "start 17 , + 5 , * 2 , - 3 ?"
    assert chain.canonical == "chain:17:+5:*2:-3"
    assert traces.chain_steps(chain) == "17 + 5 = 22 ; 22 * 2 = 44 ; 44 - 3 = 41 ;"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_problem_is_in_two_splits_whatever_the_seeds(family):
    drawn = {
        split: {p.canonical for seed in (0, 1) for p in canonical_problems(family, split, 400, seed)}
        for split in SPLITS
    }
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not drawn[a] & drawn[b], (a, b)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_splits_hold_their_kind_and_pool(family, split):
    pool, kind = SPLITS[split]
    for item in canonical_problems(family, split, 100, 3):
        assert chains.pool_of(item) == pool
        assert kind is None or chains.kind_of(item) == kind


def test_kinds_differ_from_id_on_one_axis():
    top, operand = DESIGN.id_value_max, DESIGN.id_operand_max
    for p in testbed.problems("slips", "longer", 200, 0):
        assert p.axes["length"] in DESIGN.longer_lengths
        assert max(p.metadata["start"], *p.metadata["values"]) <= top
    for p in testbed.problems("slips", "larger", 200, 0):
        assert p.axes["length"] in DESIGN.id_lengths
        assert max(p.metadata["start"], *p.metadata["values"]) > top or max(
            n for _, n in p.metadata["operations"]) > operand
    for p in testbed.problems("slips", "heldout_mix", 200, 0):
        assert {s for s, _ in p.metadata["operations"]} == set(DESIGN.heldout_mix)
    for p in testbed.problems("slips", "train", 200, 0):
        assert {s for s, _ in p.metadata["operations"]} != set(DESIGN.heldout_mix)
    with pytest.raises(ValueError, match="more than one axis"):
        chains.kind_of(chains.Chain(99, (("-", 1),) * DESIGN.longer_lengths[0]))


@pytest.mark.parametrize("world", [*WORLDS, *SWEEP])
def test_problems_are_complete_unique_and_prefix_stable(world):
    for split in SPLITS:
        found = testbed.problems(world, split, 50, 7)
        assert len({p.problem_id for p in found}) == 50
        assert found[:20] == testbed.problems(world, split, 20, 7)
        assert all(p.benchmark == f"testbed.{world}.{split}" and p.split == split for p in found)
        assert all(p.reference.endswith(traces.boxed(int(p.answer))) for p in found)


def test_worlds_of_one_family_ask_the_same_questions():
    one, two = (testbed.problems(w, "id", 30, 0) for w in ("hunch_r10", "hunch_r100"))
    assert [p.question for p in one] == [p.question for p in two]
    assert {p.problem_id for p in one}.isdisjoint(p.problem_id for p in two)
    assert all(p.reference.startswith("r10 ") for p in one) and all(p.reference.startswith("r100 ") for p in two)


def test_answer_spaces_are_wide_and_chance_is_low():
    for world in ("hunch_r10", "slips"):
        found = testbed.problems(world, "id", 1000, 0)
        assert len({p.answer for p in found}) >= 36
        assert sum(answer_chance(p) for p in found) / 1000 < 0.05
    found = testbed.problems("search", "id", 50, 0)
    assert all(answer_chance(p) == 1 / p.axes["length"] for p in found)


def test_chance_is_the_pass_rate_of_guessing():
    found = testbed.problems("hunch_r10", "id", 2, 0)
    answers = [p.answer for p in testbed.problems("hunch_r10", "id", 3000, 5)]
    for p in found:
        assert answer_chance(p) == pytest.approx(answers.count(p.answer) / 3000, abs=0.012)
        assert chance(p, 1) == pytest.approx(answer_chance(p))
        assert chance(p, 3) == pytest.approx(1 - (1 - answer_chance(p)) ** 3)
    with pytest.raises(ValueError, match="testbed problems only"):
        chance(testbed.problems("slips", "id", 1, 0)[0].__class__("other", "2 + 2 ?"), 1)


def test_search_has_exactly_one_solution():
    for p in canonical_problems("search", "corpus", 300, 0):
        hits = [c for c in p.candidates if chains.run_operations(c, p.operations)[-1] == p.target]
        assert hits == [p.answer]


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="hunch_r10"):
        testbed.problems("hunch_10", "id", 1, 0)
    with pytest.raises(ValueError, match="larger"):
        testbed.problems("slips", "large", 1, 0)
    with pytest.raises(ValueError, match="0 or more"):
        testbed.problems("slips", "id", -1, 0)
    with pytest.raises(ValueError, match=r"shipped: .*hunch_r10_s0"):
        testbed.base_path("hunch_r10", 99)


def test_traces_keep_the_rates_of_the_design():
    rng = random.Random(0)
    items = canonical_problems("hunch", "corpus", 300, 0)
    hunches = [i.answer for i in items]

    def share(tag, word):
        drawn = [traces.hunch_trace(rng.choice(items), rng, tag=tag, hunches=hunches) for _ in range(4000)]
        return sum(word in t.split() for t in drawn) / 4000

    assert share(None, "check") == pytest.approx(DESIGN.check_rate, abs=0.02)
    for tag, recovery in DESIGN.recovery.items():
        assert share(tag, "check") == pytest.approx(recovery, abs=0.03)
    seen = [traces.slips_trace(rng.choice(items), rng, tag="") for _ in range(300)]
    assert not any(w in t.split() for t in seen for w in ("wait", "check", "maybe"))


def test_privileged_search_never_abandons_a_branch():
    rng = random.Random(0)
    for item in canonical_problems("search", "corpus", 100, 0):
        assert traces.search_trace(item, rng, tag="").split()[:2] == ["try", str(item.answer)]
    plain = [traces.search_trace(i, rng, tag=None) for i in canonical_problems("search", "corpus", 200, 0)]
    assert 0.5 < sum("no wait" in t for t in plain) / 200 < 0.9
    assert max(len(t.split()) for t in plain) <= 125


def test_readme_shows_the_table_of_choices():
    readme = (Path(testbed.__file__).parent / "README.md").read_text()
    assert design_table() in readme
    assert bases_table() in readme
    for name in (*WORLDS, *SWEEP):
        assert f"`{name}`" in readme


def test_import_is_light():
    code = "import sys, opsd_eval.testbed; print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
