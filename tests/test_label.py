"""The label stage: everything labelled is bound to its teacher, and nothing is made twice."""

import shutil

import numpy as np
import pytest
from tiny_pipeline import label_inputs, run_label, taught, tiny_params

from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._label_plan import plan_labels
from stages._labels import iterate_labels, read_index, read_labels


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copytree(taught(), tmp_path / "work", ignore=shutil.ignore_patterns("scratch"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def labels_of(root, params=None):
    plan = plan_labels(params or tiny_params(), label_inputs(root))
    return plan, list(iterate_labels(read_labels(root / "labels", plan.manifest)))


def test_answers_and_references_are_all_accounted_for(root):
    plan, labels = labels_of(root)
    totals = _io.read_json(root / "reports/label/label.json")
    references = sum(len(e["references"]) for e in plan.examples)
    assert totals["answers"] == len(plan.examples) + references
    assert totals["labels"] + totals["rejected"] == totals["answers"]
    assert totals["labels"] == len(labels)
    assert {"gold", "train"} >= {n.source for n in labels} - {"pool"}


def test_pool_prompts_are_new_and_have_no_reference(root):
    plan, _ = labels_of(root)
    pool = _io.read_jsonl(root / "labels/pool.jsonl")
    known = {
        row["prompt"]
        for split in ("train", "validation", "calibration", "test")
        for row in _io.read_jsonl(root / f"prepared/{split}.jsonl")
    }
    assert plan.examples[plan.train_count :] == pool
    assert not known & {row["prompt"] for row in pool}
    assert all(row["references"] == [] for row in pool)


def test_token_ids_decode_to_the_text_and_end_with_the_end_token(root):
    predictor = load(root / "teacher")
    _, labels = labels_of(root)
    for label in labels:
        ids = label.token_ids.tolist()
        assert predictor.prompts.decode(ids) == label.text
        assert ids[-1] in predictor.ends


def test_distributions_are_those_of_the_teacher(root):
    """Against a plain forward pass over prompt and answer."""
    import torch

    predictor = load(root / "teacher")
    plan, labels = labels_of(root)
    prompts = {e["id"]: e for e in plan.examples}
    from serving.completion import Request

    for label in labels[:5]:
        prompt = predictor.prompts.encode(Request(prompts[label.example_id]["prompt"]))
        ids = torch.tensor([prompt + label.token_ids.tolist()])
        with torch.no_grad():
            logits = predictor.model(ids).logits[0, len(prompt) - 1 : -1]
        expected, tokens = logits.log_softmax(-1).topk(4)
        found = label.distribution
        assert np.abs(found.topk_logprobs.astype(float) - expected.numpy()).max() < 0.01
        assert (np.sort(found.topk_ids) == np.sort(tokens.numpy())).mean() > 0.95


def test_a_second_run_makes_no_shard_again(root):
    before = {p.name: p.stat().st_mtime_ns for p in (root / "labels").glob("shard-*")}
    run_label(tiny_params(), root)
    assert {p.name: p.stat().st_mtime_ns for p in (root / "labels").glob("shard-*")} == before
    assert len(before) >= 6


def test_a_lost_shard_alone_is_made_again_and_is_the_same(root):
    path = root / "labels/shard-00001.safetensors"
    kept, lost = root / "labels/shard-00000.jsonl", path.read_bytes()
    before = kept.stat().st_mtime_ns
    path.unlink()
    run_label(tiny_params(), root)
    assert path.read_bytes() == lost
    assert kept.stat().st_mtime_ns == before


def test_other_settings_are_refused_by_name(root):
    other = tiny_params()
    other = other.model_copy(update={"label": other.label.model_copy(update={"top_k": 8})})
    plan = plan_labels(other, label_inputs(root))
    with pytest.raises(StillhouseError, match="top_k: expected 8, found 4"):
        read_labels(root / "labels", plan.manifest)


def test_another_teacher_is_refused(root):
    contract = _io.read_json(root / "teacher/contract.json")
    _io.write_json(root / "teacher/contract.json", contract | {"params_hash": "1" * 64})
    plan = plan_labels(tiny_params(), label_inputs(root))
    with pytest.raises(StillhouseError, match="teacher_sha256"):
        read_labels(root / "labels", plan.manifest)


def test_a_missing_teacher_is_one_line(root):
    shutil.rmtree(root / "teacher")
    with pytest.raises(StillhouseError, match=r'teacher has no contract\.json.*Run "dvc repro"'):
        run_label(tiny_params(), root)


def test_validation_prompts_have_labels_of_their_own(root):
    index = read_index(root / "labels/validation")
    assert index.totals["answers"] >= len(_io.read_jsonl(root / "prepared/validation.jsonl"))


def test_a_pool_file_gives_prompts_that_nothing_else_has(root):
    train = _io.read_jsonl(root / "prepared/train.jsonl")[0]["prompt"]
    test = _io.read_jsonl(root / "prepared/test.jsonl")[0]["prompt"]
    _io.write_jsonl(root / "pool.jsonl", [{"prompt": p} for p in (train, test, "food[soup]")])
    settings = tiny_params().label.model_dump() | {"pool_file": str(root / "pool.jsonl")}
    plan = plan_labels(tiny_params(label=settings), label_inputs(root))
    assert [e["prompt"] for e in plan.examples[plan.train_count :]] == ["food[soup]"]
    assert plan.pool["copies_of_training_or_held_out"] == 2
