"""What a private run promises: epsilon for the steps taken, and what would void the promise."""

import numpy as np
import pytest
from private_cases import prompts
from tiny_pipeline import TRAINING, tiny_params
from tiny_training import SETTINGS

from serving.errors import StillhouseError
from stages._params import DifferentialPrivacy, Params
from stages._private_plan import ORDERS, plan_privacy
from stages._student import training_of

PROMISE = {"epsilon": 8.0}


@pytest.mark.parametrize("epsilon", [0.1, 3.0])
def test_epsilon_is_that_of_opacus_for_the_steps_taken(epsilon):
    from opacus.accountants import RDPAccountant

    training = SETTINGS.model_copy(update={"steps": 40, "batch_tokens": 300})
    sequences = prompts(200, references=2)
    planned = plan_privacy(DifferentialPrivacy(epsilon=epsilon), sequences, training)
    accountant = RDPAccountant()
    for _ in range(40):
        accountant.step(noise_multiplier=planned.noise_multiplier, sample_rate=planned.sample_rate)
    report = planned.describe("scratch", own_tokenizer=True)
    assert report["epsilon"] == accountant.get_epsilon(planned.delta, alphas=ORDERS)
    assert 0.98 * epsilon < report["epsilon"] <= epsilon
    assert report["delta"] == pytest.approx(200**-1.1) and report["units"] == 200
    assert planned.expected_units == pytest.approx(300 / np.mean([len(s) for s in sequences]) / 2)
    assert any("tokenizer" in gap for gap in report["does_not_cover"])


def test_more_steps_or_larger_batches_cost_noise():
    sequences = prompts(200)

    def noise(**changes):
        settings = SETTINGS.model_copy(update={"steps": 40, "batch_tokens": 300, **changes})
        return plan_privacy(DifferentialPrivacy(epsilon=3.0), sequences, settings).noise_multiplier

    assert noise() < noise(steps=200) and noise() < noise(batch_tokens=900)


@pytest.mark.parametrize(
    ("privacy", "count", "message"),
    [
        ({"epsilon": 1.0, "delta": 0.01}, 200, r"delta 0.01 would let one of 200 prompts"),
        ({"epsilon": 1.0}, 1, r"would let one of 1 prompts come out whole"),
    ],
)
def test_a_delta_that_gives_a_prompt_away_is_refused(privacy, count, message):
    with pytest.raises(StillhouseError, match=message):
        plan_privacy(DifferentialPrivacy(**privacy), prompts(count), SETTINGS)


@pytest.mark.parametrize(
    ("recipe", "training", "message"),
    [
        ({"method": "logits", "init": "scratch"}, {}, "privacy needs method sft, found logits"),
        ({"method": "sft", "init": "prune"}, {}, "found prune; the teacher's weights"),
        (
            {"method": "sft", "init": "scratch"},
            {"learning_rates": [0.1, 0.2]},
            r"recipes other need a privacy.learning_rate",
        ),
    ],
)
def test_recipes_that_void_the_promise_are_refused(recipe, training, message):
    recipes = {"student": {}, "control": {"method": "sft"}, "other": recipe | {"privacy": PROMISE}}
    with pytest.raises(ValueError, match=message):
        Params.model_validate({"distill": {"recipes": recipes, "training": training}})


@pytest.mark.parametrize("field", [{"epsilon": 0.0}, {"epsilon": 1.0, "delta": 1.0}, {}])
def test_a_promise_needs_an_epsilon_in_range(field):
    with pytest.raises(ValueError):
        DifferentialPrivacy(**field)


def test_privacy_trains_in_float32_on_values_that_no_other_prompt_has():
    own = {"epsilon": 8.0, "batch_tokens": 4000}
    recipes = {"student": {}, "control": {"method": "sft"}}
    recipes["other"] = {"method": "sft", "init": "scratch", "privacy": own}
    params = tiny_params(distill={"recipes": recipes, "training": TRAINING | {"value_noise": 0.5}})
    private = training_of(params, params.distill.recipes["other"])
    assert (private.precision, private.value_noise) == ("fp32", 0.0)
    assert (private.batch_tokens, private.steps) == (4000, TRAINING["steps"])
    assert training_of(params, params.distill.recipes["control"]) == params.distill.training
