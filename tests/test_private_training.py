"""DP-SGD: no prompt decides more than planned, the noise is there, and so is chance."""

import numpy as np
import pytest
import torch
from private_cases import KEY, gradients, plan, private_gradient, prompts
from scipy import stats
from tiny_training import END, SETTINGS, VOCABULARY, make
from torch.nn import functional

from serving.errors import StillhouseError
from stages._learner import PLAIN, Learner
from stages._params import DifferentialPrivacy
from stages._private_plan import group_units, plan_privacy
from stages._private_training import PrivateGradient, normals, split_units, uniforms
from stages._sequences import TrainingSequence, collate


def with_adapter(seed=0):
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(make("llama", seed), adapter)


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


def test_a_layer_that_opacus_does_not_know_is_refused():
    """GPT-2's positions pass as one row for the whole batch."""
    sequences = prompts(8)
    with pytest.raises(StillhouseError, match=r"one gradient per row .* GPT2LMHeadModel"):
        private_gradient(sequences, plan(sequences), make("gpt2"))
