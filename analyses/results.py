"""What a study has so far: its records as tidy tables, and how many of the planned cells they are.

Every analysis starts from :func:`load` and ends with :meth:`Study.save`; none of them opens a run folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from analyses.cells import Cell, block_cells, read_record, record_path, study_cells
from analyses.study_config import StudyConfig, load_study, results_folder
from opsd_eval import report_data, scorecard, stats, tables
from opsd_eval.jsonl import dumps
from opsd_eval.names import lookup
from opsd_eval.records import read_json, write_json, write_text
from opsd_eval.tables import BASE, Frame

INDEX_FILE = "artefacts.json"


@dataclass(frozen=True)
class Study:
    """A study's config, planned cells and finished records (those whose hash is the planned one)."""

    config: StudyConfig
    folder: Path
    planned: Mapping[str, Cell]
    by_block: Mapping[str, Sequence[Cell]]
    records: Mapping[str, Mapping[str, Any]]

    def done(self, blocks: Sequence[str] | None = None) -> tuple[int, int]:
        """(finished, planned) trained cells of these blocks, of all without names."""
        names = [cell.name for cell in self.cells(blocks)]
        return sum(name in self.records for name in names), len(names)

    def cells(self, blocks: Sequence[str] | None = None) -> list[Cell]:
        """Trained cells of these blocks (all without names), each once."""
        names = list(self.by_block) if blocks is None else blocks
        return list({cell.name: cell for name in names for cell in self.by_block[name]}.values())

    def state(self, blocks: Sequence[str] | None = None) -> str:
        """``72 of 72 cells``: what every artefact says about itself."""
        done, planned = self.done(blocks)
        return f"{done} of {planned} cells"

    def select(self, blocks: Sequence[str], *, steps: str = "last") -> Frame:
        """Long table of per-problem values of these blocks' cells and their bases, as ``tables.problem_values``.

        ``steps``: ``last`` (the base and each run's reported checkpoint) or ``all``.
        """
        wanted = {cell.name for cell in self.cells(blocks)} | self._bases(blocks)
        keep = [record for name, record in self.records.items() if name in wanted]
        return values_table(keep, last_only=lookup("steps", steps, {"last": 1, "all": 0}) == 1)

    def _bases(self, blocks: Sequence[str]) -> set[str]:
        return {f"{cell.world}_s{cell.base_seed}_{BASE}" for cell in self.cells(blocks)}

    def training(self, blocks: Sequence[str]) -> Frame:
        """Step logs of these blocks' cells: one row a step, as ``tables.training``."""
        return training_table([self.records[c.name] for c in self.cells(blocks) if c.name in self.records])

    def settings(self, arms: Sequence[str], values: Frame) -> scorecard.ScorecardSettings:
        """Scorecard settings of the study for these arms; ``base`` is the baseline."""
        return scorecard.ScorecardSettings(
            arms=(BASE, *arms), contrasts=scorecard.default_contrasts((BASE, *arms)), primary=self.config.primary,
            margins=self.config.margins, gap_metrics=self.config.gap_metrics, level=self.config.level,
            in_distribution=self.config.in_distribution, out_of_distribution=self.config.splits[1:],
            directions=report_data.directions(set(values["metric"]), self.config.draws) | PAIR_DIRECTIONS,
            chances=self._chances,
        )  # fmt: skip

    @cached_property
    def _chances(self) -> dict[tuple[str, str, str], float]:
        return {
            (record["cell"]["world"], one["split"], metric): chance
            for record in self.records.values() for one in record["sets"] for metric, chance in one["chance"].items()
        }  # fmt: skip

    def scorecard(self, blocks: Sequence[str], arms: Sequence[str]) -> Frame:
        """Scorecard rows at the reported checkpoint as a table; empty before any cell is done."""
        import pandas as pd

        return pd.DataFrame(self._rows(tuple(blocks), tuple(arms)), columns=list(scorecard.KEYS))

    def _rows(self, blocks: tuple[str, ...], arms: tuple[str, ...]) -> list[dict[str, Any]]:
        """Scorecard rows, computed once: several artefacts read them."""
        if (blocks, arms) not in self._made:
            values = self.select(blocks)
            settings = self.settings(arms, values)
            self._made[blocks, arms] = [] if values.empty else scorecard.build_scorecard(values, settings)
        return self._made[blocks, arms]

    def rows_of(self, values: Frame, arms: Sequence[str]) -> Frame:
        """Scorecard rows of values that an analysis derived itself."""
        import pandas as pd

        rows = scorecard.build_scorecard(values, self.settings(arms, values))
        return pd.DataFrame(rows, columns=list(scorecard.KEYS))

    @cached_property
    def _made(self) -> dict[Any, list[dict[str, Any]]]:
        return {}

    def report_data(
        self, blocks: Sequence[str], arms: Sequence[str], *, splits: Sequence[str] | None = None
    ) -> report_data.ReportData:
        """What the report's figures take, for these cells (without sample sets) and splits (all without names)."""
        import pandas as pd

        values = self.select(blocks, steps="all")
        values = values if splits is None else values[values["split"].isin(list(splits))]
        settings = self.settings(arms, values)
        rows = self._rows(tuple(blocks), tuple(arms))
        rows = [row for row in rows if splits is None or row["split"] in splits]
        return report_data.ReportData(
            title=self.config.title or self.config.name, arms=settings.arms, rows=rows, sets=_places(values),
            reported=(), values=values, outcomes=pd.DataFrame(), training=self.training(blocks), settings=settings,
            draws=self.config.draws, pairs=pd.DataFrame(),
        )  # fmt: skip

    def table(self, name: str, frame: Frame, *, blocks: Sequence[str]) -> Path:
        """Write ``<name>.csv``; its first line says cells done of planned and which config and commits made it."""
        path = self.folder / f"{name}.csv"
        about = (f"{self.state(blocks)} of {', '.join(blocks) or 'no block'}", f"config {self.config_hash(blocks)}")
        head = f"# {'; '.join((*about, self._commits(blocks)))}\n"
        body = frame.map(_rounded) if len(frame) else frame
        write_text(path, head + body.to_csv(index=False, lineterminator="\n"))
        self._note(path, blocks)
        return path

    def figure(self, name: str, figure: Any, *, blocks: Sequence[str]) -> Path | None:
        """Write ``figures/<name>.svg`` with cells done of planned in its corner; nothing when there is no figure."""
        from opsd_eval.plotstyle import INK, to_svg

        if figure is None:
            return None
        width, height = figure.get_size_inches()
        figure.text(1 - 0.1 / width, 0.1 / height, self.state(blocks), fontsize=8, color=INK, alpha=0.75,
                    ha="right", va="bottom")  # fmt: skip
        figure.set_facecolor("white")
        path = self.folder / "figures" / f"{name}.svg"
        write_text(path, to_svg(figure))
        self._note(path, blocks)
        return path

    def table_and_figure(
        self, name: str, frame: Frame, draw: Callable[[Frame, Study], Any], *, blocks: Sequence[str], figure: str = ""
    ) -> list[Path]:
        """Write ``<name>.csv`` and what ``draw`` makes of it (named ``figure`` if given); nothing without rows."""
        from opsd_eval.plotstyle import style

        if frame.empty:
            return []
        written = self.table(name, frame, blocks=blocks)
        with style():
            drawn = draw(frame, self)
        drawn_path = self.figure(figure or name, drawn, blocks=blocks)
        return [written, drawn_path] if drawn_path else [written]

    def _note(self, path: Path, blocks: Sequence[str]) -> None:
        """Keep ``artefacts.json``: each file with its cells, config and commits."""
        index = self.folder / INDEX_FILE
        notes = read_json(index) if index.exists() else {}
        done, planned = self.done(blocks)
        notes[path.relative_to(self.folder).as_posix()] = {
            "blocks": list(blocks), "cells_done": done, "cells_planned": planned, "config": self.config_hash(blocks),
            "commits": self._commits(blocks),
        }  # fmt: skip
        write_json(index, dict(sorted(notes.items())))

    def config_hash(self, blocks: Sequence[str] | None = None) -> str:
        """8 hex digits of the study's config as far as it concerns these blocks (all without names)."""
        seen = asdict(self.config)
        seen["blocks"] = [b for b in seen["blocks"] if blocks is None or b["name"] in blocks]
        return hashlib.sha256(dumps(seen).encode()).hexdigest()[:8]

    def _commits(self, blocks: Sequence[str]) -> str:
        seen: dict[str, None] = {}
        for cell in self.cells(blocks):
            if record := self.records.get(cell.name):
                seen[f"{str(record['commit'])[:8]}{'+' if record['dirty'] else ''}"] = None
        return f"commits {' '.join(sorted(seen)) or 'none'}"


