"""Rungs, the bootstrap over seeds and prompts, fairness and verdict, against values by hand."""

import numpy as np
import pytest

from serving.errors import StillhouseError
from stages._ladder import (
    difference,
    explain,
    find_steps,
    find_violations,
    group_rungs,
    interval,
    judge,
    mean_numbers,
    rank,
    ratio,
    sample,
    seed_weights,
)
from stages._params import Recipe
from stages._scores import bootstrap_weights, corpus_score, mean_statistics

PROMPTS, RESAMPLES = 50, 2000
WEIGHTS = bootstrap_weights(PROMPTS, RESAMPLES, seed=1)
NOISE = np.random.default_rng(0).normal(0, 1, PROMPTS)


def rung(name, *seeds):
    """One rung; each seed is a score for every prompt, or one score for all of them."""
    values = [np.broadcast_to(np.asarray(seed, float), PROMPTS).tolist() for seed in seeds]
    recipes = [f"{name}{number}" for number in range(len(seeds))]
    return sample([mean_statistics(v, "m") for v in values], recipes, WEIGHTS, seed=1)


def width(score):
    return score.high - score.low


def named(**recipes):
    return group_rungs({name: Recipe(**fields) for name, fields in recipes.items()})


def report(**changes):
    facts = {"init": "prune", "steps": 100, "parameters": 1000, "sweep": {"0.1": 2.0, "0.2": 1.0}}
    return {**facts, **changes}


def test_a_rung_scores_the_mean_of_its_seeds():
    score = interval(rung("a", 1.0, 2.0, 6.0), 0.95)
    assert score.score == pytest.approx(3.0)
    assert score.signature == "m|seeds:3|bootstrap:seeds x prompts"


def test_one_seed_has_the_interval_over_prompts():
    expected = corpus_score(mean_statistics(NOISE.tolist(), "m"), WEIGHTS, 0.95)
    found = interval(rung("a", NOISE), 0.95)
    assert (found.score, found.low, found.high) == pytest.approx(
        (expected.score, expected.low, expected.high)
    )


def test_the_mean_over_seeds_varies_as_that_of_independent_runs():
    seeds = [0.0, 3.0, 6.0]  # sample standard deviation 3, so 3 / sqrt(3) of the mean
    assert rung("a", *seeds).resampled.std() == pytest.approx(3 / 3**0.5, rel=0.05)


def test_seeds_that_disagree_widen_the_interval():
    near, far = (rung("a", NOISE - d, NOISE, NOISE + d) for d in (0.1, 1.0))
    assert near.scores.mean() == pytest.approx(far.scores.mean())
    assert width(interval(far, 0.95)) > 2 * width(interval(near, 0.95))


def test_a_higher_confidence_widens_the_interval():
    found = rung("a", NOISE, NOISE + 1)
    assert width(interval(found, 0.99)) > width(interval(found, 0.8))


def test_a_difference_ignores_what_prompts_do_to_both():
    gain = difference(rung("a", NOISE + 2), rung("b", NOISE), 0.95)
    assert (gain.score, gain.low, gain.high) == pytest.approx((2.0, 2.0, 2.0))
    assert gain.signature.startswith("paired difference|m|seeds:1 and 1")


def test_equal_systems_do_not_differ():
    seeds = [NOISE, NOISE + 1, NOISE - 1]
    gain = difference(rung("a", *seeds), rung("b", *seeds), 0.95)
    assert gain.score == pytest.approx(0.0)
    assert gain.low < 0 < gain.high


def test_a_constant_gain_is_seen_through_the_seeds():
    seeds = [NOISE, NOISE + 0.1, NOISE - 0.1]
    gain = difference(rung("a", *(s + 1 for s in seeds)), rung("b", *seeds), 0.95)
    assert gain.score == pytest.approx(1.0)
    assert 0.5 < gain.low < 1.0 < gain.high < 1.5


def test_a_ratio_by_hand_and_none_over_nothing():
    found = ratio(rung("a", 1.0, 2.0), rung("b", 2.0), 0.95)
    assert (found.score, found.low, found.high) == pytest.approx((0.75, 0.5, 1.0))
    assert ratio(rung("a", 1.0), rung("b", 0.0), 0.95) is None


def test_seeds_of_two_rungs_are_drawn_apart_and_repeatably():
    first = seed_weights(["a", "b", "c"], 100, seed=1)
    assert first.sum(axis=1) == pytest.approx(np.ones(100))
    assert np.array_equal(first, seed_weights(["a", "b", "c"], 100, seed=1))
    assert not np.array_equal(first, seed_weights(["d", "e", "f"], 100, seed=1))
    assert not np.array_equal(first, seed_weights(["a", "b", "c"], 100, seed=2))


def test_recipes_that_differ_in_their_seed_are_one_rung():
    rungs = named(
        late={"seed_offset": 2}, student={}, mild={"temperature": 2.0}, again={"seed_offset": 1}
    )
    assert {name: found.recipes for name, found in rungs.items()} == {
        "student": ("student", "again", "late"),
        "mild": ("mild",),
    }


def test_a_rung_is_named_after_its_first_recipe():
    assert list(named(b={"method": "sft"}, a={"method": "sft", "seed_offset": 1})) == ["b"]


def test_a_run_that_would_count_twice_is_refused():
    with pytest.raises(StillhouseError, match="a, b have a seed_offset in common"):
        named(a={}, b={})


def test_a_student_that_is_its_own_control_is_refused():
    with pytest.raises(StillhouseError, match="nothing to compare"):
        named(student={}, control={"seed_offset": 1})


