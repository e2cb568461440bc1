"""Bases of other constructions: student size, strength of the base, how often its steps slip.

``narrow`` and ``wide``: hunch bases of half and one and a half times the shipped width, else trained alike. ``weak``:
the shipped size, trained three tenths of the steps. ``few_slips`` and ``many_slips``: the shipped slips base trained on
for 300 steps on a corpus whose steps are first written wrong in 5 % and 30 % (shipped: 15 %).

``python -m analyses.construction_bases`` makes those that are not in ``analyses/bases`` (two to eight minutes each);
name some to make only them: ``python -m analyses.construction_bases wide_s2``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from opsd_eval.names import lookup
from opsd_eval.testbed.design import DESIGN, Design
from opsd_train.pretrain import FAMILY_CONFIGS, PretrainConfig, save_base, train_base

FOLDER = Path(__file__).parent / "bases"
SEEDS = (0, 1, 2)
HUNCH = FAMILY_CONFIGS["hunch"]
ON_SLIPS = PretrainConfig(steps=300, lr=1e-3, warmup=20, pool=20_000, after="slips")
#: label → (world of the corpus, training, design)
RECIPES: dict[str, tuple[str, PretrainConfig, Design]] = {
    "narrow": ("hunch_r10", replace(HUNCH, hidden=48, heads=2, kv_heads=1, mlp=128), DESIGN),
    "wide": ("hunch_r10", replace(HUNCH, hidden=144, heads=6, kv_heads=3, mlp=384), DESIGN),
    "weak": ("hunch_r10", replace(HUNCH, steps=300), DESIGN),
    "few_slips": ("slips", ON_SLIPS, replace(DESIGN, slip_rate=0.05)),
    "many_slips": ("slips", ON_SLIPS, replace(DESIGN, slip_rate=0.3)),
}


def make(label: str, seed: int, folder: Path = FOLDER) -> Path:
    """Train ``<label>_s<seed>`` and write it; returns its folder."""
    import torch

    world_name, config, design = lookup("construction", label, RECIPES)
    out = folder / f"{label}_s{seed}"
    torch.set_num_threads(1)
    save_base(*train_base(world_name, seed=seed, config=config, design=design), out=out)
    return out


def main(wanted: list[str]) -> None:
    """Make the named bases, all that are missing without names."""
    planned = {f"{label}_s{seed}": (label, seed) for label in RECIPES for seed in SEEDS}
    for name in wanted:
        lookup("base", name, planned)
    for name in wanted or [n for n in planned if not (FOLDER / n / "base.json").exists()]:
        print(make(*planned[name]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
