"""What the tests of private training share: prompts of our own, a plan, and one private step."""

import numpy as np
from tiny_training import END, VOCABULARY, make

from stages._params import DifferentialPrivacy
from stages._private_plan import PrivacyPlan, group_units
from stages._private_training import PrivateGradient
from stages._sequences import TrainingSequence

KEY = b"k" * 32


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


def private_gradient(sequences, planned, model=None, micro=None, step=1):
    """The gradients of one private step, by name."""
    model = (model or make("qwen2")).train()
    private = PrivateGradient(model, sequences, planned, KEY, micro, VOCABULARY)
    private(step)
    private.close()
    return gradients(model)


def gradients(model):
    return {n: w.grad.clone() for n, w in model.named_parameters() if w.requires_grad}
