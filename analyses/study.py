"""Run a study: every planned cell that is not on record, primary ones first, then the artefacts.

``python -m analyses.study run --config study`` goes on where it stopped; ``status`` counts cells done of planned;
``cell NAME`` runs one alone and says whether it repeats what is on record; ``artefacts`` makes tables and figures;
``docs`` puts tables into the pages; ``all`` is run, then artefacts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analyses import cells, results, stages
from analyses.ablation import claimed
from analyses.command import finish_with
from analyses.jobs import Job, run_jobs, usable_cores
from analyses.study_config import StudyConfig, available, load_study, results_folder
from opsd_eval.names import lookup
from opsd_eval.records import read_json, write_json, write_text
from opsd_eval.tables import BASE


def plan(study: results.Study, runs: Path, *, blocks: Sequence[str] | None = None) -> list[Job]:
    """A job for each cell that is not on record, in order, each after its base."""
    wanted = {cell.name for cell in study.cells(blocks)}
    wanted |= {cells.run_name(cell.world, cell.base_seed, BASE) for cell in study.cells(blocks)}
    return [
        Job(
            cell.name, attempt,
            {"cell": asdict(cell), "study": str(runs / study.config.name), "results": str(study.folder)},
            needs=() if cell.train is None else (cells.run_name(cell.world, cell.base_seed, BASE),),
            weight=3.0 if cell.train is None else 3.0 + cell.last / 2,
        )
        for name, cell in study.planned.items()
        if name in wanted and name not in study.records and cell.base
    ]  # fmt: skip


def attempt(cell: Mapping[str, Any], study: str, results: str) -> None:
    """Run one cell; one that fails is noted in ``failures/`` with its reason, and the study goes on."""
    try:
        cells.perform(cell, study=study, results=results)
    except (ValueError, RuntimeError) as error:
        import traceback

        traceback.print_exc()
        name = cells.from_plain(cell).name
        note = {"name": name, "error": f"{type(error).__name__}: {error}"}
        write_json(Path(results) / "failures" / f"{name}.json", note)


def run(config: StudyConfig, *, runs: Path, out: Path | None, n_jobs: int, blocks: Sequence[str] | None = None) -> None:
    """Run what is missing, then write ``rows.csv``."""
    study = results.load(config, out)
    folder = runs / config.name
    with claimed(folder, {"name": config.name}):
        leftovers(study, folder)
        jobs = plan(study, runs, blocks=blocks)
        run_jobs(jobs, logs=folder / "logs", n_workers=n_jobs, warm_up=stages.warm_up, title=config.name)
    finish(results.load(config, out))


def leftovers(study: results.Study, folder: Path) -> None:
    """Refuse run folders of other cells before anything runs, all of them in one message."""
    stale = [
        name for name, cell in study.planned.items()
        if (path := folder / name / "cell.json").exists() and read_json(path)["hash"] != cell.hash
    ]  # fmt: skip
    if stale:
        raise ValueError(
            f"{folder} holds runs of cells that have changed since; remove these folders, or choose another --runs:\n  "
            + "\n  ".join(stale)
        )


def finish(study: results.Study) -> None:
    """Write the readable table of means, and say what is there."""
    table = results.means_table(study)
    write_text(study.folder / "rows.csv", f"# {study.state()}\n" + table.map(_rounded).to_csv(index=False))
    print(status(study))


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def status(study: results.Study) -> str:
    """Cells done of planned, block by block; failures by name."""
    lines = [f"{study.config.name}: {study.state()}, config {study.config_hash()}"]
    for block in study.config.blocks:
        lines.append(f"  {block.name:<16} {block.tier:<10} {study.state([block.name])}  {block.about}".rstrip())
    if missing := sorted({f"{cell.world}_s{cell.base_seed}" for cell in study.planned.values() if not cell.base}):
        lines.append(f"  no base yet (opsd-train pretrain): {', '.join(missing)}")
    failed = sorted((study.folder / "failures").glob("*.json"))
    for path in failed:
        note = read_json(path)
        if note["name"] not in study.records:
            lines.append(f"  failed: {note['name']}: {note['error']}")
    return "\n".join(lines)


def again(config: StudyConfig, name: str, *, runs: Path, out: Path | None) -> str:
    """Run one cell (and its base) from nothing in ``RUNS/again`` and compare it with the record, value by value."""
    study = results.load(config, out)
    cell = lookup("cell", name, study.planned)
    folder, fresh = runs / "again", runs / "again" / "results"
    base = study.planned[cells.run_name(cell.world, cell.base_seed, BASE)]
    for one in dict.fromkeys((base.name, cell.name)):
        cells.perform(asdict(study.planned[one]), study=str(folder), results=str(fresh))
    new = cells.read_record(cells.record_path(fresh, name))
    old = study.records.get(name)
    if old is None:
        return f"{name} ({cell.hash}): run; nothing on record to compare with"
    same = all(new[key] == old[key] for key in ("sets", "training"))
    return f"{name} ({cell.hash}): {'equal to' if same else 'DIFFERENT from'} the record of commit {old['commit']}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analyses.study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("verb", choices=("all", "run", "status", "cell", "artefacts", "docs"))
    parser.add_argument("name", nargs="?", help="cell: its name; artefacts: one of them (default: all)")
    parser.add_argument("--config", default="study", help=f"one of {', '.join(available())}, or a YAML file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for runs (default: runs)")
    parser.add_argument("--results", type=Path, default=None, help="folder for records and tables (default: results)")
    parser.add_argument("--jobs", type=int, default=None, help="processes side by side (default: one a core)")
    parser.add_argument("--blocks", default=None, help="only these blocks, separated by commas")
    args = parser.parse_args(argv)

    def work() -> str:
        config = load_study(args.config)
        _dispatch(args, config)
        return f"results: {results_folder(config, args.results)}"

    return finish_with(work)


def _dispatch(args: argparse.Namespace, config: StudyConfig) -> None:
    blocks = None if args.blocks is None else [config.block(name).name for name in args.blocks.split(",")]
    if args.verb in ("all", "run"):
        run(config, runs=args.runs, out=args.results, n_jobs=args.jobs or usable_cores(), blocks=blocks)
    if args.verb == "status":
        print(status(results.load(config, args.results)))
    if args.verb in ("all", "artefacts"):
        from analyses.artefacts import make_all

        print(make_all(results.load(config, args.results), only=args.name))
    if args.verb == "docs":
        from analyses.write_up import write

        changed = write(results.load(config, args.results), Path())
        print("changed: " + (", ".join(map(str, changed)) or "nothing"))
    if args.verb == "cell":
        if not args.name:
            raise ValueError("which cell? give its name, such as hunch_r10_s0_standard_t1")
        print(again(config, args.name, runs=args.runs, out=args.results))


if __name__ == "__main__":
    raise SystemExit(main())
