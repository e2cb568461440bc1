import json

import pytest

from opsd_eval.benchmarks import HUB, REASONING_GYM_FAMILIES, benchmark_names, gym_correct, load_benchmark
from opsd_eval.gym_references import REFERENCES, arithmetic_steps
from opsd_eval.harness import doc_to_text, document
from opsd_eval.prompts import question_text

FAMILIES = sorted(REASONING_GYM_FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_gym_family_is_leak_safe_and_its_gold_scores(family):
    name = f"reasoning_gym.{family}"
    test = load_benchmark(name, limit=60)
    train = load_benchmark(name, limit=60, split="train", seed=1)
    questions = [{" ".join(p.question.split()).casefold() for p in part} for part in (test, train)]
    assert len(questions[0]) == len(questions[1]) == 60
    assert not questions[0] & questions[1]
    assert load_benchmark(name, limit=20) == test[:20]
    assert all(gym_correct(p, p.answer) is True for p in test)
    assert not any(gym_correct(p, junk) for p in test for junk in ("", "junk", None, "\\frac{", "-17.25 apples"))
    assert all((p.reference or "").endswith(f"\\boxed{{{p.answer}}}.") is (family in REFERENCES) for p in test)
    assert len({p.problem_id for p in (*test, *train)}) == 120


def test_gym_partial_credit_is_not_correct():
    problem = load_benchmark("reasoning_gym.gcd", limit=1)[0]
    assert gym_correct(problem, f"The answer is {problem.answer}") is False  # the library would give it 0.1 or so
    assert gym_correct(problem, f" {problem.answer} ") is True


def test_gym_family_with_several_right_answers_is_left_undecided():
    problem = load_benchmark("reasoning_gym.countdown.0", limit=1)[0]
    assert gym_correct(problem, "1 + 1") is None and gym_correct(problem, problem.answer) is True


def test_gym_levels():
    small = load_benchmark("reasoning_gym.products.0", limit=20)
    long = load_benchmark("reasoning_gym.products.num_terms=3+num_digits=0", limit=20)
    assert {p.axes["num_terms"] for p in small} == {2}
    assert max(p.axes["num_terms"] for p in long) > 2 and {p.axes["num_digits"] for p in long} == {1}
    with pytest.raises(ValueError, match=r"different questions.*higher level"):
        load_benchmark("reasoning_gym.products.0", limit=400)
    assert 15 < len(load_benchmark("reasoning_gym.products.0")) < 60  # all there are, when no number is asked for
    for bad, message in {
        "reasoning_gym.product": "products", "reasoning_gym.products.99": "above the highest level",
        "reasoning_gym.products.num_term=1": "num_terms", "reasoning_gym.gsm_symbolic.3": "no curriculum",
        "reasoning_gym.number_sequence.1": "above the highest", "reasoning_gym.products.num_terms=x": "NUMBER",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_benchmark(bad, limit=2)


def test_arithmetic_steps_by_hand():
    assert arithmetic_steps("4 - 1 - 7") == "4 - 1 = 3\n3 - 7 = -4"
    assert arithmetic_steps("2 * -( 6 / 4 )") == "6 / 4 = 1.5\n2 * (-1.5) = -3"
    assert arithmetic_steps("0.05 + 1 / 3 ") == "1 / 3 = 1/3\n0.05 + 1/3 = 23/60"
    with pytest.raises(ValueError, match="not plain arithmetic"):
        arithmetic_steps("__import__('os').getpid()")


def test_product_references_add_up():
    for problem in load_benchmark("reasoning_gym.products.3", limit=30):
        for line in problem.reference.splitlines()[:-1]:
            left, right = line.split("=")
            terms = [int(v) for v in left.replace("*", "+").split("+")]
            value = terms[0] * terms[1] if "*" in left else sum(terms)
            assert value == int(right), line


def test_testbed_names():
    problems = load_benchmark("testbed.hunch_r10.id", limit=3)
    assert [p.benchmark for p in problems] == ["testbed.hunch_r10.id"] * 3
    assert load_benchmark("testbed.hunch_r10", split="longer", limit=1)[0].split == "longer"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_jsonl(tmp_path):
    file = tmp_path / "mine.jsonl"
    write(file, [{"question": "1+1?", "answer": "2", "note": "kept out"}, {"question": "2+2?", "problem_id": "b"}])
    first, second = load_benchmark(f"jsonl:{file}")
    assert (first.problem_id, first.answer, second.problem_id, second.answer) == ("mine/000001", "2", "b", None)
    assert load_benchmark(f"jsonl:{file}", limit=1) == [first]
    write(file, [{"problem": "1+1?", "solution": "2"}])
    with pytest.raises(ValueError, match=r"mine.jsonl:1: no key 'question'.*question=problem"):
        load_benchmark(f"jsonl:{file}")
    assert load_benchmark(f"jsonl:{file}?question=problem&answer=solution")[0].answer == "2"
    with pytest.raises(ValueError, match=r"no column 'problems'.*columns are \['problem', 'solution'\]"):
        load_benchmark(f"jsonl:{file}?question=problems")
    with pytest.raises(ValueError, match="no such file"):
        load_benchmark(f"jsonl:{tmp_path}/none.jsonl")
    write(file, [{"question": "a", "problem_id": "x"}] * 2)
    with pytest.raises(ValueError, match="rows 1 and 2 have the problem_id 'x'"):
        load_benchmark(f"jsonl:{file}")


HUB_ROWS = {
    "aime24": {"id": 60, "problem": "p", "solution": "s", "answer": "204", "url": "u", "year": "2024"},
    "aime25": {"id": "0", "problem": "p", "answer": "70"},
    "hmmt25": {"problem_idx": 1, "problem": "p", "answer": "103", "problem_type": ["Number Theory"]},
    "math500": {"problem": "p", "solution": "s", "answer": "42", "subject": "Algebra", "level": 2, "unique_id": "t/1"},
    "gsm8k": {"question": "p", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"},
}


@pytest.mark.parametrize("name", sorted(HUB))
def test_hub_sets_from_a_local_copy(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OPSD_DATA", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / HUB[name].repo / f"{HUB[name].split}.jsonl", [HUB_ROWS[name]])
    (problem,) = load_benchmark(f"hf:{name}")
    assert problem.question == "p" and problem.benchmark == f"hf:{name}" and problem.split == HUB[name].split
    assert problem.answer == {"gsm8k": "1024"}.get(name, HUB_ROWS[name]["answer"])
    assert problem.cluster == ("Algebra" if name == "math500" else None)


def test_hub_errors(tmp_path, monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'math-ai/aime25' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.delenv("OPSD_DATA", raising=False)
    with pytest.raises(ValueError, match=r"math-ai/aime25.*not checked.*OPSD_DATA.*jsonl:PATH"):
        load_benchmark("hf:aime25")
    with pytest.raises(ValueError, match="needs its columns named"):
        load_benchmark("hf:someone/something")
    with pytest.raises(ValueError, match="aime24"):
        load_benchmark("hf:aime")


def test_unknown_names_and_limits():
    with pytest.raises(ValueError, match="Did you mean"):
        load_benchmark("hf_gsm8k")
    with pytest.raises(ValueError, match="hunch_r10"):
        load_benchmark("testbed.hunch_10.id")
    with pytest.raises(ValueError, match="limit is 0"):
        load_benchmark("testbed.hunch_r10.id", limit=0)
    assert "testbed.slips.longer" in benchmark_names() and "hf:gsm8k" in benchmark_names()


def test_a_style_named_with_the_benchmark_travels_with_its_problems(tmp_path):
    """Training, sampling and the harness all ask the problem for its prompt, so they cannot differ in it."""
    plain, found = (load_benchmark(f"reasoning_gym.chain_sum{more}", limit=3) for more in ("", "?style=plain"))
    assert [p.problem_id for p in found] == [p.problem_id for p in plain]
    assert question_text(found[0]) == question_text(plain[0], "plain") != question_text(plain[0])
    assert doc_to_text(document(found[0])) == question_text(found[0])
    (tmp_path / "a.jsonl").write_text(json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n")
    [row] = load_benchmark(f"jsonl:{tmp_path}/a.jsonl?question=problem&style=bare")
    assert question_text(row) == "1 + 1"


@pytest.mark.parametrize(("name", "message"), [
    ("reasoning_gym.chain_sum?style=plai", "plain"),
    ("reasoning_gym.chain_sum?question=q", "takes the option style only, not question"),
    ("testbed.hunch_r10.id?style", r"should read key=value"),
])  # fmt: skip
def test_other_options_of_generated_benchmarks_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark(name, limit=1)
