"""On-policy distillation: the library trains on what we mean it to, and a kill costs nothing."""

import copy
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_models import ANSWER, END, TEMPLATE, tiny_config, tiny_tokenizer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.errors import StillhouseError
from stages._divergences import divergence
from stages._on_policy import OnPolicy, distill_on_policy

TEXTS = ["fish", "name[The Eagle], food[fish]", "dogs", "The Mill serves {curry}…", f"a{ANSWER}b"]
SHORT = OnPolicy(steps=4, prompts_per_step=4, learning_rate=3e-3, beta=0.5, max_new_tokens=8)
EARLY_ENDS = list(range(2, 300, 12))  # so many that some answers end early
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


@pytest.fixture
def train(tmp_path):
    """Trains a student, by default a fresh one, and gives it back; `said` gets the reports."""

    def run(settings=SHORT, student=None, teacher=None, said=None, **changes):
        student = student or decoder()
        found = {"tokenizer": fast(tiny_tokenizer()), "prompts": prompts(tmp_path)}
        found |= {"scratch": tmp_path / "scratch", "report": lambda *one: said.append(one)}
        found |= {"teacher_tokenizer": fast(tiny_tokenizer()), "device": CPU}
        said = [] if said is None else said
        teacher = teacher or decoder(seed=1)
        distill_on_policy(student, teacher, settings=settings, **(found | changes))
        return student

    return run


def spy(student):
    """Record what `generate` is given and gives."""
    calls, real = [], student.generate

    def generate(**given):
        calls.append({**given, "output": real(**given)})
        return calls[-1]["output"]

    student.generate = generate
    return calls


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


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


def test_same_seed_gives_the_same_weights(train):
    first = weights(train())
    torch.manual_seed(99)
    assert same(first, weights(train()))
    assert not same(first, weights(train(replace(SHORT, seed=1))))


def test_passes_do_not_change_the_step(train):
    whole, cut = [], []
    one = weights(train(said=whole))
    other = weights(train(replace(SHORT, passes_per_step=2), said=cut))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5)
    assert whole[0][1]["loss"] == pytest.approx(cut[0][1]["loss"], 1e-5)


@pytest.mark.parametrize(("stop", "every_s"), [(1, 0.0), (3, 0.0), (3, 1e6), (4, 1e6)])
def test_an_interrupted_run_ends_as_an_undisturbed_one(train, tmp_path, stop, every_s):
    def interrupt(step, _):
        if step == stop:
            raise KeyboardInterrupt

    straight, resumed = [], []
    undisturbed = weights(train(said=straight))
    with pytest.raises(KeyboardInterrupt):
        train(report=interrupt, save_every_s=every_s)
    kept = [path.name for path in (tmp_path / "scratch").iterdir()]
    assert kept == (["on_policy.safetensors"] if stop == 4 or every_s == 0.0 else [])
    assert same(undisturbed, weights(train(said=resumed, save_every_s=every_s)))
    assert [step for step, _ in resumed] == [1, 2, 3, 4]
    timeless = [[one[1] | {"step_s": 0.0} for one in said] for said in (straight, resumed)]
    assert timeless[0] == timeless[1]
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("changed", ["settings", "teacher", "student", "prompts"])
def test_the_state_of_another_run_is_not_used(train, tmp_path, changed):
    def interrupt(step, _):
        if step == 2:
            raise KeyboardInterrupt

    def other():
        return {
            "settings": {"settings": replace(SHORT, learning_rate=1e-3)},
            "teacher": {"teacher": decoder(seed=2)},
            "student": {"student": decoder(seed=3)},
            "prompts": {"prompts": prompts(tmp_path)[:3]},
        }[changed]

    undisturbed = weights(train(**other()))
    with pytest.raises(KeyboardInterrupt):
        train(report=interrupt, save_every_s=0.0)
    assert same(undisturbed, weights(train(**other())))


def test_a_state_cut_short_is_no_state(train, tmp_path):
    state = tmp_path / "scratch" / "on_policy.safetensors"
    state.parent.mkdir()
    state.write_bytes(b"\x10\x00\x00")
    assert same(weights(train()), weights(train()))


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


