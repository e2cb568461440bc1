"""Formats written by hand, and what lm-eval logs hold beside the usual."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from made_up_logs import lm_eval_row, read_all, write_lines

from opsd_eval.ingest import detect, ingest
from opsd_eval.ingest.base import gold_and_reference
from opsd_eval.records import read_run

FIXTURES = Path(__file__).parents[1] / "fixtures" / "ingest"

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


def test_kim_files_in_folders_named_by_the_script(tmp_path):
    row = {"question": "1+1?", "generated_responses": ["\\boxed{2}"], "gold_answer": "2.0", "id": 0}
    for name in ("test_t0.6_think_k16_s0_e30.jsonl", "test_qwen-instruct_t0.6_k8_s0_e40.jsonl"):
        write_lines(tmp_path / name / "aime24" / name, [row])
        ingest(tmp_path / name, tmp_path / f"set_{name}")
        stored, found = read_all(tmp_path / f"set_{name}")
        assert found == {"aime24/0": ["\\boxed{2}"]} and stored.run.sampling == {"temperature": 0.6}
        assert stored.problems["aime24/0"].benchmark == "aime24" and stored.samples["aime24/0"][0].seed is None


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


# --- several tasks as one set -----------------------------------------------------------------------------


def test_a_group_is_one_set_whose_problems_say_their_task(tmp_path):
    report = ingest(FIXTURES / "lm_eval_group", tmp_path / "set", task="tiny_all")  # a group within it, too
    stored, _ = read_all(tmp_path / "set")
    assert (report.n_problems, report.n_samples, stored.run.config["source"]["benchmark"]) == (4, 12, "tiny_all")
    tasks = [(p.benchmark, p.axes["task"]) for p in stored.problems.values()]
    assert sorted(tasks) == [(name, name) for name in ("tiny_first", "tiny_last", "tiny_last", "tiny_second")]
    assert stored.run.sampling == {"temperature": 0.7, "max_new_tokens": 64, "n": 3}
    assert ingest(FIXTURES / "lm_eval_group", tmp_path / "pair", task="tiny_pair").n_problems == 2
    assert ingest(FIXTURES / "lm_eval_group", tmp_path / "one", task="tiny_last").n_problems == 2


def test_all_tasks_hold_the_same_samples_as_each_task_alone(tmp_path):
    ingest(FIXTURES / "lm_eval_group", tmp_path / "all", all_tasks=True)
    stored, together = read_all(tmp_path / "all")
    assert stored.run.config["source"]["benchmark"] == "tiny"
    alone = {}
    for task in ("tiny_first", "tiny_second", "tiny_last"):
        ingest(FIXTURES / "lm_eval_group", tmp_path / task, task=task)
        alone |= read_all(tmp_path / task)[1]
    assert together == alone
    assert ingest(FIXTURES / "lm_eval", tmp_path / "single", all_tasks=True).n_problems == 4


def test_tasks_of_different_models_are_no_one_set(tmp_path):
    for at, task in enumerate(("a", "b")):
        write_lines(tmp_path / f"samples_{task}_2026-01-01T00-00-0{at}.0.jsonl", [lm_eval_row()])
        results = {"configs": {}, "config": {}, "model_name": task}
        (tmp_path / f"results_2026-01-01T00-00-0{at}.0.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(ValueError, match="different models"):
        ingest(tmp_path, tmp_path / "set", all_tasks=True)


def test_other_harnesses_tasks_together(tmp_path):
    row = {"problem": "1+1?", "expected_answer": "2", "generation": "2"}
    for benchmark in ("aime24", "gsm8k"):
        write_lines(tmp_path / "log" / benchmark / "output-rs0.jsonl", [row])
    ingest(tmp_path / "log", tmp_path / "set", all_tasks=True)
    stored, found = read_all(tmp_path / "set")
    assert len(found) == 2 and [p.axes["task"] for p in stored.problems.values()] == ["aime24", "gsm8k"]
