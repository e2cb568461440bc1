"""What the jobs of an ablation do: train one run; sample, grade and measure one set. Each skips what is done.

Functions at the top of a module, so that a worker process can take them; torch is imported inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_eval.records import read_json, read_run, sha256_folder
from opsd_eval.startup import TRANSFORMERS, bring_in
from opsd_eval.whole import MANIFEST, what_is_broken


def warm_up() -> None:
    """Import what every job needs, once a worker, and keep torch to one thread."""
    bring_in(*TRANSFORMERS, "opsd_train.trainer", "opsd_eval.sampling")
    import torch

    torch.set_num_threads(1)


def train_run(config: Mapping[str, Any], out: str) -> None:
    """Train one run to its last step, going on from its newest checkpoint if it was interrupted."""
    from opsd_train.config import TrainConfig
    from opsd_train.trainer import train

    train(TrainConfig.from_dict(config), Path(out), resume=(Path(out) / "run.json").exists())


def evaluate_set(
    model_path: str, out: str, *, name: str, benchmark: Mapping[str, Any], draws: int, sampling: Mapping[str, Any],
    step: int, metrics: list[str] | None = None, level: float = 0.95,
) -> None:
    """Sample one benchmark from one checkpoint, grade the completions, measure them."""
    from opsd_eval.benchmarks import load_benchmark
    from opsd_eval.engines import load_engine
    from opsd_eval.engines.base import Sampling
    from opsd_eval.grading import grade_set
    from opsd_eval.measure import measure_set
    from opsd_eval.records import new_run_record
    from opsd_eval.sampling import model_record, sample_benchmark

    settings = Sampling(**sampling)
    problems = load_benchmark(benchmark["name"], limit=benchmark["limit"], seed=benchmark["seed"])
    engine: Any = load_engine("transformers", model_path)
    model = {**model_record(model_path), "path": portable(model_path), "step": step}
    run = new_run_record(
        name, "samples", model=model, config={"benchmark": dict(benchmark), "draws": draws}, sampling=dict(sampling),
        seed=settings.seed,
    )  # fmt: skip
    sample_benchmark(
        engine, problems, n=draws, sampling=settings, out=Path(out), run=run, tokenizer=engine.tokenizer
    )
    grade_set(Path(out))
    measure_set(Path(out), metrics=metrics, level=level)


def measure_more(out: str, *, metrics: list[str], level: float) -> None:
    """Add metrics that are too slow for every checkpoint (embeddings) to a measured set."""
    from opsd_eval.measure import measure_set

    measure_set(Path(out), metrics=metrics, level=level)


def probe_answers(model_path: str, out: str) -> None:
    """Ask the model for its answer along each of its completions, and measure how early it knows it."""
    from opsd_eval.engines import load_engine
    from opsd_eval.probe import probe_set

    engine: Any = load_engine("transformers", model_path)
    probe_set(Path(out), engine, engine.tokenizer)
    _add(Path(out), EARLY_ANSWER)


def embed(model_path: str, out: str) -> None:
    """Measure semantic diversity with the default encoder."""
    _add(Path(out), EMBEDDED)


def _add(folder: Path, metrics: Sequence[str]) -> None:
    if not has_columns(folder, metrics):
        measure_more(str(folder), metrics=list(metrics), level=0.95)


EARLY_ANSWER = ("early_answer_at_0", "early_answer_area", "early_answer_flips")
EMBEDDED = ("embedding_clusters", "embedding_clusters_correct", "cluster_entropy", "vendi", "vendi_correct")
#: Slow measurements that a study's block may ask for, ``(model folder, sample set)``.
EXTRAS = {"early_answer": probe_answers, "embeddings": embed}


def compare_with_base(base: str, out: str, *, level: float) -> None:
    """Measure what only a pair of sets can show (lost support, hard tail, marker shift) into ``against_base.csv``."""
    from opsd_eval.tables import pair_table, save_pair_table

    save_pair_table(pair_table(Path(base), Path(out), level=level), Path(out))


def has_columns(folder: Path, metrics: Sequence[str]) -> bool:
    """Whether a measured set already has these metrics (their estimates are written last)."""
    return set(metrics) <= {row["metric"] for row in read_json(folder / "estimates.json")["rows"]}


def portable(path: str) -> str:
    """A path relative to the working folder where possible, so that records do not name a machine's folders."""
    try:
        return Path(path).resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return path


def is_measured(folder: Path) -> bool:
    """Whether a sample set went through all three steps (measuring comes last and writes whole files)."""
    return (folder / "measures.csv").exists() and (folder / "estimates.json").exists()


def is_measured_from(folder: Path, model: Path) -> bool:
    """Whether a sample set is measured and its completions are those of the model as it is now (if it still is)."""
    if not is_measured(folder) or not (model / "config.json").exists():
        return is_measured(folder)
    return read_run(folder).model.get("sha256") in (None, sha256_folder(model))


def is_trained(checkpoint: Path, config: Mapping[str, Any]) -> bool:
    """Whether the last checkpoint of a run of this training config is there, whole.

    Any other is left to the trainer: it goes on from an older one, or says which settings differ.
    """
    from opsd_train.config import TrainConfig

    whole = what_is_broken(checkpoint) is None
    return whole and read_json(checkpoint / MANIFEST).get("config_hash") == TrainConfig.from_dict(config).hash


def steps_logged(run: Path) -> int:
    """Steps in the training log so far, for the progress bar."""
    try:
        with (run / "train.jsonl").open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 16), b""))
    except OSError:
        return 0
