"""DP-SGD: no prompt decides more than planned, the noise is there, and epsilon says how much."""

import shutil

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_pipeline import SHAPE, TRAINING, run_distill, taught, tiny_params
from tiny_training import (
    END,
    SETTINGS,
    VOCABULARY,
    make,
    run,
    train_in_processes,
    weights,
)
from torch.nn import functional

from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._learner import PLAIN, Learner
from stages._params import DifferentialPrivacy, Params
from stages._private_plan import ORDERS, PrivacyPlan, group_units, plan_privacy
from stages._private_training import PrivateGradient, find_key, normals, split_units, uniforms
from stages._sequences import TrainingSequence, collate
from stages._student import training_of

KEY = b"k" * 32
PRIVATE = SETTINGS.model_copy(update={"batch_tokens": 120, "steps": 6})


def prompts(count=12, seed=0, references=1, length=None):
    """Sequences of so many different prompts, each with its own reverse as every reference."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        tail = rng.integers(10, 18, length or rng.integers(1, 8)).tolist()
        prompt = [20 + number % 200, *tail]
        found += [TrainingSequence(prompt, [*prompt[::-1], END]) for _ in range(references)]
    return found


def plan(sequences, noise=0.0, clip_norm=1e9, rate=1.0, steps=6, **settings):
    settings = DifferentialPrivacy(epsilon=8.0, clip_norm=clip_norm, **settings)
    return PrivacyPlan(settings, group_units(sequences), steps, rate, 1e-4, noise)


def with_adapter(seed=0):
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(make("llama", seed), adapter)


def private_gradient(sequences, planned, model=None, micro=None, step=1):
    """The gradients of one private step, by name."""
    model = (model or make("qwen2")).train()
    private = PrivateGradient(model, sequences, planned, KEY, micro, VOCABULARY)
    private(step)
    private.close()
    return gradients(model)


def gradients(model):
    return {n: w.grad.clone() for n, w in model.named_parameters() if w.requires_grad}


def unit_gradients(sequences, model=None):
    """The naive way: the gradient of each prompt's loss per token, one after another."""
    model = (model or make("qwen2")).train()
    found = []
    for unit in group_units(sequences):
        model.zero_grad()
        nats = []
        for sequence in (sequences[index] for index in unit):
            ids = torch.tensor([sequence.prompt + sequence.answer])
            logits = model(input_ids=ids).logits[0, len(sequence.prompt) - 1 : -1]
            nats.append(functional.cross_entropy(logits, ids[0, len(sequence.prompt) :], None))
        sizes = torch.tensor([float(len(sequences[index].answer)) for index in unit])
        ((torch.stack(nats) * sizes).sum() / sizes.sum()).backward()
        found.append(gradients(model))
    return found


def norm(gradient):
    return float(torch.cat([value.flatten() for value in gradient.values()]).norm())


def assert_near(found, expected, scale=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0.0, atol=scale), name


@pytest.mark.parametrize("start", [make, lambda: make("qwen2"), with_adapter])
def test_a_step_without_clipping_and_noise_is_a_plain_step(start):
    """Prompts of equal length, so that a mean over prompts is one over tokens."""
    sequences, model = prompts(length=4), start().train()
    loss, _ = Learner(model, PLAIN, VOCABULARY)(
        collate(sequences, sum(len(s.answer) for s in sequences)), 1
    )
    loss.backward()
    assert_near(private_gradient(sequences, plan(sequences), start()), gradients(model))


def test_an_epsilon_as_large_as_may_be_hardly_changes_a_step():
    sequences = prompts(300, length=4)
    settings = DifferentialPrivacy(epsilon=100.0, clip_norm=100.0)
    training = SETTINGS.model_copy(update={"steps": 1, "batch_tokens": 100_000})
    planned = plan_privacy(settings, sequences, training)
    plain = private_gradient(sequences, plan(sequences))
    assert 0.0 < planned.noise_multiplier < 0.2 and planned.sample_rate == 1.0
    noise = norm({n: g - plain[n] for n, g in private_gradient(sequences, planned).items()})
    values = sum(value.numel() for value in plain.values())
    expected = planned.noise_multiplier * 100.0 / 300 * values**0.5
    assert noise == pytest.approx(expected, rel=0.02)


def test_the_references_of_a_prompt_are_one_unit_with_the_mean_of_their_tokens():
    sequences = [*prompts(3), *prompts(3)[:2], TrainingSequence(prompts(3)[0].prompt, [30, END])]
    assert group_units(sequences) == [[0, 3, 5], [1, 4], [2]]
    each = unit_gradients(sequences)
    expected = {name: sum(g[name] for g in each) / 3 for name in each[0]}
    assert_near(private_gradient(sequences, plan(sequences)), expected)