# Pair metrics are stored as columns like any other; an "excess" is over what two equal models show.
PAIR_DIRECTIONS = {
    "support_loss": "lower", "support_loss_excess": "lower", "hard_tail_retention": "higher",
    "hard_tail_retention_excess": "higher", "marker_shift": "neither",
}  # fmt: skip


def load(study: str | StudyConfig, results: Path | str | None = None) -> Study:
    """A study by name with whatever is finished; a record of another hash counts as not done."""
    config = load_study(study) if isinstance(study, str) else study
    folder = results_folder(config, results)
    by_block = block_cells(config)
    planned = study_cells(config, by_block)
    records = {}
    for name, cell in planned.items():
        path = record_path(folder, name)
        if path.exists() and (record := read_record(path))["hash"] == cell.hash:
            records[name] = record
    return Study(config, folder, planned, by_block, records)


def values_table(records: Iterable[Mapping[str, Any]], *, last_only: bool) -> Frame:
    """Per-problem values of records as a long table with the columns of ``tables.problem_values``."""
    import numpy as np
    import pandas as pd

    parts = []
    for record in records:
        cell = record["cell"]
        last = max(one["step"] for one in record["sets"])
        place = {key: cell[key] for key in ("world", "arm", "base_seed", "train_seed")}
        for one in record["sets"]:
            if last_only and one["step"] != last:
                continue
            ids, columns = one["problems"], one["values"]
            values = [np.broadcast_to(np.array(v, dtype=float), len(ids)) for v in columns.values()]
            parts.append(pd.DataFrame({
                **place, "split": one["split"], "step": one["step"], "problem_id": np.tile(ids, len(columns)),
                "cluster": None, "n": one["n"], "metric": np.repeat(list(columns), len(ids)),
                "value": np.concatenate(values), "path": record["name"],
            }))  # fmt: skip
    if not parts:
        return pd.DataFrame(columns=[*tables.INDEX, "problem_id", "cluster", "n", "metric", "value", "path"])
    return pd.concat(parts, ignore_index=True)


