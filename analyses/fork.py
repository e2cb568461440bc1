"""Analysis 10: two worlds with the same four distributions where the student decides, and opposite right choices.

After ``maybe h`` the student says ``check`` or ``so``, each half of the time; the teacher always says ``so``. In *fork*
``so`` answers with the hunch and ``check`` works the answer out; in *fork_swapped* the two words have changed places.
``fork_tokens.csv``: mean probability of both words under each role, per base, and the total variation between the two
worlds' distributions (over ``check``, ``so`` and the rest). ``fork.csv``: what each arm then does to accuracy.
Any function of the four distributions at that token answers both worlds alike, so what it gains in one it loses in the
other; ``credited`` reads more than one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.cells import find_base
from analyses.effects import bars, effects
from analyses.four import FROZEN, scored, word_ids
from analyses.results import Study
from opsd_eval import stats
from opsd_eval.plotstyle import INK, colours, footnote, new_figure, style
from opsd_eval.tables import BASE, Frame

WORLDS = ("fork", "fork_swapped")
PROBLEMS = 100


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write both tables and the figure."""
    import pandas as pd

    seeds = sorted({cell.base_seed for cell in study.cells(blocks)})
    tokens = pd.DataFrame([row for seed in seeds for row in decision(study, seed)])
    written = [study.table("fork_tokens", tokens, blocks=blocks)]
    table = effects(study, blocks)
    if len(table):
        written.append(study.table("fork", table, blocks=blocks))
        with style():
            drawn = figure(table)
        path = study.figure("fork", drawn, blocks=blocks)
        written += [path] if path else []
    return written


def decision(study: Study, seed: int) -> list[dict[str, Any]]:
    """P(check) and P(so) under every role in both worlds at the token after ``maybe h``, and how far they differ."""
    import torch

    means: dict[tuple[str, str], Any] = {}
    rows = []
    for label in WORLDS:
        there = study.config.construction(label)
        folder, _ = find_base(there, seed)
        if not folder:
            return []
        ids = word_ids(folder)
        found = {role: [] for role in FROZEN}
        for one in scored(folder, there.world, n=PROBLEMS):
            if len(one.words) > 2 and one.words[0] == "maybe":
                for role in FROZEN:
                    found[role].append([float(one.logp[role][2, ids[word]].exp()) for word in ("check", "so")])
        for role, pairs in found.items():
            means[label, role] = torch.tensor(pairs).mean(0)
            for at, word in enumerate(("check", "so")):
                one = stats.mean_estimate([pair[at] for pair in pairs], level=study.config.level)
                rows.append({"base_seed": seed, "world": label, "role": role, "word": word, "probability": one.value,
                             "low": one.low, "high": one.high, "n_problems": one.n_problems})  # fmt: skip
    for role in FROZEN:
        sides = [torch.cat([m, 1 - m.sum(0, keepdim=True)]) for m in (means[w, role] for w in WORLDS)]
        distance = 0.5 * float((sides[0] - sides[1]).abs().sum())
        rows.append({"base_seed": seed, "world": "difference", "role": role, "word": "total variation",
                     "probability": distance, "low": None, "high": None, "n_problems": PROBLEMS})  # fmt: skip
    return rows


def figure(table: Frame) -> Any:
    """Change of accuracy in one world against the other, a point an arm."""
    shown = table[(table["metric"] == "avg@8") & (table["split"] == "id")]
    sides = {world: shown[shown["world"] == world].set_index("arm") for world in WORLDS}
    arms = [arm for arm in sides["fork"].index if arm in sides["fork_swapped"].index]
    if not arms:
        return None
    drawn, axes = new_figure(1, 1, width=5.2, height=4.2)
    panel, palette = axes[0, 0], colours([BASE, *arms])
    for arm in arms:
        x, y = (sides[world].loc[arm] for world in WORLDS)
        panel.errorbar(x["difference"], y["difference"], color=palette[arm], marker="o", label=arm, capsize=2,
                       xerr=bars(x), yerr=bars(y))  # fmt: skip
        panel.annotate(arm, (x["difference"], y["difference"]), xytext=(5, 5), textcoords="offset points", fontsize=8)
    limits = 0.75
    panel.plot([-limits, limits], [limits, -limits], color=INK, linewidth=0.8, linestyle="--")
    panel.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    panel.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    panel.set_xlabel("accuracy in fork, arm − base")
    panel.set_ylabel("accuracy in fork_swapped, arm − base")
    footnote(drawn, "dashed: what one gains the other loses")
    return drawn
