"""What each finding of the audit means and what to do about it: one table, so that no check goes without."""

from __future__ import annotations

from collections.abc import Sequence

from opsd_eval.audit import Finding

#: check: (what it means, what to do).
ADVICE = {
    "unreadable": (
        "the set cannot be read, so nothing else was checked",
        "repair the line named, or sample or ingest again into a new folder",
    ),
    "empty_set": ("there is nothing to measure", "sample or ingest into this folder first"),
    "unfinished": (
        "problems or draws are missing, and not by chance: long completions finish last",
        "run the same sample or ingest command again, it goes on where it stopped (a log of an unfinished run: finish "
        "the run, then ingest into a new folder)",
    ),
    "foreign_samples": (
        "lines of another run, or edited ones, stand among those of this run",
        "sample again into a new folder, or restore samples.jsonl; then compare",
    ),
    "changed_files": (
        "the numbers of this set and its files no longer belong together: a damaged disk or copy, or an edit",
        "restore the file from where it was made; if the change was meant, run `opsd-eval grade --force` and "
        "`opsd-eval measure --force`",
    ),
    "malformed": ("the set is not the whole run", "see ingest.json for file, line and reason"),
    "ingest_note": ("noted while the log was read", "decide whether it matters for what you measure"),
    "identical_draws": (
        "either the sampler used one seed for several draws (lm-eval sends seed 1234 with every API request; running "
        "again to add draws repeats the old ones; a cache gave back the last one) or the model has collapsed to one "
        "answer. Both give pass@k = pass@1 and diversity 0, and the samples alone cannot tell them apart",
        "draw two completions of one problem with different seeds: if they differ, it was the seed. Then sample again "
        "with a seed per draw (lm-eval: seed: null in generation_kwargs; `opsd-eval sample` does it by itself)",
    ),
    "greedy_draws": (
        "greedy draws are copies: pass@k equals pass@1 and diversity is 0 by design",
        "draw once, or sample with a temperature to measure pass@k and diversity",
    ),
    "repeated_draws": (
        "at a temperature above 0 a long completion does not come twice by chance: copied lines, a merged log, or a "
        "model that is nearly deterministic on these problems",
        "look at the examples; drop the copies if the log doubled them",
    ),
    "copied_between_problems": (
        "completions belong to other questions (a shuffled or merged log, answers for another prompt), or the model "
        "gives one template whatever the question",
        "look at the examples, then at how the log was made",
    ),
    "constant_seed": (
        "the draws differ only as far as the server ignored the seed or batching changed the numbers; they are not "
        "independent",
        "sample with a seed per draw",
    ),
    "missing_samples": (
        "the run was not finished or its log lost them; means are over the rest, which need not be a fair selection",
        "run the same sample or ingest command again: it goes on",
    ),
    "unequal_draws": (
        "pass@k is undefined where n < k, and maj@k and diversity depend on n, so problems are not comparable",
        "finish the run, or cut all problems to the smallest number of draws",
    ),
    "draw_numbers": (
        "draws are missing in the middle, or were numbered by the log",
        "nothing, if the number of draws is what you expect",
    ),
    "duplicated_problems": (
        "they count as independent, which makes intervals too narrow",
        "drop the copies, or give them one cluster",
    ),
    "contradicting_answers": ("at least one gold answer is wrong", "correct the benchmark"),
    "missing_gold": (
        "their samples stay ungraded (not wrong), and the accuracy family leaves them out",
        "add the answers to problems.jsonl, or accept fewer problems",
    ),
    "gold_is_text": (
        "that is probably a worked solution; no answer will ever equal it",
        "put the final answer into answer and the solution into reference",
    ),
    "empty_completions": (
        "the model stopped at once, or the server or a filter lost the text; they count as no answer",
        "look at the stop strings and at the server's log",
    ),
    "truncated": (
        "they count as truncated, not as wrong reasoning; their marker rates and lengths are cut, and a comparison of "
        "two models at one limit favours the terser",
        "raise max_new_tokens until this is under 1 %, or read the outcome shares, not accuracy alone",
    ),
    "finish_unknown": (
        "truncation cannot be told from a wrong or missing answer; the outcome share truncated is too low",
        "log finish reasons, or check that the longest completions end properly",
    ),
    "stripped_reasoning": (
        "the text before the final answer was cut out of the log, so markers, steps, loops and lengths measure only "
        "the last part",
        "sample again without it and strip inside the scorer (grading here takes the last box of the whole text)",
    ),
    "off_language": (
        "an English marker list counts almost nothing in them",
        "read markers per language, and the off-language outcome share",
    ),
    "loops": (
        "loops hold most marker hits and most tokens of a run; diversity and marker counts over the whole text "
        "describe the loops",
        "count markers only up to the loop, as marker_rate does; read loop_rate beside every other number",
    ),
    "extractability": (
        "strict accuracy measures the format as much as the reasoning",
        "ask for \\boxed{} in the prompt, or read avg_relaxed@k and no_answer_rate beside avg@k",
    ),
    "prompt_varies": (
        "the draws are not from one distribution (an appended run, or random few-shot examples)",
        "keep one run per set",
    ),
    "prompt_shared": ("the question did not reach the model", "look at the prompt template"),
    "different_problems": (
        "a difference of their means is partly a difference of problems; compare refuses it",
        "sample both on the same benchmark, split and limit",
    ),
    "changed_problems": (
        "the ids match but the problems do not",
        "use one version of the benchmark for both",
    ),
    "prompt_mismatch": (
        "the difference may come from the prompt (chat template, thinking switch, few-shot examples, system message); "
        "hashes of token ids also differ when the tokenizers do",
        "prompt both models alike, or say so beside every number",
    ),
    "prompt_unknown": ("nothing says that both models saw the same prompt", "check the two commands by eye"),
    "different_draws": (
        "diversity, maj@k and pass@k at k = n depend on n",
        "compare at a k both have, and diversity at equal n",
    ),
    "different_sampling": (
        "temperature alone moves pass@k, diversity and marker rates; the token limit moves truncation",
        "sample both with one setting",
    ),
    "sampling_unknown": ("nothing says that both were sampled alike", "check the two commands by eye"),
    "same_completions": (
        "the two sets come from the same weights, or nearly: an adapter that was not loaded (vLLM keeps the old "
        "adapter under a used id), a cached answer, or one set compared with itself",
        "check model path, adapter and checksum in both run.json",
    ),
}


def finding(where: str, check: str, level: str, message: str, examples: Sequence[str] = ()) -> Finding:
    """A finding with its advice and the first five examples."""
    meaning, fix = ADVICE[check]
    return Finding(where, check, level, message, meaning, fix, tuple(examples[:5]))


def share(part: int, whole: int) -> str:
    """``3 of 40 (7.5%)``."""
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "0 of 0"
