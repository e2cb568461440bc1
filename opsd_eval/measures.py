"""Measure a graded sample set: one row a problem (``measures.csv``) and one estimate a metric (``estimates.json``).

Samples are read problem by problem, in worker processes for large sets; memory holds one number per problem and
metric. Columns that are still valid for the files are kept, so a second run only computes what is new.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opsd_eval.estimates import corpus_rows, estimate_rows
from opsd_eval.locks import in_turn
from opsd_eval.metrics import CORPUS_METRICS, METRICS, expand_metrics, find_metric
from opsd_eval.metrics.base import Metric, forget_texts
from opsd_eval.metrics.markers import counts_words
from opsd_eval.records import Problem, Sample, read_json, read_problems, write_json, write_text
from opsd_eval.sample_index import SampleIndex, read_block, read_probes
from opsd_eval.spreadsheet import inert, original
from opsd_eval.visible import encodable
from opsd_eval.whole import changed_since, recorded

if TYPE_CHECKING:
    import pandas as pd

SERIAL_SAMPLES = 3000
KEYS = ("problem_id", "cluster", "n")
csv.field_size_limit(2**31 - 1)  # ids and clusters of foreign logs may be longer than the 128 KiB it starts with


@dataclass
class Measures:
    """Values of a sample set: problem ids, clusters, draws, and one array of P numbers a metric (NaN: undefined)."""

    problem_ids: list[str]
    clusters: list[str | None]
    n: np.ndarray
    values: dict[str, np.ndarray] = field(default_factory=dict)
    words: int = 0  # problems whose marker rates count words because token counts are unknown
    corpus: list[dict[str, Any]] = field(default_factory=list)  # rows of metrics of the whole set
    encoder: dict[str, Any] | None = None  # name and threshold of the encoder behind the embedding metrics
    probed_since: bool = False  # the set was probed after it was measured
    sha256: dict[str, Any] = field(default_factory=dict)  # what was measured, file by file

    def table(self) -> pd.DataFrame:
        """One row a problem: problem_id, cluster, n, one column a metric."""
        import pandas as pd

        ids = [encodable(i) for i in self.problem_ids]
        head = {"problem_id": ids, "cluster": [c and encodable(c) for c in self.clusters], "n": self.n}
        return pd.DataFrame({**head, **self.values})

    def scores(self, metric: str) -> dict[str, float]:
        """Problem id → value of one metric."""
        return dict(zip(self.problem_ids, self.values[metric].tolist(), strict=True))


def measure_set(
    path: Path | str,
    *,
    metrics: Iterable[str] | None = None,
    level: float = 0.95,
    processes: int | None = None,
    embeddings: str | None = None,
    force: bool = False,
) -> pd.DataFrame:
    """Measure a graded sample set and write ``measures.csv`` and ``estimates.json``; returns the metrics' estimates.

    ``metrics``: names or families (``pass@k``); ``None`` is everything that is quick and needs no model. Columns
    measured earlier stay in the files as long as the set has not changed (``force`` drops them). ``embeddings``
    names an encoder (``minilm``, ``tfidf`` or a model folder) and adds the metrics that need one.
    """
    folder = Path(path)
    metrics = None if metrics is None else list(metrics)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such file or folder; give the folder of a sample set")
    with in_turn(folder, ".measuring.lock"):
        return _measure(folder, metrics, level=level, processes=processes, embeddings=embeddings, force=force)


def _measure(
    folder: Path, metrics: list[str] | None, *, level: float, processes: int | None, embeddings: str | None, force: bool
) -> pd.DataFrame:
    import pandas as pd

    state = file_state(folder)
    index = SampleIndex(folder)
    n = int(index.samples.counts().max(initial=0))
    wanted = _wanted(index, metrics, n, embeddings)
    measures = (None if force else _still_valid(folder, state)) or _empty(index)
    stale = {"probes"} if measures.probed_since else set()
    if measures.encoder is None or embeddings not in (None, measures.encoder["name"]):
        stale.add("embeddings")
    dropped = [name for name in measures.values if stale & set(find_metric(name).needs)]
    for name in dropped:
        del measures.values[name]
    missing = [metric for metric in wanted if metric.name not in measures.values]
    _warn_of_changes(folder)
    sums = measures.sha256 or {name: recorded(folder / name) for name, _, _ in _but_probes(state)}
    if missing or dropped or not (folder / "measures.csv").exists():
        _fill(measures, index, missing, processes=processes, embeddings=embeddings)
        _write_csv(folder / "measures.csv", measures)
    rows = estimate_rows(measures, index.problems, n=n, level=level)
    corpus = list(CORPUS_METRICS) if metrics is None else [name for name in metrics if name in CORPUS_METRICS]
    held = {row["metric"] for row in measures.corpus}
    rows += measures.corpus + corpus_rows(index, [name for name in corpus if name not in held], level=level)
    sums["measures.csv"] = recorded(folder / "measures.csv")
    head = {"files": state, "sha256": sums, "draws": n, "words": measures.words, "encoder": measures.encoder}
    write_json(folder / "estimates.json", {**head, "rows": rows})
    names = {metric.name for metric in wanted} | set(corpus)
    return pd.DataFrame([row for row in rows if row["metric"] in names])


def _wanted(index: SampleIndex, names: list[str] | None, n: int, embeddings: str | None) -> list[Metric]:
    """The metrics to compute: those named, or the defaults that apply to some problem; then those of the encoder."""
    if names is None:
        found = [
            m
            for m in expand_metrics(None, n)
            if any(map(m.applies, index.problems.values())) and ("probes" not in m.needs or index.probes is not None)
        ]
    else:
        found = expand_metrics([name for name in names if name not in CORPUS_METRICS], n)
    if embeddings is not None:
        held = {metric.name for metric in found}
        found += [m for m in METRICS.values() if "embeddings" in m.needs and m.name not in held]
    return found


def read_measures(path: Path | str) -> Measures:
    """The values written by :func:`measure_set`."""
    source = Path(path) / "measures.csv"
    try:
        file = source.open(encoding="utf-8", newline="")
    except FileNotFoundError:
        raise ValueError(f"{source}: no such file; run `opsd-eval measure {path}` first") from None
    try:
        with file:
            return _parsed(list(csv.reader(file)))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{source}: damaged: {error}; run `opsd-eval measure {path} --force`") from None


def _parsed(lines: list[list[str]]) -> Measures:
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if tuple(header[:3]) != KEYS:
        raise ValueError(f"the columns must start with {', '.join(KEYS)}; got {header[:3]}")
    if any(len(row) != len(header) for row in rows):
        raise ValueError("its rows have different lengths")
    if len({row[0] for row in rows}) < len(rows):
        raise ValueError("a problem stands in it twice")
    for name in header[3:]:
        find_metric(name)
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in header]
    values = {
        name: np.array([float(cell) if cell else math.nan for cell in column])
        for name, column in zip(header[3:], columns[3:], strict=True)
    }
    ids, clusters, counts = columns[:3]
    n = np.array([int(c) for c in counts], dtype=int)
    return Measures([original(i) for i in ids], [original(c) or None for c in clusters], n, values)


def file_state(folder: Path) -> list[list[Any]]:
    """Name, size and time of the files that measures depend on."""
    found = []
    for name in ("problems.jsonl", "samples.jsonl", "grades.jsonl", "probes.jsonl"):
        path = folder / name
        if path.exists():
            status = path.stat()
            found.append([name, status.st_size, status.st_mtime_ns])
    return found


def _still_valid(folder: Path, state: list[list[Any]]) -> Measures | None:
    estimates = folder / "estimates.json"
    if not estimates.exists() or not (folder / "measures.csv").exists():
        return None
    held = read_json(estimates)
    if not isinstance(held, Mapping) or _but_probes(held.get("files")) != _but_probes(state):
        return None
    try:
        measures = read_measures(folder)
        measures.corpus = [row for row in held["rows"] if row["metric"] in CORPUS_METRICS]
        measures.words = int(held.get("words") or 0)
        encoder = held.get("encoder") or None
        measures.encoder = encoder and {key: encoder[key] for key in ("name", "threshold")}
        measures.sha256 = dict(held.get("sha256") or {})
    except (ValueError, KeyError, TypeError):
        return None  # damaged: measured anew
    measures.probed_since = held.get("files") != state
    return measures


def _but_probes(state: Any) -> list[Any]:
    """The state of all files but the probes; nothing of a state that is damaged."""
    files = state if isinstance(state, list) else []
    return [file for file in files if not isinstance(file, list) or file[:1] != ["probes.jsonl"]]


def _warn_of_changes(folder: Path) -> None:
    """Say which files are not what was measured or written then: other bytes, not only lines added at the end."""
    if changed := changed_since(folder / "estimates.json"):
        print(f"{folder}: {', '.join(changed)} changed since it was last measured, and not only at its end: if neither "
              "you nor a measuring that was stopped changed it, it is damaged (--force measures anew)",
              file=sys.stderr)  # fmt: skip


def _empty(index: SampleIndex) -> Measures:
    problems = index.problems.values()
    return Measures([p.problem_id for p in problems], [p.cluster for p in problems], index.samples.counts())


# --- computing --------------------------------------------------------------------------------------------


def _fill(
    measures: Measures, index: SampleIndex, metrics: Sequence[Metric], *, processes: int | None, embeddings: str | None
) -> None:
    """Compute the metrics of every problem into ``measures``."""
    quick = [metric for metric in metrics if "embeddings" not in metric.needs]
    for metric in metrics:
        measures.values[metric.name] = np.full(len(measures.problem_ids), math.nan)
    if quick:
        measures.words = 0
        for number, words, row in _computed(index, quick, processes=processes):
            measures.words += words
            for metric, value in zip(quick, row, strict=True):
                measures.values[metric.name][number] = value
    if embedded := [metric for metric in metrics if "embeddings" in metric.needs]:
        from opsd_eval.metrics.embeddings import DEFAULT_ENCODER, fill_embedded

        space = fill_embedded(index, embedded, measures.values, encoder=embeddings or DEFAULT_ENCODER)
        measures.encoder = {"name": space.encoder.name, "threshold": space.threshold}


def _computed(
    index: SampleIndex, metrics: Sequence[Metric], *, processes: int | None
) -> Iterator[tuple[int, bool, list[float]]]:
    from tqdm import tqdm

    from opsd_eval.workers import default_processes, run_tasks

    total = int(index.samples.counts().sum())
    processes = (processes or default_processes()) if total > SERIAL_SAMPLES else 1
    names = [metric.name for metric in metrics]
    probes = any("probes" in metric.needs for metric in metrics)
    if probes and index.probes is None:
        raise ValueError(f"{index.folder} has no probes.jsonl; run `opsd-eval probe {index.folder} --model MODEL`")
    tasks = ({**index.task(block, probes=probes), "metrics": names} for block in index.blocks())
    with tqdm(total=len(index.problems), unit="problem", disable=None) as bar:
        for rows in run_tasks("opsd_eval.measures:measure_block", tasks, processes=processes):
            bar.update(len(rows))
            yield from rows


def problem_list(folder: str) -> list[Problem]:
    """The problems of a set in file order, read once for as long as the file stays the same."""
    return _problem_list(folder, (Path(folder) / "problems.jsonl").stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _problem_list(folder: str, stamp: int) -> list[Problem]:
    return list(read_problems(folder).values())


def measure_block(task: Mapping[str, Any]) -> list[tuple[int, bool, list[float]]]:
    """(problem number, words stand in for tokens, values) for a block of problems. Runs in a worker process."""
    problems = problem_list(task["folder"])
    metrics = expand_metrics(task["metrics"], 0)
    probes = read_probes(task)
    rows = []
    for number, samples in read_block(task):
        problem = problems[number]
        if probes:
            problem = replace(problem, metadata={**problem.metadata, "probes": probes[number]})
        rows.append((number, counts_words(samples), measure_problem(problem, samples, metrics)))
    forget_texts()
    return rows


def measure_problem(problem: Problem, samples: Sequence[Sample], metrics: Sequence[Metric]) -> list[float]:
    """The metrics' values for one problem; NaN where a metric is undefined."""
    return [metric(problem, samples) for metric in metrics]


def _write_csv(path: Path, measures: Measures) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*KEYS, *measures.values])
    columns = [values.tolist() for values in measures.values.values()]
    for at, (problem_id, cluster, n) in enumerate(
        zip(measures.problem_ids, measures.clusters, measures.n.tolist(), strict=True)
    ):
        cells = ["" if column[at] != column[at] else repr(column[at]) for column in columns]
        writer.writerow([inert(problem_id), inert(cluster or ""), n, *cells])
    write_text(path, buffer.getvalue())
