"""Cells of a study: what one is, its hash, how it is run and what is kept of it.

A cell is one training run with the evaluation of its checkpoints (or the evaluation of a base). Its hash covers
everything that can change a number: base weights, full training config, evaluation. Its record, a small compressed
JSON file, is all that analyses read; the run folder behind it can be removed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from analyses import stages
from analyses.ablation import run_name, set_folder
from analyses.study_config import Block, Construction, StudyConfig
from opsd_eval.names import lookup
from opsd_eval.records import dumps, new_run_record, read_json, sha256_folder, write_json
from opsd_eval.tables import BASE
from opsd_eval.testbed.bases import BASES
from opsd_eval.testbed.worlds import SPLITS, SWEEP

VERSION = 1  # of what a cell computes and keeps: part of the hash
DIGITS = 5


@dataclass(frozen=True)
class Cell:
    """One run of a study. ``train`` is the full nested training config, ``None`` for a base."""

    world: str  # label of the construction in the study
    testbed_world: str
    base_seed: int
    arm: str
    train_seed: int | None
    base: str  # folder of the base, empty where nobody has trained it yet
    base_sha256: str
    train: Mapping[str, Any] | None
    sets: tuple[tuple[str, int], ...]  # (split, step) to evaluate
    evaluation: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``<world>_s<base seed>_<arm>_t<training seed>``: unique within a study."""
        return run_name(self.world, self.base_seed, self.arm, self.train_seed)

    @property
    def last(self) -> int:
        """The step that is reported."""
        return max(step for _, step in self.sets)

    @property
    def hash(self) -> str:
        """16 hex digits over everything that can change a number; names and paths do not count.

        Training options at their default are left out, so a new option does not orphan what is on record.
        """
        seen = {"version": VERSION, "base": self.base_sha256, "world": self.testbed_world, "sets": sorted(self.sets),
                "evaluation": self.evaluation, "train": None}  # fmt: skip
        if self.train is not None:
            usual, free = _usual_options()
            options = {f"{group}.{key}": v for group, items in self.train.items() for key, v in items.items()}
            seen["train"] = {key: v for key, v in options.items() if key not in free and v != usual[key]}
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _usual_options() -> tuple[Mapping[str, Any], set[str]]:
    """Every training option's default, and the options that change no number."""
    from opsd_train.config import FREE_FIELDS, TrainConfig, flatten

    return flatten(TrainConfig()), {*FREE_FIELDS, "model.path"}


def find_base(there: Construction, seed: int) -> tuple[str, str]:
    """Folder and weights' checksum of a construction's base; both empty where nobody has trained it yet."""
    if there.base:
        path = Path(there.base.format(seed=seed))
    else:
        home = "hunch_r10" if there.world in SWEEP else there.world
        path = BASES / f"{home}_s{seed}"
    return (str(path), sha256_folder(path)) if (path / "config.json").exists() else ("", "")


def cells_of(config: StudyConfig, block: Block) -> Iterator[Cell]:
    """The trained cells of a block: whole rounds over base seeds first, so that any prefix is balanced."""
    for train_seed in block.train_seeds:
        for base_seed in block.base_seeds:
            for label in block.worlds:
                for arm in block.arms:
                    yield _trained(config, block, label, base_seed, arm, train_seed)


def base_cell(config: StudyConfig, label: str, base_seed: int) -> Cell:
    """The base's own cell, shared by all blocks: at step 0 every split that some block evaluates in its world."""
    there = config.construction(label)
    asked = [config.splits if b.splits is None else b.splits for b in config.blocks if label in b.worlds]
    wanted = {split for splits in asked for split in splits} or set(config.splits)
    sets = tuple((split, 0) for split in (*config.splits, *sorted(wanted - set(config.splits))) if split in wanted)
    extras = {extra for block in config.blocks if label in block.worlds for extra in block.extras}
    found = find_base(there, base_seed)
    return Cell(label, there.world, base_seed, BASE, None, *found, None, sets, _evaluation(config, extras))


