"""Power, minimum detectable effect, and where the variance comes from."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from opsd_eval.stats_estimates import effect_for, same_problems


def minimum_detectable_effect(sd: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that n problems show with this power: ``(t_{1−α/2} + t_power) · sd/√n``.

    ``sd`` is the standard deviation of the per-problem differences. NaN for n < 2.
    Source: arXiv 2411.00640 section 5. Differs: t instead of z (df = n − 1).
    """
    return effect_for(sd / math.sqrt(n), n - 1, 1 - alpha, power) if n >= 2 else math.nan


def power_of(effect: float, sd: float, n: int, *, alpha: float = 0.05) -> float:
    """Chance that n problems show this true mean difference (two-sided, normal approximation of the t test)."""
    if n < 2 or math.isnan(sd):
        return math.nan
    if sd == 0:
        return float(effect != 0)
    shift = abs(effect) / (sd / math.sqrt(n))
    critical = float(stdtrit(n - 1, 1 - alpha / 2))
    return float(ndtr(shift - critical) + ndtr(-shift - critical))


def problems_needed(
    effect: float, *, problem_variance: float, draw_variance: Sequence[float] = (0.0, 0.0),
    draws: Sequence[int] = (1, 1), alpha: float = 0.05, power: float = 0.8,
) -> int:
    """Problems needed to see ``effect``: ``N = (z_{α/2} + z_β)² (ω² + σ_A²/k_A + σ_B²/k_B) / δ²``, rounded up.

    ``problem_variance`` is ω², the variance of the true per-problem difference; ``draw_variance`` the two models'
    mean variance among draws of one problem; ``draws`` their draws per problem.
    Source: arXiv 2411.00640 eq. 9. Differs: no.
    """
    if effect == 0:
        raise ValueError("effect=0: no number of problems shows a difference of 0; give the smallest one that matters")
    z = float(ndtri(1 - alpha / 2) + ndtri(power))
    total = problem_variance + sum(v / k for v, k in zip(draw_variance, draws, strict=True))
    return math.ceil(z**2 * total / effect**2)


@dataclass(frozen=True)
class VarianceSplit:
    """Variance components of a mean score, and what each contributes to the squared standard error.

    ``seeds``, ``problems``, ``interaction`` and ``draws`` are components of one score's variance (NaN where the data
    cannot tell: one seed, or one draw each); the ``*_part`` are their parts of the squared standard error at the
    present sizes. ``advice`` names what to buy: problems, samples or seeds.
    """

    seeds: float
    problems: float
    interaction: float
    draws: float
    seeds_part: float
    problems_part: float
    draws_part: float
    n_seeds: int
    n_problems: int
    n_draws: float
    advice: str

    def __str__(self) -> str:
        parts = (("seeds", self.seeds_part), ("problems", self.problems_part), ("samples", self.draws_part))
        total = sum(p for _, p in parts if not math.isnan(p))
        shares = ", ".join(f"{name} {p / total:.0%}" if total > 0 else f"{name} 0%" for name, p in parts
                           if not math.isnan(p))
        return f"squared error from {shares}; buy {self.advice}"


def variance_split(scores: Mapping[Hashable, Mapping[str, Sequence[float]]]) -> VarianceSplit:
    """Split the squared error of a mean score into seeds, problems and draws: what would another euro buy?

    ``scores[seed][problem_id]`` are the draws' scores. Method of moments on the seeds × problems table of cell means
    m_sp: draws σ_e² = mean within-cell variance; MS_interaction = σ_i² + σ_e²/k; MS_problems and MS_seeds as in a
    two-way layout; negative components are set to 0. ``SE² = σ_seed²/S + σ_problem²/P + σ_i²/(SP) + σ_e²/(SPk)``; the
    interaction counts with the seeds' part, being cured by more of either. Problems with an empty cell are left out.
    """
    seeds = list(scores)
    if not seeds:
        return _empty_split()
    ids = same_problems([str(s) for s in seeds], [scores[s] for s in seeds])  # type: ignore[arg-type]
    cells = {(s, i): _known(scores[s][i]) for s in seeds for i in ids}
    ids = [i for i in ids if all(len(cells[s, i]) for s in seeds)]
    if not ids:
        return _empty_split()
    used = [cells[s, i] for s in seeds for i in ids]
    k = len(used) / sum(1 / len(c) for c in used)  # harmonic mean
    many = [c for c in used if len(c) > 1]
    draws = float(np.mean([c.var(ddof=1) for c in many])) if many else math.nan
    table = np.array([[cells[s, i].mean() for i in ids] for s in seeds])
    return _from_table(table, draws, k)


def _known(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(list(values), dtype=float)
    return array[~np.isnan(array)]


def _empty_split() -> VarianceSplit:
    nan = math.nan
    return VarianceSplit(nan, nan, nan, nan, nan, nan, nan, 0, 0, nan, "problems: there are none")


def _from_table(table: np.ndarray, draws: float, k: float) -> VarianceSplit:
    n_seeds, n_problems = table.shape
    noise = 0.0 if math.isnan(draws) else draws / k
    seeds = interaction = math.nan
    problems = math.nan if n_problems < 2 else float(table.mean(axis=0).var(ddof=1)) - noise / n_seeds
    if n_seeds > 1 and n_problems > 1:
        residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        residual_ms = float((residual**2).sum()) / ((n_seeds - 1) * (n_problems - 1))
        interaction = max(0.0, residual_ms - noise)
        problems = float(table.mean(axis=0).var(ddof=1)) - residual_ms / n_seeds
        seeds = max(0.0, float(table.mean(axis=1).var(ddof=1)) - residual_ms / n_problems)
    problems = max(0.0, problems)
    shared = 0.0 if math.isnan(interaction) else interaction / (n_seeds * n_problems)
    parts = {
        "seeds": math.nan if math.isnan(seeds) else seeds / n_seeds + shared,
        "problems": problems / n_problems,
        "samples": math.nan if math.isnan(draws) else noise / (n_seeds * n_problems),
    }
    largest = max(parts, key=lambda name: -1.0 if math.isnan(parts[name]) else parts[name])
    unknown = [name for name, part in parts.items() if math.isnan(part)]
    advice = largest + (f" ({' and '.join(unknown)} unknown: only one each)" if unknown else "")
    return VarianceSplit(
        seeds, problems, interaction, draws, parts["seeds"], parts["problems"], parts["samples"],
        n_seeds, n_problems, k, advice,
    )
