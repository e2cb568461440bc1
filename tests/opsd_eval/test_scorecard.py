import dataclasses
import json
import math

import pandas as pd
import pytest

from opsd_eval import records, scorecard, scorecard_text, stats, tables
from opsd_eval.scorecard import ScorecardSettings, build_scorecard

ARMS = ("base", "standard", "purified")
SETTINGS = ScorecardSettings(
    arms=ARMS, contrasts=scorecard.default_contrasts(ARMS), primary=("acc",), margins={"acc": 0.05},
    directions={"acc": "higher", "tokens": "neither"}, gap_metrics=("acc",), out_of_distribution=("longer",),
)  # fmt: skip


def table(cells):
    """{(arm, base seed, train seed, split, metric): {problem: value}} as a long table of world w."""
    rows = [
        {"world": "w", "split": split, "arm": arm, "base_seed": base, "train_seed": train, "step": 1,
         "problem_id": problem, "metric": metric, "value": value}
        for (arm, base, train, split, metric), by_problem in cells.items() for problem, value in by_problem.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def row(rows, **wanted):
    (found,) = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return found


def problems(values, prefix="p"):
    return {f"{prefix}{i}": v for i, v in enumerate(values)}


def small(n_base_seeds=1):
    cells = {}
    for base in range(n_base_seeds):
        wobble = 0.01 * base
        cells["base", base, None, "id", "acc"] = problems([0.8, 0.6, 0.7, 0.9])
        cells["base", base, None, "longer", "acc"] = problems([0.5, 0.6, 0.4, 0.5], "q")
        for train in (1, 2):
            cells["standard", base, train, "id", "acc"] = problems([0.2 + wobble, 0.1, 0.3, 0.2 * train])
            cells["standard", base, train, "longer", "acc"] = problems([0.3, 0.4 + wobble, 0.1, 0.2], "q")
            cells["purified", base, train, "id", "acc"] = problems([0.8, 0.61 + wobble, 0.7, 0.9])
            cells["purified", base, train, "longer", "acc"] = problems([0.5, 0.6, 0.4, 0.51], "q")
    return table(cells)


def test_levels_are_means_over_problems_of_means_over_seeds():
    rows = build_scorecard(small(), SETTINGS)
    level = row(rows, contrast="level", arm="standard", split="id")
    assert level["estimate"] == pytest.approx((0.2 + 0.1 + 0.3 + 0.3) / 4)
    assert (level["n_problems"], level["n_dropped"], level["n_seeds"]) == (4, 0, 2)
    assert level["seed_sd"] == pytest.approx(0.05 / math.sqrt(2))  # means .2 and .25
    assert level["difference"] is None and level["verdict"] is None
    expected = stats.mean_estimate([0.2, 0.1, 0.3, 0.3])
    assert (level["low"], level["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_contrast_is_paired_by_problem_and_seed():
    found = row(build_scorecard(small(), SETTINGS), contrast="standard-base", split="id", metric="acc")
    expected = stats.paired_difference(problems([0.2, 0.1, 0.3, 0.3]), problems([0.8, 0.6, 0.7, 0.9]))
    assert found["difference"] == pytest.approx(expected.value) == pytest.approx(-0.525)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((expected.low, expected.high))
    assert found["p_value"] == expected.p_value == 2 / 16
    assert (found["verdict"], found["n_seeds"], found["margin"]) == ("degraded", 2, 0.05)
    assert found["estimate"] == pytest.approx(0.225)
    assert found["scope"] == "checkpoints" and "these checkpoints" in found["note"]


def test_preserved_wins_inside_the_margin():
    rows = build_scorecard(small(), SETTINGS)
    assert row(rows, contrast="purified-base", split="id", metric="acc")["verdict"] == "preserved"
    assert row(rows, contrast="purified-standard", split="id", metric="acc")["verdict"] == "improved"


def test_method_verdicts_need_three_base_seeds():
    for n_base_seeds, scope in ((2, "checkpoints"), (3, "method")):
        rows = build_scorecard(small(n_base_seeds), SETTINGS)
        contrasts = [r for r in rows if r["contrast"] != "level"]
        assert {r["scope"] for r in contrasts} == {scope}
        assert all((r["note"] is None) == (scope == "method") for r in contrasts)
    assert row(rows, contrast="standard-base", split="id", metric="acc")["n_seeds"] == 6


def test_gap_rows_are_differences_in_differences():
    rows = build_scorecard(small(), SETTINGS)
    gap = row(rows, contrast="standard-base", metric="generalization_gap_acc")
    assert gap["split"] == "id-longer" and gap["better"] == "neither"
    assert gap["difference"] == pytest.approx(-0.525 - (0.25 - 0.5))
    assert gap["estimate"] == pytest.approx(0.225 - 0.25)
    assert {r["contrast"] for r in rows if r["metric"].startswith("generalization_gap")} == {
        "standard-base", "purified-base", "purified-standard",
    }  # fmt: skip


def test_holm_runs_within_contrast_and_split_over_primary_metrics_only():
    cells = {}
    for arm, shift in (("base", 0.0), ("standard", -0.2)):
        train = None if arm == "base" else 1
        for metric, size in (("a", 1.0), ("b", 0.5), ("c", 1.0)):
            values = [size * shift * (i % 3) + 0.1 * i for i in range(8)]
            cells[arm, 0, train, "id", metric] = problems(values)
    settings = dataclasses.replace(SETTINGS, primary=("a", "b"), arms=("base", "standard"),
                                   contrasts=[("standard", "base")], gap_metrics=())  # fmt: skip
    rows = build_scorecard(table(cells), settings)
    contrast = {r["metric"]: r for r in rows if r["contrast"] == "standard-base"}
    adjusted = stats.holm([contrast["a"]["p_value"], contrast["b"]["p_value"]])
    assert [contrast["a"]["p_adjusted"], contrast["b"]["p_adjusted"]] == pytest.approx(list(adjusted))
    assert contrast["c"]["p_adjusted"] is None and not contrast["c"]["primary"]


def test_a_metric_defined_nowhere_has_no_row_and_nan_problems_are_counted():
    cells = {
        ("base", 0, None, "id", "acc"): problems([0.5, math.nan, 0.7]),
        ("standard", 0, 1, "id", "acc"): problems([0.4, 0.2, 0.6]),
        ("base", 0, None, "id", "never"): problems([math.nan] * 3),
        ("standard", 0, 1, "id", "never"): problems([math.nan] * 3),
    }
    settings = dataclasses.replace(SETTINGS, arms=("base", "standard"), contrasts=[("standard", "base")])
    rows = build_scorecard(table(cells), settings)
    assert {r["metric"] for r in rows} == {"acc"}
    contrast = row(rows, contrast="standard-base", metric="acc")
    assert (contrast["n_problems"], contrast["n_dropped"]) == (2, 1)
    assert contrast["difference"] == pytest.approx(-0.1)


def test_different_problems_are_refused():
    cells = {
        ("base", 0, None, "id", "acc"): problems([0.5, 0.6]),
        ("standard", 0, 1, "id", "acc"): problems([0.5, 0.6], "other"),
    }
    settings = dataclasses.replace(SETTINGS, arms=("base", "standard"), contrasts=[("standard", "base")])
    with pytest.raises(ValueError, match="different problems"):
        build_scorecard(table(cells), settings)


def test_two_checkpoints_of_one_run_are_refused():
    twice = pd.concat([small(), small()])
    with pytest.raises(ValueError, match="one checkpoint a run"):
        build_scorecard(twice, SETTINGS)


def test_the_document_is_strict_json_with_the_promised_keys(tmp_path):
    document = scorecard.scorecard_document(build_scorecard(small(), SETTINGS), scorecard.settings_row(SETTINGS))
    records.write_json(tmp_path / "scorecard.json", document)
    read = json.loads((tmp_path / "scorecard.json").read_text())
    promised = [
        "contrast", "arm", "world", "split", "metric", "estimate", "low", "high", "n_problems", "n_dropped", "n_seeds",
        "seed_sd", "chance", "difference", "difference_low", "difference_high", "p_value", "p_adjusted", "margin",
        "mde", "verdict",
    ]  # fmt: skip
    assert set(promised) <= set(read["rows"][0]) and read["config"]["primary"] == ["acc"]


def test_default_contrasts():
    assert scorecard.default_contrasts(ARMS) == [
        ("standard", "base"), ("purified", "base"), ("purified", "standard"),
    ]  # fmt: skip
    assert scorecard.default_contrasts(("base", "x")) == [("x", "base")]


def test_numbers_are_written_for_reading():
    assert scorecard_text.number(0.12345) == "0.123"
    assert scorecard_text.number(-0.5, signed=True) == "−0.500"
    assert scorecard_text.number(1234.56) == "1,234.6"
    assert scorecard_text.number(-0.0001, signed=True) == "0.000"
    assert scorecard_text.number(math.nan) == "–" == scorecard_text.number(None)
    assert scorecard_text.with_half_width(0.5, 0.4, 0.6) == "0.500±0.100"
    assert scorecard_text.with_half_width(0.5, 0.3, 0.6) == "0.500+0.100/−0.200"
    assert scorecard_text.p_text(0.0001) == "p < .001" and scorecard_text.p_text(0.0123) == "p .012"


def test_markdown_and_terminal_show_every_primary_row(make_study, tmp_path):
    sets = tables.at_step(tables.find_sets(make_study(tmp_path / "s", n=6)))
    settings = dataclasses.replace(SETTINGS, primary=("avg@4",), directions={"avg@4": "higher"}, gap_metrics=())
    document = scorecard.scorecard_document(build_scorecard(tables.problem_values(sets), settings), {"level": 0.95})
    markdown = scorecard_text.markdown(document, {"hunch_r10": "the check is skipped | by design"})
    assert "Built in: the check is skipped" in markdown and "**degraded**" in markdown
    assert markdown.count("| avg@4 |") == 2 and "These checkpoints only" in markdown
    terminal = scorecard_text.terminal(document, {"hunch_r10": "the check is skipped"})
    assert "the check is skipped" in terminal and "degraded" in terminal and "pass@2" not in terminal
    assert terminal.count("  avg@4 ") == terminal.count("  marker_rate ") == 2
    assert "Not primary, and not adjusted: distinct_answers, marker_rate." in terminal
    assert max(map(len, terminal.splitlines())) <= 130


def test_terminal_text_cannot_steer_the_terminal():
    assert scorecard_text.printable("a\x1b[31mb\u202ec") == "a�[31mb�c"


def test_recovered_fraction_only_where_standard_lost():
    settings = dataclasses.replace(SETTINGS, directions={"acc": "higher"})
    rows = {r["split"]: r for r in scorecard.recovered_rows(small(), settings)}
    assert rows["id"]["estimate"] == pytest.approx((0.7525 - 0.225) / (0.75 - 0.225))
    assert rows["id"]["low"] < rows["id"]["estimate"] < rows["id"]["high"]
    gained = table({
        ("base", 0, None, "id", "acc"): problems([0.1, 0.2, 0.3]),
        ("standard", 0, 1, "id", "acc"): problems([0.9, 0.8, 0.9]),
        ("purified", 0, 1, "id", "acc"): problems([0.5, 0.6, 0.4]),
    })  # fmt: skip
    (row,) = scorecard.recovered_rows(gained, settings)
    assert math.isnan(row["estimate"]) and row["method"] == "undefined: standard lost nothing"
