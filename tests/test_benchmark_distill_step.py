"""The distillation step's benchmark: its formula, its pairs of steps, and all that it reports."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks import _training_bench as bench
from benchmarks import _training_rate as rate
from benchmarks import distill_step
from stages._params import DecoderShape, load_params
from stages._sequences import TrainingSequence, collate

NARROW = DecoderShape(layers=2, width=32, heads=2, kv_heads=2, feed_forward=64, positions=512)
TINY = ("--steps=1", "--prompts=12", "--batch-tokens=256", "--precision=fp32", "--no-memory")


@pytest.fixture(scope="module")
def options():
    """Few steps on few tokens; the tests after these keep their threads."""
    return distill_step.read_options([*TINY, f"--threads={torch.get_num_threads()}"])


@pytest.fixture(scope="module", autouse=True)
def _no_data_of_this_checkout():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "PREPARED", Path("nowhere"))
        yield


@pytest.fixture(scope="module")
def params():
    """The project's own with narrow models; the teacher's weights are others than the student's."""
    found = load_params(bench.ROOT / "params.yaml")
    shape = NARROW.model_copy(update={"feed_forward": 96})
    scratch = found.teacher.scratch.model_copy(update={"shape": shape, "vocabulary": 400})
    teacher = found.teacher.model_copy(update={"scratch": scratch})
    distill = found.distill.model_copy(update={"shape": NARROW})
    return found.model_copy(update={"teacher": teacher, "distill": distill})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, params, options):
    folder = tmp_path_factory.mktemp("inputs")
    totals = bench.write_inputs(folder, params, bench.read_examples(params, options.prompts)[1])
    return folder, totals


def leaves(value):
    """All that is no mapping, at any depth."""
    if not isinstance(value, dict):
        return [value]
    return [leaf for inner in value.values() for leaf in leaves(inner)]


def test_a_step_costs_what_it_does_by_hand():
    shape = DecoderShape(layers=1, width=8, heads=2, kv_heads=1, feed_forward=16, positions=16)
    size = rate.Size(positions=6, answer_tokens=4, length=3)
    layers = rate.linear_layers(shape, 10, size)
    # query and output 8 x 8, key and value 8 x 4, three matrices of 8 x 16: 576 weights
    assert rate.product_flops(layers) == 6 * (576 * 6 + 10 * 8 * 4)
    # one layer, 6 positions, 3 long, 8 wide
    assert rate.step_flops(shape, 10, size) == 22_656 + 6 * 6 * 3 * 8
    # 5 rounds of 4 r r c + 2 r^3: two of 8 x 8, two of 4 x 8, three of 8 x 16
    assert rate.muon_flops(layers[:-1]) == 5 * (2 * 3072 + 2 * 640 + 3 * 5120)


def test_a_padded_batch_counts_with_its_padding():
    pairs = [TrainingSequence([1, 2, 3], [4, 5]), TrainingSequence([1], [2])]
    assert rate.size_of(pairs, [0, 1]) == (10, 3, 5)
    assert rate.size_of(pairs, [1]) == (2, 1, 2)


def test_variants_take_turns_on_the_same_batches():
    seen = []
    actions = {name: lambda batch, name=name: seen.append((name, batch)) for name in "ab"}
    laps = bench.take_turns("turns", actions, [[0], [1], [2]])
    assert seen == [(name, [batch]) for batch in range(3) for name in "abab"]
    assert [{name: len(ms) for name, ms in lap.items()} for lap in laps] == [{"a": 1, "b": 1}] * 2


def test_both_learn_from_the_same_tokens_and_one_has_a_teacher(inputs, params, options):
    pairs = bench.read_pairs(inputs[0])
    with_teacher = bench.read_stored(inputs[0], pairs)
    for indices in bench.choose_batches(pairs, params, options):
        plain = collate([pairs[i] for i in indices], 1)
        distill = collate([with_teacher[i] for i in indices], 1)
        assert torch.equal(plain.ids, distill.ids)
        assert torch.equal(plain.labels, distill.labels)
        assert plain.teacher is None
        mass = distill.teacher.log_probs.exp().sum(1) + distill.teacher.log_tail.exp()
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0.0, atol=0.01)
        assert distill.teacher.ids.shape[1] == bench.TOP_K


def test_a_stored_teacher_says_about_what_a_live_one_does(inputs, params, options):
    """Cross-entropy is the same; 16 tokens and a tail tell less than all do."""
    place = bench.open_bench(inputs[0], params, options)
    batch = bench.choose_batches(bench.read_pairs(inputs[0]), params, options)[0]
    variants = {
        name: distill_step.make_variant(name, place, inputs[0]) for name in distill_step.VARIANTS
    }
    found = {name: step(batch) for name, step in variants.items()}
    assert found["plain"][0] == pytest.approx(found["distill"][0], rel=1e-4)
    assert found["live"][0] == pytest.approx(found["distill"][0], rel=1e-4)
    assert found["plain"][1] == 0.0
    assert 0.0 < found["distill"][1] <= 1.01 * found["live"][1]


def test_a_ratio_is_that_of_the_medians_inside_its_interval():
    found = distill_step.ratio_of_medians([2.0, 4.0, 6.0, 100.0, 4.0], [1.0, 2.0, 3.0, 2.0, 2.0])
    assert found["ratio"] == 2.0
    assert found["low"] <= 2.0 <= found["high"]


def test_everything_is_measured(inputs, params, options, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "WIDE", NARROW)
    monkeypatch.setattr(rate, "SQUARE", 64)
    found = distill_step.run(params, options, tmp_path)
    assert set(found["step_ms"]) == {"plain", "distill", "live"}
    assert set(found["ratio_to_plain"]) == {"distill", "distill_with_reading", "live"}
    assert set(found["rates"]["models"]) == {"student", "teacher", "wide"}
    assert found["store"]["bytes_per_token"] == inputs[1]["bytes_per_token"]
    measured = [found[name] for name in ("step_ms", "ratio_to_plain", "store", "rates")]
    numbers = [number for part in measured for number in leaves(part)]
    assert len(numbers) > 60
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert all(number > 0 for number in leaves(found["ratio_to_plain"]))
    assert len(distill_step.summarise(found).splitlines()) == 6


def test_a_peak_is_that_of_a_process_and_more_than_it_began_with(inputs, params, options):
    options = type(options)(**vars(options) | {"peak_of": "distill", "folder": Path(inputs[0])})
    found = distill_step.train_for_peak(params, options)
    assert found["peak_mb"] >= found["before_mb"] > 50


@pytest.mark.slow
def test_the_command_line_gives_the_peak_of_a_fresh_process(inputs, options):
    ballast = bytearray(b"x" * 2_000_000_000)
    found = distill_step.measure_peak("plain", inputs[0], options)
    assert 50 < found["before_mb"] <= found["peak_mb"] < len(ballast) / 1e6
