"""wandb (offline) and trackio themselves: what a short run leaves in their files is what ``train.jsonl`` says."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
APART = Path(sys.prefix) / "apart"
OPTIONS = """--data.limit 16 --rollout.max_new_tokens 8 --optim.steps 3 --optim.batch_size 4 --run.diagnostics_every 2
--run.name mine"""


def in_apart(*arguments, cwd, **more):
    assert (APART / "wandb").is_dir(), "the trackers are not there: make test-real installs them into .venv/apart"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{APART}", "WANDB_MODE": "offline", **more}
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def trained(tracker, folder):
    """Three steps with a tracker; returns its losses by step as ``train.jsonl`` has them."""
    done = in_apart("-m", "opsd_train.cli", "run", "testbed", "--out", folder / "run", "--run.trackers", tracker,
                    *OPTIONS.split(), cwd=folder, HOME=str(folder), TRACKIO_DIR=str(folder / "trackio"))  # fmt: skip
    assert "Reserved keys" not in done.stderr
    rows = [json.loads(line) for line in (folder / "run" / "train.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def test_trackio_holds_the_config_and_every_step(tmp_path):
    losses = trained("trackio", tmp_path)
    database = sqlite3.connect(tmp_path / "trackio" / "mine.db")
    found = {step: json.loads(values) for step, values in database.execute("SELECT step, metrics FROM metrics")}
    assert {step: values["loss"] for step, values in found.items()} == losses and len(losses) == 3
    [(config,)] = database.execute("SELECT config FROM configs")
    database.close()
    assert json.loads(config)["optim.steps"] == 3


READ = """
import json, sys
from wandb.proto import wandb_internal_pb2 as proto
data, at, whole = open(sys.argv[1], "rb").read(), 7, b""
config, losses = [], {}
while at < len(data):  # blocks of 32 KiB; a record, or a part of one, has a length and a kind (1 whole, 4 last part)
    if 32768 - at % 32768 < 7:
        at += 32768 - at % 32768
        continue
    size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
    whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
    if kind in (1, 4):
        record, whole = proto.Record.FromString(whole), b""
        config += [update.key for update in record.config.update]
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if items:
            losses[record.history.step.num] = items["loss"]
print(json.dumps([config, losses]))
"""


def test_wandb_offline_holds_the_config_and_every_step(tmp_path):
    losses = trained("wandb", tmp_path)
    [file] = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")  # in the run's folder, not where it was started
    config, found = json.loads(in_apart("-c", READ, file, cwd=tmp_path).stdout.splitlines()[-1])
    assert {int(step): loss for step, loss in found.items()} == losses and len(losses) == 3
    assert "optim.steps" in config
