"""Tidy pandas tables behind every number and plot: one row an observation, columns that say where it came from.

>>> from opsd_eval import tables                                      # doctest: +SKIP
>>> sets = tables.find_sets("runs/demo")                              # doctest: +SKIP
>>> tables.problem_values(sets).query("metric == 'avg@8'")            # doctest: +SKIP
>>> tables.training("runs/demo").groupby(["world", "arm"]).loss.mean()  # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from opsd_eval.arms import LooseSet, name_sets
from opsd_eval.measures import read_measures
from opsd_eval.records import check_types, read_json, read_jsonl, read_problems, read_run, sha256_text, write_text
from opsd_eval.spreadsheet import inert
from opsd_eval.visible import encodable

BASE = "base"
Frame: TypeAlias = Any  # a pandas DataFrame; its published types are too wide to check against
RUN_NAME = re.compile(r"^(?P<world>.+)_s(?P<base_seed>\d+)_(?P<arm>.+?)(?:_t(?P<train_seed>\d+))?$")
STEP_NAME = re.compile(r"^step-(\d+)$")
INDEX = ("world", "split", "arm", "base_seed", "train_seed", "step")
PAIR_FILE = "against_base.csv"
PAIR_COLUMNS = ("metric", "estimate", "low", "high", "n_problems", "n_dropped", "better", "chance", "method")
MEASURE_KEYS = ("problem_id", "cluster", "n")


@dataclass(frozen=True)
class SetInfo:
    """Where a sample set stands: its folder, and the world, split, arm, seeds and step it belongs to.

    ``None`` means unknown or not applicable (a base has no training seed, an ingested log no step).
    """

    path: Path
    world: str
    split: str
    arm: str
    base_seed: int | None = None
    train_seed: int | None = None
    step: int | None = None

    def columns(self) -> dict[str, Any]:
        """The index columns of this set, as every table spells them."""
        return {key: getattr(self, key) for key in INDEX}


def parse_run_name(name: str) -> dict[str, Any]:
    """Split ``<world>_s<base seed>_<arm>_t<training seed>`` into its parts; other names raise ``ValueError``."""
    match = RUN_NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} is not a run name; expected <world>_s<base seed>_<arm>_t<training seed>")
    seeds = {key: None if match[key] is None else int(match[key]) for key in ("base_seed", "train_seed")}
    return {"world": match["world"], "arm": match["arm"], **seeds}


def run_folders(study: Path | str) -> list[Path]:
    """The run folders of a study, sorted by name; a study without any is an error."""
    study = Path(study)
    found = sorted(p for p in study.glob("*") if p.is_dir() and RUN_NAME.match(p.name))
    if not found:
        raise ValueError(f"{study}: no run folders (<world>_s<base seed>_<arm>_t<training seed>) in it")
    return found


def find_sets(study: Path | str) -> list[SetInfo]:
    """Every sample set of a study (``RUN/eval/BENCHMARK/step-N``), sorted by world, split, arm, seeds and step."""
    found = []
    for run in run_folders(study):
        for path in sorted(run.glob("eval/*/step-*")):
            step = STEP_NAME.match(path.name)
            if step and (path / "run.json").exists():
                split = path.parent.name.rsplit(".", 1)[-1]
                found.append(SetInfo(path, split=split, step=int(step[1]), **parse_run_name(run.name)))
    return sorted(found, key=lambda s: tuple(-1 if v is None else v for v in s.columns().values()))


def loose_sets(
    paths: Sequence[Path | str] = (), *, arms: Mapping[str, Sequence[Path | str]] | None = None
) -> list[SetInfo]:
    """Sample sets from anywhere, the first being the baseline; ``arms`` names the arm of further ones.

    :mod:`opsd_eval.arms` says which sets are the same arm on several benchmarks, which are checkpoints of one run, and
    what world and split are.
    """
    given = [(None, path) for path in paths] + [(name, path) for name, of in (arms or {}).items() for path in of]
    sets = [_loose(Path(path), name) for name, path in given]
    return [
        SetInfo(one.path, found.world, found.split, found.arm, step=found.step)
        for one, found in zip(sets, name_sets(sets), strict=True)
    ]


def _loose(path: Path, arm: str | None) -> LooseSet:
    """What is known of one set; several benchmarks in one are named by the group they were ingested as, if any."""
    run, problems = read_run(path), read_problems(path).values()
    benchmarks, splits = {p.benchmark or None for p in problems}, {p.split or None for p in problems}
    source = run.config.get("source")
    group = source.get("benchmark") or None if isinstance(source, Mapping) else None
    return LooseSet(
        path, run, benchmarks.pop() if len(benchmarks) == 1 else group, splits.pop() if len(splits) == 1 else None,
        frozenset(sha256_text(p.question) for p in problems), arm,
    )  # fmt: skip


def at_step(sets: Iterable[SetInfo], step: int | None = None) -> list[SetInfo]:
    """The base's sets and each run's sets at ``step``; ``None`` takes each run's last evaluated step."""
    sets = list(sets)
    last: dict[tuple, int] = {}
    for s in sets:
        key = (s.world, s.arm, s.base_seed, s.train_seed)
        last[key] = max(last.get(key, -1), -1 if s.step is None else s.step)
    kept = []
    for s in sets:
        wanted = last[s.world, s.arm, s.base_seed, s.train_seed] if step is None or s.arm == BASE else step
        if (-1 if s.step is None else s.step) == wanted:
            kept.append(s)
    return kept


