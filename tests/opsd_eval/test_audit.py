"""Every check of the audit on a set with that fault planted, and silence on a clean one."""

from __future__ import annotations

import argparse
import json
import random
import time

import pytest

from opsd_eval.audit import add_arguments, audit, run
from opsd_eval.audit_advice import ADVICE
from opsd_eval.audit_checks import describe
from opsd_eval.records import Problem, RunRecord, Sample, append_samples, write_json, write_problems, write_run

WORDS = ["then", "we", "add", "the", "first", "two", "numbers", "and", "carry", "so", "that", "next", "each", "is", "of", "a", "sum", "which", "gives", "for", "this"]


def prose(seed, n=60):
    return " ".join(random.Random(str(seed)).choices(WORDS, k=n))


def make(folder, *, n_problems=10, n=4, change=None, problems=None, **run_fields):
    """A clean set of boxed English completions; ``change(problem index, draw)`` gives fields to replace."""
    problems = problems or [
        Problem(f"p{i}", f"What is the sum of {i} and {i + 1}, and then the next of them?", answer=str(2 * i + 1))
        for i in range(n_problems)
    ]
    samples = []
    for i, problem in enumerate(problems):
        for draw in range(n):
            fields = {
                "text": f"{prose(f'{folder.name} {i} {draw}')} so it is \\boxed{{{problem.answer}}}", "n_tokens": 70,
                "finish_reason": "stop", "seed": 1000 * i + draw, "prompt_sha256": f"prompt {i}",
            }  # fmt: skip
            found = change(i, draw) if change else {}
            if found is not None:
                samples.append(Sample(problem.problem_id, draw, **{**fields, **found}))
    sampling = {"temperature": 1.0, "max_new_tokens": 100, "n": n, **run_fields.pop("sampling", {})}
    write_problems(folder, problems)
    append_samples(folder, samples)
    write_run(folder, RunRecord(folder.name, run_fields.pop("kind", "sample"), sampling=sampling, **run_fields))
    return folder


def checks(*folders):
    return {f.check: f for f in audit(folders)}


def test_a_clean_set_has_no_finding(tmp_path):
    assert checks(make(tmp_path / "a")) == {}
    assert checks(make(tmp_path / "b"), make(tmp_path / "c")) == {}


def test_constant_seed_looks_like_collapse(tmp_path):
    found = checks(make(tmp_path / "a", change=lambda i, draw: {"text": f"{prose(i)} \\boxed{{1}}"}))["identical_draws"]
    assert found.level == "error" and "30 of 40 (75.0%)" in found.message and "all 4 draws are the same" in found.message
    assert "seed" in found.meaning and "collapsed" in found.meaning and "seed: null" in found.fix
    assert found.examples[0] == "p0"


def test_short_constant_answers_are_seen_too(tmp_path):
    assert "identical_draws" in checks(make(tmp_path / "a", change=lambda i, draw: {"text": f"\\boxed{{{i}}}"}))


def test_copies_with_other_white_space_at_their_ends_are_copies(tmp_path):
    ends = ("", " ", "\n", " \n\n")
    found = checks(make(tmp_path / "a", change=lambda i, draw: {"text": f"{prose(i)} \\boxed{{1}}{ends[draw]}"}))
    assert "30 of 40 (75.0%)" in found["identical_draws"].message


def test_a_rerun_that_repeats_the_first_draws(tmp_path):
    found = checks(make(tmp_path / "a", change=lambda i, draw: {"text": f"{prose((7, i, draw % 2))} \\boxed{{1}}"}))
    assert "draw 2 = draw 0, draw 3 = draw 1" in found["identical_draws"].message


def test_a_few_planted_copies(tmp_path):
    def change(i, draw):
        return {"text": f"{prose(i)} \\boxed{{1}}"} if i == 3 and draw in (1, 3) else {}

    found = checks(make(tmp_path / "a", n_problems=50, change=change))
    assert found["repeated_draws"].level == "warning" and found["repeated_draws"].examples == ("p3",)
    assert "identical_draws" not in found


def test_short_natural_repeats_are_only_noted(tmp_path):
    def change(i, draw):
        return {"text": f"\\boxed{{{random.Random(100 * i + draw).randint(0, 3)}}}"}

    found = checks(make(tmp_path / "a", n_problems=40, change=change))
    assert found["repeated_draws"].level == "info" and "identical_draws" not in found


def test_greedy_draws_are_copies_by_design(tmp_path):
    same = make(tmp_path / "a", change=lambda i, draw: {"text": f"{prose(i)} \\boxed{{1}}"}, sampling={"temperature": 0})
    assert checks(same)["greedy_draws"].level == "info" and "identical_draws" not in checks(same)


def test_describe():
    assert describe((0, 0, 0)) == "all 3 draws are the same"
    assert describe((0, 1, 0, 1, 0, 1, 0, 1)).endswith("draw 5 = draw 1 and 2 more")


