"""Off-task forgetting: splits of another world, two-family corpora and bases, the table."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace

import pandas as pd
import pytest

from analyses import cells, off_task, two_family_bases, write_up_targets
from analyses.study_config import load_study
from opsd_eval.records import read_json, sha256_folder

TINY = load_study("tiny")
STUDY = load_study("study")


def test_a_split_named_after_another_world_asks_its_problems(tmp_path):
    block = replace(TINY.blocks[0], splits=("id", "search"))
    config = replace(TINY, blocks=(block,))
    base, cell = cells.base_cell(config, "hunch_r10", 0), next(cells.cells_of(config, block))
    assert base.sets == (("id", 0), ("search", 0)), "the base answers what some block asks of its world, no more"
    assert set(cell.sets) == {("id", 1), ("id", 2), ("search", 2)}
    for one in (base, cell):
        cells.perform(asdict(one), study=str(tmp_path), results=str(tmp_path))
    sets = {s["split"]: s for s in cells.read_record(cells.record_path(tmp_path, cell.name))["sets"] if s["step"] == 2}
    run = read_json(tmp_path / cell.name / "eval" / "testbed.hunch_r10.search" / "step-000002" / "run.json")
    assert run["config"]["benchmark"]["name"] == "testbed.search.id"
    assert not set(sets["id"]["problems"]) & set(sets["search"]["problems"])
    assert "support_loss" in sets["search"]["values"], "paired with the base's answers to the same problems"


def test_the_planned_cells_are_tested_on_both_families():
    planned = [cell for name in ("off_task", "off_task_search") for cell in cells.cells_of(STUDY, STUDY.block(name))]
    families = {(cell.testbed_world, split) for cell in planned for split, _ in cell.sets}
    assert families == {("hunch_r10", "id"), ("hunch_r10", "search"), ("hunch_r100", "id"), ("hunch_r100", "search"),
                        ("search", "id"), ("search", "hunch_r10")}  # fmt: skip
    assert {cell.base_seed for cell in planned} == set(two_family_bases.SEEDS) and all(cell.base for cell in planned)


def test_half_of_the_corpus_is_of_either_family():
    from opsd_eval.testbed.vocabulary import build_tokenizer

    tokenizer, stream = build_tokenizer(), two_family_bases.corpus(build_tokenizer(), seed=0)
    opened = [tokenizer.convert_ids_to_tokens(ids)[: prompt + 1] for ids, prompt in (next(stream) for _ in range(600))]
    asked = [words for words in opened if {"start", "find"} & set(words)]
    search = [words for words in asked if "find" in words]
    assert 0.4 < len(search) / len(asked) < 0.6
    assert all(words[-1] == ("try" if "find" in words else "maybe") for words in asked), "each opens as its family does"


@pytest.mark.parametrize("seed", two_family_bases.SEEDS)
def test_a_base_knows_both_families(seed):
    folder = two_family_bases.FOLDER / f"two_s{seed}"
    record = read_json(folder / "base.json")
    assert record["sha256"] == sha256_folder(folder)
    assert all(record["rates"][family]["student.id"]["accuracy"] > 0.6 for family in two_family_bases.FAMILIES)


def test_the_table_sets_the_own_task_beside_the_other():
    rows = [
        {"world": "two_r10", "split": split, "metric": "avg@8", "arm": arm, "base_seed": base, "train_seed": seed,
         "step": 40, "problem_id": f"{split}{problem}", "n": 8, "value": value}
        for split, lost in (("id", 0.5), ("search", 0.25))
        for arm, seed, value in (("base", None, 0.75), ("standard", 1, 0.75 - lost))
        for base in range(3) for problem in range(4)
    ]  # fmt: skip
    cell = SimpleNamespace(world="two_r10", sets=(("id", 40), ("search", 40)))
    study = SimpleNamespace(
        config=STUDY, cells=lambda blocks: [cell], select=lambda blocks: pd.DataFrame(rows),
        training=lambda blocks: pd.DataFrame({"arm": ["standard"], "world": ["two_r10"], "step": [40], "kl_base": [0.5]}),
    )  # fmt: skip
    table = off_task.off_task(study, ["off_task"])  # type: ignore[arg-type]
    by = table.set_index("task")
    assert by.loc["own", "difference"] == -0.5 and by.loc["other", "difference"] == -0.25
    assert set(table["base_level"]) == {0.75} and set(table["base_seeds"]) == {3}
    assert off_task.figure(table, study) is not None  # type: ignore[arg-type]
    written = write_up_targets.off_task(table)
    assert "| two_r10 | standard | .750 | -.500 [-.500, -.500] | .750 | -.250 [-.250, -.250] |" in written
