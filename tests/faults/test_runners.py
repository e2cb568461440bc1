"""Runners of ablations and studies: killed with or without their workers, and what they take as done."""

from __future__ import annotations

import shutil

import pytest

from analyses import ablation, stages
from analyses.ablation_config import parse_config
from opsd_eval.records import read_json, write_json
from opsd_eval.whole import what_is_broken
from tests.faults.rounds import kill_rounds
from tests.faults.runners import RUNNERS, TINY_ABLATION, starter

CONFIG = parse_config(TINY_ABLATION)
RUN = "hunch_r10_s0_standard_t1"


@pytest.mark.parametrize("name", ["ablation", "study"])
def test_killed_anywhere_a_runner_goes_on_to_the_same_tables_and_records(tmp_path, name):
    tally = kill_rounds(RUNNERS[name], starter(name, 3), tmp_path, kills=1, seed=3)
    assert tally.kills >= 1 and tally.rounds >= 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    job(folder, RUN).function(**job(folder, RUN).arguments)
    return folder


@pytest.fixture
def study(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "study")
    return tmp_path / "study"


def job(study, name, config=CONFIG):
    return {job.name: job for job in ablation.plan(config, study)}.get(name)


def last(study, run=RUN):
    return study / run / "checkpoints" / "step-000002"


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_damaged_last_checkpoint_is_trained_again_to_the_same_bytes(study):
    assert job(study, RUN) is None
    whole = (last(study) / "model.safetensors").read_bytes()
    flip(last(study) / "model.safetensors")
    again = job(study, RUN)
    again.function(**again.arguments)
    assert (last(study) / "model.safetensors").read_bytes() == whole and what_is_broken(last(study)) is None
    assert job(study, RUN) is None


def test_a_run_of_other_settings_does_not_count_and_is_refused(study):
    other = parse_config({**TINY_ABLATION, "train": {**TINY_ABLATION["train"], "optim.lr": 1e-5}})
    again = job(study, RUN, other)
    with pytest.raises(ValueError, match=r"another config:(.|\n)*optim\.lr"):
        again.function(**again.arguments)


def test_a_checkpoint_from_another_run_is_refused(study):
    other = job(study, "hunch_r10_s0_purified_t1")
    other.function(**other.arguments)
    shutil.rmtree(last(study))
    shutil.copytree(last(study, other.name), last(study))
    again = job(study, RUN)
    with pytest.raises(ValueError, match="written by a run with another config"):
        again.function(**again.arguments)


def test_a_run_begun_with_other_weights_or_another_template_is_refused(study):
    for key in ("sha256", "setup_sha256"):
        record = read_json(study / RUN / "run.json")
        write_json(study / RUN / "run.json", {**record, "model": {**record["model"], key: "0" * 64}})
        shutil.rmtree(last(study), ignore_errors=True)
        with pytest.raises(ValueError, match=rf"other files of .*\({key} of model"):
            stages.train_run(job(study, RUN).arguments["config"], str(study / RUN))
        write_json(study / RUN / "run.json", record)


def test_a_damaged_checkpoint_is_not_sampled_from(study, tmp_path):
    flip(study / RUN / "checkpoints" / "step-000001" / "model.safetensors")
    evaluation = job(study, f"{RUN}.id.000001")
    with pytest.raises(ValueError, match=r"step-000001 is damaged \(model\.safetensors does not match its checksum\)"):
        evaluation.function(**evaluation.arguments)


def test_a_set_of_other_weights_does_not_count_and_is_refused(study):
    name = "hunch_r10_s0_base.id.000000"
    first = job(study, name)
    first.function(**first.arguments)
    assert job(study, name) is None
    path = ablation.set_folder(study, "hunch_r10_s0_base", "hunch_r10", "id", 0) / "run.json"
    record = read_json(path)
    write_json(path, {**record, "model": {**record["model"], "sha256": "0" * 64}})
    again = job(study, name)
    with pytest.raises(ValueError, match=r"other settings:(.|\n)*model\.sha256"):
        again.function(**again.arguments)
