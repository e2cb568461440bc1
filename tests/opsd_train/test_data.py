import sys
import types

import pytest

from opsd_eval.records import Problem
from opsd_train.config import DataConfig, apply_overrides
from opsd_train.data import in_training_share, load_data, load_problems, question_share
from opsd_train.policy import load_tokenizer

QUESTIONS = [f"what is {i} + {i} ?" for i in range(400)]


@pytest.fixture
def benchmark(monkeypatch):
    """Put given problems where ``load_benchmark`` finds them; remembers how it was called."""
    calls = []

    def give(problems):
        module = types.ModuleType("opsd_eval.benchmarks")
        module.load_benchmark = lambda name, **options: (calls.append((name, options)), problems)[1]
        monkeypatch.setitem(sys.modules, "opsd_eval.benchmarks", module)
        return calls

    return give


def test_training_share_splits_by_question_and_never_leaks(benchmark):
    benchmark([Problem(f"a{i}", q) for i, q in enumerate(QUESTIONS)])
    train = load_problems(DataConfig(benchmark="x", train_share=0.7))
    assert 0.6 < len(train) / len(QUESTIONS) < 0.8
    again = Problem("another id", QUESTIONS[3].upper().replace(" ", "  "))
    assert question_share(again) == question_share(Problem("a3", QUESTIONS[3]))
    assert all(in_training_share(p, 0.7) for p in train)
    smaller = load_problems(DataConfig(benchmark="x", train_share=0.3))
    assert {p.problem_id for p in smaller} < {p.problem_id for p in train}


def test_one_question_under_two_ids_is_taken_once_the_first(benchmark):
    benchmark([Problem("a", "q 1"), Problem("b", "q 2"), Problem("c", "Q  1")])
    assert [p.problem_id for p in load_problems(DataConfig(benchmark="x"))] == ["a", "b"]


def test_limit_seed_and_split_reach_the_loader(benchmark):
    calls = benchmark([Problem("a", "q")])
    load_problems(DataConfig(benchmark="jsonl:f?question=problem", limit=3, seed=5))
    load_problems(DataConfig(benchmark="reasoning_gym.chain_sum"))
    load_problems(DataConfig(benchmark="hf:gsm8k", split="train"))
    assert calls == [
        ("jsonl:f?question=problem", {"limit": 3, "seed": 5, "split": None}),
        ("reasoning_gym.chain_sum", {"limit": None, "seed": 0, "split": "train"}),
        ("hf:gsm8k", {"limit": None, "seed": 0, "split": "train"}),
    ]


def test_training_questions_of_reasoning_gym_are_not_its_test_questions():
    from opsd_eval.benchmarks import load_benchmark

    train = load_problems(DataConfig(benchmark="reasoning_gym.chain_sum", limit=60))
    test = load_benchmark("reasoning_gym.chain_sum", limit=60)
    assert train[0].reference and not {p.question for p in train} & {p.question for p in test}


def test_nothing_left_is_an_error(benchmark):
    benchmark([])
    with pytest.raises(ValueError, match="train_share"):
        load_problems(DataConfig(benchmark="x"))


def test_missing_references_and_long_prompts_are_named_before_any_compute(benchmark, config):
    words = [f"{i} + 1" for i in range(8)]
    problems = [Problem(f"p{i}", q, "1", f"\\boxed{{{i}}}", "testbed.x.train") for i, q in enumerate(words)]
    long = Problem("long", "1 + 1 " * 100, "1", "r", "testbed.x.train")
    tokenizer = load_tokenizer(config.model)
    benchmark([*problems, Problem("bare", "7 + 7", "1", None, "testbed.x.train")])
    with pytest.raises(ValueError, match="bare"):
        load_data(config, tokenizer)
    benchmark([*problems, long])
    with pytest.raises(ValueError, match=r"'long'.*limit is 128"):
        load_data(config, tokenizer)
    data = load_data(apply_overrides(config, ["--data.too_long", "skip"]), tokenizer)
    assert data.skipped == ("long",) and [p.problem_id for p in data.problems] == [p.problem_id for p in problems]
    assert data.prompts["p0"]["base"] == data.prompts["p0"]["student"] != data.prompts["p0"]["teacher"]
    with pytest.raises(ValueError, match="a step needs 9"):
        load_data(apply_overrides(config, ["--data.too_long", "skip", "--optim.batch_size", "9"]), tokenizer)
