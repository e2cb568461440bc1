import os
import subprocess
import sys

import pytest

from opsd_eval.records import append_jsonl, new_run_record, read_jsonl, read_run, write_run
from opsd_train.config import TrainConfig, apply_overrides
from opsd_train.rundir import claim, locked, rewind_log, write_record

CONFIG = apply_overrides(TrainConfig(), ["--model.path", "m", "--data.benchmark", "b"])


def test_a_second_process_is_refused_and_told_the_first(tmp_path):
    code = f"import pathlib; from opsd_train.rundir import locked\nwith locked(pathlib.Path({str(tmp_path)!r})): pass"
    with locked(tmp_path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert second.returncode and f"being written by process {os.getpid()}" in second.stderr
    subprocess.run([sys.executable, "-c", code], check=True)  # free again


def test_another_config_is_refused_with_the_differences(tmp_path):
    write_record(tmp_path, CONFIG, {})
    other = apply_overrides(CONFIG, ["--optim.lr", "1", "--run.name", "n", "--method.target", "standard"])
    with pytest.raises(ValueError, match=r"(?s)method.target: 'purified' there, 'standard' now.*optim.lr: 5e-06 ther"):
        claim(tmp_path, other, resume=True, at_step=0)
    claim(tmp_path, apply_overrides(CONFIG, ["--run.name", "n"]), resume=True, at_step=0)


def test_the_same_run_needs_resume_and_a_foreign_folder_is_refused(tmp_path):
    claim(tmp_path / "new", CONFIG, resume=False, at_step=0)
    write_record(tmp_path, CONFIG, {"path": "m"})
    started = read_run(tmp_path).started
    with pytest.raises(ValueError, match="--resume"):
        claim(tmp_path, CONFIG, resume=False, at_step=3)
    write_record(tmp_path, CONFIG, {"path": "other"})
    assert read_run(tmp_path).model == {"path": "m"} and read_run(tmp_path).started == started
    write_run(tmp_path / "set", new_run_record("s", "samples"))
    with pytest.raises(ValueError, match="kind 'samples'"):
        claim(tmp_path / "set", CONFIG, resume=True, at_step=0)
    append_jsonl(tmp_path / "bare" / "train.jsonl", [{"step": 1}])
    with pytest.raises(ValueError, match=r"no run\.json"):
        claim(tmp_path / "bare", CONFIG, resume=True, at_step=0)


def test_log_is_cut_back_to_the_checkpoint_even_with_a_torn_line(tmp_path):
    path = tmp_path / "train.jsonl"
    append_jsonl(path, [{"step": s} for s in range(1, 6)])
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    rewind_log(tmp_path, 4)
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="steps 1 to 5"):
        rewind_log(tmp_path, 5)
    rewind_log(tmp_path, 0)
    assert path.read_text() == ""
