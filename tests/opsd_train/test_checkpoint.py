import random

import pytest
import torch

from opsd_eval.whole import what_is_broken, whole_folder
from opsd_train import checkpoint
from opsd_train.checkpoint import checkpoint_path, newest_whole


def make(out, step, payload=b"x" * 100):
    with whole_folder(checkpoint_path(out, step), {"step": step}) as folder:
        (folder / "model.safetensors").write_bytes(payload)
    return checkpoint_path(out, step)


def test_newest_whole_is_found(tmp_path):
    assert newest_whole(tmp_path) is None
    for step in (50, 100, 1000):
        make(tmp_path, step)
    assert newest_whole(tmp_path) == checkpoint_path(tmp_path, 1000)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "torn"])
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path, capsys, damage):
    make(tmp_path, 50)
    file = make(tmp_path, 100) / "model.safetensors"
    if damage == "truncate":
        file.write_bytes(b"x" * 60)
    elif damage == "flip":
        file.write_bytes(b"x" * 99 + b"y")
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        (file.parent / "checkpoint.json").unlink()
    else:
        (file.parent / "checkpoint.json").write_text('{"files": [')
    assert what_is_broken(file.parent)
    assert newest_whole(tmp_path) == checkpoint_path(tmp_path, 50)
    assert "step-000100: not usable" in capsys.readouterr().err
    make(tmp_path, 100)
    assert newest_whole(tmp_path) == checkpoint_path(tmp_path, 100)


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="disk full"), whole_folder(checkpoint_path(tmp_path, 5), {}) as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_left_over_partial_folder_is_no_checkpoint_and_in_nobodys_way(tmp_path):
    partial = tmp_path / "checkpoints" / ".step-000005.partial"
    partial.mkdir(parents=True)
    (partial / "junk").write_text("junk")
    assert newest_whole(tmp_path) is None
    assert sorted(p.name for p in make(tmp_path, 5).iterdir()) == ["checkpoint.json", "model.safetensors"]
    assert not partial.exists()


def test_random_state_survives(tmp_path):
    from safetensors.torch import save_file

    random.gauss(0, 1)  # leaves a second value waiting
    save_file(checkpoint.rng_state(), tmp_path / "rng-00000.safetensors")
    expected = [random.gauss(0, 1), random.random(), torch.rand(3).tolist()]
    checkpoint.load_rng(tmp_path, 0)
    assert [random.gauss(0, 1), random.random(), torch.rand(3).tolist()] == expected
    with pytest.raises(ValueError, match="fewer processes"):
        checkpoint.load_rng(tmp_path, 1)
