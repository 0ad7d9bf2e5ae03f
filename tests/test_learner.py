"""A step's loss and gradients are what they say, however its rows are split; so are the logits."""

import pytest
import torch
from tiny_training import VOCABULARY, make, rows, with_teacher
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
)

from serving.errors import StillhouseError
from stages._learner import PLAIN, Learner, check_head, head_of
from stages._losses import Objective
from stages._sequences import collate, split_batch, split_shares

KD = Objective(alpha=0.3, temperature=2.0, square=True)


def gradients(sequences, parts, objective=PLAIN, processes=1):
    """Gradient of one step whose rows pass in parts; in fp64, so that their order is no noise."""
    model = make("gpt2").double().eval()  # a Llama's norms compute in fp32 whatever it holds
    tokens = sum(len(sequence.answer) for sequence in sequences)
    for part in parts:
        batch = collate([sequences[i] for i in part], tokens)
        Learner(model, objective, VOCABULARY)(batch, processes)[0].backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def test_the_loss_is_the_mean_over_answer_tokens_of_sequences_taken_one_by_one():
    sequences, model = rows(7), make().double()
    batch = collate(list(sequences), sum(len(s.answer) for s in sequences))
    loss, (ce, kd, count) = Learner(model, PLAIN, VOCABULARY)(batch, 1)
    nats, tokens = 0.0, 0
    for sequence in sequences:
        ids = torch.tensor([sequence.prompt + sequence.answer])
        logs = model(input_ids=ids).logits.log_softmax(-1)
        for place, token in enumerate(sequence.answer, start=len(sequence.prompt)):
            nats -= float(logs[0, place - 1, token].detach())
            tokens += 1
    assert loss.item() == pytest.approx(nats / tokens, rel=1e-9)
    assert (float(ce), float(kd), int(count)) == (pytest.approx(nats, rel=1e-9), 0.0, tokens)


@pytest.mark.parametrize("objective", [PLAIN, KD], ids=["plain", "distilled"])
@pytest.mark.parametrize("micro", [1, 20, 40])
def test_a_step_has_the_same_gradient_however_its_rows_are_split(objective, micro):
    sequences = with_teacher(rows(11))
    lengths, every = [len(s) for s in list(sequences)], list(range(11))
    whole = gradients(sequences, [every], objective)
    parts = split_batch(every, lengths, micro)
    assert len(parts) > 1
    split = gradients(sequences, parts, objective)
    assert all(torch.allclose(split[n], whole[n], rtol=1e-9, atol=1e-12) for n in whole)


@pytest.mark.parametrize("count", [2, 3, 80])
def test_a_step_has_the_same_gradient_however_many_processes_average_theirs(count):
    sequences, every = with_teacher(rows(11)), list(range(11))
    lengths = [len(s) for s in list(sequences)]
    whole = gradients(sequences, [every], KD)
    shares = split_shares(every, lengths, 30, count)
    each = [gradients(sequences, parts, KD, processes=count) for parts in shares if any(parts)]
    for name, expected in whole.items():
        mean = torch.stack([found[name] for found in each]).sum(0) / count
        assert torch.allclose(mean, expected, rtol=1e-9, atol=1e-12)


def test_a_process_without_rows_has_a_gradient_of_zeros():
    found = gradients(rows(2), [[]], processes=2)
    assert all(gradient is not None and not gradient.any() for gradient in found.values())


SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL),
        CohereConfig(**SMALL, logit_scale=0.25),
        Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0),
        GraniteConfig(**SMALL, logits_scaling=8.0),
    ],
    ids=lambda config: config.model_type,
)
def test_the_head_gives_the_logits_of_the_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    ids = torch.tensor([[1, 2, 3]])
    hidden = getattr(model, model.base_model_prefix)(input_ids=ids).last_hidden_state
    ours = head_of(model).logits(hidden, 64)
    assert torch.allclose(ours, model(input_ids=ids).logits, atol=1e-5)
    check_head(model)


def test_a_model_that_does_more_to_its_logits_is_refused():
    model = make()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 2.0)
    with pytest.raises(StillhouseError, match="LlamaForCausalLM does more to its logits"):
        check_head(model)
