"""Of several tokens that end an answer, labels and students have the one the teacher learned."""

import pytest
from pretrained_base import CHATML, TURN_END, write_base
from tiny_models import END
from tiny_pipeline import TRAINING, label_inputs, run_label, run_teacher, tiny_params

from serving.predictor import load
from stages import _learning as learning
from stages._label_plan import plan_labels
from stages._labels import iterate_labels, read_labels
from stages._student import start_of_student

SHORT = {"max_new_tokens": 8}
SHAPE = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "feed_forward": 32}


def taught_by(root, tuning, chat, end):
    """The params of a teacher that was made from a base with these end tokens."""
    base = write_base(root / "base", chat=chat, end=end)
    section = {"source": "pretrained", "pretrained": {"model": str(base), "tuning": tuning}}
    section |= {"training": TRAINING | {"steps": 1}, "generation": SHORT}
    label = tiny_params().label.model_dump(mode="json")
    label |= {"generation": SHORT, "train_prompts": 6, "pool_prompts": 0}
    distill = {"shape": SHAPE | {"positions": 96}, "generation": SHORT}
    params = tiny_params(teacher=section, label=label, distill=distill)
    run_teacher(params, root)
    return params


@pytest.mark.parametrize(
    ("tuning", "chat", "end", "expected"),
    [
        ("none", CHATML, [END, TURN_END], TURN_END),
        ("lora", CHATML, [TURN_END, END], TURN_END),
        ("none", None, [TURN_END, END], TURN_END),
        ("none", None, [END, TURN_END], END),
        ("full", None, [END], END),
    ],
    ids=["turn", "turn of an adapter", "last by number", "first by number", "one"],
)
def test_labels_and_students_end_as_the_teacher_was_trained_to(
    tmp_path, monkeypatch, tuning, chat, end, expected
):
    monkeypatch.chdir(tmp_path)
    params = taught_by(tmp_path, tuning, chat, end)
    run_label(params, tmp_path)
    predictor = load(tmp_path / "teacher")
    number = predictor.prompts.tokenizer.token_to_id(expected)
    assert predictor.ends == {predictor.prompts.tokenizer.token_to_id(name) for name in end}
    plan = plan_labels(params, label_inputs(tmp_path))
    labels = list(iterate_labels(read_labels(tmp_path / "labels", plan.manifest)))
    assert labels and {int(label.token_ids[-1]) for label in labels} == {number}
    task = learning.read_task(label_inputs(tmp_path))
    for init in ("scratch", "prune"):
        recipe = params.distill.recipes["student"].model_copy(update={"init": init})
        start = start_of_student(params, recipe, task, label_inputs(tmp_path))
        ends = start.make().config.eos_token_id
        assert start.end == number
        assert number in (ends if isinstance(ends, list) else [ends])