def study_cells(config: StudyConfig, blocks: Mapping[str, Sequence[Cell]] | None = None) -> dict[str, Cell]:
    """Every cell by name, in the order to run them, each base before the first run that starts from it.

    ``blocks``: the cells of each block, where the caller has them already.
    """
    found: dict[str, Cell] = {}
    for name, there in (block_cells(config) if blocks is None else blocks).items():
        for cell in there:
            base = found.get(run_name(cell.world, cell.base_seed, BASE)) or base_cell(
                config, cell.world, cell.base_seed
            )
            for one in (base, cell):
                if found.setdefault(one.name, one).hash != one.hash:
                    raise ValueError(f"block {name}: {one.name} is another cell in an earlier block; rename the arm")
    return found


def block_cells(config: StudyConfig) -> dict[str, list[Cell]]:
    """The trained cells of every block."""
    return {block.name: list(cells_of(config, block)) for block in config.blocks}


def _evaluation(config: StudyConfig, extras: Iterable[str]) -> dict[str, Any]:
    seen = {
        "n_problems": config.n_problems, "draws": config.draws, "problem_seed": config.problem_seed,
        "sampling": {**config.sampling, "seed": config.sample_seed}, "series_metrics": list(config.series_metrics),
    }  # fmt: skip
    return {**seen, "extras": {config.in_distribution: sorted(extras)}} if extras else seen


def _trained(config: StudyConfig, block: Block, label: str, base_seed: int, arm: str, train_seed: int) -> Cell:
    from opsd_train.config import apply_overrides
    from opsd_train.recipes import RECIPES

    there = config.construction(label)
    (folder, weights), last = find_base(there, base_seed), block.steps or config.steps
    series = config.series if block.series is None else block.series
    splits = config.splits if block.splits is None else block.splits
    sets = {(split, step) for split in series for step in series[split]} | {(split, last) for split in splits}
    options = {**config.train, **there.train, **block.train, **block.arms[arm]}
    options |= {
        "model.path": folder if there.base else f"testbed:{there.world}_s{base_seed}",
        "data.benchmark": f"testbed.{there.world}.train", "run.seed": train_seed, "optim.steps": last,
        "run.checkpoint_every": math.gcd(*(step for _, step in sets)),
    }  # fmt: skip
    words = [f"--{key}={value}" for key, value in options.items()]
    train = apply_overrides(lookup("recipe", config.recipe, RECIPES)(), words).to_dict()
    return Cell(label, there.world, base_seed, arm, train_seed, folder, weights, train, tuple(sorted(sets)),
                _evaluation(config, block.extras))  # fmt: skip


# --- running ----------------------------------------------------------------------------------------------


def record_path(results: Path, name: str) -> Path:
    """The file that holds a finished cell."""
    return results / "cells" / f"{name}.json.gz"


def stored_hash(results: Path, name: str) -> str | None:
    """Hash of the cell on record under that name, ``None`` without one."""
    path = record_path(results, name)
    return read_record(path)["hash"] if path.exists() else None


def read_record(path: Path) -> dict[str, Any]:
    """A cell's record."""
    return json.loads(gzip.decompress(path.read_bytes()))


def perform(cell: Mapping[str, Any], *, study: str, results: str) -> None:
    """Run one cell and write its record: train, evaluate each checkpoint, keep what analyses need.

    Goes on where an interrupted one stopped. ``cell`` is the plain form, so that a worker process can take it.
    """
    this, runs = from_plain(cell), Path(study)
    clock, begun = time.process_time(), time.perf_counter()
    folder = runs / this.name
    claim(this, folder)
    if this.train is not None:
        stages.train_run(this.train, str(folder))
    for split, step in this.sets:
        _evaluate(this, runs, split, step)
    seconds = {"cpu": round(time.process_time() - clock, 2), "wall": round(time.perf_counter() - begun, 2)}
    write_record(this, runs, Path(results), seconds=seconds)


def from_plain(values: Mapping[str, Any]) -> Cell:
    """A cell from its ``asdict`` form."""
    return Cell(**{**values, "sets": tuple((split, step) for split, step in values["sets"])})


def claim(cell: Cell, folder: Path) -> None:
    """Note in the run folder whose it is; one left by another cell is refused."""
    path = folder / "cell.json"
    if path.exists() and read_json(path)["hash"] != cell.hash:
        raise ValueError(f"{folder} is left over from another cell of that name; remove it, or choose another --runs")
    write_json(path, {"hash": cell.hash, "name": cell.name})


