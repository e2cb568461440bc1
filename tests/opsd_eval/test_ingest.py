"""Malformed input, running again, hostile names."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_logs import read_all, write_lines

from opsd_eval.ingest import add_arguments, ingest, run
from opsd_eval.records import read_jsonl
from opsd_eval.secrets import redact

FIXTURES = Path(__file__).parents[1] / "fixtures" / "ingest"

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
