"""Formats written by hand, malformed input, running again, hostile names."""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsd_eval.ingest import add_arguments, detect, ingest, run
from opsd_eval.ingest.base import gold_and_reference
from opsd_eval.records import load_sample_set, read_jsonl, read_run
from opsd_eval.secrets import redact

FIXTURES = Path(__file__).parents[1] / "fixtures" / "ingest"


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_all(folder):
    stored = load_sample_set(folder)
    return stored, {key: [s.text for s in samples] for key, samples in stored.samples.items()}


# --- formats written by hand ------------------------------------------------------------------------------


def test_nemo_skills(tmp_path):
    for seed in (0, 3):
        write_lines(tmp_path / "log" / f"output-rs{seed}.jsonl", [
            {"problem": "1+1?", "expected_answer": "2", "generation": f"two {seed}", "num_generated_tokens": 5,
             "predicted_answer": "2"},
            {"problem": "2+2?", "expected_answer": 4, "generation": "4", "_full_generation": "<think>x</think>4"},
            {"problem": "1+1?", "expected_answer": "2", "generation": "again"},
        ])  # fmt: skip
    assert detect(tmp_path / "log") == "nemo-skills"
    ingest(tmp_path / "log", tmp_path / "set", task="toy")
    stored, found = read_all(tmp_path / "set")
    first, second, again = stored.problems
    assert again == f"{first}#2"  # one question twice in a file is two problems
    assert found == {
        first: ["two 0", "two 3"], second: ["<think>x</think>4"] * 2, again: ["again"] * 2,
    }  # fmt: skip
    assert [(s.draw, s.seed, s.n_tokens) for s in stored.samples[first]] == [(0, 0, 5), (3, 3, 5)]
    assert stored.problems[second].answer == "4" and stored.run.sampling["n"] == 2


def test_nemo_skills_adds_a_new_seed(tmp_path):
    row = {"problem": "1+1?", "expected_answer": "2", "generation": "2"}
    write_lines(tmp_path / "log" / "output-rs0.jsonl", [row])
    assert ingest(tmp_path / "log", tmp_path / "set").n_new == 1
    write_lines(tmp_path / "log" / "output-rs1.jsonl", [{**row, "generation": "3"}])
    report = ingest(tmp_path / "log", tmp_path / "set")
    assert (report.n_new, report.n_samples) == (1, 2)


def test_qwen_math(tmp_path):
    path = write_lines(tmp_path / "test.jsonl", [
        {"idx": 7, "question": "1+1?", "gt_cot": "…", "gt": "2", "answer": "2", "solution": "It is 2.",
         "code": ["a \\boxed{2}", "b"], "pred": ["2", ""], "score": [True, False], "level": 1},
    ])  # fmt: skip
    assert detect(path) == "qwen-math"
    ingest(path, tmp_path / "set", task="math")
    stored, found = read_all(tmp_path / "set")
    assert found == {"math/7": ["a \\boxed{2}", "b"]}
    problem = stored.problems["math/7"]
    assert (problem.answer, problem.reference, problem.metadata) == ("2", "It is 2.", {"level": 1})


def test_kim(tmp_path):
    path = write_lines(tmp_path / "aime.jsonl", [
        {"question": "1+1?", "generated_responses": ["<think>hm</think>2", "2"], "answer_responses": ["2", "2"],
         "thinking_contents": ["hm", "hm hm"], "response_token_lengths": [9, 8], "gold_answer": "2",
         "data_source": "toy", "extra_info": {"index": 4}},
    ])  # fmt: skip
    assert detect(path) == "kim"
    ingest(path, tmp_path / "set")
    stored, found = read_all(tmp_path / "set")
    assert found == {"toy/4": ["<think>hm</think>2", "<think>\nhm hm\n</think>\n\n2"]}
    assert [s.n_tokens for s in stored.samples["toy/4"]] == [9, 8]


