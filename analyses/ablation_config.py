"""The one file that fixes an ablation: worlds, seeds, arms, steps, checkpoint to report, primary metrics, margins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from opsd_eval.names import lookup, unknown_name

CONFIGS = Path(__file__).parent / "configs"
FREE_KEYS = ("title", "heading")  # may change without making it another study
EXPECTATIONS = {
    "hurts": "Standard OPSD is expected to hurt here; the sign is built in by the construction",
    "helps": "Standard OPSD is expected to help here; the sign is built in by the construction",
    "open": "The construction does not fix which way standard OPSD goes",
}


@dataclass(frozen=True)
class WorldPlan:
    """One world: which bases, what is built in, and training options that differ from the common ones."""

    base_seeds: tuple[int, ...]
    built_in: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AblationConfig:
    """Everything that could be chosen after looking at results, chosen before.

    ``arms`` maps an arm's name to training options (``method.target: purified``); ``train`` holds those that all arms
    share, a world's own come on top. ``report_step`` is the checkpoint the scorecard is about (``last`` or a step);
    ``report_metrics`` (slow ones) are measured there only, in distribution;
    ``series_splits`` are evaluated at every step of ``evaluate_steps``, the other splits only at the reported one.
    """

    name: str
    worlds: Mapping[str, WorldPlan]
    arms: Mapping[str, Mapping[str, Any]]
    train_seeds: tuple[int, ...]
    train: Mapping[str, Any]
    recipe: str
    evaluate_steps: tuple[int, ...]
    in_distribution: str
    out_of_distribution: tuple[str, ...]
    n_problems: int
    draws: int
    sampling: Mapping[str, Any]
    primary: tuple[str, ...]
    margins: Mapping[str, float]
    gap_metrics: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    report_metrics: tuple[str, ...] = ()
    series_splits: tuple[str, ...] | None = None
    report_step: str | int = "last"
    problem_seed: int = 0
    sample_seed: int = 0
    level: float = 0.95
    title: str = ""
    heading: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, in distribution first."""
        return (self.in_distribution, *self.out_of_distribution)

    @property
    def reported_step(self) -> int:
        """The checkpoint the scorecard reports."""
        return max(self.evaluate_steps) if self.report_step == "last" else int(self.report_step)

    def steps_of(self, split: str) -> tuple[int, ...]:
        """The steps at which a split is evaluated."""
        every = self.series_splits is None or split in self.series_splits
        return tuple(sorted(self.evaluate_steps)) if every else (self.reported_step,)


def available() -> dict[str, Path]:
    """Committed configs by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def load_config(name: str) -> tuple[AblationConfig, dict[str, Any]]:
    """A committed config by name, or any YAML file by path: the config and the plain values it was read from."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else lookup("ablation config", name, available())
    values = read_settings(path)
    return parse_config(values, str(path)), values


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a ``ValueError`` names the file that holds none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of settings")
    return values


def parse_config(values: Mapping[str, Any], where: str = "config") -> AblationConfig:
    """Check plain values and turn them into an :class:`AblationConfig`; unknown and missing keys are named."""
    allowed = {f.name: f for f in fields(AblationConfig)}
    for key in values:
        if key not in allowed:
            raise ValueError(f"{where}: {unknown_name('setting', key, list(allowed))}")
    required = [f.name for f in fields(AblationConfig)][:14]
    if missing := [key for key in required if key not in values]:
        raise ValueError(f"{where}: missing settings: {', '.join(missing)}")
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    plain["worlds"] = {name: _world(name, plan or {}, where) for name, plan in values["worlds"].items()}
    plain["arms"] = {name: options or {} for name, options in values["arms"].items()}
    config = AblationConfig(**plain)
    _validate(config, where)
    return config


def _world(name: str, plan: Mapping[str, Any], where: str) -> WorldPlan:
    from opsd_eval.testbed.worlds import world

    known = world(name)
    if extra := set(plan) - {"base_seeds", "built_in", "train"}:
        raise ValueError(f"{where}: world {name}: unknown settings {sorted(extra)}; base_seeds, built_in, train exist")
    built_in = plan.get("built_in") or f"{EXPECTATIONS[known.expectation]}: {known.why}."
    return WorldPlan(tuple(plan.get("base_seeds", (0,))), built_in, plan.get("train") or {})


def _validate(config: AblationConfig, where: str) -> None:
    from opsd_eval.testbed.worlds import SPLITS

    for split in config.splits:
        lookup("split", split, SPLITS)
    if "base" in config.arms:
        raise ValueError(f"{where}: arms: 'base' is the untrained model and always there; name trained arms only")
    if config.reported_step not in config.evaluate_steps:
        raise ValueError(
            f"{where}: report_step {config.report_step} is not among evaluate_steps {list(config.evaluate_steps)}"
        )
    if any(step < 1 for step in config.evaluate_steps):
        raise ValueError(f"{where}: evaluate_steps start at 1; step 0 is the base and always evaluated")
    for metric in config.margins:
        if config.margins[metric] <= 0:
            raise ValueError(f"{where}: the margin of {metric} must be above 0, in the metric's own units")
    for label, count in (("n_problems", config.n_problems), ("draws", config.draws)):
        if type(count) is not int or count < 1:
            raise ValueError(f"{where}: {label} is {count!r}; give a whole number of 1 or more")
