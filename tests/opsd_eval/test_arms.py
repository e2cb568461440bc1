"""Which loose sets are one arm, and of which benchmark: from models, from names, from the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_eval.arms import LooseSet, name_sets
from opsd_eval.records import RunRecord


def loose(name, benchmark, model=None, *, split=None, given=None, folder="sets", questions=(), **record):
    run = RunRecord(name, "ingest", model={"path": model, **record})
    return LooseSet(Path("/x") / folder / name, run, benchmark, split, frozenset(questions), given)


def arms(*sets):
    return [(found.arm, found.split, found.step) for found in name_sets(sets)]


def test_names_without_what_a_benchmark_shares():
    found = arms(*(loose(f"{arm}_{where}", where) for where in ("gsm8k", "aime24") for arm in ("base", "tuned")))
    assert found == [("base", "gsm8k", None), ("tuned", "gsm8k", None), ("base", "aime24", None), ("tuned", "aime24", None)]


def test_names_are_as_given_where_there_is_one_benchmark():
    assert arms(loose("run-base", "gsm8k"), loose("run-tuned", "gsm8k")) == [
        ("run-base", "all", None), ("run-tuned", "all", None),
    ]  # fmt: skip


def test_one_model_is_one_arm_whatever_its_sets_are_called():
    found = arms(loose("first", "gsm8k", "A"), loose("second", "gsm8k", "B"), loose("other", "aime", "B"), loose("x", "aime", "A"))
    assert [arm for arm, _, _ in found] == ["first", "second", "second", "first"]


def test_adapters_and_hashes_tell_models_apart():
    same = "pretrained=Q,dtype=auto,peft="
    found = arms(loose("a_in", "in", "Q", args=f"{same}x"), loose("b_in", "in", "Q", args=f"{same}y"),
                 loose("p", "out", "Q", args={"pretrained": "Q", "peft": "y"}), loose("q", "out", "Q", args=f"{same}x"))  # fmt: skip
    assert [arm for arm, _, _ in found] == ["a", "b", "b", "a"]
    found = arms(loose("a_in", "in", "m", sha256="1"), loose("b_in", "in", "m", sha256="2"), loose("p", "out", "n", sha256="2"))
    assert [arm for arm, _, _ in found] == ["a", "b", "b"]


def test_a_model_that_fits_two_arms_is_told_by_its_label_or_stays_alone():
    """A server calls every model 'default'."""
    two = [loose("base_in", "in", "default"), loose("tuned_in", "in", "default")]
    assert [arm for arm, _, _ in arms(*two, loose("base_out", "out", "default"), loose("tuned_out", "out", "default"))] == [
        "base", "tuned", "base", "tuned",
    ]  # fmt: skip
    assert [arm for arm, _, _ in arms(*two, loose("mine", "out", "default"))] == ["base", "tuned", "mine"]


def test_labels_do_not_join_different_models():
    found = arms(loose("base_in", "in", "A"), loose("tuned_in", "in", "B"), loose("base_out", "out", "C"), loose("tuned_out", "out", "B"))
    assert [arm for arm, _, _ in found] == ["base", "tuned", "base (2)", "tuned"]


def test_equal_names_are_told_apart_by_their_folders():
    found = arms(*(loose(where, where, folder=f"{arm}/sets") for arm in ("base", "tuned") for where in ("gsm8k", "aime")))
    assert [arm for arm, _, _ in found] == ["base", "base", "tuned", "tuned"]


def test_the_user_decides():
    found = arms(loose("a", "in", "A", given="mine"), loose("b", "in", "B", given="theirs"), loose("c", "out", "B", given="mine"))
    assert [arm for arm, _, _ in found] == ["mine", "theirs", "mine"]
    with pytest.raises(ValueError, match=r"'mine' has two sets of in · all"):
        arms(loose("a", "in", "A", given="mine"), loose("b", "in", "B", given="mine"))


def test_a_named_baseline_has_no_steps_whatever_its_models_are_called():
    found = arms(loose("a", "in", "x/checkpoint-100", given="base"), loose("b", "out", "y/checkpoint-200", given="base"),
                 loose("c", "in", "z/checkpoint-100", given="mine"), loose("d", "in", "w/checkpoint-200", given="mine"))  # fmt: skip
    assert found == [("base", "in", None), ("base", "out", None), ("mine", "in", 100), ("mine", "in", 200)]


def test_checkpoints_of_one_run_by_name_by_record_and_by_model_folder():
    base = loose("base_in", "in", "Q")
    for one, two in (
        (loose("checkpoint-100", "in", folder="mine"), loose("checkpoint-200", "in", folder="mine")),
        (loose("mine-step-100", "in"), loose("mine-step-200", "in")),
        (loose("mine", "in", "out/checkpoint-100"), loose("any", "in", "out/checkpoint-200")),
        (loose("mine", "in", "m", step=100), loose("any", "in", "m", step=200)),
    ):
        assert arms(base, one, two) == [("base_in", "all", None), ("mine", "all", 100), ("mine", "all", 200)]


def test_the_baseline_is_no_checkpoint_on_any_benchmark():
    found = arms(
        loose("a", "in", "m/step-000000"), loose("b", "in", "m/step-000040"), loose("c", "out", "m/step-000040"),
        loose("d", "out", "m/step-000000"),
    )  # fmt: skip
    assert found == [("a", "in", None), ("b", "in", 40), ("b", "out", 40), ("a", "out", None)]


def test_splits_of_one_benchmark_are_one_world():
    found = name_sets([loose("a", "testbed.slips.id", split="id"), loose("b", "testbed.slips.longer", split="longer")])
    assert [(one.world, one.split) for one in found] == [("testbed.slips", "id"), ("testbed.slips", "longer")]
    found = name_sets([loose("a", "testbed.slips.id", split="id"), loose("b", "gsm8k")])
    assert [(one.world, one.split) for one in found] == [("benchmarks", "testbed.slips.id"), ("benchmarks", "gsm8k")]


def test_sets_without_a_benchmark_are_told_apart_by_their_questions():
    easy, hard = ("1+1?", "2+2?", "3+3?"), ("zeta?", "eta?")
    found = arms(loose("base_id", None, questions=easy), loose("tuned_id", None, questions=easy[:2]),
                 loose("base_ood", None, questions=hard), loose("tuned_ood", None, questions=hard))  # fmt: skip
    assert found == [("base", "id", None), ("tuned", "id", None), ("base", "ood", None), ("tuned", "ood", None)]
    found = arms(loose("a", None, questions=easy), loose("b", None, questions=easy), loose("c", None, questions=hard))
    assert [split for _, split, _ in found] == ["problems 1", "problems 1", "problems 2"]
    assert name_sets([loose("a", None, questions=easy)])[0].world == "unknown"
