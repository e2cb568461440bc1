"""Contexts: golden token ids for every role, the controls, the thinking boundary and prompt limits."""

from __future__ import annotations

import pytest

from opsd_eval.prompts import question_text, student_prompt_ids, styled
from opsd_eval.records import Problem
from opsd_train import contexts
from opsd_train.contexts import (
    CONTEXTS,
    ROLES,
    PromptLimit,
    build_prompts,
    check_thinking,
    require_references,
    role_prompts,
    role_texts,
    thinking_state,
)

TESTBED = (
    "{% for m in messages %}{{ '<s> Q ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' A' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<u> ' + m['content'] + ' </u>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <a>' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ ' <think> </think>' }}{% endif %}{% endif %}"
)
ALWAYS = "{% for m in messages %}{{ '<u> ' + m['content'] + ' </u>' }}{% endfor %} <a> <think>"
WORDS = ["<unk>", "<s>", "Q", "A", "1", "2", "3", "+", "=", "?", "r10", "\\boxed{3}", "\\boxed{5}", "ref", "x"]


def tokenizer(template=TESTBED):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(WORDS)}
    model = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", chat_template=template)


def problem(number=0, *, bench="testbed.hunch_r10.train", **values):
    given = {"question": "1 + 2 = ?", "answer": "3", "reference": "r10 \\boxed{3}", **values}
    return Problem(f"p{number}", benchmark=bench, **given)


POOL = [problem(i, reference=f"ref {i} \\boxed{{5}}") for i in range(7)]


def prompts(one=None, *, context="reference", template=TESTBED, pool=POOL, thinking=None, seed=0):
    return role_prompts(one or problem(), tokenizer=tokenizer(template), context=context, pool=pool,
                        thinking=thinking or {}, seed=seed)  # fmt: skip


def test_golden_ids_of_the_testbed():
    question = [1, 2, 4, 7, 5, 8, 9]
    assert prompts() == {
        "student": [*question, 3],
        "teacher": [*question, 10, 11, 3],
        "reference": [1, 2, 10, 11, 3],
        "base": [*question, 3],
    }
    assert prompts(context="answer_only")["teacher"] == [*question, 11, 3]
    assert prompts(context="answer_only")["reference"] == [1, 2, 11, 3]
    assert prompts(context="empty_reference")["teacher"] == [*question, 3]


def test_golden_texts_of_the_boxed_style():
    found = role_texts(problem(bench="aime"), context="reference", pool=(), seed=0)
    instruction = found["student"].removeprefix("1 + 2 = ?")
    assert "\\boxed{}" in instruction
    assert found["base"] == found["student"]
    assert found["teacher"].startswith("1 + 2 = ?\n\nA reference solution to this problem is given below.\n\n<<<")
    block = "<<< reference solution\nr10 \\boxed{3}\nend of reference solution >>>"
    for role in ("teacher", "reference"):
        assert block in found[role] and found[role].endswith(instruction)
    assert found["reference"].startswith("A reference solution is given below.")
    assert "problem" not in found["reference"].removesuffix(instruction)
    assert "1 + 2" not in found["reference"]


def test_a_style_of_its_own_is_every_roles():
    one = styled(problem(bench="reasoning_gym.chain_sum.0"), "plain")
    found = role_texts(one, context="reference", pool=(), seed=0)
    assert found["base"] == found["student"] == question_text(one) == "1 + 2 = ?"
    for role in ("teacher", "reference"):
        assert "r10 \\boxed{3}\nend of reference solution" in found[role] and found[role].endswith("own words.")
    assert "1 + 2" in found["teacher"] and "1 + 2" not in found["reference"]
    assert prompts(one, template=CHATML)["student"] == student_prompt_ids(tokenizer(CHATML), one)


def test_braces_and_template_fields_in_a_problem_stay_text():
    one = problem(bench="aime", question="What is {reference} of {x}?", reference="set {question} = {y}")
    found = role_texts(one, context="reference", pool=(), seed=0)
    assert found["student"].startswith("What is {reference} of {x}?")
    assert "What is {reference} of {x}?" in found["teacher"] and "set {question} = {y}" in found["teacher"]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("bench", ["testbed.hunch_r10.train", "aime"])
