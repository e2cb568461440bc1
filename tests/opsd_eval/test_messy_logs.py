"""One messy log in all eight formats: the same samples, and the numbers that enumeration gives for what was planted."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pyarrow
import pyarrow.parquet
import pytest
from made_up_logs import write_lines

from opsd_eval.grading import grade_set
from opsd_eval.ingest import ingest
from opsd_eval.measure import measure_set, read_measures
from opsd_eval.records import load_sample_set

INSPECT = Path(__file__).parents[1] / "fixtures" / "ingest" / "inspect" / "tiny_sums.json"
N, K, LIMIT = 24, 4, 600
LINES = (
    "First we look at what is given in the problem and think about the second part of the story for a while.",
    "Hmm, maybe the number that was given for the week should be read again before going on with this.",
    "Then the parts are put together and the sum is taken over all of the days in the month of the story.",
    "Let me verify the last line by going backwards from the result to the start of the whole story.",
)
CHINESE = "首先我们计算第一部分的数量，然后再把第二部分加上去，这样就可以得到总数。我们需要仔细检查每一步的计算过程。" * 4
UNFINISHED = ("loop", "truncated")


@dataclass(frozen=True)
class Draw:
    """A completion, what it votes for (``None``: nothing), and what grading must say; ``relaxed=None``: not planted."""

    text: str
    vote: str | None
    relaxed: bool | None
    outcome: str

    @property
    def finish(self):
        return "length" if self.outcome in UNFINISHED else "stop"


def kinds(gold, rng):
    """Every kind of completion for a problem with this gold answer."""
    said = " ".join(f"{rng.choice(LINES)} Page {rng.randrange(999)}." for _ in range(4))
    wrong = gold + rng.randrange(1, 9)
    spelled = (f"{gold}", f"{gold}.0", rf"\frac{{{2 * gold}}}{{2}}", rf"{gold}\text{{ apples}}", rf"\${gold:,}")
    right = [f"{said} So \\boxed{{{answer}}}." for answer in spelled]
    right += [f"{said} \\boxed{{{wrong}}}\n\nActually, no: \\boxed{{{gold}}}", f"{CHINESE}所以答案是 \\boxed{{{gold}}}。",
              f"<think>\n{said}\nso it may be {wrong}\n</think>\n\nThe answer is \\boxed{{{gold}}}"]  # fmt: skip
    return [
        *(Draw(text, "gold", True, "right") for text in right),
        Draw(f"{said} So \\boxed{{{wrong}}}.", str(wrong), False, "wrong"),
        Draw(f"{said} So \\boxed{{{wrong}.0}}.", str(wrong), False, "wrong"),
        Draw(f"{said} \\boxed{{9^9^9^9^9}}", "power", False, "wrong"),
        Draw(f"{said} \\boxed{{{'(' * 300}{')' * 300}}}", "brackets", False, "wrong"),
        Draw(f"{CHINESE}所以答案是 \\boxed{{{wrong}}}。", str(wrong), False, "off_language"),
        Draw(f"{said} The answer is {gold}", None, True, "no_answer"),
        Draw(f"{said} The answer is {wrong}", None, False, "no_answer"),
        Draw("", None, False, "no_answer"), Draw(" \n\t ", None, False, "no_answer"),
        Draw(f"{said}\n" + "Then one counts the apples again and again. " * 60, None, None, "loop"),
        Draw(f"{said} {said} and then the", None, None, "truncated"),
        Draw(f"<think>\n{said} it is \\boxed", None, None, "truncated"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    """(question, gold, draws) of every problem."""
    rng = random.Random(7)
    golds = [rng.randrange(1000, 9999) for _ in range(N)]
    return [(f"In story number {at}, how many apples are there in the {gold * 7 % 89} boxes that the family bought?", gold,
             rng.choices(kinds(gold, rng), k=K)) for at, gold in enumerate(golds)]  # fmt: skip


def write_logs(folder, planted):
    """The log in every format, by name; those whose finish reasons are known come last."""
    rows = [(str(at), question, str(gold), [d.text for d in draws], [d.finish for d in draws],
             [LIMIT if d.finish == "length" else 90 for d in draws]) for at, (question, gold, draws) in enumerate(planted)]  # fmt: skip
    write_lines(folder / "lm-eval" / "samples_t_2026-01-01T00-00-00.0.jsonl", [
        {"doc_id": int(i), "doc": {"question": q}, "target": g, "resps": [texts], "filter": name, "doc_hash": f"{int(i):064d}"}
        for i, q, g, texts, _, _ in rows for name in ("none", "first")] + ['{"torn\n'])  # fmt: skip
    write_lines(folder / "kim" / "log.jsonl", [
        {"question": q, "generated_responses": texts, "gold_answer": float(g), "response_token_lengths": tokens}
        for _, q, g, texts, _, tokens in rows])  # fmt: skip
    responses = [{"input": q, "text": texts, "output_tokens": [[1]] * K} for _, q, _, texts, _, _ in rows]
    docs = [{"query": q, "choices": [g], "gold_index": [0], "id": i} for i, q, g, *_ in rows]
    (folder / "lighteval").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"doc": docs, "model_response": responses}),
                                folder / "lighteval" / "details_t|0_2026-01-01T00-00-00.000.parquet")  # fmt: skip
    write_lines(folder / "qwen-math" / "log.jsonl", [
        {"idx": i, "question": q, "gt": g, "code": texts, "finish_reason": why} for i, q, g, texts, why, _ in rows])
    for draw in range(K):
        write_lines(folder / "nemo-skills" / f"output-rs{draw}.jsonl", [
            {"id": i, "problem": q, "expected_answer": g, "generation": texts[draw], "finish_reason": why[draw]}
            for i, q, g, texts, why, _ in rows])  # fmt: skip
    write_lines(folder / "generic" / "log.jsonl", [
        {"problem_id": i, "question": q, "text": text, "answer": g, "finish_reason": reason}
        for i, q, g, texts, why, _ in rows for text, reason in zip(texts, why, strict=True)])  # fmt: skip
    results = [{"dataset_tag": "t", "problem_id": i, "problem": q, "ground_truth": g, "generations": [
        {"full_generation": text, "num_tokens": n} for text, n in zip(texts, tokens, strict=True)]}
        for i, q, g, texts, _, tokens in rows]  # fmt: skip
    write_lines(folder / "opsd-analysis" / "a.results.json", [{"results_count": N, "results": results}])
    write_lines(folder / "opsd-analysis" / "a.metrics.json", [{"max_new_tokens": LIMIT}])
    write_lines(folder / "inspect" / "log.json", [inspect_log(rows)])


def inspect_log(rows):
    """The fixture's log with other samples."""
    log = json.loads(INSPECT.read_text(encoding="utf-8"))
    model, log["samples"] = log["samples"][0], []
    for i, q, g, texts, why, _ in rows:
        for epoch, (text, reason) in enumerate(zip(texts, why, strict=True), start=1):
            stop = {"stop": "stop", "length": "max_tokens"}[reason]
            choice = {"message": {"role": "assistant", "content": text}, "stop_reason": stop}
            log["samples"].append(copy.deepcopy(model) | {
                "id": i, "epoch": epoch, "input": q, "target": g, "events": [], "messages": [], "output": {"choices": [choice]}})  # fmt: skip
    return log


