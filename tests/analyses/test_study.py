import dataclasses
from dataclasses import asdict, replace

import pytest

from analyses import cells, results, study
from analyses.study_config import available, load_study, parse_study
from opsd_eval.records import read_json

TINY = load_study("tiny")


def values_of(name="tiny"):
    import yaml

    return yaml.safe_load(available()[name].read_text())


@pytest.mark.parametrize("name", sorted(available()))
def test_committed_studies_fix_what_could_be_chosen_later(name):
    config = load_study(name)
    assert config.name == name and config.blocks[0].tier == "primary"
    assert all(config.margins[metric] > 0 for metric in config.primary)
    assert set(config.power["problem_sd"]) == set(config.power["seed_sd"]) == set(config.primary)
    names = [cell.name for cell in results.load(config, "nowhere").cells()]
    assert names and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"primry": ["x"]}, "primary"),
        ({"margins": {}}, "margin above 0"),
        ({"series": {"id": [3]}}, r"1\.\.2"),
        ({"splits": ["longest"]}, "longer"),
        ({"blocks": {"b": {"worlds": ["hunch_r11"], "base_seeds": [0], "train_seeds": [1], "arms": {}}}}, "hunch_r1"),
        ({"blocks": {"b": {"worlds": ["slips"]}}}, "missing settings: base_seeds"),
        ({"blocks": {"b": {"worlds": ["slips"], "base_seeds": [0], "train_seeds": [1], "arms": {"base": {}}}}}, "base"),
    ],
)
def test_a_bad_study_says_what_is_allowed(change, said):
    with pytest.raises(ValueError, match=said):
        parse_study({**values_of(), **change})


def test_a_cell_is_its_numbers_not_its_names():
    first = next(cells.cells_of(TINY, TINY.blocks[0]))
    assert first.hash == cells.from_plain(asdict(first)).hash == "d5e6c7590a0292a3"
    renamed = replace(first, world="another", arm="another", base="elsewhere")
    assert renamed.hash == first.hash
    for changed in (
        replace(first, base_sha256="0"), replace(first, sets=first.sets[:-1]), replace(first, testbed_world="slips"),
        replace(first, evaluation={**first.evaluation, "draws": 3}),
        replace(first, train={**first.train, "method": {**first.train["method"], "beta": 2.0}}),
    ):  # fmt: skip
        assert changed.hash != first.hash
    slower = {**first.train, "run": {**first.train["run"], "checkpoint_every": 7}}
    assert replace(first, train=slower).hash == first.hash, "no number depends on how often a run is saved"


def test_one_name_is_one_cell():
    block = TINY.blocks[0]
    same = dataclasses.replace(TINY, blocks=(block, replace(block, name="again")))
    assert len(cells.study_cells(same)) == 3
    other = replace(block, name="other", arms={"standard": {"method.beta": 2.0, "method.target": "no_anchor"}})
    with pytest.raises(ValueError, match=r"block other: hunch_r10_s0_standard_t1 .* rename the arm"):
        cells.study_cells(dataclasses.replace(TINY, blocks=(block, other)))


def test_every_prefix_is_balanced_over_base_seeds():
    block = replace(TINY.blocks[0], base_seeds=(0, 1, 2), train_seeds=(1, 2))
    order = [(cell.train_seed, cell.base_seed) for cell in cells.cells_of(TINY, block)]
    assert order == sorted(order)


def test_a_world_whose_base_nobody_trained_is_planned_and_not_run(tmp_path):
    values = values_of()
    values["worlds"] = {"weak": {"world": "slips", "base": str(tmp_path / "weak_s{seed}")}}
    values["blocks"]["main"]["worlds"] = ["weak"]
    there = results.load(parse_study(values), tmp_path)
    assert there.state() == "0 of 2 cells" and study.plan(there, tmp_path) == []
    assert "no base yet (opsd-train pretrain): weak_s0" in study.status(there)


# --- from nothing to artefacts ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tiny study, stopped after one trained cell and then finished."""
    folder = tmp_path_factory.mktemp("study")
    there = results.load(TINY, folder / "results")
    for job in study.plan(there, folder / "runs")[:2]:
        job.function(**job.arguments)
    partial = results.load(TINY, folder / "results")
    for job in study.plan(partial, folder / "runs"):
        job.function(**job.arguments)
    return folder, partial, results.load(TINY, folder / "results")


