"""Logs as strangers keep them: packed, listed, in folders, of older versions, with gaps and several gold answers."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from opsd_eval.grading import grade_set
from opsd_eval.ingest import detect, ingest
from opsd_eval.records import load_sample_set

KIM = {"question": "1+1?", "generated_responses": ["\\boxed{2}", "3"], "gold_answer": 2.0, "data_source": "toy"}
QWEN = {"idx": 0, "question": "1+1?", "gt": "2", "code": ["\\boxed{2}", "so 3"], "finish_reason": ["stop", "length"]}
LM_EVAL = {"doc_id": 0, "doc": {"question": "1+1?"}, "target": "2", "resps": [["\\boxed{2}"]], "filter": "none"}
OPSD = {"dataset_tag": "aime24", "problem_id": "7", "problem": "1+1?", "ground_truth": "2", "generations": [
    {"full_generation": "\\boxed{2}", "num_tokens": 5}, {"full_generation": "on and on", "num_tokens": 16},
]}  # fmt: skip


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, out, **options):
    ingest(path, out, **options)
    grade_set(out)
    return load_sample_set(out)


def drawn(stored):
    return {key: [(s.draw, s.text, s.correct) for s in samples] for key, samples in stored.samples.items()}


# --- how files are kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "pack"), [
    (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress),
    (".zst", lambda data: pyarrow.compress(data, codec="zstd", asbytes=True)),
])  # fmt: skip
def test_packed_files_are_read(tmp_path, ending, pack):
    for name, row in (("kim.jsonl", KIM), ("qwen.jsonl", QWEN), ("samples_t.jsonl", LM_EVAL)):
        path = tmp_path / (name + ending)
        path.write_bytes(pack((json.dumps(row) + "\n").encode()))
        assert read(path, tmp_path / name).samples
    folder = tmp_path / "opsd"
    folder.mkdir()
    (folder / f"a.results.json{ending}").write_bytes(pack(json.dumps({"results": [OPSD]}).encode()))
    assert len(read(folder, tmp_path / "opsd_set").samples["aime24/7"]) == 2


def test_a_packed_file_cut_off_keeps_what_comes_before(tmp_path):
    path = tmp_path / "kim.jsonl.gz"
    rows = [json.dumps({**KIM, "question": f"{i}+1? {i * i * i}"}) + "\n" for i in range(3000)]
    data = gzip.compress("".join(rows).encode())
    path.write_bytes(data[: len(data) // 2])
    report = ingest(path, tmp_path / "set")
    assert 0 < report.n_problems < 3000 and "cannot be read to its end" in report.malformed[0]
    with pytest.raises(ValueError, match="cannot be read to its end"):
        ingest(path, tmp_path / "strict", strict=True)


@pytest.mark.parametrize("text", [
    json.dumps([KIM]), json.dumps([KIM], indent=2), "\ufeff" + json.dumps([KIM], indent=2), "\ufeff" + json.dumps(KIM),
    json.dumps(KIM) + "\r\n\r\n",
])  # fmt: skip
@pytest.mark.parametrize("name", ["log.json", "log.jsonl"])
def test_lists_byte_order_marks_and_windows_line_ends(tmp_path, text, name):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert detect(tmp_path / name) == "kim"
    [samples] = drawn(read(tmp_path / name, tmp_path / "set")).values()
    assert samples == [(0, "\\boxed{2}", True), (1, "3", False)]


def test_entries_of_a_list_are_named_by_their_number(tmp_path):
    (tmp_path / "log.json").write_text(json.dumps([KIM, 5, {"question": 1}]), encoding="utf-8")
    report = ingest(tmp_path / "log.json", tmp_path / "set", form="kim")
    assert [m.split(":")[0].removeprefix(str(tmp_path)) for m in report.malformed] == ["/log.json entry 2", "/log.json entry 3"]


def test_hidden_files_are_passed_over(tmp_path):
    lines(tmp_path / "log" / "kim.jsonl", KIM)
    lines(tmp_path / "log" / "._kim.jsonl", KIM)
    lines(tmp_path / "log" / ".cache" / "kim.jsonl", KIM)
    assert len(read(tmp_path / "log", tmp_path / "set").samples) == 1


# --- completions and gold answers -------------------------------------------------------------------------


def test_null_completions_stay_unknown_and_the_others_are_kept(tmp_path):
    path = lines(tmp_path / "kim.jsonl", {**KIM, "generated_responses": ["\\boxed{2}", None, ""]})
    [samples] = drawn(read(path, tmp_path / "set")).values()
    assert samples == [(0, "\\boxed{2}", True), (1, None, None), (2, "", False)]


@pytest.mark.parametrize(("gold", "right"), [
    (70, True), (70.0, True), ("70", True), ([70], True), (["70"], True), (["seventy", "70"], True), ("$70$", True),
    ("\\boxed{70}", True), ("so it is\n#### 70", True), ("70.5", False), (["71", "72"], False), (None, None), ([], None),
    (float("nan"), None), ("\\$70", True), ("70 \\text{ dollars}", True), (True, None),
])  # fmt: skip
def test_gold_answers_of_every_kind(tmp_path, gold, right):
    path = lines(tmp_path / "kim.jsonl", {**KIM, "generated_responses": ["\\boxed{70}"], "gold_answer": gold})
    [[(_, _, correct)]] = drawn(read(path, tmp_path / "set")).values()
    assert correct is right


# --- folders ----------------------------------------------------------------------------------------------


def test_qwen_folder_of_seeds_and_shards_is_one_run(tmp_path):
    for seed, start in ((0, 0), (0, 1), (10, 0), (2, 0)):
        row = {**QWEN, "idx": start, "code": [f"{seed} \\boxed{{2}}", "x"]}
        lines(tmp_path / "out" / "math500" / f"test_qwen-boxed_-1_seed{seed}_t0.6_s{start}_e-1.jsonl", row)
    stored = read(tmp_path / "out", tmp_path / "set")
    assert [(s.draw, s.text[0], s.seed) for s in stored.samples["math500/0"]] == [
        (0, "0", 0), (1, "x", 0), (2, "2", 2), (3, "x", 2), (4, "1", 10), (5, "x", 10),
    ]  # fmt: skip
    assert [s.finish_reason for s in stored.samples["math500/1"]] == ["stop", "length"]
    assert stored.run.sampling == {"temperature": 0.6}


def test_folders_with_several_benchmarks_or_runs_say_what_to_give(tmp_path):
    for benchmark in ("aime", "math"):
        lines(tmp_path / "out" / benchmark / "test_cot_-1_seed0_t0.0_s0_e-1.jsonl", QWEN)
    with pytest.raises(ValueError, match=r"several tasks: aime, math.*--task"):
        ingest(tmp_path / "out", tmp_path / "set")
    assert list(read(tmp_path / "out", tmp_path / "set", task="math").samples) == ["math/0"]
    lines(tmp_path / "out" / "math" / "test_pal_-1_seed0_t0.0_s0_e-1.jsonl", QWEN)
    with pytest.raises(ValueError, match=r"2 runs of task math.*Give one of the files"):
        ingest(tmp_path / "out", tmp_path / "other", task="math")


def test_a_problem_written_twice_in_one_file_is_kept_once(tmp_path):
    path = lines(tmp_path / "q.jsonl", QWEN, {**QWEN, "code": ["again", "again"]})
    report = ingest(path, tmp_path / "set")
    assert report.n_samples == 2 and "appears again" in report.malformed[0]


def test_nemo_skills_folders_greedy_files_and_split_reasoning(tmp_path):
    row = {"problem": "1+1?", "expected_answer": "2", "generation": "\\boxed{2}", "finish_reason": "length"}
    for benchmark in ("aime24", "gsm8k"):
        lines(tmp_path / "eval-results" / benchmark / "output-rs0.jsonl", row)
    lines(tmp_path / "eval-results" / "gsm8k" / "output-rs1.jsonl", {**row, "reasoning_content": "one and one"})
    lines(tmp_path / "eval-results" / "gsm8k" / "output-rs1_chunk_0.jsonl", row)
    stored = read(tmp_path / "eval-results", tmp_path / "set", task="gsm8k")
    [samples] = stored.samples.values()
    assert [s.text for s in samples] == ["\\boxed{2}", "<think>\none and one\n</think>\n\n\\boxed{2}"]
    assert samples[0].finish_reason == "length" and stored.run.sampling == {"n": 2}
    lines(tmp_path / "greedy" / "output.jsonl", row)
    assert detect(tmp_path / "greedy") == "nemo-skills"
    assert len(read(tmp_path / "greedy", tmp_path / "g").samples) == 1


def test_opsd_analysis_folder_with_its_settings(tmp_path):
    for name, row in (("aime24_think", OPSD), ("hmmt25_think", {**OPSD, "dataset_tag": "hmmt25"})):
        payload = {"partial_only": False, "results_count": 1, "num_problems_total": 1, "results": [row]}
        (tmp_path / f"{name}.results.json").write_text(json.dumps(payload), encoding="utf-8")
        settings = {"model_path": "m", "temperature": 0.6, "max_new_tokens": 16, "gen_n": 2, "enable_thinking": True}
        (tmp_path / f"{name}.metrics.json").write_text(json.dumps(settings), encoding="utf-8")
    stored = read(tmp_path, tmp_path / "set", task="aime24")
    assert [s.finish_reason for s in stored.samples["aime24/7"]] == [None, "length"]
    assert [s.outcome for s in stored.samples["aime24/7"]] == ["right", "truncated"]
    assert stored.run.sampling == {"temperature": 0.6, "n": 2, "max_new_tokens": 16, "thinking": True}
    assert stored.run.model["path"] == "m"


# --- older versions ---------------------------------------------------------------------------------------


def test_lm_eval_before_0_4_3(tmp_path):
    """A list in one file named after the model, without hashes, single draws not nested, prompt and kwargs in a list."""
    row = {**LM_EVAL, "resps": ["\\boxed{2}"], "arguments": [["Q: 1+1?", {"until": [], "temperature": 0.7}]]}
    path = tmp_path / "log" / "pretrained__EleutherAI__pythia-160m_gsm8k.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps([row, {**row, "doc_id": 1, "doc": {"question": "2+2?"}}], indent=2), encoding="utf-8")
    assert detect(path.parent) == "lm-eval"
    stored = read(path.parent, tmp_path / "set")
    assert [len(s) for s in stored.samples.values()] == [1, 1] and stored.run.sampling == {"temperature": 0.7}
    assert [s.correct for [s] in stored.samples.values()] == [True, True]


def test_lm_eval_targets_that_are_lists(tmp_path):
    path = lines(tmp_path / "samples_t.jsonl", {**LM_EVAL, "target": "['two', '2']"}, {
        **LM_EVAL, "doc_id": 1, "doc": {"question": "?"}, "target": "[0, 1]", "resps": [["\\boxed{[0,1]}"]]})  # fmt: skip
    assert [s.correct for [s] in read(path, tmp_path / "set").samples.values()] == [True, True]


@pytest.mark.parametrize("target", ["None", "nan", "", None])
def test_lm_eval_targets_that_are_missing(tmp_path, target):
    path = lines(tmp_path / "samples_t.jsonl", {**LM_EVAL, "target": target})
    assert [s.correct for [s] in read(path, tmp_path / "set").samples.values()] == [None]


def test_older_lighteval_lists_logged_as_text(tmp_path):
    path = tmp_path / "details_old|gsm8k|0_2024-01-01T00-00-00.000.parquet"
    table = {"example": ["1+1?"], "full_prompt": ["Q: 1+1?"], "predictions": ["['two', \"\\\\boxed{2}\"]"], "gold": ["['2']"]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    [samples] = drawn(read(path, tmp_path / "set")).values()
    assert samples == [(0, "two", False), (1, "\\boxed{2}", True)]


def test_inspect_json_logs_in_a_folder_and_older_reasoning(tmp_path):
    message = {"role": "assistant", "content": "\\boxed{2}", "reasoning": "one and one"}
    sample = {"id": 1, "epoch": 1, "input": "1+1?", "target": ["two", "2"],
              "output": {"choices": [{"message": message, "stop_reason": "model_length"}]}}  # fmt: skip
    log = {"version": 1, "status": "success", "eval": {"run_id": "r", "task": "t"}, "samples": [sample]}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "2024-11-01_t_abc.json").write_text(json.dumps(log), encoding="utf-8")
    (tmp_path / "logs" / "logs.json").write_text(json.dumps({"2024-11-01_t_abc.json": {}}), encoding="utf-8")
    assert detect(tmp_path / "logs") == "inspect"
    [[found]] = read(tmp_path / "logs", tmp_path / "set").samples.values()
    assert found.text == "<think>\none and one\n</think>\n\n\\boxed{2}"
    assert (found.finish_reason, found.correct) == ("length", True)
