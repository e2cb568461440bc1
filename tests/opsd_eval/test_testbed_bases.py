"""Every shipped base: small, stock, and faithful to its corpus."""

import json
from pathlib import Path

import pytest

from opsd_eval import testbed
from opsd_eval.records import sha256_folder
from opsd_eval.testbed.rates import corpus_rates, sampled_rates

BASES = testbed.shipped_bases()
# Where bases are known to differ from their corpus (the testbed's README says so); they are held to that difference.
KNOWN_GAPS = {("slips", "p_wait_given_mismatch"): -0.21}
SPLITS = ("id", "longer", "larger", "heldout_mix")


def load(path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def test_enough_bases_are_shipped():
    seeds = {w: [s for world, s in BASES if world == w] for w in testbed.WORLDS}
    assert all(len(found) >= 3 for found in seeds.values()) and seeds["hunch_r10"] == seeds["hunch_r100"]


@pytest.mark.parametrize(("world", "seed"), BASES)
def test_base_is_small_stock_and_recorded(world, seed):
    path = testbed.base_path(world, seed)
    assert sum(p.stat().st_size for p in path.iterdir()) < 2_000_000
    assert {p.suffix for p in path.iterdir()} == {".json", ".jinja", ".safetensors"}
    config, record = (json.loads((path / name).read_text()) for name in ("config.json", "base.json"))
    assert config["model_type"] == "qwen3" and config["head_dim"] in (32, 64)
    assert record["sha256"] == sha256_folder(path) and record["seed"] == seed and record["world"] == world
    shaping = testbed.design_values(record["family"])
    assert {name: record["design"].get(name) for name in shaping} == shaping
    if world == "hunch_r100":
        twin = testbed.base_path("hunch_r10", seed) / "model.safetensors"
        assert (path / "model.safetensors").read_bytes() == twin.read_bytes()


@pytest.mark.parametrize(("world", "seed"), [b for b in BASES if b[0] != "hunch_r100"])
def test_base_keeps_its_corpus(world, seed):
    model, tokenizer = load(testbed.base_path(world, seed))
    n = 400 if world == "slips" else 150  # a check that disagrees is rare there
    got = sampled_rates(model, tokenizer, world, n=n, draws=2, seed=5)
    corpus = corpus_rates(world, role="student", n=2000)
    for name, tolerance in (("p_check", 0.08), ("p_wait_given_mismatch", 0.1)):
        assert got[name] == pytest.approx(corpus[name] + KNOWN_GAPS.get((world, name), 0.0), abs=tolerance), name
    assert -0.04 <= got["slip_rate"] - corpus["slip_rate"] <= 0.08
    assert corpus["step_accuracy"] - got["step_accuracy"] <= 0.08
    recorded = json.loads((testbed.base_path(world, seed) / "base.json").read_text())["rates"]
    assert got["accuracy"] == pytest.approx(recorded["student.id"]["accuracy"], abs=0.1)
    assert 0.55 <= got["accuracy"] <= 0.9
    for split in SPLITS[1:]:
        found = testbed.problems(world, split, 200, 0)
        guess = sum(testbed.chance(p, 1) for p in found) / len(found)
        assert recorded[f"student.{split}"]["accuracy"] > guess + 0.15


@pytest.mark.parametrize(("world", "seed"), BASES)
def test_teacher_does_what_the_construction_says(world, seed):
    model, tokenizer = load(testbed.base_path(world, seed))
    got = sampled_rates(model, tokenizer, world, role="teacher", n=100, draws=1, seed=6)
    corpus = corpus_rates(world, role="teacher", n=1000)
    assert got["accuracy"] >= 0.8
    assert got["p_check"] == pytest.approx(corpus["p_check"], abs=0.12)
    if world == "slips":
        assert got["slip_rate"] <= 0.05


@pytest.mark.parametrize(("world", "seed"), [b for b in BASES if b[0] != "hunch_r100"])
def test_reference_only_prompts_were_learnt(world, seed):
    """Not in hunch_r100, whose reference-only traces check a chain that no reference holds."""
    model, tokenizer = load(testbed.base_path(world, seed))
    got = sampled_rates(model, tokenizer, world, role="reference", n=100, draws=1, seed=7)
    assert got["accuracy"] >= 0.8


def test_decoded_text_reads_as_written():
    from opsd_eval.testbed.vocabulary import build_tokenizer

    tokenizer = build_tokenizer()
    text = "maybe 57 check 17 + 5 = 22 ; 22 * 2 = 44 ; 44 - 3 = 41 ; was 57 wait \\boxed{41}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text and len(ids) == len(text.split()) + 2
    assert tokenizer.encode("17+5=22", add_special_tokens=False) == tokenizer.encode("17 + 5 = 22")
    assert Path(testbed.__file__).with_name("README.md").is_file()
