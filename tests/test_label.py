"""The label stage: everything labelled is bound to its teacher, and nothing is made twice."""

import resource
import shutil

import numpy as np
import pytest
from tiny_pipeline import label_inputs, run_label, taught, tiny_params

from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io, _progress
from stages._label_plan import plan_labels, plan_validation
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


def with_label(**changes):
    settings = tiny_params().label.model_dump(mode="json")
    return tiny_params(label=settings | changes)


def teacher_answers(root, split):
    """What the teacher answers to a split's prompts, by example id."""
    examples = _io.read_jsonl(root / f"prepared/{split}.jsonl")
    decoding = {"max_new_tokens": 24, "batch_tokens": 65_536}
    answers = load(root / "teacher", decoding).answer([Request(e["prompt"]) for e in examples])
    return dict(zip([e["id"] for e in examples], answers, strict=True))


def test_validation_labels_are_the_teachers_answers_as_they_are_and_no_references(root):
    params = with_label(max_slot_errors=0, max_answer_tokens=1, answers=2)
    report = run_label(params, root)
    assert report["labels"] == 0, "filters of training labels turn everything away"
    plan = plan_validation(params, label_inputs(root))
    labels = list(iterate_labels(read_labels(root / "labels/validation", plan.manifest)))
    answers = teacher_answers(root, "validation")
    finished = {name: a.text for name, a in answers.items() if a.finish_reason == "stop"}
    assert {n.example_id: n.text for n in labels} == {n: t for n, t in finished.items() if t}
    assert labels and {(n.source, n.rank) for n in labels} == {("train", 0)}
    assert report["validation"]["answers"] == len(answers)
    assert set(report["validation"]["rejected_by_reason"]) <= {"unfinished", "empty"}


def test_the_manifest_of_validation_says_which_filters_its_answers_passed(root):
    found = read_index(root / "labels/validation").manifest
    assert (found.filters["max_slot_errors"], found.filters["max_tokens"]) == (None, None)
    assert found.decoding["gold"] is False
    assert (found.decoding["answers_kept"], found.decoding["pool_answers_kept"]) == (1, 0)
    assert found.data_sha256 == _io.sha256_file(root / "prepared/validation.jsonl")
    assert found == plan_validation(tiny_params(), label_inputs(root)).manifest


def test_without_distributions_validation_has_no_labels_as_nothing_reads_them(root):
    report = run_label(with_label(top_k=0), root)
    assert report["labels"] > 0 and "validation" not in report
    assert not (root / "labels/validation").exists()


def test_answers_that_are_too_long_are_turned_away_with_their_length(root):
    _, labels = labels_of(root)
    longest = max(len(label.token_ids) for label in labels)
    params = with_label(max_answer_tokens=longest - 1)
    report = run_label(params, root)
    _, shorter = labels_of(root, params)
    assert [n.text for n in shorter] == [n.text for n in labels if len(n.token_ids) < longest]
    assert report["rejected_by_reason"]["too_long"] == len(labels) - len(shorter)
    rows = _io.read_jsonl(root / "labels/rejected.jsonl")
    assert {row["tokens"] for row in rows if row["reason"] == "too_long"} == {longest}
    assert report["tokens_rejected"] == sum(row["tokens"] for row in rows)


def test_progress_is_told_shard_by_shard_with_the_time_that_is_left(root, monkeypatch, capsys):
    monkeypatch.setattr(_progress, "LOG_EVERY_S", 0.0)  # a log gets a line every 10 s otherwise
    shutil.rmtree(root / "labels")
    run_label(tiny_params(), root)
    lines = capsys.readouterr().err.splitlines()
    told = [line.split(",")[0] for line in lines if line.endswith(" s left")]
    assert told == [*[f"label: {n}/48" for n in (20, 40, 48)], "label validation: 8/8"]


def test_a_full_disk_ends_in_one_line_and_loses_no_finished_shard(root):
    for path in (root / "labels").glob("shard-0000[12]*"):
        path.unlink()
    (root / "labels/index.json").unlink()
    before = {p.name: p.read_bytes() for p in (root / "labels").glob("shard-*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # the system refuses longer files
    try:
        told = r'did not take shard 1 \(.*\); finished shards are safe\. Make room, then run "dvc'
        with pytest.raises(StillhouseError, match=told):
            run_label(tiny_params(), root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in (root / "labels").glob("shard-*")} == before
    run_label(tiny_params(), root)
    assert len(labels_of(root)[1]) == _io.read_json(root / "reports/label/label.json")["labels"]
