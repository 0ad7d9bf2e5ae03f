"""A model in Hugging Face format learns, through an adapter too, and is one plain model again."""

import json
from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from pretrained_base import CHATML, settings_of, write_base
from tiny_models import CONTRACT, SENTENCES
from transformers import AutoModelForCausalLM

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.contract import read_contract, write_contract
from serving.errors import StillhouseError
from serving.transformers_engine import TransformersPredictor
from stages import _pretrained
from stages._params import Adapter, Training
from stages._sequences import collate, encode_examples
from stages._training import PLAIN, Learner, train

KINDS = ["gpt2", "llama", "qwen2"]
EXAMPLES = [{"prompt": text, "references": [SENTENCES[1]]} for text in ("fish", "food[fish]")]


def test_missing_weights_are_no_model(tmp_path):
    folder = write_base(tmp_path / "m")
    base = _pretrained.resolve(settings_of(folder), offline=True)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StillhouseError, match=r"lacks \d+ weights"):
        _pretrained.load(base, settings_of(folder), "sdpa")


def test_an_adapter_for_layers_that_are_not_there_is_refused(tmp_path):
    folder = write_base(tmp_path / "m")
    base = _pretrained.resolve(settings_of(folder), offline=True)
    wrong = settings_of(folder, adapter=Adapter(modules=("q_proj", "lm_head", "c_attn")))
    with pytest.raises(StillhouseError, match=r"lm_head, c_attn: this model has down_proj"):
        _pretrained.load(base, wrong, "sdpa")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tuning", ["full", "lora", "qlora"])
def test_tuning_lowers_the_loss_and_the_merged_model_serves_it(tmp_path, kind, tuning):
    folder = write_base(tmp_path / "base", kind, chat=CHATML)
    settings = settings_of(folder, tuning=tuning, adapter=Adapter(rank=8))
    base = _pretrained.resolve(settings, offline=True)
    model = _pretrained.load(base, settings, "sdpa")
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all(("lora_" in name) == (tuning != "full") for name in trained)
    batch, losses = tune(model, base)
    assert losses[-1] < 0.3 * losses[0]
    plain = check_merged(model, batch)
    serve(plain, base, tmp_path / "served")


def tune(model, base, steps=20):
    """Some steps as the training loop takes them; every trained weight gets a gradient."""
    prompts = PromptEncoder(base.folder, base.template)
    sequences = encode_examples(EXAMPLES, prompts, base.end, base.positions)
    batch = collate(sequences, sum(len(sequence.answer) for sequence in sequences))
    learner = Learner(model.train(), PLAIN, len(base.tokenizer))
    weights = {n: w for n, w in model.named_parameters() if w.requires_grad}
    optimizer, losses = torch.optim.AdamW(weights.values(), lr=2e-2), []
    for _ in range(steps):
        loss, _sums = learner(batch, 1)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        without = [n for n, w in weights.items() if w.grad is None]
        still = [n for n, w in weights.items() if len(losses) > 1 and not w.grad.any()]
        assert without == [] and still == []
        optimizer.zero_grad()
    return batch, losses


@torch.no_grad()
def check_merged(model, batch):
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32  # what the processor has would round the products
    expected = model.eval()(batch.ids).logits
    plain = _pretrained.merged(model).eval()
    assert not hasattr(plain, "peft_config")
    assert not any(module._forward_hooks for module in plain.modules())
    assert {weight.dtype for weight in plain.parameters()} == {torch.float32}
    error = (plain(batch.ids).logits - expected).abs().max() / expected.std()
    assert error < 1e-3
    return plain


def serve(plain, base, folder):
    """Save the model with a contract; what it answers when reloaded is what it answers now."""
    plain.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    write_contract(folder, replace(CONTRACT, prompt_template=base.template))
    requests = [Request(example["prompt"]) for example in EXAMPLES]
    contract = read_contract(folder)
    reloaded = TransformersPredictor(folder, contract, device="cpu")
    prompts = PromptEncoder(base.folder, base.template)
    memory = TransformersPredictor.around(plain, reloaded.ends, prompts, contract)
    assert base.end in reloaded.ends
    pairs = list(zip(reloaded.answer(requests), memory.answer(requests), strict=True))
    assert [again.text for again, _ in pairs] == [now.text for _, now in pairs]
    assert all(again.min_logprob == pytest.approx(now.min_logprob, 1e-3) for again, now in pairs)


def test_stored_bfloat16_stays_under_an_adapter_and_in_what_it_is_merged_into(tmp_path):
    folder = write_base(tmp_path / "m")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    for tuning, held, served in (
        ("none", torch.bfloat16, torch.bfloat16),
        ("full", torch.float32, torch.float32),
        ("lora", torch.bfloat16, torch.bfloat16),
        ("qlora", torch.float32, torch.bfloat16),  # what is not in 4 bits
    ):
        settings = settings_of(folder, tuning=tuning)
        model = _pretrained.load(_pretrained.resolve(settings, offline=True), settings, "sdpa")
        assert model.get_input_embeddings().weight.dtype == held
        assert any(w.requires_grad for w in model.parameters()) == (tuning != "none")
        assert {weight.dtype for weight in _pretrained.merged(model).parameters()} == {served}


def test_an_adapter_is_added_exactly_and_rounded_once(tmp_path):
    folder = write_base(tmp_path / "m")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    settings = settings_of(folder)
    model = _pretrained.load(_pretrained.resolve(settings, offline=True), settings, "sdpa")
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B.default.weight)
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default")
    plain = _pretrained.merged(model)
    assert torch.equal(plain.model.layers[0].self_attn.q_proj.weight, exact.bfloat16())


def test_the_seed_draws_the_adapter(tmp_path):
    settings = settings_of(write_base(tmp_path / "m"))
    base = _pretrained.resolve(settings, offline=True)
    drawn = [
        [w for n, w in _pretrained.load(base, settings, "sdpa", s).named_parameters() if "_A" in n]
        for s in (3, 3, 4)
    ]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_an_adapter_goes_through_the_training_loop(tmp_path, tuning):
    settings = settings_of(write_base(tmp_path / "m"), tuning=tuning)
    base = _pretrained.resolve(settings, offline=True)
    prompts = PromptEncoder(base.folder, base.template)
    seen = []

    def validate(model):
        predictor = TransformersPredictor.around(model, frozenset({base.end}), prompts, CONTRACT)
        seen.append(predictor.answer([Request("fish")])[0].text)
        return {"selection": float(len(seen))}

    trained = train(
        lambda: _pretrained.load(base, settings, "sdpa"),
        encode_examples(EXAMPLES, prompts, base.end, base.positions),
        Training(steps=20, learning_rates=(2e-2,), validations=2, precision="fp32"),
        validate=validate,
        vocabulary=len(base.tokenizer),
        seed=0,
        scratch=tmp_path / "scratch",
        device="cpu",
    )
    losses = [row["train_nats"] for row in trained.curve if "train_nats" in row]
    assert losses[-1] < 0.8 * losses[0]
    serve(_pretrained.merged(trained.model), base, tmp_path / "served")
