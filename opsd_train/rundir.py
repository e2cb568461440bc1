"""The run folder: one writer at a time, one config, and a step log that matches the checkpoint it goes on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from opsd_eval.locks import locked as folder_locked
from opsd_eval.records import (
    append_jsonl,
    dumps,
    new_run_record,
    read_json,
    read_jsonl,
    read_run,
    sha256_text,
    write_run,
    write_text,
)
from opsd_eval.secrets import redact
from opsd_eval.whole import MANIFEST
from opsd_train.config import TrainConfig, differences, hash_of


def locked(out: Path) -> AbstractContextManager[None]:
    """Hold the run folder for this process; a second process is refused and told the pid of the first.

    The lock is the kernel's (``flock``), so a killed process leaves none behind.
    """
    return folder_locked(
        out, f"{out} is being written by process {{holder}}. Wait for it, stop it, or choose another --out."
    )


def claim(out: Path, config: TrainConfig, *, resume: bool, at_step: int) -> None:
    """Refuse a folder that holds another run, or this one when ``resume`` was not asked for.

    ``at_step`` is the step of the newest whole checkpoint (0: none).
    """
    if not (out / "run.json").exists():
        if (out / "train.jsonl").exists() or at_step:
            raise ValueError(f"{out} holds training output but no run.json: choose another --out.")
        return
    run = read_run(out)
    if run.kind != "train":
        raise ValueError(f"{out} holds a record of kind {run.kind!r}, not of a training run: choose another --out.")
    changed = differences(TrainConfig.from_dict(run.config), TrainConfig.from_dict(redact(config.to_dict())))
    if changed:
        raise ValueError(
            f"{out} holds a run with another config:\n  " + "\n  ".join(changed) + "\nChoose another --out, or pass "
            "the same options as before."
        )
    if not resume:
        raise ValueError(f"{out} already holds this run (step {at_step}): pass --resume to go on, or another --out.")


def check_origin(out: Path, found: Path, config: TrainConfig) -> None:
    """Refuse to go on from a checkpoint that a run with another config left in this folder."""
    written = read_json(found / MANIFEST).get("config_hash")
    recorded = read_run(out).config if (out / "run.json").exists() else {}
    if written not in (config.hash, hash_of(recorded)):  # the record's own hash: options may have been added since
        raise ValueError(
            f"{found} was written by a run with another config (hash {written}, this run's is {config.hash}): remove "
            "that checkpoint and those after it, or choose another --out."
        )


def log_sha256(out: Path, step: int) -> str:
    """Checksum of the log's rows up to a step, without the seconds: what its checkpoint says of them."""
    path = out / "train.jsonl"
    rows = read_jsonl(path, problems=[]) if path.exists() else ()
    kept = [{key: v for key, v in row.items() if key != "seconds"} for row in rows if row.get("step", 0) <= step]
    return sha256_text("\n".join(map(dumps, kept)))


def check_log(out: Path, found: Path, step: int) -> None:
    """Refuse a log whose steps up to a checkpoint are not those that were there when it was saved."""
    written = read_json(found / MANIFEST).get("log_sha256")  # older checkpoints say nothing
    if written is not None and written != log_sha256(out, step):
        raise ValueError(
            f"{out / 'train.jsonl'} does not hold steps 1 to {step} as they were when {found.name} was saved (damaged, "
            "or edited): put it back; or remove the checkpoints from the first wrong step on, and --resume writes the "
            "same steps again."
        )


def write_record(out: Path, config: TrainConfig, model: Mapping[str, Any]) -> None:
    """Write ``run.json`` before the work; an earlier one stays, if it was the same model then."""
    if (out / "run.json").exists():
        there = read_run(out).model
        changed = [key for key in model if key.endswith("sha256") and there.get(key, model[key]) != model[key]]
        if changed:
            raise ValueError(
                f"{out} was begun with other files of {model.get('path')!r} ({', '.join(changed)} of model in run.json "
                "differ from those of the files there now): put the old files back, or choose another --out."
            )
        return
    name = config.run.name or out.name
    run = new_run_record(
        name, "train", model=model, config=config.to_dict(), seed=config.run.seed, sampling=config.to_dict()["rollout"]
    )
    write_run(out, run)


def rewind_log(out: Path, step: int) -> None:
    """Cut ``train.jsonl`` back to the checkpoint's step; a log that lacks an earlier step is refused."""
    path = out / "train.jsonl"
    rows = [row for row in read_jsonl(path, problems=[]) if row.get("step", 0) <= step] if path.exists() else []
    if [row.get("step") for row in rows] != list(range(1, step + 1)):
        raise ValueError(f"{path} does not hold steps 1 to {step} of the checkpoint: restore it, or start a new --out.")
    write_text(path, "".join(dumps(row) + "\n" for row in rows))


def log_step(out: Path, row: Mapping[str, Any]) -> None:
    """Append one step's row to ``train.jsonl``."""
    append_jsonl(out / "train.jsonl", [row])


def sync_log(out: Path) -> None:
    """Force ``train.jsonl`` to the disk, so that a checkpoint never outlives the log of its own steps."""
    path = out / "train.jsonl"
    if path.exists():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