def _evaluate(cell: Cell, runs: Path, split: str, step: int) -> None:
    folder = set_folder(runs, cell.name, cell.testbed_world, split, step)
    model = Path(cell.base) if step == 0 else runs / cell.name / "checkpoints" / f"step-{step:06d}"
    seen = cell.evaluation
    source = f"{cell.testbed_world}.{split}" if split in SPLITS else f"{split}.id"
    benchmark = {"name": f"testbed.{source}", "limit": seen["n_problems"], "seed": seen["problem_seed"]}
    reported = step in (0, cell.last)
    kept = None if reported or not seen["series_metrics"] else list(seen["series_metrics"])
    if not stages.is_measured(folder):
        stages.evaluate_set(
            str(model), str(folder), name=cell.name, benchmark=benchmark, draws=seen["draws"],
            sampling=seen["sampling"], step=step, metrics=kept,
        )  # fmt: skip
    if reported:
        for extra in seen.get("extras", {}).get(split, ()):
            stages.EXTRAS[extra](str(model), str(folder))


# --- what is kept -----------------------------------------------------------------------------------------


def write_record(cell: Cell, runs: Path, results: Path, *, seconds: Mapping[str, float]) -> None:
    """Write the record of a cell whose run folder is complete; the same bytes for the same content."""
    from opsd_eval.records import read_run

    about = new_run_record(cell.name, "cell")
    record = {
        "name": cell.name, "hash": cell.hash, "version": VERSION, "cell": asdict(cell) | {"base": Path(cell.base).name},
        "commit": about.commit, "dirty": about.dirty, "versions": about.versions, "seconds": seconds,
        "started": None if cell.train is None else read_run(runs / cell.name).started, "finished": about.started,
        "sets": [_set_record(cell, runs, split, step) for split, step in cell.sets],
        "training": None if cell.train is None else _training(runs / cell.name / "train.jsonl"),
    }  # fmt: skip
    if record["cell"]["train"] is not None:
        record["cell"]["train"]["model"]["path"] = Path(cell.base).name
    path = record_path(results, cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(gzip.compress(dumps(record).encode(), mtime=0))
    temporary.replace(path)


def _set_record(cell: Cell, runs: Path, split: str, step: int) -> dict[str, Any]:
    """One sample set: a column of values a metric, one number instead where all problems have the same."""
    from opsd_eval.measure import read_measures

    folder = set_folder(runs, cell.name, cell.testbed_world, split, step)
    measures = read_measures(folder)
    columns = {name: _column(values) for name, values in measures.values.items()}
    if step and step == cell.last:
        base = set_folder(runs, run_name(cell.world, cell.base_seed, BASE), cell.testbed_world, split, 0)
        if base.exists():
            columns |= against_base(base, folder)
    ids = [problem.rsplit("/", 1)[-1] for problem in measures.problem_ids]
    chances = {row["metric"]: row["chance"] for row in read_json(folder / "estimates.json")["rows"]
               if row.get("chance") is not None}  # fmt: skip
    return {"split": split, "step": step, "problems": ids, "n": int(measures.n.max()), "chance": chances,
            "values": columns}  # fmt: skip


def against_base(base: Path, other: Path) -> dict[str, Any]:
    """Columns of the pair metrics, less (``_excess``) what two equal models would show where that is known."""
    from opsd_eval.metrics import PAIR_METRICS
    from opsd_eval.records import load_sample_set

    left, right = load_sample_set(base), load_sample_set(other)
    columns = {}
    for metric in PAIR_METRICS.values():
        rows = [(left.problems[i], left.samples[i], right.samples[i]) for i in left.problems]
        values = [metric(*row) for row in rows]
        columns[metric.name] = _column(values)
        if metric.null is not None:
            nulls = [float(metric.null(*row)) for row in rows]
            columns[f"{metric.name}_excess"] = _column([v - n for v, n in zip(values, nulls, strict=True)])
    return columns


def _column(values: Any) -> Any:
    short = [None if v != v else _short(float(v)) for v in values]
    return short[0] if short and all(v == short[0] for v in short) else short


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _training(path: Path) -> dict[str, list[Any]]:
    """The step log as columns (dotted names), rounded; timings are left out."""
    from opsd_eval.records import read_jsonl
    from opsd_train.steplog import flat_numbers

    rows = [flat_numbers(row) for row in read_jsonl(path)]
    names = dict.fromkeys(name for row in rows for name in row if not name.startswith("seconds."))
    return {name: [None if row.get(name) is None else _short(row[name]) for row in rows] for name in names}
