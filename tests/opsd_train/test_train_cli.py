import pytest

from opsd_train import checkpoint, cli
from opsd_train.recipes import ONE_GPU, RECIPES
from opsd_train.stopping import Interrupted, Unhealthy
from tests.opsd_train.conftest import COMMON, log_rows


@pytest.fixture
def options(tiny_model):
    return ["testbed", "--model.path", str(tiny_model), *COMMON.split(), "--optim.steps", "2"]


def test_run_then_refuse_then_resume(options, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert cli.main(["run", *options, *out]) == 0
    assert len(log_rows(tmp_path)) == 2 and checkpoint.checkpoint_steps(tmp_path) == [2]
    assert cli.main(["run", *options, *out]) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main(["run", *options, *out, "--resume"]) == 0
    assert cli.main(["run", *options, *out, "--resume", "--optim.lr", "1"]) == 2
    assert "optim.lr: 0.01 there, 1.0 now" in capsys.readouterr().err


@pytest.mark.parametrize(("stop", "code"), [(Interrupted(15, 3), 143), (Interrupted(2, 3), 130), (Unhealthy("x"), 1)])
def test_exit_codes(options, tmp_path, monkeypatch, stop, code):
    from opsd_train import trainer

    def stops(*_args, **_options):
        raise stop

    monkeypatch.setattr(trainer, "train", stops)
    assert cli.main(["run", *options, "--out", str(tmp_path)]) == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "testbd", "--out", "x"], "testbed"),
        (["run", "testbed", "--out", "x", "--method.target", "purfied"], "purified"),
        (["run", "testbed", "--out", "x", "--method.tgt", "purified"], "method.target"),
        (["run", "testbed", "--out", "x", "--model.path", "testbed:hunch"], "hunch_r10_s0"),
        (["contexts", "testbed", "--problem", "none/such"], "none/such"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_missing_model_says_what_files_are_needed_and_how_to_point_at_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = ["--data.benchmark", "testbed.hunch_r10.train", "--data.limit", "40", "--out", str(tmp_path / "run")]
    assert cli.main(["run", "testbed", *options, "--model.path", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "config.json" in error and "--model.path" in error
    (tmp_path / "empty").mkdir()
    assert cli.main(["run", "testbed", *options, "--model.path", str(tmp_path / "empty")]) == 2
    assert "holds nothing" in capsys.readouterr().err


def test_contexts_prints_all_roles_as_tokenised(options, capsys):
    assert cli.main(["contexts", *options]) == 0
    shown = capsys.readouterr().out
    for role in ("student", "teacher", "reference", "base"):
        assert f"=== {role}: " in shown
    assert "exactly the student's ids" in shown
    ids = [line.split()[1:] for line in shown.splitlines() if line.startswith("ids")]
    assert ids[0] == ids[3] != ids[1]


def test_token_prints_every_roles_probabilities(options, capsys):
    assert cli.main(["token", *options, "--after", "maybe 57", "--top", "2", "--method.target", "standard"]) == 0
    shown = capsys.readouterr().out
    assert "after 'maybe 57', target standard" in shown
    head, *rows = [line.split() for line in shown.split("\n\n")[1].splitlines()]
    roles = ["student", "teacher", "reference", "base", "target"]
    assert head == ["token", "id", *roles, "delta_total", "delta_ref", "delta_it"]
    assert all(row[3] == row[6] and row[2] == row[5] for row in rows)  # the target is the teacher; nothing has moved
    assert cli.main(["token", *options, "--problem", "none/such"]) == 2


def test_list_names_everything_that_can_be_chosen(capsys):
    from opsd_train.contexts import CONTEXTS
    from opsd_train.targets import TARGETS

    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in [*TARGETS, *CONTEXTS, *(r for r in RECIPES if not r.endswith(ONE_GPU))]:
        assert f"  {name} " in shown


def test_help_teaches(capsys):
    for words in (["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--resume" in shown and "--optim.lr (float, 5e-06)" in shown and "opsd-train contexts testbed" in shown
