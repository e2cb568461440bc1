"""Cells of other constructions and slow measurements: planning, hashing, tables."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from types import SimpleNamespace

import pandas as pd
import pytest

from analyses import cells, construction_bases, constructions, dynamics, stages
from analyses.study_config import load_study
from opsd_train.pretrain import pick_trace

TINY = load_study("tiny")
STUDY = load_study("study")


def test_extras_change_the_hash_of_the_cells_that_ask_for_them_and_of_no_other():
    block = TINY.blocks[0]
    plain = next(cells.cells_of(TINY, block))
    asked = next(cells.cells_of(TINY, replace(block, extras=("early_answer",))))
    assert "extras" not in plain.evaluation and asked.evaluation["extras"] == {"id": ["early_answer"]}
    assert plain.hash != asked.hash
    both = replace(TINY, blocks=(block, replace(block, name="b", arms={}, extras=("early_answer",))))
    assert cells.base_cell(both, "hunch_r10", 0).evaluation == asked.evaluation, "one base serves all blocks"


def test_a_cell_with_extras_keeps_them_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    cell = cells.base_cell(replace(TINY, blocks=(replace(TINY.blocks[0], extras=("early_answer",)),)), "hunch_r10", 0)

    def killed(model, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(stages.EXTRAS, "early_answer", killed)
        cells.perform(asdict(cell), study=str(tmp_path), results=str(tmp_path))
    assert not cells.record_path(tmp_path, cell.name).exists(), "a cell without its extras is not done"
    cells.perform(asdict(cell), study=str(tmp_path), results=str(tmp_path))
    values = {one["split"]: one["values"] for one in cells.read_record(cells.record_path(tmp_path, cell.name))["sets"]}
    assert set(stages.EARLY_ANSWER) <= set(values["id"]) and not set(stages.EARLY_ANSWER) & set(values["longer"])


def test_every_place_of_the_table_is_a_world_with_bases_or_a_planned_arm():
    planned = {(cell.world, cell.arm) for block in STUDY.blocks for cell in cells.cells_of(STUDY, block)}
    for axis, _, _, world, suffix in constructions.places():
        assert all((world, f"{arm}{suffix}") in planned for arm in constructions.ARMS), (axis, world)
        assert all(cells.find_base(STUDY.construction(world), seed)[0] for seed in construction_bases.SEEDS), world


def test_the_table_names_axis_value_and_base(monkeypatch):
    rows = [
        {"world": world, "split": "id", "metric": "avg@8", "arm": arm, "base_seed": base, "train_seed": seed,
         "step": 40, "problem_id": str(problem), "n": 8, "value": value}
        for world, add in (("hunch_r10", 0.0), ("narrow_r10", 0.2))
        for arm, seed, value in (("base", None, 0.5), ("standard", 1, 0.25 + add))
        for base in range(3) for problem in range(4)
    ]  # fmt: skip
    study = SimpleNamespace(select=lambda blocks: pd.DataFrame(rows), config=STUDY)
    table = constructions.constructions(study, ["main"])  # type: ignore[arg-type]
    width = table[table["axis"] == "width"].set_index("given")
    assert width.loc[48, "difference"] == pytest.approx(-0.05) and width.loc[96, "difference"] == pytest.approx(-0.25)
    assert set(width["base_level"]) == {0.5} and set(width["teacher"]) == {"rarely checks"}


def test_finer_steps_of_a_repeated_run_join_the_run_they_repeat():
    columns = ["arm", "step", "value"]
    main = pd.DataFrame([["standard", 5, 0.5], ["standard", 40, 0.1], ["purified", 5, 0.8]], columns=columns)
    fine = pd.DataFrame([["standard_fine", 1, 0.7], ["standard_fine", 40, 0.1]], columns=columns)
    joined = dynamics.with_fine_steps(main, pd.concat([main, fine]))
    assert sorted(zip(joined["arm"], joined["step"], strict=True)) == [
        ("purified", 5), ("standard", 1), ("standard", 5), ("standard", 40),
    ]  # fmt: skip


@pytest.mark.parametrize("label", ["few_slips", "many_slips"])
def test_a_slip_corpus_slips_as_often_as_it_says(label):
    from opsd_eval.testbed.reading import mechanism
    from opsd_eval.testbed.worlds import as_problem, canonical_problems

    world, _, design = construction_bases.RECIPES[label]
    items, rng = canonical_problems("slips", "corpus", 1000, 0), random.Random(0)
    traces = [(item, *pick_trace("slips", item, rng, hunches=[], design=design)) for item in items]
    read = [mechanism(as_problem(world, "corpus", item), text) for item, asked, text in traces if asked == item.question]
    share = sum(one.slips for one in read) / sum(one.attempts for one in read)
    assert len(read) > 500 and share == pytest.approx(design.slip_rate, rel=0.2)
