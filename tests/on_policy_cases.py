"""What the tests of on-policy distillation share: tiny models, prompts, and a run of it."""

from functools import cache

import torch
from tiny_models import ANSWER, END, TEMPLATE, tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from serving._prompts import PromptEncoder
from serving.completion import Request
from stages._on_policy import OnPolicy, distill_on_policy

TEXTS = ["fish", "name[The Eagle], food[fish]", "dogs", "The Mill serves {curry}…", f"a{ANSWER}b"]
SHORT = OnPolicy(steps=4, prompts_per_step=4, learning_rate=3e-3, beta=0.5, max_new_tokens=8)
CPU = torch.device("cpu")


def decoder(kind="llama", seed=0, **changes):
    config = tiny_config(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    return model.eval()


def fast(tokenizer, end=END):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)


@cache
def prompts(folder):
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    encoder = PromptEncoder(folder, TEMPLATE)
    return tuple(tuple(encoder.encode(Request(text))) for text in TEXTS)


def train_in(folder, settings=SHORT, student=None, teacher=None, said=None, **changes):
    """Train a student, by default a fresh one, and give it back; `said` gets the reports."""
    student, said = student or decoder(), [] if said is None else said
    found = {"tokenizer": fast(tiny_tokenizer()), "prompts": prompts(folder)}
    found |= {"scratch": folder / "scratch", "report": lambda *one: said.append(one)}
    found |= {"teacher_tokenizer": fast(tiny_tokenizer()), "device": CPU}
    teacher = teacher or decoder(seed=1)
    distill_on_policy(student, teacher, settings=settings, **(found | changes))
    return student


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)
