"""The lm-eval adapter: thin, complete, and equal to the offline numbers (the harness itself runs in tests/real)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import yaml

from opsd_eval import harness, harness_tasks
from opsd_eval.records import Problem

PROBLEM = Problem(
    problem_id="p", question="start 2 , + 3 ?", answer="5", benchmark="testbed.hunch_r10.id", split="id"
)
TEXTS = [r"2 + 3 = 5 ; \boxed{5}", r"wait 2 + 3 = 6 ; \boxed{6}", "no box here", r"\boxed{5}"]


class FunctionsAsNames(yaml.SafeLoader):
    """Reads ``!function a.b.c`` as the text a.b.c."""


FunctionsAsNames.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_shipped_tasks_are_what_the_writer_writes():
    shipped = {path.name: path.read_text() for path in harness_tasks.SHIPPED.glob("*.yaml")}
    assert shipped == dict(harness_tasks.task_files(8)), "run python -m opsd_eval.harness_tasks"


def test_every_task_keeps_all_draws_unseeded_and_uncut():
    for name, text in harness_tasks.task_files(4).items():
        task = yaml.load(text, FunctionsAsNames)
        if "group" in task:
            continue
        assert task["repeats"] == 4, name
        assert task["generation_kwargs"]["until"] == [] and task["generation_kwargs"]["do_sample"] is True
        assert task["generation_kwargs"]["seed"] is None  # a constant request seed makes all draws identical
        assert [f["function"] for f in task["filter_list"][0]["filter"]] == ["custom"] and len(task["filter_list"]) == 1


def test_every_returned_metric_is_declared_and_has_its_error_bar():
    returned = harness.process_results(harness.document(PROBLEM), [TEXTS])
    task = yaml.load(harness_tasks.task_text("t", "testbed.hunch_r10.id", 4), FunctionsAsNames)
    declared = [entry["metric"] for entry in task["metric_list"]]
    assert set(declared) == set(returned)
    for name in declared[::2]:
        assert declared[declared.index(name) + 1] == f"{name}_stderr"


def test_values_by_hand():
    values = harness.process_results(harness.document(PROBLEM), [TEXTS])
    assert values["avg@4"] == 0.5
    assert values["pass@1"] == 0.5
    assert values["pass@2"] == pytest.approx(1 - 1 / 6)
    assert values["no_answer_rate"] == 0.25


def test_one_response_instead_of_a_list_is_refused():
    with pytest.raises(ValueError, match="filter_list"):
        harness.process_results(harness.document(PROBLEM), ["one text"])


def test_padded_ranks_are_cut_to_the_common_number_of_draws():
    assert harness.keep_all([["a", "b"], ["c", "d", "c", "d"]], None) == [["a", "b"], ["c", "d"]]
    assert harness.keep_all([], None) == []


def test_document_round_trip():
    problem = replace(PROBLEM, axes={"length": 3}, metadata={"values": [5]})
    assert harness.problem_of(harness.document(problem)) == problem


def test_aggregations_skip_undefined_problems():
    assert harness.mean_over_problems([1.0, math.nan, 0.0]) == 0.5
    assert harness.standard_error([1.0, math.nan, 0.0]) == pytest.approx(0.5)
    assert math.isnan(harness.standard_error([1.0]))
    assert math.isnan(harness.mean_over_problems([]))


def test_load_gives_documents_that_round_trip():
    rows = harness.load(benchmark="testbed.hunch_r10.id", problems=3, pretrained="ignored")["test"]
    assert len(rows) == 3 and harness.problem_of(rows[0]).benchmark == "testbed.hunch_r10.id"


def test_load_needs_a_benchmark():
    with pytest.raises(ValueError, match="benchmark"):
        harness.load(pretrained="x")