@pytest.fixture(scope="module")
def sets(planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy")
    (folder / "logs").mkdir()
    write_logs(folder / "logs", planted)
    for path in (folder / "logs").iterdir():
        ingest(path, folder / path.name)
    return folder


def drawn(folder, *, finish):
    """(question, gold, texts and, where asked for, finish reasons) in the log's order."""
    stored = load_sample_set(folder)
    return [(problem.question, problem.answer, [(s.text, s.finish_reason) if finish else s.text for s in stored.samples[key]])
            for key, problem in stored.problems.items()]  # fmt: skip


@pytest.mark.parametrize("name", ["lm-eval", "kim", "lighteval", "qwen-math", "nemo-skills", "inspect", "opsd-analysis"])
def test_every_format_holds_the_same_samples(sets, name):
    assert drawn(sets / name, finish=False) == drawn(sets / "generic", finish=False)
    reasons = {s.finish_reason for samples in load_sample_set(sets / name).samples.values() for s in samples}
    assert reasons == ({None} if name in ("lm-eval", "kim", "lighteval") else
                       {None, "length"} if name == "opsd-analysis" else {"stop", "length"})  # fmt: skip


@pytest.mark.parametrize("name", ["lm-eval", "generic"])
def test_numbers_are_those_of_enumeration(sets, planted, name):
    """Without finish reasons (lm-eval) a completion that was cut is one without an answer."""
    grade_set(sets / name)
    measure_set(sets / name, metrics=["avg@k", "avg_relaxed@k", "pass@k", "pass^k", "maj@k", "loop_rate"])
    graded, values = load_sample_set(sets / name), read_measures(sets / name).values
    for at, ((_, _, draws), samples) in enumerate(zip(planted, graded.samples.values(), strict=True)):
        cut = "truncated" if name == "generic" else "no_answer"
        expected = [cut if d.outcome == "truncated" else d.outcome for d in draws]
        assert [s.outcome for s in samples] == expected
        assert [s.correct for s in samples] == [d.outcome == "right" for d in draws]
        for sample, draw in zip(samples, draws, strict=True):
            assert draw.relaxed is None or sample.correct_relaxed is draw.relaxed, draw.text
        assert values["loop_rate"][at] == mean(d.outcome == "loop" for d in draws)
        for k in (1, 2, 4):
            subsets = list(itertools.combinations(draws, k))
            right = [[d.outcome == "right" for d in subset] for subset in subsets]
            assert values[f"pass@{k}"][at] == pytest.approx(mean(map(any, right)))
            assert values[f"pass^{k}"][at] == pytest.approx(mean(map(all, right)))
            assert values[f"maj@{k}"][at] == pytest.approx(mean(map(vote, subsets)))
        assert values[f"avg@{K}"][at] == mean(d.outcome == "right" for d in draws)


def vote(draws):
    """Share of the gold answer among the most frequent ones; draws without an answer do not vote."""
    counts = Counter(d.vote for d in draws if d.vote is not None)
    first = [answer for answer, count in counts.items() if count == max(counts.values())]
    return ("gold" in first) / len(first) if first else 0.0