@pytest.mark.parametrize("template", [TESTBED, CHATML])
def test_students_and_bases_prompt_is_the_one_sampling_uses(context, bench, template):
    one = problem(bench=bench)
    found = prompts(one, context=context, template=template)
    assert set(found) == set(CONTEXTS[context].roles) and set(ROLES) <= set(found)
    assert found["student"] == found["base"] == student_prompt_ids(tokenizer(template), one)
    assert found["base"] is not found["student"]


def test_another_problems_reference_is_fixed_and_never_the_own():
    pick = CONTEXTS["other_reference"].teacher_reference
    for one in POOL:
        found = {seed: pick(one, POOL, seed) for seed in range(40)}
        assert one.reference not in found.values()
        assert len(set(found.values())) == len(POOL) - 1, "over seeds every other problem is reached"
        assert found[3] == pick(one, list(POOL), 3)
    twins = [problem(0), problem(1), problem(2, reference="r10 \\boxed{5}")]
    assert {pick(twins[0], twins, seed) for seed in range(9)} == {"r10 \\boxed{5}"}, "an equal text is not another"
    assert pick(twins[0], twins[:2], 0) is None


def test_missing_references_are_named_before_any_compute():
    pool = [problem(0), problem(1, reference=None), problem(2, reference=""), problem(3)]
    with pytest.raises(ValueError, match=r"2 of 4 have none: p1, p2\. .*empty_reference"):
        require_references(pool, "reference")
    with pytest.raises(ValueError, match="p1"):
        build_prompts(pool, tokenizer=None, context="reference", thinking={}, seed=0)
    with pytest.raises(ValueError, match="another problem"):
        require_references([problem()], "other_reference")
    with pytest.raises(ValueError, match="p9"):
        require_references([problem(9, answer=None)], "answer_only")
    require_references([problem(9, answer=None, reference=None)], "empty_reference")
    with pytest.raises(ValueError, match="reference"):
        require_references(pool, "referense")
    many = [problem(i, reference=None) for i in range(30)]
    with pytest.raises(ValueError, match="and 20 more"):
        require_references(many, "reference")


def test_thinking_states_of_templates():
    assert thinking_state(tokenizer(CHATML), None) == thinking_state(tokenizer(CHATML), True) == "before"
    assert thinking_state(tokenizer(CHATML), False) == "after"
    assert thinking_state(tokenizer(ALWAYS), None) == "inside"
    assert thinking_state(tokenizer(), False) == "before"


def test_first_tokens_must_stand_in_the_same_place():
    with pytest.raises(ValueError, match=r"begins after its thinking block .* expects it before one"):
        prompts(template=CHATML, thinking={"student": False, "teacher": True, "reference": True})
    with pytest.raises(ValueError, match="the reference's prompt"):
        check_thinking(tokenizer(CHATML), {"student": False, "teacher": False, "reference": True})
    with pytest.raises(ValueError, match="unknown roles"):
        check_thinking(tokenizer(), {"techer": True})
    everywhere = dict.fromkeys(("student", "teacher", "reference"), False)
    found = prompts(template=CHATML, thinking=everywhere)
    assert found["base"] == found["student"] == student_prompt_ids(tokenizer(CHATML), problem(), thinking=False)
    # two switches that a template answers alike agree
    check_thinking(tokenizer(CHATML), {"student": None, "teacher": True})
    check_thinking(tokenizer(), {"student": True, "teacher": False})


def test_a_question_about_think_tags_does_not_move_the_boundary():
    one = problem(question="what does <think> mean ?")
    prompts(one, template=CHATML, thinking={"student": None, "teacher": True, "reference": True})