def test_one_recorded_seed(tmp_path):
    assert "10 of 10" in checks(make(tmp_path / "a", change=lambda i, d: {"seed": 1234}))["constant_seed"].message


def test_copies_between_problems(tmp_path):
    def change(i, draw):
        return {"text": prose(draw, 80) + " \\boxed{1}"}

    found = checks(make(tmp_path / "a", change=change))
    assert "36 of 40" in found["copied_between_problems"].message


def test_unequal_and_missing_draws(tmp_path):
    found = checks(make(tmp_path / "a", change=lambda i, d: None if i == 2 or (i == 1 and d == 0) else {}))
    assert found["missing_samples"].level == "error" and found["missing_samples"].examples == ("p2",)
    assert found["unequal_draws"].message == "3 draws: 1 problems, 4 draws: 8 problems"
    assert found["draw_numbers"].examples == ("p1",) and "fewer than the n = 4" in found["unfinished"].message


def test_duplicated_problems_and_contradicting_gold(tmp_path):
    problems = [Problem("a", "What is  it?", answer="1"), Problem("b", "What is it?", answer="2"),
                Problem("c", "What else?", answer="1")]  # fmt: skip
    found = checks(make(tmp_path / "a", problems=problems))
    assert found["duplicated_problems"].examples == ("a = b",)
    assert found["contradicting_answers"].level == "error"
    problems = [Problem("a", "Spell 'Ab' backward.", answer="bA"), Problem("b", "spell 'ab' backward.", answer="ba")]
    found = checks(make(tmp_path / "b", problems=problems))
    assert found["duplicated_problems"].examples == ("a = b",) and "contradicting_answers" not in found


def test_missing_and_wordy_gold(tmp_path):
    problems = [Problem("a", "First?"), Problem("b", "Second?", answer=" "), Problem("c", "Third?", answer="w " * 30),
                Problem("d", "Fourth?", answer="4")]  # fmt: skip
    found = checks(make(tmp_path / "a", problems=problems))
    assert found["missing_gold"].message.startswith("2 of 4") and found["missing_gold"].level == "warning"
    assert found["gold_is_text"].examples == ("c",)
    assert checks(make(tmp_path / "b", problems=problems[:2]))["missing_gold"].level == "error"


def test_empty_completions(tmp_path):
    found = checks(make(tmp_path / "a", change=lambda i, d: {"text": [None, " \n", ""][i]} if i < 3 and d == 0 else {}))
    assert found["empty_completions"].message.startswith("3 of 40") and found["empty_completions"].level == "warning"


@pytest.mark.parametrize(("cut", "level"), [(1, "info"), (4, "warning"), (20, "error")])
def test_truncated(tmp_path, cut, level):
    found = checks(make(tmp_path / "a", change=lambda i, d: {"finish_reason": "length"} if 4 * i + d < cut else {}))
    assert found["truncated"].level == level and found["truncated"].message.startswith(f"{cut} of 40")


def test_unknown_finish_reasons(tmp_path):
    nothing = {"finish_reason": None, "n_tokens": None}
    assert checks(make(tmp_path / "a", change=lambda i, d: nothing))["finish_unknown"].level == "info"
    below = checks(make(tmp_path / "c", change=lambda i, d: {"finish_reason": None, "n_tokens": 5}))
    assert "finish_unknown" not in below  # shorter than the limit: not cut by it
    logged = {"finish_reason": "length", "n_tokens": 100, "text": "<think> on and on"}
    assert "finish_unknown" not in checks(make(tmp_path / "d", change=lambda i, d: logged if d == 0 else {}))
    found = checks(make(tmp_path / "b", change=lambda i, d: {
        "finish_reason": None, "n_tokens": 100 if d else 5, "text": f"<think> {prose((i, d, 'x'))}",
    }))["finish_unknown"]  # fmt: skip
    assert found.level == "warning"
    assert "30 of them have as many tokens as the limit" in found.message and "unclosed <think>" in found.message


def test_stripped_reasoning(tmp_path):
    found = checks(make(tmp_path / "a", change=lambda i, d: {"n_tokens": 2000}, sampling={"max_new_tokens": 4000}))
    assert found["stripped_reasoning"].level == "error" and "characters for each token" in found["stripped_reasoning"].message
    named = make(tmp_path / "b", model={"args": "pretrained=m,think_end_token=</think>"})
    assert "think_end_token" in checks(named)["stripped_reasoning"].message