def test_a_prompt_moves_the_weights_by_no_more_than_the_clip_norm():
    sequences = prompts(10, references=2)
    each = unit_gradients(sequences)
    clip = float(np.median([norm(g) for g in each]))
    assert min(map(norm, each)) < clip < max(map(norm, each)), "some are clipped, some are not"
    factors = [min(1.0, clip / norm(g)) for g in each]
    expected = {
        name: sum(f * g[name] for f, g in zip(factors, each, strict=True)) / 10 for name in each[0]
    }
    planned = plan(sequences, clip_norm=clip)
    assert_near(private_gradient(sequences, planned), expected)
    for unit in planned.units:
        alone = [sequences[index] for index in unit]
        found = private_gradient(alone, plan(alone, clip_norm=clip))
        assert norm(found) <= clip * (1 + 1e-5)


@pytest.mark.parametrize("micro", [16, 40])
def test_a_step_is_the_same_however_it_is_split(micro):
    sequences = prompts(9, references=2)
    planned = plan(sequences, clip_norm=0.5)
    whole = private_gradient(sequences, planned)
    assert_near(private_gradient(sequences, planned, micro=micro), whole)


def test_a_split_keeps_prompts_whole():
    units = [[0], [1, 2], [3, 4, 5, 6], [7], [8]]
    assert split_units(units, 3) == [[[0], [1, 2]], [[3, 4, 5, 6]], [[7], [8]]]


def test_the_noise_is_normal_and_as_wide_as_planned():
    """Of a step that draws nothing, so that the noise is alone."""
    sequences = prompts(10)
    planned = plan(sequences, noise=1.5, clip_norm=0.2, rate=1e-9)
    scale = 1.5 * 0.2 / (1e-9 * 10)
    first, second = (private_gradient(sequences, planned, step=step) for step in (1, 2))
    values = [torch.cat([g.flatten() for g in found.values()]) / scale for found in (first, second)]
    for found in values:
        assert stats.kstest(found.double().numpy(), "norm").pvalue > 0.01
        assert float(found.std()) == pytest.approx(1.0, abs=0.02)
    assert abs(float(torch.corrcoef(torch.stack(values))[0, 1])) < 0.02
    layers = [n for n in first if n.endswith("q_proj.weight")]
    assert not torch.equal(first[layers[0]], first[layers[1]]), "each matrix has its own noise"


def test_noise_does_not_depend_on_how_many_were_drawn():
    sequences = prompts(10)
    alone = private_gradient(sequences, plan(sequences, noise=1.0, clip_norm=0.1))
    silent = private_gradient(sequences, plan(sequences, clip_norm=0.1))
    noise = {name: alone[name] - silent[name] for name in alone}
    for name, value in noise.items():
        expected = normals(KEY, f"noise 1 {list(noise).index(name)}", value) * 0.1 / 10
        assert torch.allclose(value.double(), expected, atol=1e-6)


