"""Hostile completions, questions, answers and ids through every stage: no crash, bounded time, bounded memory.

``OPSD_CASES=10000`` (``make test-faults``) is the full form.
"""

from __future__ import annotations

import csv
import json
import math
import os
import random
import resource
import shutil
import time

import pytest
from hypothesis import HealthCheck, given, settings

from opsd_eval.cli import main
from opsd_eval.grading import grade_sample
from opsd_eval.metrics import METRICS, default_metrics
from opsd_eval.metrics.base import forget_texts
from opsd_eval.metrics.embeddings import use_encoder
from opsd_eval.records import Problem, Sample, load_sample_set, read_jsonl
from tests.faults.hostile import FORMULAS, PIECES, large, mixture, mixtures

CASES = int(os.environ.get("OPSD_CASES", "200"))
BOUND_SECONDS = 60.0  # of processor time for one text of 100,000 characters through grading and all metrics
WITHOUT_MODEL = [m for m in METRICS.values() if "probes" not in m.needs]  # embeddings by tfidf


def measure_all(problem, texts):
    space = use_encoder("tfidf")
    graded = [grade_sample(problem, Sample(problem.problem_id, draw, text)) for draw, text in enumerate(texts)]
    values = {metric.name: metric(problem, graded) for metric in default_metrics(len(texts))}
    values |= {metric.name: metric(problem, graded) for metric in WITHOUT_MODEL}
    space.forget()
    assert all(isinstance(value, float) for value in values.values())
    assert all(math.isfinite(value) or math.isnan(value) for value in values.values())
    return graded


@settings(max_examples=CASES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(mixtures(), mixtures(), mixtures())
def test_any_text_is_graded_and_measured(question, gold, text):
    """As completion, as question and as gold answer; never right without an answer to be right with."""
    problem = Problem("p", question, gold or None)
    for sample in measure_all(problem, [text, text + "!", "\\boxed{7}"]):
        assert sample.outcome in (None, "right", "loop", "truncated", "off_language", "no_answer", "wrong")
        assert sample.correct is not True or sample.answer_strict is not None
    forget_texts()


@pytest.mark.parametrize("at", range(len(large(10))))
def test_large_texts_take_bounded_time(at):
    text = large(100_000)[at]
    started = time.process_time()
    for problem in (Problem("p", "What is 3 + 4?", "7"), Problem("q", text[:5000], text[:5000] or None)):
        measure_all(problem, [text, "so \\boxed{7}", text + " so \\boxed{7}"])
    forget_texts()
    assert time.process_time() - started < BOUND_SECONDS


def rows_of(texts):
    """A log in which everything that can be a text is hostile: id, question, answer, completion."""
    rng = random.Random(7)
    for number, text in enumerate(texts):
        name = rng.choice([f"{text[:40]}{number}", f"{rng.choice(FORMULAS)}{number}", f"p{number}"])
        answer = rng.choice([text[:500], "7", None])
        for draw in range(2):
            yield {"problem_id": name, "question": text[:2000] or "?", "answer": answer, "draw": draw,
                   "text": text + "?" * draw}  # fmt: skip


def test_a_log_of_hostile_text_goes_from_ingest_to_report(tmp_path):
    rng = random.Random(0)
    texts = [*rng.sample(PIECES, min(CASES // 2, len(PIECES))), *(mixture(rng) for _ in range(CASES // 2))]
    log = tmp_path / "log.jsonl"
    with log.open("w") as file:
        for row in rows_of(texts):
            file.write(json.dumps(row) + "\n")
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "report"))
    assert main(["ingest", str(log), "--out", a, "--format", "generic"]) == 0
    assert main(["grade", a]) == 0
    assert main(["measure", a]) == 0
    assert main(["audit", a]) in (0, 1)
    shutil.copytree(a, b, copy_function=shutil.copy2)
    assert main(["compare", a, b]) == 0
    assert main(["report", a, b, "--out", out]) == 0
    found = load_sample_set(a)
    assert sum(map(len, found.samples.values())) == sum(1 for _ in read_jsonl(tmp_path / "a" / "grades.jsonl"))
    assert len(found.problems) >= 0.95 * len(texts)  # equal ids with other questions are left out, and said so
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script>document" not in page and "<iframe" not in page and "onerror=alert(1)>" not in page.replace("&gt;", "")
    for path in [*(tmp_path / "report" / "tables").glob("*.csv"), tmp_path / "a" / "measures.csv"]:
        with path.open(encoding="utf-8", newline="") as file:
            for cells in csv.reader(file):
                assert not [c for c in cells if c[:1] in "=+-@\t\r" and c and not is_number(c)], path
    values = measured(tmp_path / "a")
    assert set(values) == set(found.problems)


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def measured(folder):
    from opsd_eval.measure import read_measures

    return read_measures(folder).scores("avg@2")


def test_memory_does_not_grow_with_the_number_of_texts():
    """The same thousand texts twice: what the second time adds is noise."""
    rng = random.Random(1)
    texts = [mixture(rng) for _ in range(max(150, CASES // 4))]

    def once():
        for number in range(0, len(texts), 3):
            measure_all(Problem("p", "What is 3 + 4?", "7"), texts[number : number + 3])
            forget_texts()

    once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    once()
    once()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kilobytes