def problem_values(sets: Iterable[SetInfo]) -> Frame:
    """Long table of ``measures.csv``: the index columns, problem_id, cluster, n, metric, value (NaN kept), path."""
    import pandas as pd

    parts = []
    for s in sets:
        wide: Frame = read_measures(s.path).table()
        metrics = [c for c in wide.columns if c not in MEASURE_KEYS]
        long = wide.melt(id_vars=list(MEASURE_KEYS), value_vars=metrics, var_name="metric", value_name="value")
        parts.append(long.assign(value=pd.to_numeric(long["value"]), path=str(s.path), **s.columns()))
    if not parts:
        raise ValueError("no sample sets given")
    table: Frame = pd.concat(parts, ignore_index=True)
    return table[[*INDEX, *[c for c in table.columns if c not in INDEX]]]


def estimates(sets: Iterable[SetInfo]) -> Frame:
    """Long table of ``estimates.json``: the index columns, metric, estimate, low, high, n_problems, n_dropped, ..."""
    import pandas as pd

    rows = []
    for s in sets:
        rows += [{**s.columns(), **row} for row in estimate_rows(s.path)]
    table: Frame = pd.DataFrame(rows)
    numbers = [c for c in ("estimate", "low", "high", "chance") if c in table]
    return table.assign(**{c: pd.to_numeric(table[c]) for c in numbers})


