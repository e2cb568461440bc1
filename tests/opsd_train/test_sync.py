"""Weights reach the rollout engine before every step, and a copy that did not hear of a step is caught."""

import math
from dataclasses import replace

import pytest
import torch

from opsd_train import sync, trainer
from opsd_train.config import apply_overrides
from opsd_train.policy import load_policy, load_tokenizer
from opsd_train.rollouts import Rollout
from opsd_train.stopping import Unhealthy
from opsd_train.sync import AdapterSync, make_sampler
from opsd_train.trainer import train
from tests.opsd_train.conftest import log_rows

LORA = ("--model.tuning", "lora", "--model.lora_rank", "8", "--rollout.check_every", "1", "--optim.steps", "3")


class Remote:
    """A model of its own that is only ever told of weights through adapter folders, as vLLM and a server are."""

    def __init__(self, config, stale_after=99):
        from opsd_eval.engines.transformers_engine import TransformersEngine

        self.config, self.stale_after, self.heard, self.closed = config, stale_after, [], False
        self.make = lambda model, tokenizer: TransformersEngine(model, tokenizer)
        self.engine = None

    def use_adapter(self, folder):
        from opsd_eval.engines.loading import load_model, load_tokenizer

        self.heard.append(folder.name)
        assert sorted(p.name for p in folder.iterdir())[:2] == ["README.md", "adapter_config.json"]
        if len(self.heard) <= self.stale_after:
            model = load_model(self.config.model.path, adapter=folder)
            self.engine = self.make(model, load_tokenizer(self.config.model.path))

    def generate(self, requests, **options):
        return self.engine.generate(requests, **options)

    def close(self):
        self.closed = True


@pytest.fixture
def remote_config(config):
    return apply_overrides(config, [*LORA, "--rollout.engine", "vllm"])


def test_adapters_arrive_each_step_under_a_new_name_and_leave_nothing_behind(remote_config, tmp_path, monkeypatch):
    remote = Remote(remote_config)
    monkeypatch.setattr(sync, "_vllm", lambda config: remote)
    train(remote_config, tmp_path / "remote")
    train(apply_overrides(remote_config, ["--rollout.engine", "transformers"]), tmp_path / "own")
    assert remote.heard == ["step-000000", "step-000001", "step-000002"] and remote.closed
    assert not (tmp_path / "remote" / ".adapters" / "process-0").exists()
    mine, theirs = log_rows(tmp_path / "remote"), log_rows(tmp_path / "own")
    assert [r["loss"] for r in mine] == pytest.approx([r["loss"] for r in theirs], rel=1e-4)
    assert max(r["engine_gap"] for r in mine) < 1e-4


def test_a_stale_adapter_is_caught(remote_config, tmp_path, monkeypatch):
    remote = Remote(remote_config, stale_after=1)
    monkeypatch.setattr(sync, "_vllm", lambda config: remote)
    options = ["--optim.lr", "0.1", "--rollout.check_bound", "0.05"]
    with pytest.raises(Unhealthy, match=r"step [23]: the engine's log-probabilities differ .* stale"):
        train(apply_overrides(remote_config, options), tmp_path)
    assert remote.closed


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_a_log_probability_that_is_no_number_is_a_gap_without_end(remote_config, tmp_path, monkeypatch, value):
    """NaN is above no bound: it must not pass for agreement. Nor may a process without a token hide another's gap."""
    remote = Remote(remote_config)
    real = remote.generate
    spoil = lambda c: replace(c, logp=(*c.logp[:-1], value))  # noqa: E731
    remote.generate = lambda requests, **options: map(spoil, real(requests, **options))
    monkeypatch.setattr(sync, "_vllm", lambda config: remote)
    with pytest.raises(Unhealthy, match=r"step 1: the engine's log-probabilities differ .* by inf nats"):
        train(remote_config, tmp_path)


@pytest.mark.parametrize(("gaps", "worst"), [((math.nan, 0.7), 0.7), ((0.7, math.nan), 0.7), ((0.1, math.inf), math.inf)])
def test_a_process_without_a_token_hides_no_gap(config, tmp_path, monkeypatch, gaps, worst):
    monkeypatch.setattr(trainer, "gather_object", lambda mine: list(gaps) if isinstance(mine[0], float) else mine)
    with pytest.raises(Unhealthy, match=f"by {worst:g} nats a token"):
        train(apply_overrides(config, ["--rollout.check_every", "1", "--rollout.check_bound", "0.5"]), tmp_path)


def test_log_probabilities_that_are_too_few_are_an_error(config):
    from opsd_train.diagnosis import engine_gap

    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, config.method, tokenizer, seed=0)
    prompts = {role: [5, 6, 7] for role in ("student", "teacher", "reference", "base")}
    assert math.isnan(engine_gap(policy, [Rollout("p", 0, (), prompts, "stop", "", ())]))
    with pytest.raises(ValueError, match="1 log-probabilities for 2 sampled tokens"):
        engine_gap(policy, [Rollout("p", 0, (8, 9), prompts, "stop", "", (-1.0,))])


def test_full_fine_tuning_and_too_large_ranks_are_refused(config, tmp_path):
    full = apply_overrides(config, ["--rollout.engine", "vllm"])
    with pytest.raises(ValueError, match=r"--model\.tuning lora"):
        train(full, tmp_path)
    with pytest.raises(ValueError, match="at most 512"):
        train(apply_overrides(full, [*LORA, "--model.lora_rank", "600"]), tmp_path.with_name("other"))


def test_only_the_newest_adapter_is_kept_on_disk(config, tmp_path):
    config = apply_overrides(config, [*LORA])
    policy = load_policy(config.model, config.method, load_tokenizer(config.model), seed=0)
    seen = []

    class Engine:
        def use_adapter(self, folder):
            seen.append(folder)

    bring = AdapterSync(policy, tmp_path)
    for step in range(3):
        bring(Engine(), step)
        assert list((tmp_path / "process-0").iterdir()) == [seen[-1]]
    bring.close()
    assert not (tmp_path / "process-0").exists()


@pytest.fixture
def vllm_config(config):
    pytest.importorskip("vllm")
    options = ["--model.path", "testbed:hunch_r10_s0", "--rollout.engine", "vllm", "--rollout.max_new_tokens", "48"]
    return apply_overrides(config, [*LORA, *options, "--optim.lr", "0.02", "--rollout.check_bound", "0.02"])


@pytest.mark.real
@pytest.mark.filterwarnings("default")
def test_vllm_samples_from_the_student_of_each_step_and_a_planted_stale_adapter_is_caught(
    vllm_config, tmp_path, monkeypatch
):
    train(vllm_config, tmp_path / "fresh")
    rows = log_rows(tmp_path / "fresh")
    assert len(rows) == 3 and max(row["engine_gap"] for row in rows) < 0.01
    real = trainer.make_sampler

    def plant(config, policy, out):
        sampler = real(config, policy, out)
        use, heard = sampler.engine.use_adapter, []
        monkeypatch.setattr(sampler.engine, "use_adapter", lambda folder: heard.append(folder) or len(heard) > 1 or use(folder))
        return sampler

    monkeypatch.setattr(trainer, "make_sampler", plant)
    with pytest.raises(Unhealthy, match="stale"):
        train(vllm_config, tmp_path / "stale")
    assert make_sampler is real
    assert torch.is_grad_enabled()