def test_random_numbers_are_uniform_and_follow_from_key_and_stream():
    values = uniforms(KEY, "a", 20_000)
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert np.array_equal(values, uniforms(KEY, "a", 20_000))
    for other in (uniforms(KEY, "b", 20_000), uniforms(b"l" * 32, "a", 20_000)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


def test_each_prompt_is_drawn_by_itself_with_the_planned_probability():
    sequences = prompts(50)
    private = PrivateGradient(make(), sequences, plan(sequences, rate=0.3), KEY, None, VOCABULARY)
    drawn = np.array(
        [[u in private.draw(step) for u in private.plan.units] for step in range(400)], dtype=float
    )
    assert drawn.mean(axis=0) == pytest.approx(np.full(50, 0.3), abs=0.1)
    assert drawn.sum(axis=1).std() == pytest.approx((50 * 0.3 * 0.7) ** 0.5, rel=0.15)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.2


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


def test_a_private_model_learns(tmp_path):
    sequences = prompts(400)
    settings = SETTINGS.model_copy(update={"steps": 40, "batch_tokens": 1000, "validations": 1})
    planned = plan_privacy(DifferentialPrivacy(epsilon=8.0, noise_seed=1), sequences, settings)
    trained = run(tmp_path, settings, sequences=sequences, privacy=planned)
    losses = [row["train_nats"] for row in trained.curve if "train_nats" in row]
    assert losses[-1] < 0.8 * losses[0], losses
    assert planned.noise_multiplier > 0.5 and trained.tokens > 0


def test_opacus_leaves_nothing_on_the_model(tmp_path):
    sequences = prompts(20)
    model = run(tmp_path, PRIVATE, sequences=sequences, privacy=plan(sequences, rate=0.5)).model
    hooks = [m for m in model.modules() if m._forward_hooks or m._backward_hooks]
    assert not hooks and not model.training
    notes = {name for w in model.parameters() for name in vars(w)}
    assert not notes & {"grad_sample", "summed_grad"}


def test_only_a_noise_seed_makes_a_run_repeatable(tmp_path):
    sequences = prompts(20)

    def train(name, **settings):
        planned = plan(sequences, noise=1.0, clip_norm=0.1, rate=0.5, **settings)
        return weights(run(tmp_path / name, PRIVATE, sequences=sequences, privacy=planned).model)

    def same(first, second):
        return all(torch.equal(first[name], second[name]) for name in first)

    assert same(train("a", noise_seed=1), train("b", noise_seed=1))
    assert not same(train("c", noise_seed=2), train("a2", noise_seed=1))
    assert not same(train("d"), train("e"))


def test_a_run_that_was_cut_off_goes_on_with_the_noise_it_would_have_had(tmp_path):
    sequences = prompts(20)
    planned = plan(sequences, noise=1.0, clip_norm=0.1, rate=0.5)
    settings = PRIVATE.model_copy(update={"checkpoint_every_s": 0.0, "validations": 3})

    def train(name, **changes):
        return run(tmp_path / name, settings, sequences=sequences, privacy=planned, **changes)

    def cut_off(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("cut", validate=cut_off)
    assert (tmp_path / "cut/train/step-2").is_dir(), "validated after step 3"
    (tmp_path / "whole/train").mkdir(parents=True)
    shutil.copy(tmp_path / "cut/train/noise_key.json", tmp_path / "whole/train")
    cut, whole = train("cut"), train("whole")
    assert cut.curve == whole.curve and cut.tokens == whole.tokens
    expected = weights(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(cut.model).items())


def test_a_key_is_secret_and_stays_until_scratch_goes(tmp_path):
    settings = DifferentialPrivacy(epsilon=1.0)
    first = find_key(tmp_path / "a", settings, 1)
    assert len(first) == 32 and find_key(tmp_path / "a", settings, 1) == first
    assert find_key(tmp_path / "b", settings, 1) != first


def test_several_learning_rates_are_refused(tmp_path):
    sequences = prompts(20)
    settings = SETTINGS.model_copy(update={"learning_rates": (1e-2, 1e-3)})
    with pytest.raises(StillhouseError, match=r"one learning rate is expected, found 2"):
        run(tmp_path, settings, sequences=sequences, privacy=plan(sequences))


def test_several_processes_are_refused(tmp_path):
    sequences = prompts(20)
    work = {"sequences": sequences, "privacy": plan(sequences)}
    assert train_in_processes(tmp_path, processes=2, **work) == [1, 1]
    assert "privacy needs one process, found 2" in (tmp_path / "error-0.txt").read_text()


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


def test_a_layer_that_opacus_does_not_know_is_refused():
    """GPT-2's positions pass as one row for the whole batch."""
    sequences = prompts(8)
    with pytest.raises(StillhouseError, match=r"one gradient per row .* GPT2LMHeadModel"):
        private_gradient(sequences, plan(sequences), make("gpt2"))


PROMISE = {"epsilon": 8.0}


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


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copytree(taught(), tmp_path / "work", ignore=shutil.ignore_patterns("scratch"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_a_private_recipe_gives_a_model_and_says_what_epsilon_covers(root):
    privacy = {"epsilon": 8.0, "steps": 5, "batch_tokens": 800, "learning_rate": 0.02}
    recipe = {"method": "sft", "init": "scratch", "privacy": privacy}
    recipes = {"student": {}, "control": {"method": "sft"}, "other": recipe}
    training = TRAINING | {"learning_rates": [0.01, 0.1], "value_noise": 0.5, "precision": "auto"}
    shape = SHAPE | {"feed_forward": 32}
    params = tiny_params(distill={"recipes": recipes, "shape": shape, "training": training})
    report = run_distill(params, root, "other")
    found = report["privacy"]
    assert 7.8 < found["epsilon"] <= 8.0 and found["units"] == 48 and found["steps"] == 5
    assert found["unit"] == "a training prompt with all its references"
    assert any("tokenizer" in gap for gap in found["does_not_cover"])
    assert report["steps"] == 5 and report["learning_rate"] == 0.02 and report["sweep"] == {}
    assert _io.read_json(root / "reports/distill/other/distill.json")["privacy"] == found
    assert load(root / "other").contract.engine == "transformers"
    assert not list((root / "scratch").rglob("noise_key.json"))
    assert run_distill(tiny_params(), root, "control")["privacy"] is None