def test_models_that_do_not_fit_are_refused(train):
    size = tiny_tokenizer().get_vocab_size()
    for student, teacher in ((size - 1, size), (size, size - 1), (size + 8, size)):
        models = decoder(vocab_size=student), decoder(vocab_size=teacher)
        with pytest.raises(StillhouseError, match=f"found {student} and {teacher}"):
            train(SHORT, *models)


def renamed(old, new):
    text = tiny_tokenizer().to_str()
    return Tokenizer.from_str(text.replace(f'"{old}"', f'"{new}"'))


def test_another_tokenizer_is_refused_by_its_first_difference(train):
    larger = Tokenizer.from_str(tiny_tokenizer().to_str())
    larger.add_tokens(["zzz"])
    size = larger.get_vocab_size()
    lowercase = Tokenizer.from_str(tiny_tokenizer().to_str())
    lowercase.add_special_tokens([])
    lowercase.pre_tokenizer = None
    for tokenizer, found in (
        (fast(larger), f"found {size - 1} tokens and {size}"),
        (fast(renamed(ANSWER, "<|reply|>")), r"token 1 is '<\|answer\|>' and '<\|reply\|>'"),
        (fast(tiny_tokenizer(), end=ANSWER), r"answers end with '<\|end\|>' and '<\|answer\|>'"),
        (fast(lowercase), "other rules to cut text"),
    ):
        with pytest.raises(StillhouseError, match=found):
            train(teacher_tokenizer=tokenizer)


def test_a_tokenizer_without_end_is_refused(train):
    with pytest.raises(StillhouseError, match="names no end token"):
        train(tokenizer=fast(tiny_tokenizer(), end=None))


def test_prompts_that_do_not_fit_are_refused_and_not_cut(train):
    for given, found in (
        ([[5], [5] * 89], "prompt 1 has 89 tokens; with 8 new .* the student's 96 positions"),
        ([[5], []], r"an empty one \(number 1\)"),
        ([], "found none"),
        ([[5, 5000]], "token ids below 320, found 5000"),
    ):
        with pytest.raises(StillhouseError, match=found):
            train(prompts=given)
    with pytest.raises(StillhouseError, match="the teacher's 40 positions"):
        train(teacher=decoder(max_position_embeddings=40), prompts=[[5] * 33])
    train(replace(SHORT, steps=1), prompts=[[5] * 88])


def test_a_loss_that_is_not_finite_is_an_error(train):
    teacher = decoder(seed=1)
    with torch.no_grad():
        teacher.model.norm.weight[0] = math.nan
    with pytest.raises(StillhouseError, match=r"on-policy step 1: the loss is nan. Lower"):
        train(teacher=teacher)


def test_bf16_leaves_weights_and_forward_as_they_were(train):
    said = []
    student = train(replace(SHORT, bf16=True), said=said)
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}
    assert "forward" not in vars(student)
    assert said[-1][1]["loss"] == pytest.approx(said[0][1]["loss"], rel=0.5)


def test_wrong_settings_are_named_together():
    with pytest.raises(ValueError, match=r"steps: .* found 0; .*beta: expected 0 to 1, found 2"):
        replace(SHORT, steps=0, beta=2.0)
    with pytest.raises(ValueError, match="passes_per_step 3 does not divide"):
        replace(SHORT, passes_per_step=3)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import torch
import test_on_policy as case
folder = Path(sys.argv[1])

def report(step, _):
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

student = case.decoder()
case.distill_on_policy(
    student, case.decoder(seed=1), case.fast(case.tiny_tokenizer()), case.prompts(folder),
    case.SHORT, folder / "scratch", teacher_tokenizer=case.fast(case.tiny_tokenizer()),
    device=case.CPU, report=report, save_every_s=0.0,
)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_in_another_one(train, tmp_path):
    tests = Path(__file__).parent
    program = KILLED.format(root=str(tests.parent), tests=str(tests))
    prompts(tmp_path)
    settings = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", program, str(tmp_path), "2"]
    assert subprocess.run(command, env=settings, check=False).returncode == -9
    assert (tmp_path / "scratch" / "on_policy.safetensors").is_file()
    said = []
    resumed = weights(train(said=said))
    assert len(said) == 4
    assert same(resumed, weights(train()))
