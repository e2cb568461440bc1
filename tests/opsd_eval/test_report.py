import argparse
import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from opsd_eval import figures, records, report, report_data, report_page, report_samples, scorecard
from opsd_eval.ingest import ingest
from tests.browser import visit

ARMS = ("base", "standard", "purified")
SETTINGS = scorecard.ScorecardSettings(
    arms=ARMS, contrasts=scorecard.default_contrasts(ARMS), primary=("avg@4",), margins={"avg@4": 0.05},
    gap_metrics=("avg@4",), out_of_distribution=("longer",),
)  # fmt: skip
HOSTILE = (
    "</pre></article><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    "<img src='http://127.0.0.1:9/leak.png'><svg onload=\"document.title='pwned'\"></svg>"
    "<style>@import 'http://127.0.0.1:9/leak.css'; body{display:none}</style><iframe src='http://127.0.0.1:9/'></iframe>"
    "{{ 7*7 }} {% raw %} --> ]]> \x00\x1b[2J \u202etxet <meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>"
    "<a href='javascript:document.title=1'>x</a> \\boxed{7}"
)


class Tags(html.parser.HTMLParser):
    """Counts tags and keeps every attribute that could load something."""

    def __init__(self, page):
        super().__init__()
        self.counts, self.loads, self.handlers = {}, [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.loads += [v for name, v in attributes if name in ("src", "srcset", "data", "action", "background") and v]
        self.loads += [v for name, v in attributes if name == "href" and tag in ("link", "base", "image", "use")]


@pytest.fixture(scope="module")
def study(tmp_path_factory, make_study):
    return make_study(tmp_path_factory.mktemp("report") / "demo", n=6, steps=(10, 20), text=HOSTILE)


@pytest.fixture(scope="module")
def data(study):
    config = {"name": "demo", "note": HOSTILE}
    return report_data.from_study(study, SETTINGS, config=config, about={"hunch_r10": HOSTILE})


@pytest.fixture(scope="module")
def out(study, data):
    report.write_report(data, study / "report")
    return study / "report"


def test_the_folder_holds_what_was_promised(out):
    names = {p.relative_to(out).as_posix() for p in out.rglob("*")}
    assert {"report.html", "scorecard.json", "scorecard.md", "tables/scorecard.csv", "tables/training.csv",
            "tables/problem_values.csv", "tables/series.csv", "figures/contrasts.svg"} <= names  # fmt: skip
    assert not [n for n in names if n.startswith(".") or "/." in n], "a temporary file was left"


def test_model_text_is_inert_and_nothing_loads(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert tags.counts["script"] == 1 and tags.handlers == []
    assert not {"img", "iframe", "object", "embed", "link", "base"} & set(tags.counts)
    assert tags.counts["meta"] == 4 and tags.counts["style"] == 1
    assert all(load.startswith("#") for load in tags.loads)
    assert "\x00" not in page and "\x1b" not in page
    assert "{{ 7*7 }}" in page, "model text is data, not a template"


def test_the_policy_names_exactly_our_script(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1].replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_links_lead_somewhere_inside(out, study):
    page = (out / "report.html").read_text(encoding="utf-8")
    links = set(re.findall(r'<a href="([^"#][^"]*)"', page))
    assert any(link.startswith("completions/") for link in links)
    assert any(link.endswith("samples.jsonl") for link in links)
    for link in links:
        assert not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", link)
        assert (out / link).resolve().exists(), link
    assert "===== standard · draw 3" in (out / "completions" / "0000.txt").read_text(encoding="utf-8")


def test_scorecard_and_page_agree(out):
    rows = json.loads((out / "scorecard.json").read_text())["rows"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'class="badge degraded"', page)) >= sum(r["verdict"] == "degraded" for r in rows)
    assert "These checkpoints only" in page and "Built in." in page


def test_the_same_data_give_the_same_bytes(data, out, tmp_path):
    kept = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    report.write_report(data, out)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == kept


def test_a_failed_write_leaves_the_old_page(data, out, monkeypatch):
    before = (out / "report.html").read_bytes()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(report_page, "render", broken)
    monkeypatch.setattr(figures, "draw_all", lambda data: {})
    with pytest.raises(OSError, match="disk full"):
        report.write_report(data, out)
    assert (out / "report.html").read_bytes() == before


def test_problems_are_chosen_by_hash_and_the_page_is_bounded(data, monkeypatch):
    chosen = [s.problem.problem_id for s in report_samples.choose(data)]
    assert len(chosen) == 12 and chosen == [s.problem.problem_id for s in report_samples.choose(data)]
    monkeypatch.setattr(report_samples, "PROBLEMS_A_PLACE", 2)
    assert len(report_samples.choose(data)) == 4
    assert report_samples.problems_a_place(100, 10) == 1


def test_long_texts_are_shortened_and_say_so():
    text = report_samples.shorten("a" * 2000 + "b" * 9000 + "c" * 1000)
    assert len(text) < report_samples.MAX_CHARS + 100 and "9,000 characters left out" in text
    assert text.startswith("a" * 2000) and text.endswith("c" * 1000)


def test_control_characters_are_pictures_and_those_of_direction_are_named():
    assert report_samples.visible("a\x00\ud800\x85\n") == "a␀��\n"
    assert report_samples.visible(None) == "(no text)"
    directions = [chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]
    assert report_samples.visible("".join(directions)) == "".join(f"⟨U+{ord(c):04X}⟩" for c in directions)
    assert report_samples.visible("\x1b[31m\x7f\x9b\t") == "␛[31m��\t"


def test_loose_sets_are_compared_with_the_first(tmp_path, make_set):
    a = make_set(tmp_path / "a")
    b = make_set(tmp_path / "b", arm="standard")
    code = report.run(_arguments([str(a), str(b), "--out", str(tmp_path / "out"), "--margin", "0.02"]))
    assert code == 0
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    found = [r for r in rows if r["contrast"] != "level" and r["metric"] == "avg@4"]
    assert [r["contrast"] for r in found] == ["made_up_standard-made_up_base"]
    assert found[0]["margin"] == 0.02 and found[0]["verdict"] == "degraded"


def test_loose_checkpoints_of_one_arm_make_a_series_with_its_onset(tmp_path, make_set):
    folders = [make_set(tmp_path / "base", n=40)]
    for step, arm in ((100, "base"), (200, "standard"), (300, "standard")):
        folder = make_set(tmp_path / "mine" / f"checkpoint-{step}", arm=arm, n=40, seed=step, step=None)
        records.write_json(folder / "run.json", {"name": folder.name, "kind": "ingest"})
        folders.append(folder)
    page = report.report_sets(folders, tmp_path / "out").read_text(encoding="utf-8")
    assert "Reported is the last checkpoint: mine at step 300" in page and (tmp_path / "out/figures/series.svg").exists()
    table = pd.read_csv(tmp_path / "out" / "tables" / "series.csv")
    mine = table[table["arm"] == "mine"]
    assert mine["step"].tolist() == [100, 200, 300] and report_data.collapse_onset(mine) == 200
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    assert {r["arm"] for r in rows if r["contrast"] == "level"} == {"made_up_base", "mine"}


def test_three_loose_arms_are_compared_three_ways(tmp_path, make_set):
    arms = {arm: [make_set(tmp_path / arm, arm=arm, n=40)] for arm in ("base", "standard", "purified")}
    report.report_sets([], tmp_path / "out", arms=arms)
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    assert {r["contrast"] for r in rows} == {"level", "standard-base", "purified-base", "purified-standard"}
    table = pd.read_csv(tmp_path / "out" / "tables" / "recovered.csv").set_index("metric")
    mean = {r["arm"]: r["estimate"] for r in rows if r["contrast"] == "level" and r["metric"] == "avg@4"}
    expected = (mean["purified"] - mean["standard"]) / (mean["base"] - mean["standard"])
    assert table.loc["avg@4", "estimate"] == pytest.approx(expected)
    assert set(pd.read_csv(tmp_path / "out" / "tables" / "against_base.csv")["arm"]) == {"standard", "purified"}


def test_two_checkpoints_make_a_series_and_one_does_not(tmp_path, make_set):
    folders = [make_set(tmp_path / "base"), make_set(tmp_path / "mine-step-5", step=5), make_set(tmp_path / "mine-step-9", step=9)]
    for count, drawn in ((2, False), (3, True)):
        report.report_sets(folders[:count], tmp_path / f"out{count}")
        assert (tmp_path / f"out{count}" / "figures" / "series.svg").exists() is drawn


def test_a_second_benchmark_gives_gaps_and_every_family(tmp_path, make_set, capsys):
    """Four sets named as a user would: ids of the two benchmarks differ, and so do their numbers of draws."""
    folders = {}
    for split in ("id", "ood"):
        for arm in ("base", "tuned"):
            folder = make_set(tmp_path / f"{arm}_{split}", arm="standard" if arm == "tuned" else "base", split=split, n=20)
            records.write_json(folder / "run.json", {"name": folder.name, "kind": "ingest"})
            folders[arm, split] = folder
    words = [str(folders[key]) for key in sorted(folders)]  # both of base, both of tuned
    assert report.run(_arguments([*words, "--out", str(tmp_path / "out")])) == 0
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    assert {(r["arm"], r["split"]) for r in rows if r["contrast"] == "level"} == set(folders)
    gaps = {r["metric"]: r for r in rows if r["metric"].startswith("generalization_gap_")}
    assert {"generalization_gap_avg@4", "generalization_gap_pass@4", "generalization_gap_marker_rate"} <= set(gaps)
    change = {r["split"]: r["difference"] for r in rows if r["contrast"] == "tuned-base" and r["metric"] == "avg@4"}
    assert gaps["generalization_gap_avg@4"]["difference"] == pytest.approx(change["id"] - change["ood"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(f'id="figure-{name}"' in page for name in ("accuracy", "diversity", "markers", "gap"))
    printed = capsys.readouterr().out
    assert "gap id-ood" in printed and "marker_rate" in printed and printed.rstrip().endswith("report.html")


def test_problems_that_two_benchmarks_number_alike_stay_apart(tmp_path):
    rows = [{"problem_id": at, "question": "{} {}?", "answer": 1, "cluster": "", "text": "\\boxed{1}"} for at in range(4)]
    for name, more in (("base_id", 0), ("tuned_id", 1), ("base_ood", 0), ("tuned_ood", 1)):
        where = name[-2:]
        log = [r | {"question": f"{where} {r['problem_id']}?", "cluster": f"{where}{r['problem_id'] // 2}",
                    "text": "\\boxed{1}" if r["problem_id"] % 2 >= more else "\\boxed{2}"} for r in rows]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log), encoding="utf-8")
        ingest(tmp_path / f"{name}.jsonl", tmp_path / name)
    report.report_sets([tmp_path / n for n in ("base_id", "tuned_id", "base_ood", "tuned_ood")], tmp_path / "out")
    values = pd.read_csv(tmp_path / "out" / "tables" / "problem_values.csv")
    assert set(values["split"]) == {"id", "ood"} and set(values["arm"]) == {"base", "tuned"}
    assert values.groupby("split")["cluster"].unique().map(sorted).to_dict() == {"id": ["id0", "id1"], "ood": ["od0", "od1"]}
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    (gap,) = [r for r in rows if r["metric"] == "generalization_gap_avg@1"]
    assert gap["difference"] == 0 and gap["n_problems"] == 8 and gap["contrast"] == "tuned-base"


def test_a_group_of_tasks_shows_accuracy_by_task_too(tmp_path):
    group = Path(__file__).parents[1] / "fixtures" / "ingest" / "lm_eval_group"
    for name in ("a", "b"):
        ingest(group, tmp_path / name, task="tiny_all")
    report.report_sets([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    levels = {r["split"]: r["estimate"] for r in rows if (r["contrast"], r["arm"], r["metric"]) == ("level", "a", "avg@3")}
    assert levels == pytest.approx({"all": 7 / 12, "tiny_first": 2 / 3, "tiny_second": 1 / 3, "tiny_last": 2 / 3})
    assert {r["metric"] for r in rows if r["split"] == "tiny_last"} == {"avg@3", "pass@3"}
    assert not [r for r in rows if r["metric"].startswith("generalization_gap")]


def test_arms_can_be_named(tmp_path, make_set):
    sets = [str(make_set(tmp_path / name)) for name in ("x", "y")]
    out = str(tmp_path / "out")
    assert report.run(_arguments(["--arm", "before", sets[0], "--arm", "after", sets[1], "--out", out])) == 0
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    assert {r["contrast"] for r in rows} == {"level", "after-before"}
    with pytest.raises(ValueError, match="--arm lonely names no set"):
        report.run(_arguments(["--arm", "lonely", "--out", out]))
    with pytest.raises(ValueError, match="at least one sample set"):
        report.run(_arguments(["--out", out]))


def test_sets_with_different_draws_share_what_does_not_depend_on_them(tmp_path, make_set):
    a, b = make_set(tmp_path / "a", draws=4), make_set(tmp_path / "b", arm="standard", draws=6)
    page = report.report_sets([a, b], tmp_path / "out").read_text(encoding="utf-8")
    metrics = {r["metric"] for r in json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]}
    assert "differ in draws" in page and "distinct_answers" not in metrics and "marker_rate" in metrics


def test_a_benchmark_without_the_last_checkpoint_is_named(tmp_path, make_set):
    arms = {"base": [make_set(tmp_path / "base"), make_set(tmp_path / "base_far", split="far")],
            "mine": [make_set(tmp_path / f"mine{step}", arm="standard", step=step) for step in (5, 9)]
            + [make_set(tmp_path / "mine_far", arm="standard", split="far", step=5)]}  # fmt: skip
    data = report.gather_sets([], arms=arms)
    assert "mine has no set of far at its last checkpoint: no row there." in data.notes
    assert {(r["arm"], r["split"]) for r in data.rows if r["contrast"] == "level"} == {
        ("base", "id"), ("base", "far"), ("mine", "id"),
    }  # fmt: skip


def test_loose_sets_of_other_problems_keep_their_levels(tmp_path, make_set):
    a, b = make_set(tmp_path / "a"), make_set(tmp_path / "b", arm="standard", n=5)
    page = report.report_sets([a, b], tmp_path / "out").read_text(encoding="utf-8")
    assert "sampled on different problems" in page
    rows = json.loads((tmp_path / "out" / "scorecard.json").read_text())["rows"]
    assert {r["contrast"] for r in rows} == {"level"}


def test_a_hostile_run_name_is_text(tmp_path, make_set):
    folder = make_set(tmp_path / "a")
    run = json.loads((folder / "run.json").read_text()) | {"name": "<script>alert(1)</script>$\\frac{"}
    records.write_json(folder / "run.json", run)
    page = report.report_sets([folder], tmp_path / "out").read_text(encoding="utf-8")
    assert Tags(page).counts["script"] == 1


def _arguments(words):
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return parser.parse_args(words)


# --- in a browser -------------------------------------------------------------------------------------------


@pytest.mark.real
def test_chromium_runs_no_model_script_searches_and_sends_nothing(out, tmp_path):
    page = (out / "report.html").read_text(encoding="utf-8")
    probe = tmp_path / "probe.html"  # the same page and policy, plus one script of ours that drives the filters
    drive = (
        "const s=document.querySelector('[name=search]');const seen=()=>document.getElementById('count').textContent;"
        "const all=seen();s.value='0003';s.dispatchEvent(new Event('input',{bubbles:true}));const found=seen();"
        "s.value='no such words';s.dispatchEvent(new Event('input',{bubbles:true}));const none=seen();"
        "s.value='';const o=document.querySelector('[name=outcome]');o.value='loop';"
        "o.dispatchEvent(new Event('input',{bubbles:true}));"
        "document.documentElement.dataset.probe=[all,found,none,seen()].join('|');"
    )
    digest = base64.b64encode(hashlib.sha256(drive.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ", 1)
    probe.write_text(page.replace("</body>", f"<script>{drive}</script></body>"), encoding="utf-8")
    dom, urls = visit(probe, tmp_path)
    total, found, none, loops = re.search(r'data-probe="([^"]+)"', dom)[1].split("|")
    assert (total, found, none) == ("12 of 12 problems", "2 of 12 problems", "0 of 12 problems")
    expected = sum(dots.count('data-outcome="loop"') > 0 for dots in page.split("<article")[1:])
    assert loops == f"{expected} of 12 problems"
    assert "<title>demo</title>" in dom, "a script of the samples changed the title"
    assert urls == [], "a request left the page"
