"""The bases that ship with the package: small Qwen3 models in Hugging Face format."""

from __future__ import annotations

import re
from pathlib import Path

from opsd_eval.testbed.worlds import SWEEP, world

BASES = Path(__file__).parent / "bases"


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
