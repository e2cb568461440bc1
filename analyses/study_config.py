"""The file that fixes a study before it runs: cells by blocks, checkpoints, primary metrics, margins, power.

``analyses/configs/study/<name>.yaml``. A *block* is a product of worlds × base seeds × training seeds × arms that
serves some analyses; blocks of tier ``primary`` run first. What all cells share (steps, splits, problems, draws,
seeds, margins) stands once at the top, so that any two cells of a study can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from analyses.ablation_config import read_settings
from analyses.stages import EXTRAS
from opsd_eval.names import lookup, unknown_name

CONFIGS = Path(__file__).parent / "configs" / "study"
TIERS = ("primary", "secondary")


@dataclass(frozen=True)
class Construction:
    """A world as the study sees it: the testbed's world, and where its bases are if not the shipped ones.

    ``base`` is a folder with ``{seed}`` in it, made by ``opsd-train pretrain``. ``train`` holds options that every
    run in this world gets.
    """

    world: str
    base: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """A product of cells. ``series`` and ``splits`` override the study's; ``analyses`` says whom the cells serve.

    A split may be another world's name: that world's ``id`` problems, off the run's own task.
    ``extras`` names slow measurements (``analyses.stages.EXTRAS``) of bases and reported checkpoints, in distribution.
    """

    name: str
    worlds: tuple[str, ...]
    base_seeds: tuple[int, ...]
    train_seeds: tuple[int, ...]
    arms: Mapping[str, Mapping[str, Any]]
    tier: str = "secondary"
    analyses: tuple[int, ...] = ()
    train: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] | None = None
    series: Mapping[str, tuple[int, ...]] | None = None
    steps: int | None = None
    extras: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class StudyConfig:
    """Everything that could be chosen after looking at results, chosen before.

    The checkpoint that is reported is the last (``steps``); ``series`` adds earlier steps of some splits.
    ``series_metrics`` are kept problem by problem at those earlier steps, every metric at the last one.
    ``power`` holds the standard deviations that the power calculation assumed, and where they are from.
    """

    name: str
    recipe: str
    train: Mapping[str, Any]
    steps: int
    splits: tuple[str, ...]
    series: Mapping[str, tuple[int, ...]]
    n_problems: int
    draws: int
    sampling: Mapping[str, Any]
    primary: tuple[str, ...]
    margins: Mapping[str, float]
    blocks: tuple[Block, ...]
    power: Mapping[str, Any]
    worlds: Mapping[str, Construction] = field(default_factory=dict)
    gap_metrics: tuple[str, ...] = ()
    series_metrics: tuple[str, ...] = ()
    problem_seed: int = 1
    sample_seed: int = 1
    level: float = 0.95
    title: str = ""

    @property
    def in_distribution(self) -> str:
        """The split like OPSD's training data: the first."""
        return self.splits[0]

    def construction(self, label: str) -> Construction:
        """The construction behind a world's label; a testbed world's own name needs no entry."""
        return self.worlds.get(label) or Construction(label)

    def block(self, name: str) -> Block:
        """A block by name."""
        return lookup("block", name, {block.name: block for block in self.blocks})


def available() -> dict[str, Path]:
    """Committed study configs by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def load_study(name: str) -> StudyConfig:
    """A committed study by name, or any YAML file by path.

    ``extends: NAME`` starts from another committed study and overrides its settings; ``blocks`` merge by name, and a
    block set to null is left out. ``keep: {primary: {base_seeds: 3}, ...}`` cuts the lists of inherited blocks of a
    tier to their first entries.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else lookup("study", name, available())
    return parse_study(_values(path), str(path))


def _values(path: Path) -> dict[str, Any]:
    values = read_settings(path)
    if "extends" not in values:
        return values
    parent = _values(lookup("study", values.pop("extends"), available()))
    kept, blocks = values.pop("keep", {}), {}
    for key, block in parent.get("blocks", {}).items():
        limits = kept.get(block.get("tier", "secondary"), {})
        blocks[key] = block | {name: block[name][:count] for name, count in limits.items()}
    for key, changes in (values.pop("blocks", None) or {}).items():
        blocks[key] = None if changes is None else (blocks.get(key) or {}) | changes
    return parent | values | {"blocks": {key: block for key, block in blocks.items() if block is not None}}


def parse_study(values: Mapping[str, Any], where: str = "study") -> StudyConfig:
    """Check plain values and turn them into a :class:`StudyConfig`; unknown and missing keys are named."""
    plain: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    _check_keys(plain, StudyConfig, where)
    plain["series"] = _series(plain["series"])
    plain["worlds"] = {name: _construction(name, item or {}, where) for name, item in plain.get("worlds", {}).items()}
    blocks = [_block(name, dict(item), where) for name, item in plain["blocks"].items()]
    plain["blocks"] = tuple(sorted(blocks, key=lambda block: TIERS.index(block.tier)))
    config = StudyConfig(**plain)
    _validate(config, where)
    return config


def _check_keys(values: Mapping[str, Any], kind: Any, where: str) -> None:
    allowed = {f.name: f for f in fields(kind)}
    for key in values:
        if key not in allowed:
            raise ValueError(f"{where}: {unknown_name('setting', key, list(allowed))}")
    from dataclasses import MISSING

    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [key for key in required if key not in values]:
        raise ValueError(f"{where}: missing settings: {', '.join(missing)}")


def _series(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {split: tuple(steps) for split, steps in values.items()}


def _construction(name: str, values: Mapping[str, Any], where: str) -> Construction:
    values = {"world": name, **values}
    _check_keys(values, Construction, f"{where}: world {name}")
    return Construction(**values)


def _block(name: str, values: dict[str, Any], where: str) -> Block:
    values = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    values = {"name": name, **values, "arms": {arm: options or {} for arm, options in values.get("arms", {}).items()}}
    if values.get("series") is not None:
        values["series"] = _series(values["series"])
    _check_keys(values, Block, f"{where}: block {name}")
    block = Block(**values)
    lookup("tier", block.tier, dict.fromkeys(TIERS, ""))
    for extra in block.extras:
        lookup("extra", extra, EXTRAS)
    if "base" in block.arms:
        raise ValueError(f"{where}: block {name}: 'base' is the untrained model and always there; name trained arms")
    return block


def _validate(config: StudyConfig, where: str) -> None:
    from opsd_eval.testbed.worlds import SPLITS, WORLDS, world

    for block in config.blocks:
        for label in block.worlds:
            world(config.construction(label).world)
        last = block.steps or config.steps
        for split, steps in (config.series if block.series is None else block.series).items():
            if any(not 1 <= step <= last for step in steps):
                raise ValueError(f"{where}: block {block.name}: series of {split}: steps must lie in 1..{last}")
        for split in (*config.splits, *(block.splits or ())):
            lookup("split", split, {**SPLITS, **WORLDS})
    for metric in config.primary:
        if not config.margins.get(metric, 0) > 0:
            raise ValueError(f"{where}: the primary metric {metric} needs a margin above 0, in its own units")
    for label, count in (("n_problems", config.n_problems), ("draws", config.draws), ("steps", config.steps)):
        if type(count) is not int or count < 1:
            raise ValueError(f"{where}: {label} is {count!r}; give a whole number of 1 or more")


def results_folder(config: StudyConfig, results: Path | str | None = None) -> Path:
    """Where a study's rows and artefacts are: ``RESULTS/<name>``."""
    return Path(results or os.environ.get("OPSD_RESULTS") or "results") / config.name
