"""Entries that are not what their format says: any value in any field is kept or named, and nothing crashes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_logs import lm_eval_row, read_all, write_lines

from opsd_eval.ingest import ingest

FIXTURES = Path(__file__).parents[1] / "fixtures" / "ingest"
ROWS = {
    "lm-eval": lm_eval_row(),
    "nemo-skills": {"problem": "1+1?", "expected_answer": "2", "generation": "2", "id": "a", "finish_reason": "stop"},
    "qwen-math": {"idx": 7, "question": "1+1?", "gt": "2", "solution": "s", "code": ["a"], "level": 1},
    "kim": {"question": "1+1?", "generated_responses": ["a"], "thinking_contents": ["b"], "gold_answer": "2",
            "response_token_lengths": [1], "data_source": "d", "extra_info": {"index": 1}},
    "generic": {"question": "q", "texts": ["a"], "problem_id": "p", "axes": {}, "metadata": {}, "n_tokens": [1],
                "token_ids": [[1]], "seed": [1], "finish_reason": ["stop"], "answer": "1", "prompt": "x"},
}  # fmt: skip
NO_GIT = mock.patch("opsd_eval.records._git_state", lambda: (None, None))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["arg_0", "index", "x"]), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_foreign_entries_never_crash(form, data, tmp_path_factory):
    """Any value in any field: kept or named as malformed, and the good line beside it survives."""
    folder = tmp_path_factory.mktemp("fuzz")
    row = dict(ROWS[form])
    for key in data.draw(st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=3)):
        row[key] = data.draw(ANYTHING)
    good = lm_eval_row(9) if form == "lm-eval" else {**ROWS[form], "question": "good?", "problem": "good?", "idx": 99,
                                                     "id": "good", "problem_id": "good", "extra_info": {}}  # fmt: skip
    path = write_lines(folder / "samples_t.jsonl", [row, good])
    with NO_GIT:
        report = ingest(path, folder / "set", form=form)
    stored, _ = read_all(folder / "set")
    assert 1 <= len(stored.problems) <= 2 and report.n_samples >= 1


@pytest.mark.parametrize("form", ROWS)
def test_an_empty_id_is_none(form, tmp_path):
    """A set holds no problem without a name, and a question still has one: its hash, or the entry is named as malformed."""
    row = {key: "" if key in ("id", "idx", "problem_id", "doc_id") else value for key, value in ROWS[form].items()}
    good = lm_eval_row(9) if form == "lm-eval" else {**row, "question": "good?", "problem": "good?"}
    report = ingest(write_lines(tmp_path / "samples_t.jsonl", [row, good]), tmp_path / "set", form=form)
    stored, _ = read_all(tmp_path / "set")
    assert len(stored.problems) + report.n_malformed == 2 and all(stored.problems)


INSPECT_LOG = json.loads((FIXTURES / "inspect" / "tiny_sums.json").read_text(encoding="utf-8"))
INSPECT_LOG["samples"] = [{**sample, "events": []} for sample in INSPECT_LOG["samples"][:2]]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_foreign_json_logs_never_crash(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    whole = copy.deepcopy(INSPECT_LOG)
    places = [whole, whole["eval"], whole["plan"], whole["samples"][0], whole["samples"][0]["output"],
              whole["samples"][0]["output"]["choices"][0]]  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places))
        if place:
            place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ANYTHING)
    path = folder / "log.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    try:
        with NO_GIT:
            ingest(path, folder / "set", form="inspect")
    except ValueError as error:
        assert "log.json" in str(error) or "set" in str(error)
