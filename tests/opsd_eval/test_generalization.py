"""Generalization gaps and the guard against leakage."""

from __future__ import annotations

import pytest

from opsd_eval.benchmarks import load_benchmark
from opsd_eval.metrics.generalization import gaps_by_axis, gaps_by_exposure, generalization_gap, twin_gap
from opsd_eval.metrics.leakage import exposure, find_leaks, guard_against_leaks
from opsd_eval.records import Problem, new_run_record, write_problems, write_run, write_text
from opsd_eval.stats import difference_in_differences

TWIN = "A farmer has {} apples and buys {} more on each of the next days of the week; how many apples has the farmer?"


def problem(name, question, **values):
    return Problem(name, question, "5", **values)


def test_leaks_are_found_and_named():
    train = [problem("t1", TWIN.format(3, 4)), problem("t2", "What is 2 + 2?"), problem("t3", "Spell cat.")]
    test = [
        problem("t1", "Anything else?"),  # same id
        problem("e1", TWIN.format(3, 4)),  # same text
        problem("e2", "what is  2+2"),  # same words
        problem("e3", TWIN.format(3, 4).replace("A farmer", "One day a farmer")),  # near copy
        problem("e4", TWIN.format(30, 4)),  # the same template with other numbers is no leak
        problem("e5", "What is 2 + 3?"),
    ]
    leaks = find_leaks(train, test)
    assert [(leak.problem_id, leak.kind, leak.train_id) for leak in leaks] == [
        ("t1", "same_id", "t1"), ("e1", "same_text", "t1"), ("e2", "same_words", "t2"), ("e3", "near_copy", "t1"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="4 test problems are in the training data"):
        guard_against_leaks(train, test)
    guard_against_leaks(train, test[4:])


def test_signs_count_as_words():
    assert find_leaks([problem("t", "start 17 , + 5 , - 3 ?")], [problem("e", "start 17 , - 5 , + 3 ?")]) == []
    assert exposure([problem("t", "What is 17 + 5?")], [problem("e", "what is 17+5"), problem("f", "What is 17 - 5?")]) == {
        "e": "trained", "f": "held_out",
    }  # fmt: skip


def test_an_empty_side_has_no_leaks():
    assert find_leaks([], [problem("a", "b")]) == [] == find_leaks([problem("a", "b")], [])


@pytest.fixture
def make(tmp_path):
    def build(name, values, axes=None, twins=()):
        folder = tmp_path / name
        problems = [
            problem(
                f"p{i}", f"Question {i}", axes={} if axes is None else {"length": axes[i]},
                metadata={"twin_of": twins[i]} if twins else {},
            )
            for i in range(len(values))
        ]  # fmt: skip
        write_run(folder, new_run_record(name, "samples"))
        write_problems(folder, problems)
        rows = "".join(f"p{i},,4,{v}\n" for i, v in enumerate(values))
        write_text(folder / "measures.csv", "problem_id,cluster,n,avg@4\n" + rows)
        return folder

    return build


def test_gap_is_a_difference_in_differences(make):
    gap = generalization_gap(
        (make("ib", [0.5, 0.5, 0.25]), make("ia", [1.0, 0.75, 0.5])),
        (make("ob", [0.5, 0.25, 0.25]), make("oa", [0.5, 0.25, 0.0])), metric="avg@4",
    )  # fmt: skip
    assert gap.value == pytest.approx((0.5 + 0.25 + 0.25) / 3 - (0 + 0 - 0.25) / 3)
    with pytest.raises(ValueError, match=r"avg@8.*avg@4"):
        generalization_gap((make("a", [1.0]), make("b", [1.0])), (make("c", [1.0]), make("d", [1.0])), metric="avg@8")


def test_gaps_by_declared_axis(make):
    axes = [3, 3, 3, 5, 5, 5, 6, 6, 6]
    before = make("before", [0.5] * 9, axes)
    after = make("after", [1, 1, 0.75, 0.5, 0.5, 0.25, 0.0, 0.0, 0.25], axes)
    table = gaps_by_axis(before, after, axis="length", trained=[3], metrics=["avg@4"])
    assert table["value"].tolist() == ["5", "6"]
    assert table["change_in"].tolist() == pytest.approx([2.5 / 6] * 2)
    assert table["gap"].tolist() == pytest.approx([1.25 / 3 + 0.25 / 3, 1.25 / 3 + 1.25 / 3])
    with pytest.raises(ValueError, match="length"):
        gaps_by_axis(before, after, axis="size", trained=[3], metrics=["avg@4"])
    with pytest.raises(ValueError, match="none of them"):
        gaps_by_axis(before, after, axis="length", trained=[9], metrics=["avg@4"])


def test_gap_between_problems_and_their_twins_is_paired(make):
    own = (make("ob", [0.5, 0.5, 0.25, 0.0]), make("oa", [1.0, 0.75, 0.75, 0.5]))  # +.5 +.25 +.5 +.5
    twins = ["p0", "p0", "p1", "p2"]  # two twins of p0, none of p3
    theirs = (make("tb", [0.5, 0.25, 0.5, 0.5], twins=twins), make("ta", [0.5, 0.5, 0.75, 0.25], twins=twins))
    gap = twin_gap(own, theirs, metric="avg@4")  # twins: (0 + .25) / 2 = .125, +.25, -.25
    assert gap.value == pytest.approx((0.375 + 0.0 + 0.75) / 3)
    assert (gap.n_problems, gap.n_dropped) == (3, 1)
    with pytest.raises(ValueError, match="twin_of"):
        twin_gap(own, (make("nb", [0.5]), make("na", [0.5])), metric="avg@4")


def test_gap_by_exposure(make):
    sets = make("before", [0.5] * 6), make("after", [1.0, 1.0, 1.0, 0.5, 0.5, 0.25])
    seen = [problem(f"t{i}", f"question {i}") for i in range(3)]
    row = gaps_by_exposure(*sets, train=seen, metrics=["avg@4"]).iloc[0]
    assert (row["value"], row["change_in"]) == ("held_out", 0.5) and row["gap"] == pytest.approx(0.5 + 0.25 / 3)
    with pytest.raises(ValueError, match="0 of 6 problems"):
        gaps_by_exposure(*sets, train=[problem("t", "Something else")], metrics=["avg@4"])


def test_testbed_twins_keep_the_plan_and_change_the_numbers():
    originals, twins = (load_benchmark(f"testbed.slips.{split}", limit=30) for split in ("train", "train_twins"))
    assert [twin.metadata["twin_of"] for twin in twins] == [original.problem_id for original in originals]
    for original, twin in zip(originals, twins, strict=True):
        signs = [[sign for sign, _ in p.metadata["operations"]] for p in (original, twin)]
        assert signs[0] == signs[1] and original.question != twin.question
    guard_against_leaks(originals, twins)
    assert twins == load_benchmark("testbed.slips.train_twins", limit=30)
    with pytest.raises(ValueError, match="only chains"):
        load_benchmark("testbed.search.train_twins", limit=2)


def test_the_splits_of_generated_benchmarks_do_not_leak():
    train = load_benchmark("testbed.hunch_r10.train", limit=200, seed=3)
    for split in ("id", "longer", "larger", "heldout_mix"):
        guard_against_leaks(train, load_benchmark(f"testbed.hunch_r10.{split}", limit=200, seed=3))


def test_a_cluster_on_both_sides_is_one_cluster():
    """Templates c1 and c2 on either side: what a template shares drops out of the gap, what it opposes counts twice."""
    clusters = {"a1": "c1", "a2": "c2", "b1": "c1", "b2": "c2"}
    zero = {"a1": 0.0, "a2": 0.0}, {"b1": 0.0, "b2": 0.0}
    inside = {"a1": 1.0, "a2": 3.0}
    same = difference_in_differences(inside, zero[0], {"b1": 0.0, "b2": 2.0}, zero[1], clusters=clusters)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0) and "2 clusters on both sides" in same.method
    opposite = difference_in_differences(inside, zero[0], {"b1": 2.0, "b2": 0.0}, zero[1], clusters=clusters)
    assert opposite.high - opposite.value == pytest.approx(12.7062 * 2, rel=1e-4)  # SE² = 2/1 · (1 + 1), t with df 1
    apart = clusters | {"b1": "d1", "b2": None}
    found = difference_in_differences(inside, zero[0], {"b1": 0.0, "b2": 2.0}, zero[1], clusters=apart)
    assert found.method.endswith("Welch t") and found.high > found.value