def estimate_rows(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of one sample set's ``estimates.json``."""
    content = read_json(Path(folder) / "estimates.json")
    rows = content.get("rows") if isinstance(content, Mapping) else content
    if not isinstance(rows, list) or not all(isinstance(r, dict) and isinstance(r.get("metric"), str) for r in rows):
        raise ValueError(f"{folder}/estimates.json is damaged; run `opsd-eval measure {folder} --force`")
    return rows


def pair_table(base: Path, other: Path, *, level: float = 0.95) -> Frame:
    """What only a pair of sample sets can show (lost support, hard tail, shift of markers): one row a metric."""
    from opsd_eval.compare import compare_sets
    from opsd_eval.metrics import PAIR_METRICS, SET_PAIR_METRICS

    table: Frame = compare_sets(base, other, metrics=[*PAIR_METRICS, *SET_PAIR_METRICS], level=level)
    return table.rename(columns={"difference": "estimate"})[list(PAIR_COLUMNS)]


def save_pair_table(table: Frame, folder: Path) -> None:
    """Write a :func:`pair_table` into the compared set's folder as ``against_base.csv``."""
    write_text(folder / PAIR_FILE, table.to_csv(index=False, lineterminator="\n"))


def against_base(sets: Iterable[SetInfo]) -> Frame:
    """Index columns and :func:`pair_table` rows of every set that was compared with its base; may be empty."""
    import pandas as pd

    found = [pd.read_csv(s.path / PAIR_FILE).assign(**s.columns()) for s in sets if (s.path / PAIR_FILE).exists()]
    if not found:
        return pd.DataFrame()
    return pd.concat(found, ignore_index=True)[[*INDEX, *PAIR_COLUMNS]]


def _outcome(row: Mapping[str, Any], folder: Path) -> tuple[str, str | None]:
    """(problem_id, outcome) of a line of grades."""
    path = folder / "grades.jsonl"
    if "outcome" not in row or "problem_id" not in row:
        raise ValueError(f"{path} has lines without a grade; run `opsd-eval grade {folder} --force`")
    check_types({key: row[key] for key in ("problem_id", "outcome")}, str(path))
    return encodable(row["problem_id"]), row["outcome"]


def outcome_shares(sets: Iterable[SetInfo]) -> Frame:
    """Share of each outcome per sample set (mean over problems of the share of their draws), from grades.jsonl."""
    import pandas as pd

    rows = []
    for s in sets:
        found = [_outcome(row, s.path) for row in read_jsonl(s.path / "grades.jsonl")]
        graded: Frame = pd.DataFrame(found, columns=["problem_id", "outcome"])
        known = graded.dropna(subset=["outcome"])
        shares: Frame = pd.crosstab(known["problem_id"], known["outcome"], normalize="index")
        rows += [{**s.columns(), "outcome": name, "share": float(shares[name].mean()), "n_problems": len(shares),
                  "n_samples": len(known), "path": str(s.path)} for name in shares]
    return pd.DataFrame(rows)


def marker_profiles(sets: Iterable[SetInfo]) -> Frame:
    """Where in a completion its markers stand: per set and tenth, the mean over problems of that tenth's share of them.

    Columns: the index columns, tenth (1 to 10, up to the onset of a loop), share, n_problems (those with markers).
    """
    import pandas as pd

    from opsd_eval.metrics.base import forget_texts
    from opsd_eval.metrics.markers import marker_profile
    from opsd_eval.sample_index import SampleIndex, read_block

    rows = []
    for s in sets:
        index = SampleIndex(s.path)
        problems = list(index.problems.values())
        shares = []
        for block in index.blocks():
            shares += [marker_profile(problems[number], samples) for number, samples in read_block(index.task(block))]
            forget_texts()
        known = [profile for profile in shares if profile[0] == profile[0]]
        means = [sum(values) / len(known) for values in zip(*known, strict=True)]
        rows += [
            {**s.columns(), "tenth": tenth, "share": share, "n_problems": len(known)}
            for tenth, share in enumerate(means, start=1)
        ]
    return pd.DataFrame(rows)


def training(study: Path | str) -> Frame:
    """Every line of every ``train.jsonl`` with world, arm and seeds; nested keys become dotted columns."""
    import pandas as pd

    rows = []
    for run in run_folders(study):
        path = run / "train.jsonl"
        if path.exists():
            rows += [{**parse_run_name(run.name), **_flat(row)} for row in read_jsonl(path)]
    table: Frame = pd.DataFrame(rows)
    if not table.empty:  # a resumed run may log a step twice: the later line counts
        table = table.drop_duplicates(["world", "base_seed", "arm", "train_seed", "step"], keep="last")
    return table.reset_index(drop=True)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif not isinstance(value, list):
            flat[name] = value
    return flat


def save_tables(tables: Mapping[str, Frame], out: Path | str) -> list[Path]:
    """Write each table as ``NAME.csv``, whole or not at all; empty tables are left out.

    Text that a spreadsheet would run as a formula gets a leading apostrophe (``opsd_eval/spreadsheet.py``). Numbers
    have nine significant digits.
    """
    written = []
    for name, table in tables.items():
        if not table.empty:
            path = Path(out) / f"{name}.csv"
            texts = {c: _inert(table[c]) for c in table.columns if table[c].dtype.kind not in "biuf"}
            write_text(path, table.assign(**texts).to_csv(index=False, lineterminator="\n", float_format="%.9g"))
            written.append(path)
    return written


def _inert(column: Any) -> Any:
    """A column with :func:`inert` texts; each different text is looked at once."""
    codes, kinds = column.factorize(use_na_sentinel=True)
    safe = [*map(inert, kinds), None]
    return [safe[code] for code in codes]
