"""The ablation: worlds × base seeds × arms × training seeds, from one committed config to scorecard and report.

``python -m analyses.ablation --config demo`` trains every arm from the same shipped bases on the same problems with
the same seeds, evaluates base and checkpoints on the same problems, and writes ``RUNS/<name>/report``. One-thread
processes work side by side; whatever is done is skipped, so the same command goes on after any interruption.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analyses import stages
from analyses.ablation_config import FREE_KEYS, AblationConfig, available, load_config, parse_config
from analyses.command import finish_with
from analyses.jobs import Job, run_jobs, usable_cores
from opsd_eval import report, report_data, scorecard, scorecard_text
from opsd_eval.locks import locked
from opsd_eval.names import lookup
from opsd_eval.records import read_json, write_json
from opsd_eval.tables import BASE, PAIR_FILE
from opsd_eval.testbed import base_path

LAST_PART = 0.97


def run_name(world: str, base_seed: int, arm: str, train_seed: int | None = None) -> str:
    """``<world>_s<base seed>_<arm>_t<training seed>``; the base has no training seed."""
    return f"{world}_s{base_seed}_{arm}" + ("" if train_seed is None else f"_t{train_seed}")


def set_folder(study: Path, run: str, world: str, split: str, step: int) -> Path:
    """Where a sample set of the study lives."""
    return study / run / "eval" / f"testbed.{world}.{split}" / f"step-{step:06d}"


# --- the job graph ----------------------------------------------------------------------------------------


def plan(config: AblationConfig, study: Path) -> list[Job]:
    """Every job that is not done yet: training first, then the bases' sets, then the checkpoints' sets."""
    cells = [
        (world, base_seed, arm, train_seed)
        for world, there in config.worlds.items()
        for base_seed in there.base_seeds
        for train_seed in config.train_seeds
        for arm in config.arms
    ]
    trainings = [_training(config, study, *cell) for cell in cells]
    bases = [
        _evaluation(config, study, run_name(world, seed, BASE), (world, split, 0), base_path(world, seed))
        for world, there in config.worlds.items()
        for seed in there.base_seeds
        for split in config.splits
    ]
    checkpoints = [
        _evaluation(config, study, run, (world, split, step), study / run / "checkpoints" / f"step-{step:06d}")
        for world, base_seed, arm, train_seed in cells
        for run in [run_name(world, base_seed, arm, train_seed)]
        for split in config.splits
        for step in config.steps_of(split)
    ]
    again = [job for cell in cells for split in config.splits for job in _reported(config, study, cell, split)]
    first = [
        _more(config, set_folder(study, run_name(world, seed, BASE), world, config.in_distribution, 0))
        for world, there in config.worlds.items()
        for seed in there.base_seeds
    ]
    return [job for job in [*trainings, *bases, *checkpoints, *first, *again] if job is not None]


def train_config(config: AblationConfig, world: str, base_seed: int, arm: str, train_seed: int) -> dict[str, Any]:
    """The nested training config of one run: recipe, then the common options, the world's, the arm's.

    Names of options and types are checked here, registered names by the trainer (they need torch).
    """
    from opsd_train.config import apply_overrides
    from opsd_train.recipes import RECIPES

    options = {**config.train, **config.worlds[world].train, **config.arms[arm]}
    options |= {
        "model.path": f"testbed:{world}_s{base_seed}", "data.benchmark": f"testbed.{world}.train",
        "run.seed": train_seed, "optim.steps": max(config.evaluate_steps),
        "run.checkpoint_every": math.gcd(*config.evaluate_steps),
    }  # fmt: skip
    words = [f"--{key}={value}" for key, value in options.items()]
    return apply_overrides(lookup("recipe", config.recipe, RECIPES)(), words).to_dict()


def _training(config: AblationConfig, study: Path, world: str, base_seed: int, arm: str, train_seed: int) -> Job | None:
    run = run_name(world, base_seed, arm, train_seed)
    last = max(config.evaluate_steps)
    values = train_config(config, world, base_seed, arm, train_seed)
    if stages.is_trained(study / run / "checkpoints" / f"step-{last:06d}", values):
        return None
    return Job(
        run, stages.train_run, {"config": values, "out": str(study / run)}, weight=float(last),
        progress=functools.partial(_trained_share, study / run, last),
    )  # fmt: skip


def _trained_share(run: Path, last: int) -> float:
    return LAST_PART * stages.steps_logged(run) / last


def _evaluation(
    config: AblationConfig, study: Path, run: str, place: tuple[str, str, int], model: Path
) -> Job | None:
    world, split, step = place
    folder = set_folder(study, run, world, split, step)
    if stages.is_measured_from(folder, model):
        return None
    arguments = {
        "model_path": str(model), "out": str(folder), "name": run, "draws": config.draws, "step": step,
        "benchmark": {"name": f"testbed.{world}.{split}", "limit": config.n_problems, "seed": config.problem_seed},
        "sampling": {**config.sampling, "seed": config.sample_seed}, "level": config.level,
        "metrics": None if config.metrics is None else list(config.metrics),
    }  # fmt: skip
    weight = config.n_problems * config.draws / 80
    needs = () if step == 0 else (run,)
    return Job(_set_name(folder), stages.evaluate_set, arguments, needs=needs, weight=weight)


def _reported(config: AblationConfig, study: Path, cell: tuple[str, int, str, int], split: str) -> Iterator[Job | None]:
    """What is measured at the reported checkpoint only: the set against its base's, and slow metrics."""
    world, base_seed, arm, train_seed = cell
    folder = set_folder(study, run_name(world, base_seed, arm, train_seed), world, split, config.reported_step)
    base = set_folder(study, run_name(world, base_seed, BASE), world, split, 0)
    if not (folder / PAIR_FILE).exists():
        yield Job(
            f"{_set_name(folder)}.against_base", stages.compare_with_base,
            {"base": str(base), "out": str(folder), "level": config.level},
            needs=(_set_name(base), f"{_set_name(base)}.more", _set_name(folder)),
            weight=config.n_problems * config.draws / 160,
        )  # fmt: skip
    if split == config.in_distribution:
        yield _more(config, folder)