def test_long_prompts_are_an_error_or_skipped_and_counted_never_cut():
    pool = [problem(0), problem(1, question="1 + 2 = ? " + "x " * 50), problem(2, reference="x " * 50)]
    options = {"tokenizer": tokenizer(), "context": "reference", "thinking": {}, "seed": 0}
    with pytest.raises(ValueError, match=r"problem 'p1': the teacher's prompt has 60 tokens, the limit is 40.*skip"):
        build_prompts(pool, limit=PromptLimit(40), **options)
    kept = build_prompts(pool, limit=PromptLimit(40, "skip"), **options)
    assert list(kept.by_problem) == ["p0"] and kept.skipped == ("p1", "p2")
    everything = build_prompts(pool, **options)
    assert everything.skipped == () and everything.by_problem["p0"] == kept.by_problem["p0"]
    assert len(everything.by_problem["p2"]["teacher"]) > 40
    with pytest.raises(ValueError, match="skip"):
        PromptLimit(40, "skp")
    with pytest.raises(ValueError, match="max_tokens"):
        PromptLimit(0)


def test_a_role_and_a_context_are_one_line_each(monkeypatch):
    def hint(question, reference, wording):
        return f"{question} x"

    monkeypatch.setitem(contexts.ROLE_TEXTS, "hinted", hint)
    monkeypatch.setitem(contexts.CONTEXTS, "five", contexts.Context("five", lambda p, pool, seed: "\\boxed{5}", "nothing"))
    found = prompts(context="five")
    assert found["hinted"] == [1, 2, 4, 7, 5, 8, 9, 14, 3]
    assert found["teacher"] == [1, 2, 4, 7, 5, 8, 9, 12, 3]


def test_every_context_and_role_names_its_source():
    for context in CONTEXTS.values():
        assert "Source:" in context.doc, context.name
    for role, text in contexts.ROLE_TEXTS.items():
        assert "Source:" in (text.__doc__ or ""), role


def test_a_tokenizer_without_a_chat_template_says_what_to_pass():
    with pytest.raises(ValueError, match="chat template"):
        prompts(template=None)


def test_what_the_reference_only_teacher_reads_in_the_questions_place():
    plain = prompts()
    assert prompts(context="empty_question") == plain, "the testbed's wording has no sentence to keep"
    shuffled = [prompts(context="shuffled_question", seed=seed)["reference"] for seed in range(9)]
    for ids in shuffled:
        assert sorted(ids) == sorted(plain["teacher"]) and ids[-3:] == plain["teacher"][-3:]
    assert len({tuple(ids) for ids in shuffled}) > 1 and shuffled[2] == prompts(context="shuffled_question", seed=2)["reference"]
    pool = [problem(1, question="3 + 3 = ?", reference="ref 3")]
    assert prompts(context="other_question", pool=pool)["reference"] == [1, 2, 6, 7, 6, 8, 9, 10, 11, 3]
    boxed = role_texts(problem(bench="aime"), context="empty_question", pool=(), seed=0)
    assert boxed["reference"].startswith("A reference solution to this problem is given below.")
    for context in ("empty_question", "shuffled_question", "other_question"):
        other = prompts(context=context, pool=pool)
        assert {role: other[role] for role in ("student", "teacher", "base")} == {
            role: plain[role] for role in ("student", "teacher", "base")
        }


def test_a_wrong_hint_is_another_problems_reference_after_the_question():
    pool = [problem(1, reference="ref \\boxed{5}")]
    found = prompts(context="right_and_wrong", pool=pool)
    assert found["wrong_hint"] == [1, 2, 4, 7, 5, 8, 9, 13, 12, 3]
    assert {role: found[role] for role in ROLES} == prompts()
    with pytest.raises(ValueError, match="p0"):
        require_references([problem()], "right_and_wrong")


def test_a_target_whose_role_the_context_lacks_is_refused_before_any_work():
    from opsd_train.config import apply_overrides, validate
    from opsd_train.recipes import RECIPES

    given = ["--method.target", "rlcsd"]
    with pytest.raises(ValueError, match=r"wrong_hint.*--method.context right_and_wrong"):
        validate(apply_overrides(RECIPES["testbed"](), given))
    validate(apply_overrides(RECIPES["testbed"](), [*given, "--method.context", "right_and_wrong"]))
