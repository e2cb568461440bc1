from pathlib import Path

from analyses import stages
from opsd_eval import tables


def test_what_is_done_is_recognised(tmp_path, make_set):
    folder = make_set(tmp_path / "set")
    assert stages.is_measured(folder)
    assert stages.has_columns(folder, ["avg@4"]) and not stages.has_columns(folder, ["avg@4", "vendi"])
    assert not stages.has_columns(folder, ["pass@2"])  # in measures.csv, but killed before its estimate was written
    (folder / "estimates.json").unlink()
    assert not stages.is_measured(folder)


def test_steps_are_counted_while_they_are_written(tmp_path):
    assert stages.steps_logged(tmp_path) == 0
    (tmp_path / "train.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert stages.steps_logged(tmp_path) == 2


def test_records_name_no_folder_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stages.portable(str(tmp_path / "runs" / "x")) == "runs/x"
    assert stages.portable("/elsewhere/x") == "/elsewhere/x"


def test_a_set_is_compared_with_its_base(tmp_path, make_set):
    base, other = make_set(tmp_path / "base"), make_set(tmp_path / "other", arm="standard")
    stages.compare_with_base(str(base), str(other), level=0.95)
    table = tables.against_base([tables.SetInfo(Path(other), "w", "id", "standard", 0, 1, 10)])
    rows = table.set_index("metric")
    assert {"support_loss", "hard_tail_retention", "marker_shift"} <= set(rows.index)
    assert rows.loc["support_loss", "n_problems"] == 12 and set(table["arm"]) == {"standard"}
    assert tables.against_base([]).empty