def _more(config: AblationConfig, folder: Path) -> Job | None:
    names = list(config.report_metrics)
    if not names or (stages.is_measured(folder) and stages.has_columns(folder, names)):
        return None
    return Job(
        f"{_set_name(folder)}.more", stages.measure_more,
        {"out": str(folder), "metrics": names, "level": config.level},
        needs=(_set_name(folder), f"{_set_name(folder)}.against_base"), weight=config.n_problems * config.draws / 40,
    )  # fmt: skip


def _set_name(folder: Path) -> str:
    """``RUN.split.step``: the name of the job that makes a sample set."""
    return f"{folder.parents[2].name}.{folder.parent.name.rsplit('.', 1)[-1]}.{folder.name.removeprefix('step-')}"


# --- the study folder -------------------------------------------------------------------------------------


@contextmanager
def claimed(study: Path, values: Mapping[str, Any]) -> Iterator[None]:
    """Hold the study folder alone; refuse one of another config, saying what differs."""
    with locked(study, f"{study} is in use by process {{holder}}; wait for it, or choose another --runs"):
        path = study / "config.json"
        if path.exists():
            changed = differences(read_json(path), values)
            if changed:
                raise ValueError(
                    f"{study} holds a study of another config:\n  " + "\n  ".join(changed)
                    + "\nChoose another --runs, or remove that folder."
                )  # fmt: skip
        write_json(path, dict(values))
        yield


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each setting that differs; titles may."""
    found = []
    for key in sorted({*old, *new}):
        there, now = old.get(key), new.get(key)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            found += differences(there, now, f"{prefix}{key}.")
        elif there != now and prefix + key not in FREE_KEYS:
            found.append(f"{prefix}{key}: {there!r} there, {now!r} now")
    return found


# --- from sets to report ----------------------------------------------------------------------------------


def gather(config: AblationConfig, values: Mapping[str, Any], study: Path) -> report_data.ReportData:
    """Scorecard and tables of a finished study."""
    arms = (BASE, *config.arms)
    settings = scorecard.ScorecardSettings(
        arms=arms, contrasts=scorecard.default_contrasts(arms), primary=config.primary, margins=config.margins,
        gap_metrics=config.gap_metrics, in_distribution=config.in_distribution,
        out_of_distribution=config.out_of_distribution, level=config.level,
    )  # fmt: skip
    resolved = {
        arm: train_config(config, world, there.base_seeds[0], arm, config.train_seeds[0])
        for world, there in list(config.worlds.items())[:1]
        for arm in config.arms
    }
    about = {world: there.built_in for world, there in config.worlds.items()}
    shown = {
        **values, "command": f"python -m analyses.ablation --config {config.name}",
        "built_in": about, "resolved_training": resolved,
    }  # fmt: skip
    return report_data.from_study(study, settings, config=shown, about=about, report_step=config.reported_step)


def read_study(study: Path | str) -> report_data.ReportData:
    """Scorecard and tables of a study that has run, from the config in its folder."""
    path = Path(study) / "config.json"
    if not path.exists():
        raise ValueError(f"{study} holds no finished study (no config.json); make one: python -m analyses.ablation")
    values = read_json(path)
    return gather(parse_config(values, str(path)), values, Path(study))


def run(config: AblationConfig, values: Mapping[str, Any], *, runs: Path, n_jobs: int) -> Path:
    """Run the whole ablation and return the report's page."""
    study = runs / config.name
    with claimed(study, values):
        jobs = plan(config, study)
        run_jobs(jobs, logs=study / "logs", n_workers=n_jobs, warm_up=stages.warm_up, title=config.name)
        data = gather(config, values, study)
        page = report.write_report(data, study / "report")
    document = scorecard.scorecard_document(data.rows, {"level": config.level})
    print(scorecard_text.terminal(document, data.about))
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analyses.ablation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--config", default="demo", help=f"one of {', '.join(available())}, or a YAML file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the study (default: runs)")
    parser.add_argument("--jobs", type=int, default=None, help="processes side by side (default: one a core)")
    args = parser.parse_args(argv)

    def work() -> str:
        config, values = load_config(args.config)
        return f"report: {run(config, values, runs=args.runs, n_jobs=args.jobs or usable_cores())}"

    return finish_with(work)


if __name__ == "__main__":
    raise SystemExit(main())
