"""Our step beside TRL's: a ratio means something where both learn the same from a batch."""

from pathlib import Path

import pytest
import torch

from benchmarks import _training_bench as bench
from benchmarks import trl_step
from stages._params import DecoderShape, load_params

NARROW = DecoderShape(layers=2, width=32, heads=2, kv_heads=2, feed_forward=64, positions=512)
TINY = ("--steps=1", "--prompts=12", "--batch-tokens=256", "--precision=fp32")
BATCH = [0, 1, 2]


@pytest.fixture
def opened(tmp_path):
    """A bench with narrow models, its pairs, and a folder for TRL."""
    options = trl_step.read_options([*TINY, f"--threads={torch.get_num_threads()}"])
    params = load_params(bench.ROOT / "params.yaml")
    wider = NARROW.model_copy(update={"feed_forward": 96})
    scratch = params.teacher.scratch.model_copy(update={"shape": wider, "vocabulary": 400})
    teacher = params.teacher.model_copy(update={"scratch": scratch})
    distill = params.distill.model_copy(update={"shape": NARROW})
    params = params.model_copy(update={"teacher": teacher, "distill": distill})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "PREPARED", Path("nowhere"))
        bench.write_inputs(tmp_path, params, bench.read_examples(params, options.prompts)[1])
    return bench.open_bench(tmp_path, params, options), bench.read_pairs(tmp_path), tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("distills", "column"), [(False, 0), (True, 1)])
def test_both_have_the_same_loss_on_the_same_batch(opened, distills, column):
    made, pairs, folder = opened
    objective = trl_step.DISTILL if distills else trl_step.PLAIN
    ours = bench.Trainee(made, "student", objective, live=distills).on(pairs)(BATCH)
    theirs = trl_step.TrlTrainee(made, distills, False, folder / "out").on(pairs)(BATCH)
    tokens = sum(len(pairs[index].answer) for index in BATCH)
    assert theirs == pytest.approx(ours[column] / tokens, rel=1e-3)


def test_rows_are_padded_on_the_right_and_prompts_teach_nothing(opened):
    _, pairs, _ = opened
    short, long = sorted(pairs[:2], key=len)
    padded = trl_step.pad([short, long], filler=7)
    assert padded["input_ids"][0, len(short) :].eq(7).all()
    assert padded["labels"][1].tolist() == [-100] * len(long.prompt) + long.answer
    assert padded["attention_mask"].sum(dim=1).tolist() == [len(short), len(long)]


def test_a_ratio_above_one_says_that_ours_is_faster():
    taken = {"plain": [1.0, 1.0], "trl_plain": [2.0, 2.0], "distill": [1.0], "live": [1.0]}
    assert trl_step.compare(taken)["trl_plain / plain"]["ratio"] == 2.0
