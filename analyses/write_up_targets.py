"""The tables of ``docs/study.md`` on targets, controls, regime map, mechanism and fork (see write_up.py)."""

from __future__ import annotations

from collections.abc import Callable

from analyses.write_up import change, interval, markdown, number, used
from opsd_eval.tables import BASE, Frame

CHANGES = ("avg@8", "p_check", "step_accuracy")
FORK_WORDS = ("check", "so")


def effects(frame: Frame) -> str:
    """Change from base of every arm, and the distance travelled."""
    rows = []
    for (world, split, arm), part in frame.groupby(["world", "split", "arm"], sort=False):
        row = {"world": world, "split": split, "arm": arm}
        by = part.set_index("metric")
        for metric in CHANGES:
            row[f"`{metric}` − base"] = "–"
            if metric in by.index:
                row[f"`{metric}` − base"] = interval(by.loc[metric], "difference", "low", "high", sign=True)
        row["KL at the end"] = number(part["kl_at_end"].iloc[0], 4)
        row["bases, runs, problems"] = f"{part['base_seeds'].max()}, {part['runs'].max()}, {part['n_problems'].max()}"
        row["speaks of"] = part["scope"].iloc[0]
        rows.append(row)
    return markdown(sorted(rows, key=lambda row: (row["world"], row["split"])))


def regime(frame: Frame) -> str:
    """Change of accuracy by the teacher's check rate."""
    rows = []
    for (split, recovery), part in frame[frame["metric"] == "avg@8"].groupby(["split", "recovery"], sort=True):
        row = {"split": split, "teacher checks": number(recovery, 2)}
        for one in part.to_dict("records"):
            row[f"{one['arm']} − base"] = interval(one, "difference", "low", "high", sign=True)
            row[f"runs ({one['arm']})"] = f"{one['runs']} on {one['base_seeds']} bases"
        rows.append(row)
    return markdown(rows)


def mechanism(frame: Frame) -> str:
    """What the purified target does at a result, before training, by base."""
    rows = []
    for (world, seed), part in frame.groupby(["world", "base_seed"], sort=False):
        row = {"base": f"{world}_s{seed}"}
        for one in part.to_dict("records"):
            signed = one["measure"] != "sharper"
            row[f"`{one['measure']}`"] = interval(one, "value", "low", "high", digits=2, sign=signed)
            row["problems (dropped)"] = f"{one['n_problems']} ({one['n_dropped']})"
        rows.append(row)
    return markdown(rows)


def signs(frame: Frame) -> str:
    """How often each measure promised the direction that step accuracy then took, where its interval excludes 0."""
    rows = []
    moved = frame[(frame["d_step_accuracy_low"] > 0) | (frame["d_step_accuracy_high"] < 0)]
    for name, way in (("m", -1), ("m_weighted", -1), ("shift", 1)):
        right = int(((moved[name] * way > 0) == (moved["d_step_accuracy"] > 0)).sum())
        everywhere = int(((frame[name] * way > 0) == (frame["d_step_accuracy"] > 0)).sum())
        rows.append({
            "measure": f"`{name}`", "right sign, where the change excludes 0": f"{right} of {len(moved)} bases",
            "right sign, all": f"{everywhere} of {len(frame)} bases",
        })  # fmt: skip
    return markdown(rows)


def fork_tokens(frame: Frame) -> str:
    """Probabilities at the decision in both worlds, and their total variation."""
    rows = []
    for (seed, role), part in frame.groupby(["base_seed", "role"], sort=False):
        row = {"base": f"s{seed}", "role": role}
        for one in part.to_dict("records"):
            if one["word"] in FORK_WORDS:
                row[f"{one['world']}: P({one['word']})"] = interval(one, "probability", "low", "high", digits=2)
            else:
                row["total variation between the worlds"] = number(one["probability"])
        rows.append(row)
    return markdown(rows)


def verdict(frame: Frame) -> str:
    """The teacher's verdict against the grader."""
    rows = []
    for (world, seed), part in frame.groupby(["world", "base_seed"], sort=False):
        row = {"base": f"{world}_s{seed}"}
        for one in part.to_dict("records"):
            row[one["what"]] = f"{interval(one, 'estimate', 'low', 'high', digits=2)} (n = {one['n']})"
        rows.append(row)
    return markdown(rows)


def constructions(frame: Frame) -> str:
    """Change of accuracy in distribution by axis and value."""
    rows = []
    shown = frame[(frame["metric"] == "avg@8") & (frame["split"] == "id")]
    for (axis, teacher, given), part in shown.groupby(["axis", "teacher", "given"], sort=False):
        row = {"axis": axis, "teacher": teacher, "value": str(given), "base": number(part["base_level"].iloc[0])}
        for one in part.to_dict("records"):
            row[f"{one['arm']} − base"] = interval(one, "difference", "low", "high", sign=True)
            row["runs (bases), problems"] = f"{one['runs']} ({one['base_seeds']}), {one['n_problems']}"
        rows.append(row)
    return markdown(rows)


def probed(frame: Frame) -> str:
    """Early answers and semantic diversity: the base's level and both changes."""
    rows = []
    for (world, metric), part in frame.groupby(["world", "metric"], sort=False):
        row = {"world": world, "metric": f"`{metric}`"}
        for one in part[part["contrast"] == "level"].to_dict("records"):
            if one["arm"] == BASE:
                row["base"] = interval(one, "estimate", "low", "high")
        for arm in ("standard", "purified"):
            for one in part[part["contrast"] == f"{arm}-{BASE}"].to_dict("records"):
                row[f"{arm} − base"] = change(one)
                row["problems (dropped), bases"] = f"{used(one)}, {one['n_seeds']}"
        rows.append(row)
    return markdown(rows)


def off_task(frame: Frame) -> str:
    """Change of accuracy on the own task and on the other family, and checking there."""
    rows = []
    for (world, arm), part in frame.groupby(["world", "arm"], sort=False):
        row = {"trained in": world, "arm": arm}
        by = part.set_index(["task", "metric"])
        for task, metric in (("own", "avg@8"), ("other", "avg@8"), ("other", "p_check")):
            if (task, metric) in by.index:
                one = by.loc[task, metric]
                row[f"{task}: base `{metric}`"] = number(one["base_level"])
                row[f"{task}: `{metric}` − base"] = interval(one, "difference", "low", "high", sign=True)
        row["KL at the end"] = number(part["kl_at_end"].iloc[0], 4)
        row["bases, problems"] = f"{part['base_seeds'].max()}, {part['n_problems'].max()}"
        row["speaks of"] = part["scope"].iloc[0]
        rows.append(row)
    return markdown(sorted(rows, key=lambda row: row["trained in"]))


TABLES: dict[str, tuple[Callable[[Frame], str], str]] = {
    "targets": (effects, "targets"), "controls": (effects, "controls"), "derived": (effects, "derived"),
    "fork": (effects, "fork"), "fork-tokens": (fork_tokens, "fork_tokens"), "regime": (regime, "regime"),
    "value-tokens": (mechanism, "mechanism"), "value-signs": (signs, "mechanism_sign"), "verdict": (verdict, "verdict"),
    "constructions": (constructions, "constructions"), "probed": (probed, "probed"),
    "off-task": (off_task, "off_task"),
}  # fmt: skip
