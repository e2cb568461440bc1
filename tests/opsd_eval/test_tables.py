import math

import pandas as pd
import pytest

from opsd_eval import records, tables
from opsd_eval.grading import grade_set


@pytest.fixture
def study(tmp_path, make_study):
    return make_study(tmp_path / "demo", n=4, steps=(10, 20))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hunch_r10_s0_base", ("hunch_r10", 0, "base", None)),
        ("slips_s12_no_anchor_t3", ("slips", 12, "no_anchor", 3)),
        ("hunch_r100_s2_standard_t10", ("hunch_r100", 2, "standard", 10)),
    ],
)
def test_run_names(name, parts):
    assert tuple(tables.parse_run_name(name).values()) == (parts[0], parts[2], parts[1], parts[3])


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="not a run name"):
        tables.parse_run_name("report")


def test_find_sets_lists_every_set_with_its_place(study):
    sets = tables.find_sets(study)
    assert len(sets) == 2 * (1 + 2 * 2 * 2)  # splits × (base + arms × seeds × steps)
    assert {(s.world, s.split, s.base_seed) for s in sets} == {("hunch_r10", "id", 0), ("hunch_r10", "longer", 0)}
    assert {s.train_seed for s in sets if s.arm == "base"} == {None}


def test_an_empty_study_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no run folders"):
        tables.find_sets(tmp_path)


def test_at_step_keeps_the_base_and_one_checkpoint_a_run(study):
    sets = tables.find_sets(study)
    assert {(s.arm, s.step) for s in tables.at_step(sets)} == {("base", 0), ("standard", 20), ("purified", 20)}
    assert {(s.arm, s.step) for s in tables.at_step(sets, 10)} == {("base", 0), ("standard", 10), ("purified", 10)}


def test_problem_values_keep_nan_and_place(study):
    values = tables.problem_values(tables.find_sets(study))
    part = values[(values.arm == "base") & (values.split == "id") & (values.metric == "distinct_answers")]
    right = values[(values.arm == "base") & (values.split == "id") & (values.metric == "avg@4")]
    assert len(part) == 4 and part["n"].eq(4).all()
    assert [math.isnan(v) for v in part["value"]] == [v == 1 for v in right["value"]]


def test_unmeasured_sets_say_what_to_run(tmp_path, make_set):
    folder = make_set(tmp_path / "set")
    (folder / "measures.csv").unlink()
    with pytest.raises(ValueError, match="opsd-eval measure"):
        tables.problem_values(tables.loose_sets([folder]))


def test_outcome_shares_sum_to_one_and_right_is_accuracy(study):
    shares = tables.outcome_shares(tables.find_sets(study))
    keys = list(tables.INDEX)
    sums = shares.groupby(keys, dropna=False)["share"].sum()
    assert sums.round(12).eq(1).all()
    values = tables.problem_values(tables.find_sets(study)).query("metric == 'avg@4'")
    right = shares[shares.outcome == "right"].set_index("path")["share"]
    means = values.groupby("path")["value"].mean()
    assert (right.reindex(means.index).fillna(0) - means).abs().max() < 1e-12


def test_training_flattens_and_a_repeated_step_counts_once(study):
    run = study / "hunch_r10_s0_standard_t1"
    records.append_jsonl(run / "train.jsonl", [{"step": 20, "loss": 9.0, "list": [1]}])
    table = tables.training(study)
    part = table[(table.arm == "standard") & (table.train_seed == 1)]
    assert sorted(part.step) == list(range(1, 21))
    assert part.loc[part.step == 20, "loss"].item() == 9.0
    assert "diagnostics.cos_total_ref_plain" in table and "list" not in table


def test_loose_sets_get_unique_names(tmp_path, make_set):
    sets = tables.loose_sets([make_set(tmp_path / "a"), make_set(tmp_path / "b")], arms={"c": [make_set(tmp_path / "x")]})
    assert [s.arm for s in sets] == ["a", "b", "c"]
    assert {(s.world, s.split) for s in sets} == {("made_up", "id")}


def test_saved_tables_cannot_carry_formulas(tmp_path):
    table = pd.DataFrame({"name": ["=HYPERLINK(1)", "plain", "-x", "@x"], "value": [-1.5, 2.0, 3.0, 4.0]})
    (path,) = tables.save_tables({"t": table, "nothing": pd.DataFrame()}, tmp_path)
    assert path.read_text().splitlines() == ["name,value", "'=HYPERLINK(1),-1.5", "plain,2", "'-x,3", "'@x,4"]


def test_marker_profiles_say_where_the_markers_stand(tmp_path):
    from opsd_eval.records import Problem, Sample

    folder = tmp_path / "set"
    records.write_run(folder, records.new_run_record("set", "samples"))
    records.write_problems(folder, [Problem(f"p{i}", "How many apples are in the box?", "3") for i in range(3)])
    late, early = "The box has the apples of the farm. " * 9 + "Wait.", "Wait. " + "The box has the apples of the farm. " * 9
    records.append_samples(folder, [Sample("p0", 0, late), Sample("p1", 0, early), Sample("p2", 0, "Three.")])
    grade_set(folder)
    table = tables.marker_profiles(tables.loose_sets([folder]))
    assert table["tenth"].tolist() == list(range(1, 11))
    assert table["share"].tolist() == [0.5, *[0.0] * 8, 0.5]  # of the two problems that have markers
    assert set(table["n_problems"]) == {2}
