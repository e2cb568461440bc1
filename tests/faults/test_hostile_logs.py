"""Logs that claim things: each goes from ingest to compare without a crash, a hang, or memory for what is only claimed."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from opsd_eval.cli import main
from opsd_eval.ingest.base import IngestLog, int_or_none
from opsd_eval.ingest.writer import _Draws
from opsd_eval.measures import read_measures
from opsd_eval.records import read_json
from tests.faults.killing import ROOT, environment


def row(name, draw=0, **more):
    return {"problem_id": name, "question": "What is 3 + 4?", "answer": "7", "draw": draw, "text": "so \\boxed{7}", **more}


def nested(depth):
    return json.loads("[" * depth + "1" + "]" * depth)


CLAIMS = {
    "a benchmark of the testbed": {"benchmark": "testbed.hunch_r10.id"},
    "a testbed without its world": {"benchmark": "testbed.nowhere.id", "metadata": {"family": "hunch"}},
    "a search without a target": {"benchmark": "testbed.search.id", "metadata": {"family": "search", "candidates": 5}},
    "a scorer without its entry": {"benchmark": "reasoning_gym.gcd.1", "metadata": {"scorer": "reasoning_gym"}},
    "a scorer with junk": {"benchmark": "reasoning_gym.time_intervals.1",
                           "metadata": {"scorer": "reasoning_gym", "family": "time_intervals", "entry": [1]}},
    "ten to the four hundred tokens": {"n_tokens": 10**400},
    "an answer space of ten to the four hundred": {"metadata": {"answer_space": 10**400}},
    "arithmetic modulo 0": {"metadata": {"modulus": 0}, "text": "3 + 4 = 7 so \\boxed{7}"},
    "probes": {"metadata": {"probes": 5, "twin_of": [], "prompt_style": "{question.__class__}"}},
    "a million right answers": {"metadata": {"accepted_answers": [f"x^{{{i}}}" for i in range(100_000)]}},
    "a cluster of a million characters": {"cluster": "x" * 1_000_000},
    "a deep axis": {"axes": {"length": nested(150)}},
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_not_believed(tmp_path, capsys, claim):
    rows = [row(f"p{n}", draw, **({} if n else CLAIMS[claim])) for n in range(3) for draw in range(2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = str(tmp_path / "set")
    assert main(["ingest", str(tmp_path / "log.jsonl"), "--out", out, "--format", "generic"]) == 0
    for verb in (["grade", out], ["measure", out], ["compare", out, out]):
        assert main(verb) == 0, capsys.readouterr().err
    assert main(["audit", out]) in (0, 1)
    assert read_measures(out).scores("avg@2")["p1"] == 1.0


def test_keys_without_end_make_no_notes_without_end(tmp_path):
    """A log whose every line has another key, of a thousand characters."""
    rows = [{**row(f"p{n}"), f"{n}" + "x" * 1000: 1} for n in range(2000)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["ingest", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "set"), "--format", "generic"]) == 0
    notes = read_json(tmp_path / "set" / "ingest.json")["notes"]
    assert len(notes) == IngestLog.NOTES + 1 and sum(notes.values()) == 2000 and max(map(len, notes)) < 400


def test_a_draw_numbered_a_million_takes_no_memory_for_those_before_it(tmp_path):
    """Bits up to the number would be 125 kB a problem: 0.5 GiB for this log of half a megabyte."""
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row(f"p{n}", 1_000_000)) + "\n" for n in range(4000)))
    code = (
        "import resource, sys; from opsd_eval.cli import main\n"
        "code = main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "ingest", str(log), "--out", str(tmp_path / "set"), "--format", "generic"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # which a child begins with, by the kernel's account
    assert int(done.stdout.split()[-1]) < max(200_000, here + 50_000)


def test_draws_that_were_noted_are_known():
    seen = _Draws()
    for draw in (0, 3, 1023, 1024, 1_000_000):
        assert ("p", draw) not in seen
        seen.add("p", draw)
        assert ("p", draw) in seen and ("q", draw) not in seen and ("p", draw + 1) not in seen


def test_counts_are_whole_numbers_that_a_float_holds():
    assert [int_or_none(v) for v in (0, 7, 7.0, 2**53)] == [0, 7, 7, 2**53]
    assert [int_or_none(v) for v in (-1, 7.5, True, "7", None, 2**53 + 1, 10**400, 1e300, float("inf"))] == [None] * 9
