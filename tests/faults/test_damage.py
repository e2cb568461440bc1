"""Files damaged at random: every verb ends with a code and a message, and what can be known to be wrong is said."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import fields

import pytest

from opsd_eval.cli import main
from opsd_eval.records import (
    GRADE_KEYS,
    SAMPLE_KEYS,
    Problem,
    RunRecord,
    append_samples,
    read_json,
    read_jsonl,
    write_json,
)
from opsd_train.cli import main as train_main
from tests.faults.damage import DAMAGE
from tests.faults.scenarios import TRAINING, measured_sets, training_digest

CASES = int(os.environ.get("OPSD_CASES", "200")) // 100  # a kind; 10,000 in the full form
FILES = ("run.json", "problems.jsonl", "samples.jsonl", "grades.jsonl", "measures.csv", "estimates.json")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    measured_sets(folder, 6, 2)
    return folder


@pytest.fixture
def sets(measured, tmp_path):
    shutil.copytree(measured, tmp_path / "sets")  # with times: they are what measuring goes by
    return tmp_path / "sets"


def every_verb_ends_well(sets, capsys, what, *, case=0):
    """No verb crashes; one that refuses names the set. The report, which takes most of the time, sees every fifth case."""
    a, b = str(sets / "a"), str(sets / "b")
    drawn = [["report", a, b, "--out", str(sets / "r")]] if case % 5 == 0 else []
    for command in (["audit", a], ["grade", a], ["measure", a], ["compare", a, b], *drawn):
        code = main(command)
        said = capsys.readouterr().err
        assert code in (0, 1, 2), command
        assert code != 2 or str(sets) in said, f"{command[0]} {what}: {said}"


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_verb_crashes_on_a_damaged_set(measured, tmp_path, capsys, kind):
    for case in range(CASES):
        rng, sets = random.Random(f"{kind}/{case}"), tmp_path / str(case)
        shutil.copytree(measured, sets)
        name = rng.choice(FILES)
        DAMAGE[kind](sets / "a" / name, rng)
        every_verb_ends_well(sets, capsys, f"of a set with {name} {kind}", case=case)
        shutil.rmtree(sets)


JUNK = ("x", "", 5, -1, 10**400, 1.5, True, None, [], [1], [[[]]], {}, {"a": 1}, {"draw": []})
VALUES = {
    "samples.jsonl": (*SAMPLE_KEYS, "more"), "grades.jsonl": GRADE_KEYS,
    "problems.jsonl": tuple(field.name for field in fields(Problem)), "run.json": tuple(f.name for f in fields(RunRecord)),
    "estimates.json": ("files", "sha256", "draws", "words", "encoder", "rows"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in VALUES.items() for key in keys])
def test_no_verb_crashes_on_a_value_of_another_type(measured, tmp_path, capsys, name, key):
    """As a hand-made set, a foreign tool or a hostile sender writes it: whole JSON, another type or none."""
    rng = random.Random(f"{name}/{key}")
    for junk in rng.sample(JUNK, min(max(1, CASES // 4), len(JUNK))):
        sets = tmp_path / "sets"
        shutil.copytree(measured, sets)
        path = sets / "a" / name
        lines = path.read_text().splitlines() if name.endswith("l") else [path.read_text()]
        lines[0] = json.dumps({**json.loads(lines[0]), key: junk})
        path.write_text("\n".join(lines) + "\n")
        every_verb_ends_well(sets, capsys, f"where {key} of {name} is {junk!r:.40}", case=rng.randrange(5))
        shutil.rmtree(sets)


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: f"{junk!r:.12}")
def test_an_encoder_of_another_type_is_none(sets, junk):
    path = sets / "a" / "estimates.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder": junk}))
    assert main(["measure", str(sets / "a")]) == 0


def findings(folder, capsys):
    capsys.readouterr()
    main(["audit", folder.as_posix()])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["problems.jsonl", "samples.jsonl", "grades.jsonl", "measures.csv"])
def test_the_audit_knows_a_file_that_changed_since_it_was_measured(sets, capsys, name):
    assert "changed_files" not in findings(sets / "a", capsys)
    path = sets / "a" / name
    text, at = path.read_bytes(), path.stat()
    place = len(text) - 1 - next(i for i, byte in enumerate(reversed(text)) if chr(byte).isdigit())
    path.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))  # as a disk does it: no time changes
    assert "changed_files" in (said := findings(sets / "a", capsys)) and name in said


def test_lines_added_at_the_end_are_no_damage(sets, capsys):
    first = next(read_jsonl(sets / "a" / "samples.jsonl"))
    append_samples(sets / "a", [_sample(first, draw=9)])
    assert "changed_files" not in findings(sets / "a", capsys)
    assert main(["measure", str(sets / "a")]) == 0
    assert "damaged" not in capsys.readouterr().err


def test_measuring_says_that_what_it_measured_before_has_changed(sets, capsys):
    path = sets / "a" / "samples.jsonl"
    path.write_text(path.read_text().replace("check", "chess", 1))
    assert main(["measure", str(sets / "a")]) == 0
    assert "samples.jsonl changed since it was last measured" in capsys.readouterr().err


def test_a_line_of_another_run_is_found(tmp_path, capsys):
    from opsd_eval.testbed import base_path

    command = ["sample", str(base_path("hunch_r10", 0)), "testbed.hunch_r10.id", "--n", "2", "--limit", "4",
               "--max-new-tokens", "16", "--out"]  # fmt: skip
    assert main([*command, str(tmp_path / "a")]) == 0 and main([*command, str(tmp_path / "b"), "--seed", "1"]) == 0
    assert "foreign_samples" not in findings(tmp_path / "a", capsys)
    rows = [list(read_jsonl(tmp_path / name / "samples.jsonl")) for name in "ab"]
    (tmp_path / "a" / "samples.jsonl").unlink()
    append_samples(tmp_path / "a", [_sample(row) for row in [*rows[0][:-1], rows[1][-1]]])
    assert "foreign_samples: 1 of 8" in findings(tmp_path / "a", capsys)


def _sample(row, **changes):
    from opsd_eval.records import sample_from_row

    return sample_from_row({**row, **changes})


# --- a run folder -------------------------------------------------------------------------------------------


def go_on(folder):
    return train_main(["run", "testbed", *map(str, TRAINING), "--out", str(folder / "run"), "--resume"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert go_on(folder) == 0
    return folder


@pytest.mark.parametrize("case", range(2 * CASES))
def test_a_damaged_run_goes_on_to_the_same_bytes_or_says_what_is_wrong(trained, tmp_path, capsys, case):
    rng = random.Random(f"run/{case}")
    shutil.copytree(trained / "run", tmp_path / "run")
    files = sorted(p for p in (tmp_path / "run").rglob("*") if p.is_file() and not p.name.startswith("."))
    kind, path = rng.choice(sorted(DAMAGE)), rng.choice(files)
    DAMAGE[kind](path, rng)
    code = go_on(tmp_path)
    said = capsys.readouterr().err
    what = f"{path.relative_to(tmp_path)} {kind}: {said[-500:]}"
    assert code in (0, 2) and (code == 0 or str(tmp_path) in said), what
    older = path.parent.parent.name == "checkpoints" and path.parent.name != "step-000008"
    if code == 0 and not older:  # an older checkpoint is not looked at again
        assert training_digest(tmp_path) == training_digest(trained), what


def test_a_log_that_was_changed_is_refused(trained, tmp_path, capsys):
    shutil.copytree(trained / "run", tmp_path / "run")
    log = tmp_path / "run" / "train.jsonl"
    log.write_text(log.read_text().replace('"entropy": ', '"entropy": 1', 1))
    assert go_on(tmp_path) == 2
    assert "does not hold steps 1 to 8 as they were" in capsys.readouterr().err
    for step in (2, 4, 6, 8):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:06d}")
    assert go_on(tmp_path) == 0
    assert training_digest(tmp_path) == training_digest(trained)


def test_an_older_checkpoint_without_a_checksum_of_its_log_is_read(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-000008" / "checkpoint.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "log_sha256"})
    assert go_on(tmp_path) == 0
