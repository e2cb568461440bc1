import math

import pytest
from engine_fixtures import byte_tokenizer

from opsd_eval import cli
from opsd_eval.engines import Completion
from opsd_eval.metrics.probing import early_answer_area, early_answer_at_0, early_answer_flips
from opsd_eval.probe import QUANTILES, check_model_of, cut_prompt, probe_set, reasoning_ids
from opsd_eval.prompts import student_prompt_ids
from opsd_eval.records import Problem, Sample, append_samples, new_run_record, read_jsonl, write_problems, write_run


def probed(agreements, draw=0):
    """Probe rows of one draw from its agreements at equally spaced quantiles."""
    steps = len(agreements) - 1
    return [{"draw": draw, "quantile": i / steps, "agrees": a} for i, a in enumerate(agreements)]


def values(*draws):
    rows = [row for draw, agreements in enumerate(draws) for row in probed(agreements, draw)]
    problem = Problem("p", "?", metadata={"probes": rows})
    samples = [Sample("p", draw) for draw in range(len(draws))]
    return tuple(f(problem, samples) for f in (early_answer_at_0, early_answer_area, early_answer_flips))


def test_metrics_by_hand():
    assert values([True] * 5) == (1.0, 0.0, 0.0)
    assert values([False, False, False, False, True]) == (0.0, 0.875, 1.0)
    assert values([True, False, True]) == (1.0, 0.5, 2.0)
    assert values([True, True, True], [False, False, True]) == (0.5, 0.375, 0.5)
    assert values([True, True], [None, None]) == (1.0, 0.0, 0.0)  # a draw without an answer of its own is left out
    assert all(map(math.isnan, values([None, None])))
    assert all(map(math.isnan, (f(Problem("p", "?"), [Sample("p", 0)]) for f in (early_answer_at_0, early_answer_area))))


class Oracle:
    """Answers 7 once it has seen the token of "9", else 5; closes its box and goes on babbling."""

    def __init__(self, tokenizer):
        self.tokenizer, self.prompts = tokenizer, []

    def generate(self, requests, *, sampling, logprobs=False):
        assert (sampling.temperature, sampling.max_new_tokens) == (0.0, 32)
        for request in requests:
            self.prompts.append(self.tokenizer.decode(request.prompt_ids))
            said = "7} done {" if "9" in self.prompts[-1].split("assistant\n")[1] else "5}"
            yield Completion(request.problem_id, 0, tuple(self.tokenizer(said)["input_ids"]), "length")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def make_set(folder, tokenizer, texts, problem=None):
    problem = problem or Problem("p", "3 + 4?", "7")
    run = new_run_record("x", "samples", model={"path": "tiny", "sha256": None, "adapter": None}, config={"n": 2})
    write_run(folder, run)
    write_problems(folder, [problem])
    rows = []
    for draw, text in enumerate(texts):
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]
        rows.append(Sample("p", draw, text, ids, len(ids), "stop", 0))
    append_samples(folder, rows)
    return problem


def test_probe_rows_resume_and_shared_prompts(tmp_path, tokenizer):
    make_set(tmp_path, tokenizer, ["abcd9 \\boxed{7}", "abcd1 \\boxed{6}", "no answer here"])
    engine = Oracle(tokenizer)
    rows = list(read_jsonl(probe_set(tmp_path, engine, tokenizer)))
    assert [(r["draw"], r["quantile"]) for r in rows] == [(d, q) for d in range(3) for q in QUANTILES]
    assert (rows[0]["answer"], rows[0]["agrees"], rows[0]["correct"]) == ("5", False, False)
    assert (rows[10]["answer"], rows[10]["agrees"], rows[10]["correct"]) == ("7", True, True)
    assert [r["agrees"] for r in rows[11:22]] == [False] * 11
    assert {r["agrees"] for r in rows[22:]} == {None} and {r["correct"] for r in rows[22:]} == {False}
    assert len(engine.prompts) == len(set(engine.prompts)) <= 33 - 2  # the cuts at 0 % are one prompt
    path = tmp_path / "probes.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:20]) + b'{"problem_id": "p", "dr')
    again = Oracle(tokenizer)
    assert list(read_jsonl(probe_set(tmp_path, again, tokenizer))) == rows
    assert 0 < len(again.prompts) <= 13


def cut(tokenizer, problem, sample, quantile):
    prompt = cut_prompt(tokenizer, problem, sample, reasoning_ids(tokenizer, sample), quantile)
    assert list(prompt[: len(student_prompt_ids(tokenizer, problem))]) == student_prompt_ids(tokenizer, problem)
    return tokenizer.decode(prompt).split("assistant\n")[1]


def test_cut_prompts(tokenizer):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    bare = Problem("p", "start 3", benchmark="testbed.hunch_r10.id")
    stopped = Sample("p", 0, "abcdefgh", [*ids("abcdefgh"), 2], finish_reason="stop")
    assert cut(tokenizer, bare, stopped, 0.5) == "abcd \\boxed{"
    truncated = Sample("p", 0, "abcdefgh", ids("abcdefgh"), finish_reason="length")
    assert cut(tokenizer, bare, truncated, 1.0) == "abcdefgh \\boxed{"
    assert cut(tokenizer, bare, Sample("p", 0, "abcdefgh"), 1.0) == "abcdefgh \\boxed{"
    boxed = Sample("p", 0, "", ids("ab \\boxed{1} wait 42\\boxed{7} done"), finish_reason="length")
    assert cut(tokenizer, bare, boxed, 1.0) == "ab \\boxed{1} wait 42 \\boxed{"
    hub = Problem("p", "3 + 4?", benchmark="hf:gsm8k")
    thinking = Sample("p", 0, "", ids("<think>so so"), finish_reason="length")
    assert cut(tokenizer, hub, thinking, 1.0) == "<think>so so\n</think>\n\nFinal answer: \\boxed{"
    with pytest.raises(ValueError, match="not the one that was sampled from"):
        cut(tokenizer, hub, Sample("p", 0, "a", [3], prompt_sha256="0" * 64), 0.0)


def test_another_model_is_refused(tmp_path, tokenizer):
    (tmp_path / "other").mkdir()
    stated = {"path": "m", "sha256": "ab" * 32, "adapter": None}
    with pytest.raises(ValueError, match=r"sampled from a model with SHA-256 abababababab.*--other-model"):
        check_model_of(tmp_path, stated, str(tmp_path / "other"), None)
    with pytest.raises(ValueError, match="was sampled without an adapter"):
        check_model_of(tmp_path, stated, "served", "adapter")
    with pytest.raises(ValueError, match="was sampled with the adapter a/b"):
        check_model_of(tmp_path, {**stated, "adapter": "a/b"}, "served", None)
    check_model_of(tmp_path, stated, "served", None)


def test_command_on_a_shipped_base_and_measure(tmp_path, capsys):
    from opsd_eval.testbed import base_path

    base = str(base_path("hunch_r10", 0))
    out = str(tmp_path / "set")
    assert cli.main(["sample", base, "testbed.hunch_r10.id", "--n", "2", "--limit", "6", "--out", out]) == 0
    assert cli.main(["probe", out, "--model", base]) == 0
    assert cli.main(["measure", out, "--metric", "early_answer_at_0", "--metric", "early_answer_area", "--json"]) == 0
    assert '"early_answer_area"' in capsys.readouterr().out
    rows = list(read_jsonl(tmp_path / "set" / "probes.jsonl"))
    assert len(rows) == 6 * 2 * 11
    assert all(row["agrees"] for row in rows if row["quantile"] == 1.0)  # the whole trace ends in its own answer
