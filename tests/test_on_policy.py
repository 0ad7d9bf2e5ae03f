"""On-policy distillation: the library trains on what we mean it to."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from on_policy_cases import SHORT, decoder, prompts, same, train_in, weights
from tiny_models import tiny_tokenizer
from transformers import GenerationConfig

from stages._divergences import divergence

EARLY_ENDS = list(range(2, 300, 12))  # so many that some answers end early


@pytest.fixture
def train(tmp_path):
    return partial(train_in, tmp_path)


def spy(student):
    """Record what `generate` is given and gives."""
    calls, real = [], student.generate

    def generate(**given):
        calls.append({**given, "output": real(**given)})
        return calls[-1]["output"]

    student.generate = generate
    return calls


def rows_of(call):
    """Prompt and answer of each row, without padding, the end token included."""
    mask = call["attention_mask"].bool()
    for ids, kept, out in zip(call["input_ids"], mask, call["output"], strict=True):
        answer = out[len(ids) :].tolist()
        ends = [place for place, token in enumerate(answer) if token in EARLY_ENDS]
        yield ids[kept].tolist(), answer[: ends[0] + 1] if ends else answer


@torch.no_grad()
def naive_loss(student, teacher, rows, beta, temperature):
    """Row by row, without padding or batch: nats per answer token."""
    kind = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "jsd")
    sums = []
    for prompt, answer in rows:
        ids = torch.tensor([prompt + answer])
        sides = [(m(ids).logits[0] / temperature).log_softmax(-1) for m in (student, teacher)]
        ours, theirs = (side[len(prompt) - 1 : -1] for side in sides)
        sums.append(divergence(kind, ours, theirs, beta))
    return float(torch.cat(sums).mean())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_loss_is_the_divergence_on_every_answer_token_end_included(train, kind, beta):
    student, teacher, said = decoder(kind), decoder(kind, seed=1), []
    student.generation_config.eos_token_id = EARLY_ENDS
    before, calls = copy.deepcopy(student), spy(student)
    settings = replace(SHORT, beta=beta, loss_temperature=2.0, sampling_temperature=0.8)
    train(settings, student, teacher, said)
    rows = list(rows_of(calls[0]))
    lengths = [len(answer) for _, answer in rows]
    assert min(lengths) < max(lengths), "no answer ended early; the test needs one"
    assert said[0][1]["loss"] == pytest.approx(naive_loss(before, teacher, rows, beta, 2.0), 1e-5)
    assert said[0][1]["answer_tokens"] == pytest.approx(sum(lengths) / len(lengths))


def test_prompts_arrive_as_the_encoder_makes_them(train, tmp_path):
    student = decoder()
    calls = spy(student)
    train(replace(SHORT, steps=5), student)
    seen = [tuple(prompt) for call in calls for prompt, _ in rows_of(call)]
    assert sorted(seen) == sorted(4 * prompts(tmp_path))  # 5 steps of 4: each of 5 prompts 4 times


def test_answers_are_drawn_at_the_sampling_temperature(train):
    student = decoder()
    before, calls = copy.deepcopy(student), spy(student)
    train(replace(SHORT, sampling_temperature=1e-5, loss_temperature=3.0), student)
    greedy = GenerationConfig(max_new_tokens=8, eos_token_id=student.config.eos_token_id)
    for prompt, answer in rows_of(calls[0]):
        alone = before.generate(torch.tensor([prompt]), generation_config=greedy, do_sample=False)
        assert alone[0, len(prompt) :].tolist()[: len(answer)] == answer


def test_students_own_generation_settings_do_not_matter(train):
    student = decoder()
    own = GenerationConfig(max_length=3, top_k=1, no_repeat_ngram_size=1, eos_token_id=2)
    student.generation_config = own
    assert same(weights(train(student=student)), weights(train()))
    assert student.generation_config is own


@pytest.mark.parametrize(("beta", "lower"), [(0.0, 0.8), (1.0, 0.8)])
def test_loss_goes_down_and_only_the_students_weights_change(train, beta, lower):
    student, teacher, said = decoder(), decoder(seed=1), []
    config, mine, teachers = student.config.to_dict(), set(vars(student)), weights(teacher)
    train(replace(SHORT, steps=30, beta=beta, learning_rate=1e-2), student, teacher, said)
    losses = [metrics["loss"] for _, metrics in said]
    assert [step for step, _ in said] == list(range(1, 31))
    assert sum(losses[-5:]) < lower * sum(losses[:5])
    assert same(teachers, weights(teacher))
    assert (student.config.to_dict(), set(vars(student)), student.training) == (config, mine, False)


def test_passes_do_not_change_the_step(train):
    whole, cut = [], []
    one = weights(train(said=whole))
    other = weights(train(replace(SHORT, passes_per_step=2), said=cut))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5)
    assert whole[0][1]["loss"] == pytest.approx(cut[0][1]["loss"], 1e-5)


def test_dropout_is_off_and_comes_back(train):
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    without = train(student=decoder("gpt2", **plain))
    student = decoder("gpt2", **dict.fromkeys(plain, 0.5))
    assert same(weights(without), weights(train(student=student)))
    assert {m.p for m in student.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    llama = train(student=decoder(attention_dropout=0.5))
    assert same(weights(train()), weights(llama))
    assert llama.model.layers[0].self_attn.attention_dropout == 0.5


def test_teachers_padding_rows_are_cut_off(train):
    teacher = decoder(seed=1)
    padded = copy.deepcopy(teacher)
    size = teacher.config.vocab_size
    padded.resize_token_embeddings(size + 64, mean_resizing=False)
    with torch.no_grad():
        padded.get_output_embeddings().weight[size:] = 5.0  # would take part in every softmax
    plain = weights(train(teacher=teacher))
    assert same(plain, weights(train(teacher=padded)))
    assert padded.get_output_embeddings().weight.shape[0] == padded.config.vocab_size == size + 64


def test_students_padding_rows_are_never_said(train):
    size = tiny_tokenizer().get_vocab_size()
    models = [decoder(seed=seed, vocab_size=2 * size) for seed in (0, 1)]
    calls = spy(models[0])
    train(SHORT, *models)
    assert max(int(call["output"].max()) for call in calls) < size


def test_bf16_leaves_weights_and_forward_as_they_were(train):
    said = []
    student = train(replace(SHORT, bf16=True), said=said)
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}
    assert "forward" not in vars(student)
    assert said[-1][1]["loss"] == pytest.approx(said[0][1]["loss"], rel=0.5)
