import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from analyses import ablation, ablation_config
from analyses.ablation_config import available, load_config, parse_config
from tests.faults.runners import TINY_ABLATION as TINY

ROOT = Path(__file__).parents[2]

@pytest.mark.parametrize("name", sorted(available()))
def test_committed_configs_are_complete(name):
    config, values = load_config(name)
    assert config.name == name and config.worlds and config.arms
    assert set(config.margins) >= set(config.primary), "a primary metric without a margin can never be preserved"
    assert config.reported_step == max(config.evaluate_steps), "the checkpoint to report is the last"
    assert json.loads(json.dumps(values)) == values


def test_the_demo_shows_both_signs_with_two_seeds():
    from opsd_eval.testbed import WORLDS

    config, _ = load_config("demo")
    assert {WORLDS[name].expectation for name in config.worlds} >= {"hurts", "helps"}
    assert len(config.train_seeds) >= 2 and {"standard", "purified"} <= set(config.arms)
    assert all("built in" in there.built_in for there in config.worlds.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"primry": ["x"]}, "primary"),
        ({"report_step": 3}, "not among evaluate_steps"),
        ({"worlds": {"hunch_r11": {}}}, "hunch_r1"),
        ({"worlds": {"slips": {"seeds": [0]}}}, "base_seeds"),
        ({"out_of_distribution": ["longest"]}, "longer"),
        ({"arms": {"base": {}}}, "always there"),
        ({"margins": {"avg@2": 0}}, "above 0"),
        ({"n_problems": 0}, "n_problems"),
        ({"evaluate_steps": [0, 2]}, "start at 1"),
    ],
)
def test_a_bad_config_says_what_is_allowed(change, said):
    with pytest.raises(ValueError, match=said):
        parse_config({**TINY, **change})


def test_missing_settings_and_unknown_configs_are_named(tmp_path):
    with pytest.raises(ValueError, match="missing settings: draws"):
        parse_config({k: v for k, v in TINY.items() if k != "draws"})
    with pytest.raises(ValueError, match="'demo'"):
        load_config("dem")
    with pytest.raises(ValueError, match=r"nothing\.yaml"):
        load_config(str(tmp_path / "nothing.yaml"))


def test_splits_outside_the_series_are_evaluated_at_the_reported_step_only():
    config = parse_config({**TINY, "series_splits": ["id"]})
    assert config.steps_of("id") == (1, 2) and config.steps_of("longer") == (2,)


def test_a_study_of_another_config_is_refused_and_a_new_title_is_not(tmp_path):
    with ablation.claimed(tmp_path, TINY):
        pass
    with ablation.claimed(tmp_path, {**TINY, "title": "another"}):
        pass
    changed = {**TINY, "draws": 3, "sampling": {"temperature": 0.5, "max_new_tokens": 24}}
    said = r"draws: 2 there, 3 now(.|\n)*sampling\.temperature: 1\.0 there, 0\.5 now"
    with pytest.raises(ValueError, match=said), ablation.claimed(tmp_path, changed):
        raise AssertionError("not refused")


def test_two_processes_cannot_share_a_study(tmp_path):
    refused = pytest.raises(ValueError, match=f"in use by process {os.getpid()}")
    with ablation.claimed(tmp_path, TINY), refused, ablation.claimed(tmp_path, TINY):
        raise AssertionError("not refused")


def test_the_plan_covers_every_cell_and_skips_what_is_done(tmp_path, make_set):
    config = parse_config(TINY)
    jobs = {job.name: job for job in ablation.plan(config, tmp_path)}
    assert len(jobs) == 2 + 2 + 2 * 2 * 2 + 2 * 2  # trainings, base sets, checkpoints' sets, reported sets against base
    assert jobs["hunch_r10_s0_purified_t1.id.000002"].needs == ("hunch_r10_s0_purified_t1",)
    assert jobs["hunch_r10_s0_base.id.000000"].needs == ()
    trained = jobs["hunch_r10_s0_standard_t1"].arguments["config"]
    assert (trained["method"]["target"], trained["optim"]["steps"], trained["run"]["seed"]) == ("standard", 2, 1)
    assert trained["run"]["checkpoint_every"] == math.gcd(1, 2)
    folder = make_set(ablation.set_folder(tmp_path, "hunch_r10_s0_base", "hunch_r10", "id", 0))
    (folder / "estimates.json").write_text("{}")
    assert "hunch_r10_s0_base.id.000000" not in {job.name for job in ablation.plan(config, tmp_path)}


def test_arms_of_one_cell_differ_only_in_what_the_config_says():
    config = parse_config(TINY)
    a, b = (ablation.train_config(config, "hunch_r10", 0, arm, 1) for arm in ("standard", "purified"))
    assert {**a, "method": {**a["method"], "target": ""}} == {**b, "method": {**b["method"], "target": ""}}


def test_replacing_a_config_keeps_it_frozen():
    config = parse_config(TINY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.draws = 3
    assert ablation_config.EXPECTATIONS.keys() == {"hurts", "helps", "open"}