def test_opsd_analysis(tmp_path):
    path = tmp_path / "results.json"
    rows = [
        {"dataset_tag": tag, "problem_id": i, "problem": f"{i}?", "ground_truth": i, "gen_n": 1,
         "generations": [{"predicted_answer": "1", "full_generation": f"{tag} {i}", "num_tokens": 3}]}
        for tag in ("aime", "hmmt") for i in range(2)
    ]  # fmt: skip
    path.write_text(json.dumps({"partial_only": True, "results_count": 2, "results": [*rows, 5]}), encoding="utf-8")
    assert detect(path) == "opsd-analysis"
    with pytest.raises(ValueError, match=r"several tasks: aime, hmmt.*--task"):
        ingest(path, tmp_path / "set")
    report = ingest(path, tmp_path / "set", task="hmmt")
    stored, found = read_all(tmp_path / "set")
    assert found == {"hmmt/0": ["hmmt 0"], "hmmt/1": ["hmmt 1"]} and stored.problems["hmmt/0"].answer == "0"
    assert report.n_malformed == 1 and stored.run.config["status"] == "unfinished"


def test_older_lighteval_columns(tmp_path):
    path = tmp_path / "details_old|gsm8k|0_2025-01-01T00-00-00.000.parquet"
    table = {"example": ["1+1?"], "full_prompt": ["Q: 1+1?"], "predictions": [["two", "2"]], "gold": [["so #### 2"]]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    ingest(path, tmp_path / "set")
    stored, found = read_all(tmp_path / "set")
    assert found == {"old|gsm8k|0/0": ["two", "2"]}
    assert stored.problems["old|gsm8k|0/0"].answer == "2" and stored.problems["old|gsm8k|0/0"].reference == "so #### 2"


def test_generic(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [
        {"problem_id": "p", "question": "1+1?", "answer": "2", "text": "a", "n_tokens": 3, "seed": 5, "colour": "red"},
        {"problem_id": "p", "question": "1+1?", "answer": "2", "text": "b", "finish_reason": "length"},
        {"problem_id": 7, "question": "2+2?", "texts": ["c", ""], "token_ids": [[1, 2], []], "cluster": "sums",
         "axes": {"length": 2}, "prompt": "Q"},
        {"question": "no id", "text": "d", "draw": 4},
    ])  # fmt: skip
    assert detect(path) == "generic"
    report = ingest(path, tmp_path / "set")
    stored, found = read_all(tmp_path / "set")
    assert list(found.values()) == [["a", "b"], ["c", ""], ["d"]]
    assert [(s.draw, s.n_tokens, s.seed, s.finish_reason) for s in stored.samples["p"]] == [
        (0, 3, 5, None), (1, None, None, "length"),
    ]  # fmt: skip
    assert [s.n_tokens for s in stored.samples["7"]] == [2, 0] and stored.problems["7"].cluster == "sums"
    assert stored.problems["7"].answer is None and stored.samples["7"][0].prompt_sha256 is not None
    assert report.notes == {"key 'colour' is not part of the generic format and was ignored": 1}


def test_gold_and_reference():
    assert gold_and_reference("5 + 2 = 7\n#### 7") == ("7", "5 + 2 = 7\n#### 7")
    assert gold_and_reference("So \\boxed{3}.") == ("3", "So \\boxed{3}.")
    assert gold_and_reference(" 12 ") == ("12", None)
    assert gold_and_reference(None) == gold_and_reference("  ") == (None, None)


# --- lm-eval corner cases ---------------------------------------------------------------------------------


def lm_eval_row(doc_id=0, texts=("a", "b"), **changes):
    row = {"doc_id": doc_id, "doc": {"question": f"q{doc_id}?"}, "target": "1", "resps": [list(texts)],
           "arguments": {"gen_args_0": {"arg_0": "prompt", "arg_1": {}}}, "filter": "none",
           "doc_hash": f"{doc_id:064d}"}
    return {**row, **changes}


def test_lm_eval_log_likelihood_rows_are_refused(tmp_path):
    path = write_lines(tmp_path / "samples_t_2026-01-01T00-00-00.0.jsonl", [
        lm_eval_row(resps=[[["-1.2", "False"]], [["-0.3", "True"]]]),
    ])
    with pytest.raises(ValueError, match=r"not one sample could be read(.|\n)*log-likelihood tasks have none"):
        ingest(path, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_lm_eval_padding_is_cut(tmp_path):
    path = write_lines(tmp_path / "samples_t_2026-01-01T00-00-00.0.jsonl", [
        lm_eval_row(), lm_eval_row(1, ("c", "d", "c", "d")),
    ])
    results = {"configs": {"t": {"repeats": 2}}, "config": {"model": "m", "model_args": "x=1,api_key=sk-123"}}
    (tmp_path / "results_2026-01-01T00-00-00.0.json").write_text(json.dumps(results), encoding="utf-8")
    report = ingest(path, tmp_path / "set")
    assert report.n_samples == 4 and any("padding" in note for note in report.notes)
    assert read_run(tmp_path / "set").model["args"] == "x=1,api_key=[removed]"


def test_lm_eval_appended_run_and_repeated_document(tmp_path):
    path = write_lines(tmp_path / "samples_t_2026-01-01T00-00-00.0.jsonl", [
        lm_eval_row(), lm_eval_row(texts=("x", "y")), lm_eval_row(5, doc_hash=f"{0:064d}"),
        lm_eval_row(filter="strict"),
    ])  # fmt: skip
    report = ingest(path, tmp_path / "set")
    assert (report.n_problems, report.n_samples, report.n_malformed) == (2, 4, 1) and "appears again" in report.malformed[0]
    assert sorted(read_all(tmp_path / "set")[1]) == ["t/000000000000", "t/000000000000#2"]


def test_lm_eval_logs_of_our_own_tasks_keep_our_problems(tmp_path):
    problem = {"problem_id": "world/id/1", "question": "1+1?", "answer": "2", "benchmark": "b", "cluster": "c"}
    doc = {"problem_id": "world/id/1", "question": "1+1?", "answer": "2", "problem": json.dumps(problem)}
    path = write_lines(tmp_path / "samples_t_2026-01-01T00-00-00.0.jsonl", [lm_eval_row(doc=doc)])
    ingest(path, tmp_path / "set")
    stored, found = read_all(tmp_path / "set")
    assert found == {"world/id/1": ["a", "b"]} and stored.problems["world/id/1"].cluster == "c"


def test_several_tasks_need_a_choice(tmp_path):
    for task in ("a", "b_c"):
        write_lines(tmp_path / f"samples_{task}_2026-01-01T00-00-00.0.jsonl", [lm_eval_row()])
    with pytest.raises(ValueError, match="several tasks: a, b_c"):
        ingest(tmp_path, tmp_path / "set")
    with pytest.raises(ValueError, match="has no task 'c'"):
        ingest(tmp_path, tmp_path / "set", task="c")
    assert ingest(tmp_path, tmp_path / "set", task="b_c").n_samples == 2


# --- bad input --------------------------------------------------------------------------------------------

GOOD = {"problem_id": "p", "question": "1+1?", "answer": "2", "text": "a"}


def test_malformed_lines_are_named_and_the_rest_is_kept(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [
        GOOD, "{broken\n", "[1, 2]\n", "\n", {"text": "no question", "question": None},
        "[" * 100_000 + "\n", {**GOOD, "draw": -1}, {**GOOD, "draw": 0}, {**GOOD, "question": "another"},
        '{"question": "q", "text": ' + "9" * 5000 + "}\n", {**GOOD, "text": "last", "draw": 9}, '{"question": "torn',
    ])  # fmt: skip
    report = ingest(path, tmp_path / "set")
    _, found = read_all(tmp_path / "set")
    assert found == {"p": ["a", "last"]}
    reasons = dict(zip((2, 3, 5, 6, 7), report.malformed, strict=False))
    for number, message in reasons.items():
        assert f"mine.jsonl:{number}:" in message
    assert report.n_malformed == 9 and "draw 0 appears twice" in " ".join(report.malformed)
    assert "another question or answer" in " ".join(report.malformed)
    with pytest.raises(ValueError, match=r"mine\.jsonl:2: not JSON.*drop --strict"):
        ingest(path, tmp_path / "strict", strict=True)


def test_invalid_utf8_and_lone_surrogates(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        json.dumps({**GOOD, "text": "\ud800 <script>"}).encode() + b"\n" + b'{"question": "\xff", "text": "x"}\n'
    )
    report = ingest(path, tmp_path / "set")
    assert report.n_malformed == 1 and read_all(tmp_path / "set")[1] == {"p": ["\ud800 <script>"]}


def test_nothing_readable_is_an_error(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", ["{}\n"])
    with pytest.raises(ValueError, match=r"no format recognised(.|\n)*generic: JSONL"):
        ingest(path, tmp_path / "set")
    with pytest.raises(ValueError, match="no such file"):
        ingest(tmp_path / "absent", tmp_path / "set")
    with pytest.raises(ValueError, match="Did you mean 'lm-eval'"):
        ingest(path, tmp_path / "set", form="lm_eval")
    with pytest.raises(ValueError, match="no list of results inside"):
        ingest(path, tmp_path / "set", form="opsd-analysis")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not valid JSON"):
        ingest(path, tmp_path / "set", form="opsd-analysis")


def test_ids_from_a_log_are_never_paths(tmp_path):
    path = write_lines(tmp_path / "in" / "mine.jsonl", [{**GOOD, "problem_id": "../../../evil", "benchmark": "/etc"}])
    ingest(path, tmp_path / "in" / "set")
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    names = ("run.json", "problems.jsonl", "samples.jsonl", "ingest.json", ".ingest.lock")
    assert written == {"in/mine.jsonl", *(f"in/set/{name}" for name in names)}


def test_secrets_are_removed():
    shown = redact({"api_key": "sk", "base": "https://me:pw@host/v1", "args": ["OPENAI_API_KEY=abc,temperature=1"],
                    "headers": "Authorization: Bearer abc", "add_bos_token": True, "max_tokens": 5, "token": None})  # fmt: skip
    assert shown == {
        "api_key": "[removed]", "base": "https://[removed]@host/v1", "args": ["OPENAI_API_KEY=[removed],temperature=1"],
        "headers": "Authorization: [removed]", "add_bos_token": True, "max_tokens": 5, "token": None,
    }  # fmt: skip


# --- running again ----------------------------------------------------------------------------------------


def test_again_adds_nothing(tmp_path):
    first = ingest(FIXTURES / "lm_eval", tmp_path / "set")
    before = (tmp_path / "set" / "samples.jsonl").read_bytes()
    again = ingest(FIXTURES / "lm_eval", tmp_path / "set")
    assert (first.n_new, again.n_new, again.n_samples) == (12, 0, 12)
    assert (tmp_path / "set" / "samples.jsonl").read_bytes() == before


def test_another_source_is_refused(tmp_path):
    ingest(FIXTURES / "lm_eval", tmp_path / "set")
    with pytest.raises(ValueError, match="made from another source: format was 'lm-eval', is 'lighteval'"):
        ingest(FIXTURES / "lighteval", tmp_path / "set")
    with pytest.raises(ValueError, match="benchmark was 'tiny_sums', is 'tiny_dummy'"):
        ingest(FIXTURES / "lm_eval_dummy", tmp_path / "set")
    path = write_lines(tmp_path / "mine.jsonl", [GOOD])
    ingest(path, tmp_path / "other")
    write_lines(path, [{**GOOD, "text": "changed"}])
    with pytest.raises(ValueError, match=r"mine\.jsonl is missing or has changed since"):
        ingest(path, tmp_path / "other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="exists and is no sample set"):
        ingest(path, tmp_path / "full")


def test_killed_anywhere_the_same_command_completes(tmp_path):
    """Cut the files as a kill at any byte would leave them: the next run mends and completes them."""
    rows = [{"problem_id": f"p{i}", "question": f"{i}?", "texts": [f"{i} {d}" for d in range(3)]} for i in range(5)]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    ingest(path, tmp_path / "set")
    whole = {name: (tmp_path / "set" / name).read_bytes() for name in ("problems.jsonl", "samples.jsonl")}
    for share in (0.0, 0.3, 0.55, 0.999):
        data = whole["samples.jsonl"]
        (tmp_path / "set" / "samples.jsonl").write_bytes(data[: int(len(data) * share)])
        (tmp_path / "set" / "ingest.json").unlink()
        report = ingest(path, tmp_path / "set")
        assert report.n_samples == 15
        assert {n: (tmp_path / "set" / n).read_bytes() for n in whole} == whole
    (tmp_path / "set" / "samples.jsonl").unlink()
    (tmp_path / "set" / "problems.jsonl").write_bytes(whole["problems.jsonl"][:100])
    ingest(path, tmp_path / "set")
    assert {n: (tmp_path / "set" / n).read_bytes() for n in whole} == whole


def test_a_second_process_is_refused(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [GOOD])
    ingest(path, tmp_path / "set")
    with (tmp_path / "set" / ".ingest.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=rf"another ingest \(process {os.getpid()}\)"):
            ingest(path, tmp_path / "set")
    assert ingest(path, tmp_path / "set").n_new == 0


def test_memory_does_not_grow_with_the_log(tmp_path):
    """30 MB of completions within 25 MB above the cost of importing."""
    path = tmp_path / "mine.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(3000):
            file.write(json.dumps({"problem_id": f"p{i % 100}", "question": f"{i % 100}?", "text": "x" * 10_000}) + "\n")
    code = (
        "import resource, sys, tqdm; from opsd_eval.ingest import ingest; from opsd_eval.ingest import writer;"
        "writer._BATCH_CHARS = 2_000_000;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "ingest(sys.argv[1], sys.argv[2]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "set")], capture_output=True, text=True, check=True
    )
    assert int(made.stdout) < 25_000
    assert sum(1 for _ in read_jsonl(tmp_path / "set" / "samples.jsonl")) == 3000


def test_speed(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [
        {"problem_id": f"p{i}", "question": f"{i}?", "texts": ["x" * 1000] * 10} for i in range(1000)
    ])
    start = time.perf_counter()
    ingest(path, tmp_path / "set")
    assert time.perf_counter() - start < 5  # 10,000 samples; about 0.3 s on an idle core


def test_command_line(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(FIXTURES / "lm_eval"), "--out", str(tmp_path / "set")])
    assert run(args) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "4 problems, 12 samples (12 new), lm-eval" in captured.err
    assert "generic" in parser.format_help() and "lm_eval 0.4.13" in parser.format_help()


# --- entries that are not what their format says ------------------------------------------------------------

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


def test_a_finished_ingest_is_not_read_again(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "mine.jsonl", [GOOD, "{torn\n"])
    first = ingest(path, tmp_path / "set")
    monkeypatch.setattr("opsd_eval.ingest.writer._Writer", None)
    again = ingest(path, tmp_path / "set")
    assert (again.n_samples, again.n_new, again.malformed) == (1, 0, first.malformed)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="not JSON"):
        ingest(path, tmp_path / "set", strict=True)
    (tmp_path / "set" / "samples.jsonl").write_text("", encoding="utf-8")
    assert ingest(path, tmp_path / "set").n_new == 1
