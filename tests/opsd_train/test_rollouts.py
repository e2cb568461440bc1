import pytest

from opsd_eval.engines.base import Completion
from opsd_eval.records import Problem
from opsd_train.config import TrainConfig
from opsd_train.rollouts import Rollout, Sampler, micro_batches, step_rows

PROBLEMS = [Problem(f"p{i}", f"q{i}") for i in range(10)]


def keys(steps, **options):
    return [(r.problem.problem_id, r.draw) for s in steps for r in step_rows(PROBLEMS, s, **options)]


def test_order_depends_on_seed_and_step_only():
    options = {"batch_size": 4, "draws": 1, "seed": 3}
    assert keys([5], **options) == keys(range(8), **options)[20:24]
    assert keys(range(3), **options) != keys(range(3), batch_size=4, draws=1, seed=4)


@pytest.mark.parametrize("draws", [1, 2])
def test_each_epoch_visits_every_problem_once_and_no_stream_repeats(draws):
    visits = keys(range(10), batch_size=2 * draws, draws=draws, seed=0)
    assert len(set(visits)) == len(visits)
    first = [pid for pid, draw in visits if draw < draws]
    assert sorted(first) == sorted(p.problem_id for p in PROBLEMS for _ in range(draws))
    second = [pid for pid, draw in visits if draw >= draws]
    assert sorted(first) == sorted(second) and first != second


class Tokens:
    """A tokenizer of which only the end token and decoding matter."""

    eos_token_id = 9

    def batch_decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return [" ".join(map(str, row)) for row in ids]


class Backwards:
    """An engine that hands rows out in reverse; it may lose the last one."""

    def __init__(self, lose=False):
        self.lose = lose

    def generate(self, requests, *, sampling, logprobs=False):
        done = [Completion(r.problem_id, r.draw, (*r.prompt_ids, 9), "stop") for r in requests]
        yield from reversed(done[self.lose :])


PROMPTS = {p.problem_id: {"student": [i, 7], "teacher": [i, 8, 8]} for i, p in enumerate(PROBLEMS)}


def test_sampler_puts_rows_in_order_keeps_ids_and_syncs_first():
    heard = []
    sampler = Sampler(Backwards(), Tokens(), TrainConfig(), sync=lambda engine, step: heard.append(step))
    rows = step_rows(PROBLEMS, 0, batch_size=4, draws=2, seed=0)
    rollouts = sampler.sample(rows, PROMPTS, step=7)
    assert heard == [7]
    assert [(r.problem_id, r.draw) for r in rollouts] == [(r.problem.problem_id, r.draw) for r in rows]
    assert all(r.completion_ids == (*PROMPTS[r.problem_id]["student"], 9) for r in rollouts)
    assert all(r.prompts is PROMPTS[r.problem_id] for r in rollouts)
    assert sampler.sampling.stop_token_ids == (9,)


def test_a_lost_completion_is_an_error_that_names_the_problem():
    rows = step_rows(PROBLEMS, 0, batch_size=2, draws=1, seed=0)
    with pytest.raises(RuntimeError, match=rows[0].problem.problem_id):
        Sampler(Backwards(lose=True), Tokens(), TrainConfig()).sample(rows, PROMPTS, step=0)


def test_micro_batches_hold_every_rollout_once_longest_first():
    rollouts = [Rollout(f"p{n}", 0, (1,) * n, {"student": [1]}, "stop", "") for n in (3, 9, 1, 4, 7)]
    batches = micro_batches(rollouts, 2)
    assert [[len(r.completion_ids) for r in batch] for batch in batches] == [[9, 7], [4, 3], [1]]