def test_each_rung_is_compared_with_the_method_before_it():
    rungs = named(
        student={"method": "on_policy"},
        texts={"method": "seqkd"},
        control={"method": "sft"},
        both={"method": "logits"},
    )
    assert [found.name for found in sorted(rungs.values(), key=rank)] == [
        *("control", "texts", "both", "student")
    ]
    assert [(s.lower, s.upper, s.what) for s in find_steps(rungs)] == [
        ("control", "texts", "adds the teacher's texts"),
        ("texts", "both", "adds the teacher's distributions"),
        ("both", "student", "adds the student's own texts, judged by the teacher"),
    ]


def test_a_step_over_a_method_names_all_that_it_adds():
    (step,) = find_steps(named(student={}, control={"method": "sft"}))
    assert (step.lower, step.upper) == ("control", "student")
    assert step.what == "adds the teacher's texts and the teacher's distributions"


def test_a_step_names_what_else_it_changes():
    rungs = named(texts={"method": "seqkd", "sources": ["train"]}, student={"alpha": 0.9})
    assert find_steps(rungs)[0].what == "adds the teacher's distributions; also changes sources"


def test_variants_of_a_method_are_compared_with_the_same_rung():
    rungs = named(control={"method": "sft"}, student={}, reverse={"divergence": "reverse_kl"})
    pairs = {(step.lower, step.upper) for step in find_steps(rungs)}
    assert pairs == {("control", "student"), ("control", "reverse")}


def test_a_method_is_not_credited_with_another_start():
    assert find_steps(named(control={"method": "sft"}, cold={"init": "scratch"})) == []


def test_pruning_is_compared_with_the_same_recipe_from_random_weights():
    rungs = named(
        control={"method": "sft"},
        student={},
        cold={"init": "scratch"},
        other={"init": "scratch", "alpha": 0.9},
    )
    steps = [step for step in find_steps(rungs) if step.lower != "control"]
    assert [(s.lower, s.upper) for s in steps] == [("cold", "student")]
    assert steps[0].what == "starts from weights cut out of the teacher, not at random"


def test_privacy_is_compared_with_the_same_recipe_without_it_and_with_nothing_else():
    cold = {"method": "sft", "init": "scratch"}
    rungs = named(
        a_private_one=cold | {"privacy": {"epsilon": 8.0}},
        cold=cold,
        control={"method": "sft"},
        texts={"method": "seqkd", "init": "scratch"},
    )
    said = "trains with differential privacy, epsilon 8; also sets precision, value_noise"
    assert [(s.lower, s.upper, s.what) for s in find_steps(rungs)] == [
        ("cold", "texts", "adds the teacher's texts"),
        ("cold", "control", "starts from weights cut out of the teacher, not at random"),
        ("cold", "a_private_one", said),
    ]


def test_privacy_names_the_settings_that_it_has_values_of_its_own_for():
    cold = {"method": "sft", "init": "scratch"}
    privacy = {"epsilon": 0.5, "steps": 900, "batch_tokens": 4096}
    (step,) = find_steps(named(cold=cold, private=cold | {"privacy": privacy}))
    assert step.what == (
        "trains with differential privacy, epsilon 0.5; "
        "also sets steps, batch_tokens, precision, value_noise"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init": "scratch"}, "initialisation: student prune, control scratch"),
        ({"steps": 90}, "steps: student 100, control 90"),
        ({"parameters": 999}, "parameters: student 1000, control 999"),
        ({"sweep": {}}, "learning rates tried: student 2, control 1"),
        ({"batch_tokens": 512}, "tokens per batch: student None, control 512"),
        ({"privacy": {"epsilon": 8.0}}, "epsilon: student None, control 8.0"),
    ],
    ids=["init", "steps", "parameters", "sweep", "batch", "privacy"],
)
def test_what_the_control_does_not_share_is_named(changes, words):
    assert find_violations([report()], [report()]) == []
    assert find_violations([report()], [report(**changes)]) == [words]


def test_one_seed_that_differs_is_enough_to_be_unfair():
    found = find_violations([report(), report()], [report(), report(steps=90)])
    assert found == ["steps: student 100, control 100, 90"]


@pytest.mark.parametrize(
    ("low", "high", "seeds", "rates", "violations", "verdict"),
    [
        (0.1, 2.0, 3, 2, [], "distilled"),
        (0.1, 2.0, 3, 1, [], "won_without_sweep"),
        (0.1, 2.0, 2, 2, [], "won_without_seeds"),
        (0.1, 2.0, 3, 2, ["steps"], "won_unfairly"),
        (0.0, 2.0, 3, 2, [], "inconclusive"),
        (-1.0, 0.0, 3, 2, [], "inconclusive"),
        (-2.0, -0.1, 1, 1, ["steps"], "lost"),
    ],
)
def test_the_verdict_demands_all_that_a_claim_needs(low, high, seeds, rates, violations, verdict):
    assert judge(low, high, seeds, rates, violations) == verdict
    assert explain(verdict, ["steps: student 2, control 1"])


def test_an_unfair_win_is_explained_by_what_is_unfair():
    assert "(steps: student 2, control 1)" in explain(
        "won_unfairly", ["steps: student 2, control 1"]
    )


def test_means_over_seeds_are_of_numbers_that_all_have():
    first = {"top1": 0.5, "tokens": 10, "by_position": [1], "only": 1.0, "flag": True}
    second = {"top1": 0.7, "tokens": 20, "by_position": [2], "flag": True}
    assert mean_numbers([first, second]) == {"top1": pytest.approx(0.6), "tokens": 15}
    assert mean_numbers([first, None]) is None
