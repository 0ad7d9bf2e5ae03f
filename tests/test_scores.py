"""Scores agree with sacrebleu and with values worked out by hand; comparisons are paired."""

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from serving.errors import StillhouseError
from serving.grounding import Claim, Grounding
from serving.slots import Finding, SlotCheck
from stages._likelihood import likelihood_statistics
from stages._scores import (
    bleu_statistics,
    bootstrap_weights,
    chrf_statistics,
    corpus_score,
    exact_match_statistics,
    grounding_statistics,
    load_metric,
    mean_statistics,
    paired_difference,
    paired_ratio,
    per_prompt,
    slot_statistics,
)

WORDS = ["a", "b", "c", "d", "e", "the", "cat", "sat", ",", ".", "On"]


def random_corpus(seed):
    generator = random.Random(seed)
    prompts = generator.randint(1, 20)
    text = lambda shortest: " ".join(generator.choices(WORDS, k=generator.randint(shortest, 12)))  # noqa: E731
    answers = [text(0) for _ in range(prompts)]
    return answers, [[text(1) for _ in range(generator.randint(1, 4))] for _ in range(prompts)]


def point(statistics):
    return float(statistics.combine(statistics.rows.sum(axis=0)))


@pytest.mark.parametrize("seed", range(25))
def test_bleu_and_chrf_equal_sacrebleu_with_any_number_of_references(seed):
    answers, references = random_corpus(seed)
    width = max(map(len, references))
    streams = [[r[k] if k < len(r) else None for r in references] for k in range(width)]
    bleu = BLEU(lowercase=True).corpus_score(answers, streams).score
    chrf = CHRF().corpus_score(answers, streams).score
    assert point(bleu_statistics(answers, references)) == pytest.approx(bleu, abs=1e-9)
    assert point(chrf_statistics(answers, references)) == pytest.approx(chrf, abs=1e-9)


def test_absent_references_are_none_and_keep_the_brevity_penalty():
    # An empty string as a second reference would have length 0 and cancel the penalty.
    answers = ["the cat sat on a", "the dog"]
    references = [["the cat sat on a mat today"], ["the dog", "a dog"]]
    statistics = bleu_statistics(answers, references)
    assert "nrefs:var" in statistics.signature
    assert statistics.rows[:, 9].tolist() == [7, 2]  # closest reference length of each prompt


def test_exact_match_folds_case_and_space_only():
    statistics = exact_match_statistics(["A  cat", "a dog."], [["a cat"], ["a dog"]])
    assert per_prompt(statistics) == [1.0, 0.0]


def test_bootstrap_draws_as_many_prompts_as_there_are():
    weights = bootstrap_weights(prompts=7, resamples=100, seed=1)
    assert weights.shape == (100, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert np.array_equal(weights, bootstrap_weights(7, 100, seed=1))


def test_interval_of_a_mean_matches_the_normal_approximation():
    values = [0.0, 1.0] * 200  # standard error 0.5 / 20 = 0.025
    score = corpus_score(mean_statistics(values, "m"), bootstrap_weights(400, 4000, 0), 0.95)
    assert score.score == 0.5
    assert score.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert score.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


def test_a_paired_interval_ignores_what_both_systems_share():
    noise = np.random.default_rng(0).normal(0, 10, 300)
    ours, theirs = mean_statistics(list(noise + 1), "m"), mean_statistics(list(noise), "m")
    weights = bootstrap_weights(300, 500, 0)
    difference = paired_difference(ours, theirs, weights, 0.95)
    assert (difference.low, difference.high) == (pytest.approx(1.0), pytest.approx(1.0))
    alone = corpus_score(ours, weights, 0.95)
    assert alone.high - alone.low > 1.0


def test_the_ratio_of_a_system_to_itself_is_one():
    answers, references = random_corpus(3)
    statistics = bleu_statistics(answers, references)
    ratio = paired_ratio(statistics, statistics, bootstrap_weights(len(answers), 100, 0), 0.95)
    assert ratio.score == pytest.approx(1.0)
    assert ratio.signature.startswith("paired ratio|nrefs:")


def test_unlike_scores_are_not_compared():
    ours, theirs = mean_statistics([1.0, 2.0], "one"), mean_statistics([1.0, 2.0], "other")
    with pytest.raises(StillhouseError, match="scored alike"):
        paired_difference(ours, theirs, bootstrap_weights(2, 100, 0), 0.95)


@pytest.mark.parametrize(
    ("answers", "references", "message"),
    [
        (["a"], [[]], "1 prompts have no reference"),
        (["a", "b"], [["a"]], "as many answers as prompts"),
    ],
    ids=["no reference", "unequal"],
)
def test_incomplete_test_data_is_refused(answers, references, message):
    with pytest.raises(StillhouseError, match=message):
        bleu_statistics(answers, references)


def test_nothing_to_score_is_refused():
    with pytest.raises(StillhouseError, match="no prompt to score"):
        bootstrap_weights(0, 100, 0)


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        ("bleu", bleu_statistics),
        ("chrf", chrf_statistics),
        ("exact_match", exact_match_statistics),
    ],
)
def test_evaluate_modules_give_our_scores_without_a_network(name, statistics):
    answers, references = random_corpus(5)
    computed = load_metric(name).compute(
        predictions=answers, references=references, resamples=100, seed=3
    )
    weights = bootstrap_weights(len(answers), 100, 3)
    assert computed == corpus_score(statistics(answers, references), weights, 0.95).to_dict()