def test_language_loops_and_extractability(tmp_path):
    chinese = "我们先把这两个数加起来，然后再检查一遍结果是否正确，所以答案就是这个。"

    def change(i, draw):
        tail = f" {i} {draw}"
        return [{"text": chinese + tail + " \\boxed{1}"}, {"text": tail + "and so on and on, wait. " * 200}, {}, {}][draw]

    found = checks(make(tmp_path / "a", change=change))
    assert found["off_language"].message.startswith("10 of 40") and "zh 25%" in found["off_language"].message
    assert found["loops"].message.startswith("10 of 40")
    assert found["extractability"].message.startswith("10 of 40") and found["extractability"].level == "warning"
    never = checks(make(tmp_path / "b", change=lambda i, d: {"text": f"{prose((i, d, 'y'))} the answer is {d}"}))
    assert never["extractability"].level == "error" and "40 of them hold another" in never["extractability"].message


def test_prompts(tmp_path):
    varying = checks(make(tmp_path / "a", change=lambda i, d: {"prompt_sha256": f"{i} {d % 2}"}))
    assert varying["prompt_varies"].level == "error"
    shared = checks(make(tmp_path / "b", change=lambda i, d: {"prompt_sha256": "one"}))
    assert shared["prompt_shared"].message.startswith("10 problems share a prompt")


def test_unfinished_ingest(tmp_path):
    folder = make(tmp_path / "a", kind="ingest", config={"status": "cancelled"})
    messages = [f.message for f in audit([folder]) if f.check == "unfinished"]
    assert any("'cancelled'" in m for m in messages) and any("ingest.json is missing" in m for m in messages)
    write_json(folder / "ingest.json", {"n_malformed": 2, "malformed": ["log:3: torn"], "notes": {"padding": 4}})
    found = checks(folder)
    assert found["malformed"].examples == ("log:3: torn",) and found["ingest_note"].message == "padding (4)"


def test_unreadable_and_empty_sets(tmp_path):
    assert checks(tmp_path / "absent")["unreadable"].level == "error"
    folder = make(tmp_path / "a")
    append_samples(folder, [Sample("p0", 0, text="again")])
    assert "has a draw twice" in checks(folder)["unreadable"].message
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    assert "samples.jsonl:42" in checks(folder)["unreadable"].message
    empty = make(tmp_path / "b", n=0)
    assert list(checks(empty)) == ["empty_set"]


# --- two sets ---------------------------------------------------------------------------------------------


def test_different_problems(tmp_path):
    found = checks(make(tmp_path / "a"), make(tmp_path / "b", n_problems=12))["different_problems"]
    assert found.level == "error" and "0 problems only in" in found.message and found.examples == ("p10", "p11")
    changed = [Problem(f"p{i}", f"Another {i}?", answer="1") for i in range(10)]
    assert checks(tmp_path / "a", make(tmp_path / "c", problems=changed))["changed_problems"].level == "error"


def test_prompt_mismatch(tmp_path):
    first = make(tmp_path / "a")
    found = checks(first, make(tmp_path / "b", change=lambda i, d: {"prompt_sha256": f"chat {i}"}))
    assert found["prompt_mismatch"].message == "10 of 10 (100.0%) shared problems were prompted differently"
    assert "prompt_unknown" in checks(first, make(tmp_path / "c", change=lambda i, d: {"prompt_sha256": None}))


def test_different_sampling_and_draws(tmp_path):
    found = checks(
        make(tmp_path / "a", sampling={"top_p": 0.9}), make(tmp_path / "b", n=2, sampling={"temperature": 0.6})
    )
    assert found["different_sampling"].message == "temperature 1.0 and 0.6"
    assert found["sampling_unknown"].message == "recorded in one set only: top_p"
    assert "(p0: 4 and 2)" in found["different_draws"].message


def test_an_adapter_that_was_not_loaded(tmp_path):
    def same(i, draw):
        return {"text": f"{prose((i, draw))} \\boxed{{1}}"}

    found = checks(make(tmp_path / "a", change=same), make(tmp_path / "b", change=same))["same_completions"]
    assert found.level == "error" and "40 of 40" in found.message and "adapter" in found.meaning


# --- command ----------------------------------------------------------------------------------------------


def test_command(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    clean, bad = make(tmp_path / "a"), make(tmp_path / "b", change=lambda i, d: {"text": "<script>x</script>"})
    assert run(parser.parse_args([str(clean)])) == 0
    assert capsys.readouterr().out == f"{clean}: nothing found\n"
    assert run(parser.parse_args([str(clean), str(bad), "--json"])) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {"set", "check", "level", "message", "meaning", "fix", "examples"} == set(rows[0])
    assert run(parser.parse_args([str(bad)])) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{bad}: 3 error") and "means:" in printed and "do:" in printed


def test_every_check_has_advice():
    assert all(meaning and fix for meaning, fix in ADVICE.values())


def test_speed_on_a_log_of_1319_by_4(tmp_path):
    folder = make(tmp_path / "a", n_problems=1319)
    start = time.perf_counter()
    audit([folder])
    assert time.perf_counter() - start < 20