def test_a_partial_study_says_so_and_is_taken_up(done, tmp_path):
    _, partial, whole = done
    assert partial.state(["main"]) == "1 of 2 cells" and whole.state(["main"]) == "2 of 2 cells"
    assert [job.name for job in study.plan(partial, tmp_path)] == ["hunch_r10_s0_purified_t1"]
    assert study.plan(whole, tmp_path) == []
    table = partial.scorecard(["main"], ["standard", "purified"])
    assert set(table["arm"]) == {"base", "standard"}


def test_records_hold_what_analyses_need(done):
    _, _, whole = done
    values = whole.select(["main"], steps="all")
    assert set(values["step"]) == {0, 1, 2} and set(values["split"]) == {"id", "longer"}
    last = values[(values["step"] == 2) & (values["arm"] == "standard")]
    assert {"avg@2", "p_check", "support_loss", "marker_shift"} <= set(last["metric"])
    assert (last.groupby(["split", "metric"]).size() == 4).all()
    log = whole.training(["main"])
    assert {"loss", "grad_norm", "kl_base", "marker_rate", "diagnostics.norm_ratio_centred"} <= set(log)
    record = whole.records["hunch_r10_s0_standard_t1"]
    assert record["hash"] == whole.planned["hunch_r10_s0_standard_t1"].hash and "commit" in record


def test_a_record_of_other_settings_does_not_count(done):
    folder, _, _ = done
    changed = dataclasses.replace(TINY, draws=3)
    assert results.load(changed, folder / "results").state() == "0 of 2 cells"
    with pytest.raises(ValueError, match="cells that have changed since"):
        study.leftovers(results.load(changed, folder / "results"), folder / "runs" / "tiny")


def test_one_cell_alone_repeats_its_record(done, tmp_path):
    folder, _, _ = done
    said = study.again(TINY, "hunch_r10_s0_standard_t1", runs=tmp_path, out=folder / "results")
    assert "equal to the record" in said


@pytest.fixture(scope="module")
def made(done):
    """The whole study with its artefacts made, and what making them said."""
    from analyses.artefacts import make_all

    return done[2], make_all(done[2])


def test_every_artefact_says_how_much_of_the_study_it_is(made):
    from analyses.artefacts import make_all

    whole, said = made
    assert "ablation_table.csv" in said
    first = (whole.folder / "ablation_table.csv").read_text().splitlines()[0]
    assert first.startswith("# 2 of 2 cells of main; config ")
    notes = read_json(whole.folder / "artefacts.json")
    assert all(note["cells_planned"] >= note["cells_done"] for note in notes.values())
    before = {path: path.read_bytes() for path in whole.folder.rglob("*.csv")}
    make_all(whole)
    assert all(path.read_bytes() == content for path, content in before.items()), "artefacts are reproducible"


def test_a_failing_cell_is_noted_and_the_study_goes_on(tmp_path):
    cell = next(cells.cells_of(TINY, TINY.blocks[0]))
    broken = asdict(replace(cell, train={**cell.train, "method": {**cell.train["method"], "target": "nonsense"}}))
    study.attempt(broken, study=str(tmp_path / "runs"), results=str(tmp_path))
    assert "nonsense" in read_json(tmp_path / "failures" / f"{cell.name}.json")["error"]


def test_pages_are_filled_from_results_and_say_what_is_missing(made):
    from analyses import write_up

    whole, _ = made
    page = "a\n<!-- table:ablation:begin -->\nold\n<!-- table:ablation:end -->\nb <!-- table:sensitivity:begin -->\n<!-- table:sensitivity:end -->"
    filled = write_up.fill(page, whole)
    assert "| hunch_r10 | id |" in filled and "2 of 2 cells of main" in filled and "old" not in filled
    assert "No finished cell yet" in filled and write_up.fill(filled, whole) == filled
    with pytest.raises(ValueError, match="ablation"):
        write_up.table("ablations", whole)


def test_committed_pages_equal_committed_results():
    from pathlib import Path

    from analyses import write_up

    root = Path(__file__).parents[2]
    there = results.load("study", root / "results")
    for name in write_up.PAGES:
        page = (root / name).read_text(encoding="utf-8")
        assert write_up.fill(page, there) == page, f"{name} is stale: run python -m analyses.study docs"


def test_numbers_are_written_as_the_pages_write_them():
    from analyses.write_up import interval, number

    assert [number(v, 2) for v in (0.5, -0.25, 1.5, float("nan"))] == [".50", "-.25", "1.50", "–"]
    assert number(0.012, 3, sign=True) == "+.012"
    row = {"v": 0.1, "l": float("nan"), "h": float("nan")}
    assert interval(row, "v", "l", "h") == ".100 [no interval]"