def test_the_slot_error_module_needs_records_only():
    schema = {"name": "pubs", "slots": {"name": {"kind": "name"}, "food": {"kind": "name"}}}
    computed = load_metric("slot_error_rate").compute(
        predictions=["The Eagle serves fish.", "The Vaults."],
        references=["name[The Eagle], food[fish]", "name[The Vaults], food[pasta]"],
        schema=schema,
        resamples=100,
    )
    assert computed["missing"]["score"] == pytest.approx(1 / 4)
    assert computed["slot_error_rate"]["score"] == pytest.approx(1 / 4)


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(
        StillhouseError, match="bleu, chrf, exact_match, hallucination_rate, perplex"
    ):
        load_metric("rouge")


def test_records_without_known_slots_do_not_blow_up_the_error_rate():
    checks = [SlotCheck((), (Finding("number", None, "7", 0, 1),), (), 0, ("colour",), False)]
    statistics = slot_statistics(checks)["slot_error_rate"]
    assert point(statistics) == 1.0


def test_perplexity_is_of_all_tokens_and_bits_of_all_characters():
    # 2 tokens of 1/4 and 1 token of 1/16: eight bits over three tokens, over 8 characters
    logprobs = [2 * np.log(1 / 4), np.log(1 / 16)]
    found = likelihood_statistics(logprobs, [2, 1], ["abcdef", "gh"], "f" * 64)
    assert point(found["perplexity"]) == pytest.approx(2 ** (8 / 3))
    assert per_prompt(found["perplexity"]) == pytest.approx([4.0, 16.0])
    assert point(found["bits_per_character"]) == pytest.approx(1.0)
    assert per_prompt(found["bits_per_character"]) == pytest.approx([4 / 6, 2.0])


def test_perplexities_of_two_tokenizers_are_not_compared_and_bits_are():
    one, other = (likelihood_statistics([-2.0, -3.0], [2, 2], ["a", "b"], c * 64) for c in "ef")
    weights = bootstrap_weights(2, 100, 0)
    with pytest.raises(StillhouseError, match="scored alike"):
        paired_difference(one["perplexity"], other["perplexity"], weights, 0.95)
    bits = [found["bits_per_character"] for found in (one, other)]
    assert paired_difference(bits[0], bits[1], weights, 0.95).score == 0.0


def test_the_hallucination_rate_counts_answers_and_the_claim_rate_claims():
    two = (Claim("name", 0, 1), Claim("number", 2, 3))
    checks = [Grounding(4, two, True), Grounding(1, (), True), Grounding(0, (), True)]
    found = grounding_statistics(checks)
    assert per_prompt(found["hallucination_rate"]) == [1.0, 0.0, 0.0]
    assert point(found["hallucination_rate"]) == pytest.approx(1 / 3)
    assert point(found["unsupported_claim_rate"]) == pytest.approx(2 / 5)


def test_the_hallucination_module_needs_prompts_only():
    computed = load_metric("hallucination_rate").compute(
        predictions=["The Eagle has 5 rooms.", "The Mill."],
        references=["Tell me about The Eagle.", "Tell me about The Mill."],
        resamples=100,
    )
    assert computed["hallucination_rate"]["score"] == 0.5
    assert computed["unsupported_claims"]["number"] == 1


def test_the_perplexity_module_gives_our_scores():
    given = {"predictions": [-2.0, -6.0], "tokens": [2, 3], "references": ["ab", "cd"]}
    computed = load_metric("perplexity").compute(**given, tokenizer="e" * 64, resamples=100, seed=3)
    weights = bootstrap_weights(2, 100, 3)
    expected = likelihood_statistics([-2.0, -6.0], [2, 3], ["ab", "cd"], "e" * 64)
    assert computed == {
        name: corpus_score(statistics, weights, 0.95).to_dict()
        for name, statistics in expected.items()
    }
    assert computed["perplexity"]["score"] == pytest.approx(np.exp(8 / 5))
