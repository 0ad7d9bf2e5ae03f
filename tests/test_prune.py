"""A pruned student is what is left of its teacher: dead parts cost nothing, the idle go first."""

import json
from dataclasses import replace

import pytest
import torch
from prune_cases import END, FULL, HEAD, KINDS, SMALL, VOCABULARY, logits_of, make_model, measured
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from serving.errors import StillhouseError
from stages._learning import count_parameters
from stages._prune import Shape, prune, shape_of

DEAD = [1, 3, 8, 9, 21, 22, 30, 31]  # channels or neurons
DEAD_GROUPS = [(0, 1), (2, 3), (0, 3)]  # key/value heads, layer by layer


def assert_same_logits(student, teacher):
    torch.testing.assert_close(logits_of(student), logits_of(teacher), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def put_out_rows(linear, rows):
    linear.weight[rows] = 0.0
    if linear.bias is not None:
        linear.bias[rows] = 0.0


@torch.no_grad()
def put_out_channels(model):
    """Nothing writes to the channels: they are 0 all along the residual stream."""
    model.model.embed_tokens.weight[:, DEAD] = 0.0
    for layer in model.model.layers:
        put_out_rows(layer.self_attn.o_proj, DEAD)
        put_out_rows(layer.mlp.down_proj, DEAD)


def put_out_neurons(model):
    for layer in model.model.layers:
        put_out_rows(layer.mlp.up_proj, DEAD)


def put_out_groups(model):
    """Key/value heads without values: the heads that they serve put out 0."""
    for layer, groups in zip(model.model.layers, DEAD_GROUPS, strict=True):
        for group in groups:
            put_out_rows(layer.self_attn.v_proj, slice(group * HEAD, (group + 1) * HEAD))


def put_out_layer(model, number):
    """A layer that adds nothing to what goes through it: the identity."""
    put_out_rows(model.model.layers[number].self_attn.o_proj, slice(None))
    put_out_rows(model.model.layers[number].mlp.down_proj, slice(None))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_same_shape_is_the_same_model(kind, tied):
    teacher = make_model(kind, tie_word_embeddings=tied)
    assert shape_of(teacher) == FULL
    student = prune(teacher, FULL, measured(teacher))
    assert student is not teacher
    assert type(student) is type(teacher)
    assert not student.training
    assert torch.equal(logits_of(student), logits_of(teacher))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_dead_channels_go_first_and_the_norms_make_up_for_them(kind, tied):
    # so large an epsilon that leaving it as it is would show
    teacher = make_model(kind, tie_word_embeddings=tied, rms_norm_eps=0.1)
    put_out_channels(teacher)
    student = prune(teacher, replace(FULL, width=24), measured(teacher))
    assert student.model.embed_tokens.weight.shape == (VOCABULARY, 24)
    assert student.lm_head.weight.shape == (VOCABULARY, 24)
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == tied
    assert_same_logits(student, teacher)


@pytest.mark.parametrize("kind", KINDS)
def test_dead_neurons_go_first(kind):
    teacher = make_model(kind)
    put_out_neurons(teacher)
    student = prune(teacher, replace(FULL, feed_forward=40), measured(teacher))
    assert student.model.layers[0].mlp.down_proj.weight.shape == (32, 40)
    assert_same_logits(student, teacher)


@pytest.mark.parametrize("kind", KINDS)
def test_dead_groups_go_first_with_the_heads_they_serve(kind):
    teacher = make_model(kind)
    put_out_groups(teacher)
    student = prune(teacher, replace(FULL, heads=4, kv_heads=2), measured(teacher))
    attention = student.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (4 * HEAD, 32)
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (2 * HEAD, 32)
    assert_same_logits(student, teacher)


def test_without_groups_each_head_goes_alone():
    teacher = make_model(shape=replace(FULL, heads=4))
    put_out_groups(teacher)
    student = prune(teacher, replace(FULL, heads=2, kv_heads=2), measured(teacher))
    assert_same_logits(student, teacher)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_layer_that_changes_nothing_goes_first(kind, number):
    teacher = make_model(kind)
    put_out_layer(teacher, number)
    importance = measured(teacher)
    assert float(importance.layers[number]) == pytest.approx(0.0, abs=1e-5)
    assert_same_logits(prune(teacher, replace(FULL, layers=2), importance), teacher)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_head_keeps_its_dimension_where_the_config_left_it_to_width_and_heads(kind):
    teacher = AutoModelForCausalLM.from_config(tiny_config(kind))  # width 32, 4 heads
    student = prune(teacher, Shape(2, 24, 2, 1, 64), measured(teacher))
    assert student.config.head_dim == 8
    assert student.model.layers[0].self_attn.q_proj.weight.shape == (16, 24)
    assert logits_of(student).isfinite().all()


def test_layers_keep_their_kind_of_attention():
    kinds = ["full_attention", "full_attention", "sliding_attention"]
    teacher = make_model("qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    put_out_layer(teacher, 0)
    student = prune(teacher, replace(FULL, layers=2), measured(teacher))
    assert student.config.layer_types == kinds[1:]
    assert_same_logits(student, teacher)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_dead_at_once(kind):
    teacher = make_model(kind)
    for put_out in (put_out_channels, put_out_neurons, put_out_groups):
        put_out(teacher)
    put_out_layer(teacher, 1)
    student = prune(teacher, SMALL, measured(teacher))
    assert shape_of(student) == SMALL
    assert_same_logits(student, teacher)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_student_comes_back_the_same(kind, tied, tmp_path):
    teacher = make_model(kind, tie_word_embeddings=tied)
    teacher.generation_config.eos_token_id = [END, 9]
    student = prune(teacher, SMALL, measured(teacher))
    student.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["head_dim"] == HEAD
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert shape_of(again) == SMALL
    assert again.generation_config.eos_token_id == [END, 9]
    assert torch.equal(logits_of(again), logits_of(student))


def test_kept_norms_choose_the_channels_and_each_is_rescaled_by_its_own_energy():
    teacher = make_model()
    scores, energy = torch.zeros(7, 32), torch.ones(7, 32)
    scores[:, :24] = 1.0
    scores[2:4, 24:] = 100.0  # the norms of layer 1, which goes
    energy[:, :24] += torch.arange(7)[:, None]
    changes = {"layers": torch.tensor([1.0, 0.0, 1.0]), "channels": scores, "energy": energy}
    student = prune(teacher, replace(SMALL, layers=2), replace(measured(teacher), **changes))
    before, after = (
        [weight for name, weight in model.named_parameters() if "norm" in name]
        for model in (teacher, student)
    )
    for number, weight in zip((0, 1, 4, 5, 6), after, strict=True):
        factor = ((number + 1) / ((24 * (number + 1) + 8) / 32)) ** 0.5
        torch.testing.assert_close(weight, before[number][:24] * factor)


def test_measuring_and_pruning_leave_the_teacher_as_it_was():
    teacher = make_model(attention_dropout=0.5).train().requires_grad_(False)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = prune(teacher, SMALL, measured(teacher))
    with torch.no_grad():
        for weight in student.parameters():
            weight.zero_()
    assert teacher.training
    assert shape_of(teacher) == FULL
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in teacher.modules()
    )
    assert all(weight.requires_grad for weight in student.parameters())


def test_the_same_inputs_give_the_same_student_and_no_random_number_is_drawn():
    teacher = make_model(attention_dropout=0.5).train()
    state = torch.random.get_rng_state()
    first, second = (prune(teacher, SMALL, measured(teacher)).eval() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits_of(first), logits_of(second))


def test_a_student_has_the_precision_of_its_teacher():
    teacher = make_model().to(torch.bfloat16)
    student = prune(teacher, SMALL, measured(teacher))
    assert {weight.dtype for weight in student.parameters()} == {torch.bfloat16}
    assert student.model.rotary_emb.inv_freq.dtype == torch.float32


def test_tied_weights_count_once():
    attention, feed_forward, norms = 2 * 32 * 64 + 2 * 32 * 32, 3 * 32 * 48, 2 * 32
    layers = 3 * (attention + feed_forward + norms) + 32
    assert count_parameters(make_model()) == layers + VOCABULARY * 32
    assert count_parameters(make_model(tie_word_embeddings=False)) == layers + 2 * VOCABULARY * 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 4}, r"layers 4 \(teacher 3\)"),
        ({"width": 40, "feed_forward": 64}, r"width 40 \(teacher 32\), feed_forward 64 \(teacher"),
        ({"feed_forward": 0}, r"feed_forward 0 \(teacher 48\)"),
        ({"heads": 3, "kv_heads": 2}, "heads 3 and kv_heads 2. Ask for 4 heads"),
        ({"width": 30}, "width 30 and heads 8. Ask for width 24 or 32"),
        ({"width": 5}, "width 5 and heads 8. Ask for width 8"),
    ],
)
def test_a_shape_that_cannot_be_cut_says_what_fits(changes, said):
    teacher = make_model()
    with pytest.raises(StillhouseError, match=said):
        prune(teacher, replace(FULL, **changes), measured(teacher))


def test_a_qwen2_may_have_a_width_that_its_heads_do_not_divide():
    teacher = make_model("qwen2")
    student = prune(teacher, replace(FULL, width=30), measured(teacher))
    assert logits_of(student).isfinite().all()


def test_gpt2_and_quantized_teachers_are_refused_with_a_way_out():
    with pytest.raises(StillhouseError, match=r'GPT2LMHeadModel\. Choose init "scratch"'):
        measured(GPT2LMHeadModel(tiny_config("gpt2")))
    packed = make_model()
    packed.lm_head.weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), False)
    with pytest.raises(StillhouseError, match=r"quantized LlamaForCausalLM\. Choose init"):
        measured(packed)
