"""Logs that harnesses wrote themselves: the same completions must come out of each."""

from __future__ import annotations

import json
import runpy
import zipfile
from pathlib import Path

import pytest

from opsd_eval.ingest import FORMATS, detect, ingest
from opsd_eval.ingest.archive import Archive
from opsd_eval.records import load_sample_set, sha256_text

FIXTURES = Path(__file__).parents[1] / "fixtures" / "ingest"
SCRIPT = runpy.run_path(str(FIXTURES / "makers" / "scripted.py"))
QUESTIONS = {p["question"]: p for p in SCRIPT["PROBLEMS"]}
INSPECT = FIXTURES / "inspect"

HARNESS_LOGS = {
    "lm-eval": FIXTURES / "lm_eval",
    "inspect": INSPECT / "tiny_sums.eval",
    "lighteval": FIXTURES / "lighteval",
}


def texts(folder):
    found = load_sample_set(folder)
    return {
        QUESTIONS[found.problems[key].question]["id"]: [s.text for s in samples]
        for key, samples in found.samples.items()
    }


@pytest.mark.parametrize("name", HARNESS_LOGS)
def test_every_completion_comes_out(name, tmp_path):
    assert detect(HARNESS_LOGS[name]) == name
    report = ingest(HARNESS_LOGS[name], tmp_path / "set")
    assert (report.n_problems, report.n_samples, report.n_malformed, report.format) == (4, 12, 0, name)
    found, expected = texts(tmp_path / "set"), dict(SCRIPT["COMPLETIONS"])
    if name == "inspect":
        expected["sum"] = [f"<think>\nI add 2 and 3.\n</think>\n\n{expected['sum'][0]}", *expected["sum"][1:]]
    assert found == expected
    stored = load_sample_set(tmp_path / "set")
    for problem in stored.problems.values():
        assert problem.answer == QUESTIONS[problem.question]["answer"] and problem.reference is None
        assert problem.benchmark.startswith("tiny_sums")
    assert all(len({s.prompt_sha256 for s in samples}) == 1 for samples in stored.samples.values())
    assert stored.run.kind == "ingest" and stored.run.config["source"]["format"] == name


def test_lm_eval_facts(tmp_path):
    ingest(FIXTURES / "lm_eval", tmp_path / "set")
    stored = load_sample_set(tmp_path / "set")
    assert stored.run.sampling == {"temperature": 0.7, "max_new_tokens": 64, "n": 3}
    assert stored.run.config["harness"]["lm_eval"] == "0.4.13" and stored.run.config["seeds"]["torch_seed"] == 1234
    line = json.loads(next((FIXTURES / "lm_eval").glob("samples*")).read_text(encoding="utf-8").splitlines()[0])
    problem_id = f"tiny_sums/{line['doc_hash'][:12]}"
    [first, *_] = stored.samples[problem_id]
    assert first.prompt_sha256 == line["prompt_hash"]  # our hash of the prompt is the harness's own
    assert (first.n_tokens, first.finish_reason, first.seed) == (None, None, None)  # not logged, so not known
    assert len(stored.problems) == 4  # two filters, eight lines, four documents


def test_lm_eval_dummy_model_keeps_all_draws_under_the_default_filter(tmp_path):
    ingest(FIXTURES / "lm_eval_dummy", tmp_path / "set")
    assert all(t == ["lol"] * 3 for t in texts(tmp_path / "set").values())


def test_inspect_facts(tmp_path):
    ingest(INSPECT / "tiny_sums.eval", tmp_path / "set")
    stored = load_sample_set(tmp_path / "set")
    assert stored.run.sampling == {"temperature": 0.7, "max_new_tokens": 64, "seed": 11, "n": 3}
    assert stored.run.seed == 11 and stored.run.config["status"] == "success"
    assert [s.finish_reason for s in stored.samples["tiny_sums/chars"]] == ["stop", "stop", "length"]
    assert [s.n_tokens for s in stored.samples["tiny_sums/sum"]] == [6, 9, 3]
    assert stored.samples["tiny_sums/sum"][0].prompt_sha256 == sha256_text("What is 2 + 3?")


def test_inspect_json_equals_the_archive(tmp_path):
    ingest(INSPECT / "tiny_sums.eval", tmp_path / "a")
    ingest(INSPECT / "tiny_sums.json", tmp_path / "b")
    a, b = load_sample_set(tmp_path / "a"), load_sample_set(tmp_path / "b")
    assert a.samples == b.samples and a.problems == b.problems


def test_inspect_unfinished_archive(tmp_path):
    report = ingest(INSPECT / "unfinished.eval", tmp_path / "set")
    stored = load_sample_set(tmp_path / "set")
    assert report.n_samples == 2 and stored.run.config["status"] == "unfinished"
    assert stored.samples["tiny_sums/zh"][0].draw == 1  # epoch 2


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"3 runs of task tiny_sums.*unfinished\.eval"):
        ingest(INSPECT, tmp_path / "set")


def test_lighteval_facts(tmp_path):
    ingest(FIXTURES / "lighteval", tmp_path / "set")
    stored = load_sample_set(tmp_path / "set")
    assert stored.run.model["path"] == "scripted" and stored.run.config["task_version"] == 0
    sample = stored.samples["tiny_sums|0/0"][1]
    assert sample.n_tokens == len(sample.token_ids) == 9


def test_archive_members(tmp_path):
    with Archive(INSPECT / "tiny_sums.eval") as archive:
        infos = {i.compress_type for i in archive.zip.infolist()}
        assert infos == {93} and json.loads(archive.read("header.json"))["status"] == "success"
    damaged = bytearray((INSPECT / "tiny_sums.eval").read_bytes())
    start = damaged.find(b"samples/sum_epoch_1.json") + 200
    damaged[start : start + 8] = b"\0" * 8
    path = tmp_path / "damaged.eval"
    path.write_bytes(damaged)
    report = ingest(path, tmp_path / "set")
    assert report.n_samples == 11 and "sum_epoch_1.json" in report.malformed[0]
    with pytest.raises(ValueError, match="sum_epoch_1"):
        ingest(path, tmp_path / "strict", strict=True)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("opsd_eval.ingest.archive.MEMBER_LIMIT", 1000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("big", b"0" * 5000)
    with Archive(path) as archive, pytest.raises(ValueError, match="claims 5000 bytes"):
        archive.read("big")
    lying = path.read_bytes().replace((5000).to_bytes(4, "little"), (900).to_bytes(4, "little"))
    path.write_bytes(lying)
    with Archive(path) as archive, pytest.raises(ValueError, match="big"):
        archive.read("big")


def test_truncated_archive_is_named(tmp_path):
    path = tmp_path / "cut.eval"
    path.write_bytes((INSPECT / "tiny_sums.eval").read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"cut\.eval: not a whole zip archive"):
        ingest(path, tmp_path / "set")


def test_registry_is_complete():
    assert list(FORMATS) == [
        "lm-eval", "inspect", "lighteval", "nemo-skills", "kim", "qwen-math", "opsd-analysis", "generic",
    ]  # fmt: skip
    assert all(form.summary and form.tested for form in FORMATS.values())
