"""What the study can see: minimum detectable effect by problems and base seeds, before any run (``power.csv``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analyses.results import Study
from opsd_eval.stats_estimates import POWER
from opsd_eval.stats_seeds import Crossed

PROBLEMS = (50, 100, 200, 400)
BASES = (3, 5, 10)


def mde(problem_sd: float, seed_sd: float, *, n_problems: int, n_bases: int, level: float) -> float:
    """Smallest true difference of a method found with 80 % power, from the standard deviations of both kinds.

    ``problem_sd``: of the problems' mean differences; ``seed_sd``: of the bases' mean differences, which holds noise
    of training seeds and draws. The same quantile rule as ``stats.across_seeds``.
    """
    parts = Crossed(0.0, seed_sd**2 / n_bases, problem_sd**2 / n_problems, n_bases - 1.0, n_problems - 1.0, seed_sd)
    return (parts.weighted_t((1 - level) / 2) + parts.weighted_t(1 - POWER)) * parts.se


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the table; it depends on the config only."""
    import pandas as pd

    config = study.config
    rows = [
        {
            "metric": metric, "problem_sd": sd, "seed_sd": config.power["seed_sd"][metric], "n_problems": n,
            "base_seeds": bases, "mde": mde(sd, config.power["seed_sd"][metric], n_problems=n, n_bases=bases,
                                           level=config.level),
            "margin": config.margins.get(metric), "this_study": n == config.n_problems and bases == 3,
        }
        for metric, sd in config.power["problem_sd"].items() for bases in BASES
        for n in sorted({*PROBLEMS, config.n_problems})
    ]  # fmt: skip
    return [study.table("power", pd.DataFrame(rows), blocks=blocks)]
