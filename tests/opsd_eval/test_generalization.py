"""Generalization gaps and the guard against leakage."""

from __future__ import annotations

import pytest

from opsd_eval.metrics.generalization import (
    find_leaks,
    gaps_by_axis,
    generalization_gap,
    guard_against_leaks,
)
from opsd_eval.records import Problem, new_run_record, write_problems, write_run, write_text

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


def test_an_empty_side_has_no_leaks():
    assert find_leaks([], [problem("a", "b")]) == [] == find_leaks([problem("a", "b")], [])


@pytest.fixture
def make(tmp_path):
    def build(name, values, axes=None):
        folder = tmp_path / name
        problems = [
            problem(f"p{i}", f"Question {i}", axes={} if axes is None else {"length": axes[i]})
            for i in range(len(values))
        ]
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