def training_table(records: Iterable[Mapping[str, Any]]) -> Frame:
    """Step logs of records, one row a step, with world, arm and seeds."""
    import pandas as pd

    keys = ("world", "arm", "base_seed", "train_seed")
    parts = [pd.DataFrame(r["training"]).assign(**{k: r["cell"][k] for k in keys}) for r in records if r["training"]]
    if not parts:
        return pd.DataFrame()
    table: Frame = pd.concat(parts, ignore_index=True)
    return table.assign(step=table["step"].astype(int))


def means_table(study: Study) -> Frame:
    """One row a cell, split, step and metric: the mean over problems, used and dropped (``rows.csv``)."""
    values = values_table(study.records.values(), last_only=False)
    if values.empty:
        return values
    keys = ["world", "base_seed", "arm", "train_seed", "split", "step", "metric"]
    grouped = values.groupby(keys, dropna=False, sort=False)["value"]
    table = grouped.agg(mean="mean", n_problems="count", asked="size").reset_index()
    dropped = table.pop("asked") - table["n_problems"]
    return table.assign(n_dropped=dropped, train_seed=table["train_seed"].astype("Int64"))


def contrasts_of(values: Frame, arm: str, other: str, *, level: float) -> Frame:
    """``arm − other`` per world, split and metric, with the interval of ``stats.across_seeds``."""
    import pandas as pd

    rows = []
    for (world, split, metric), part in values.groupby(["world", "split", "metric"], sort=False):
        sides = [scorecard.by_seed(part[part["arm"] == name]) for name in (arm, other)]
        if all(sides) and (pairs := scorecard.paired(sides[0], sides[1])):
            found = stats.across_seeds(pairs, level=level)
            rows.append({
                "world": world, "split": split, "metric": metric, "arm": arm, "other": other,
                "difference": found.value, "low": found.low, "high": found.high, "p_value": found.p_value,
                "mde": found.mde, "n_problems": found.n_problems, "n_dropped": found.n_dropped,
                "base_seeds": found.n_seeds, "runs": len(pairs), "scope": found.scope,
            })  # fmt: skip
    return pd.DataFrame(rows)




def over_bases(table: Frame, column: str, *, level: float) -> stats.Estimate:
    """Mean of a number that each run has once: training seeds averaged within their base, t interval over bases."""
    known = table[table[column].notna()]
    means = known.groupby("base_seed")[column].mean().to_numpy(float)
    found = stats.mean_estimate(means, level=level)
    return replace(found, method=f"t over {len(means)} base seeds ({len(known)} runs)")


def _places(values: Frame) -> list[tables.SetInfo]:
    keys = values.drop_duplicates(["world", "split", "arm"])[["world", "split", "arm"]]
    return [tables.SetInfo(Path(), *row) for row in keys.itertuples(index=False)]


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


__all__ = ["Study", "contrasts_of", "load", "means_table", "over_bases", "training_table", "values_table"]
