"""The bases that ship with the package: small Qwen3 models in Hugging Face format."""

from __future__ import annotations

import re
from pathlib import Path

from opsd_eval.records import read_json
from opsd_eval.testbed.worlds import SWEEP, world

BASES = Path(__file__).parent / "bases"
TESTBED = "testbed:"


def shipped_bases() -> list[tuple[str, int]]:
    """(world, base seed) of every base in the package, sorted."""
    found = (re.fullmatch(r"(.+)_s(\d+)", p.name) for p in BASES.glob("*") if (p / "config.json").is_file())
    return sorted((m[1], int(m[2])) for m in found if m)


def base_path(world_name: str, seed: int) -> Path:
    """Folder of a shipped base; the recovery sweep's further hunch worlds use the base of ``hunch_r10``."""
    home = "hunch_r10" if world_name in SWEEP else world(world_name).name
    path = BASES / f"{home}_s{seed}"
    if (home, seed) not in shipped_bases():
        listed = ", ".join(f"{w}_s{s}" for w, s in shipped_bases()) or "none"
        raise ValueError(
            f"no base is shipped for world {world_name!r} and seed {seed}; shipped: {listed}. "
            f"Train one with: opsd-train pretrain {world_name} --seed {seed} --out DIR"
        )
    return path


def resolve_path(path: str) -> str:
    """A folder or hub id as it is; ``testbed:<world>_s<seed>`` becomes the folder of a shipped base."""
    if not path.startswith(TESTBED):
        return path
    world_name, separator, seed = path.removeprefix(TESTBED).rpartition("_s")
    if not separator or not seed.isdigit():
        raise ValueError(f"model path {path!r}: a shipped base is written testbed:<world>_s<seed>, e.g. hunch_r10_s0")
    return str(base_path(world_name, int(seed)))


def bases_table() -> str:
    """What ``base.json`` records of every shipped base, as Markdown; worlds that share weights share a row."""
    splits = ("id", "longer", "larger", "heldout_mix")
    rates = ("p_check", "step_accuracy", "p_wait_given_mismatch", "slip_rate")
    head = ["base", "steps", "loss", *splits, *rates, "teacher accuracy", "teacher p_check", "reference accuracy"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for world_name, seed in shipped_bases():
        record = read_json(base_path(world_name, seed) / "base.json")
        found = record["rates"]
        student = [found[f"student.{split}"]["accuracy"] for split in splits]
        student += [found["student.id"][rate] for rate in rates]
        teacher, reference = (found[f"{world_name}.{role}.id"] for role in ("teacher", "reference"))
        shown = [*student, teacher["accuracy"], teacher["p_check"], reference["accuracy"]]
        cells = [f"{world_name}_s{seed}", str(record["training"]["steps"]), f"{record['final_loss']:.3f}"]
        rows.append("| " + " | ".join([*cells, *("–" if v is None else f"{v:.2f}" for v in shown)]) + " |")
    return "\n".join(rows) + "\n"
