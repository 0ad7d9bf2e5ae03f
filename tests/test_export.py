"""The export answers as its models do, and one that does not is refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_cases import PROMPTS, exported, run
from onnx import numpy_helper
from service_models import PARAMS
from tiny_models import SENTENCES, write_model
from toy import example

from serving._classifier import Classifier, Forest, Linear
from serving._retrieval import _search
from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._export.agreement import compare_student
from stages._export.baseline_agreement import compare_baseline
from stages._export.baseline_graphs import write_confidence, write_retrieval
from stages._export.baseline_running import onnxruntime_judge, onnxruntime_search
from stages._export.originals import load_original, read_asked
from stages._export.shipped.generate import Student, onnxruntime_step
from stages._export.shipped.retrieve import count_nearest, open_baseline
from stages.baseline import baseline


@pytest.fixture
def project():
    return exported()


def test_the_student_s_graph_answers_token_by_token_as_its_predictor(project):
    root, report = project
    told = report["student"]["agreement"]
    assert told["prompts"] == told["identical"] == PROMPTS
    assert told["logits_max_abs_difference"] < 1e-4
    assert report["winner"]["identical_greedy"] == PROMPTS
    assert json.loads((root / "out/export.json").read_text()) == report
    folder = root / "out/student"
    student = Student(folder, onnxruntime_step(folder / "model.onnx"))
    predictor = load_original(root / "student")
    for sentence in SENTENCES:
        (found,) = student.answer([student.encode(sentence)])
        (wanted,) = predictor.answer([Request(sentence)])
        assert (found.text, found.finish_reason) == (wanted.text, wanted.finish_reason)
        assert found.mean_logprob == pytest.approx(wanted.mean_logprob, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_other_decoders_can_be_exported(project, tmp_path, kind):
    root, _ = project
    model = write_model(tmp_path / "model", kind)
    report = run(root, tmp_path / "out", model=model, baseline=None, winner=None)
    assert report["student"]["agreement"]["identical"] == PROMPTS
    assert not (tmp_path / "out/triton/baseline").exists()


def test_a_batch_answers_as_each_prompt_alone(project):
    folder = project[0] / "out/student"
    student = Student(folder, onnxruntime_step(folder / "model.onnx"))
    prompts = [student.encode(text) for text in [*SENTENCES, "a"]]
    together = [tokens for tokens, _ in student.tokens(prompts)]
    assert together == [student.tokens([prompt])[0][0] for prompt in prompts]
    assert len({len(prompt) for prompt in prompts}) > 1
    assert student.answer([]) == []


def test_a_graph_with_another_weight_is_refused(project, tmp_path):
    root, _ = project
    folder = shutil.copytree(root / "out/student", tmp_path / "student")
    graph = onnx.load(folder / "model.onnx")
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    other = numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(other, weight.name))
    onnx.save(graph, tmp_path / "other.onnx")
    asked = read_asked(root / "calibration.jsonl", PROMPTS)
    predictor = load_original(root / "student")
    with pytest.raises(StillhouseError, match="another model: logits differ"):
        compare_student(folder, onnxruntime_step(tmp_path / "other.onnx"), predictor, asked)


def test_logits_that_change_no_answer_are_compared_too(project):
    folder = project[0] / "out/student"
    step = onnxruntime_step(folder / "model.onnx")

    def off(feeds):
        outputs = dict(step(feeds))
        return {**outputs, "logits": outputs["logits"] + np.float32(0.01)}

    asked = read_asked(project[0] / "calibration.jsonl", PROMPTS)
    with pytest.raises(StillhouseError, match=r"logits differ by up to 0\.01, .*; 0 answers"):
        compare_student(folder, off, load_original(project[0] / "student"), asked)


def test_a_step_that_loses_the_past_is_refused(project):
    root, _ = project
    folder = root / "out/student"
    step = onnxruntime_step(folder / "model.onnx")

    def forgetful(feeds):
        mask = feeds["attention_mask"].copy()
        mask[:, : -feeds["input_ids"].shape[1]] = 0
        return step({**feeds, "attention_mask": mask})

    asked = read_asked(root / "calibration.jsonl", PROMPTS)
    with pytest.raises(StillhouseError, match="answers differ"):
        compare_student(folder, forgetful, load_original(root / "student"), asked)


def test_a_refused_export_leaves_the_older_one(project, tmp_path):
    root, _ = project
    (tmp_path / "out").mkdir()
    (tmp_path / "out/older").write_text("older")
    with pytest.raises(StillhouseError, match="8 prompts, expected at least 200"):
        run(root, tmp_path / "out", least=200)
    with pytest.raises(StillhouseError, match="expected a plain model of engine transformers"):
        run(root, tmp_path / "out", model=root / "baseline")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "older"]


def test_the_baseline_s_graphs_find_and_judge_as_its_predictor(project):
    root, report = project
    told = report["baseline"]["agreement"]
    assert told["prompts"] == PROMPTS
    assert told["similarity_max_abs_difference"] < 1e-5 > told["confidence_max_abs_difference"]
    exported = open_exported(root)
    for asked in (example("Zizzi", "pies", "no"), example("Aromi", "fish", "yes")):
        (found,) = exported.answer([Request(asked["prompt"])])
        (wanted,) = load(root / "baseline").answer([Request(asked["prompt"])])
        assert found.text == wanted.text
        assert found.confidence == pytest.approx(wanted.confidence, abs=1e-5)


def open_exported(root, **graphs):
    folder = root / "out/baseline"
    return open_baseline(
        root / "baseline",
        onnxruntime_search(graphs.get("retrieval", folder / "retrieval.onnx")),
        onnxruntime_judge(graphs.get("confidence", folder / "confidence.onnx")),
    )


def test_words_and_pairs_of_words_are_weighed_as_scikit_learn_does(tmp_path):
    rows = [{"prompt": p, "references": [p]} for p in ("the pub", "The old pub the the", "a disk")]
    _io.write_jsonl(tmp_path / "train.jsonl", rows * 4)
    _io.write_jsonl(tmp_path / "validation.jsonl", rows)
    _io.write_json(tmp_path / "slots.json", None)
    inputs = {n: tmp_path / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, inputs, {"model": tmp_path / "model", "reports": tmp_path / "reports"})
    predictor = load(tmp_path / "model")
    assert any(" " in term for term in predictor.index.vectoriser.vocabulary_)
    write_retrieval(predictor.index, count_nearest(predictor), tmp_path / "retrieval.onnx")
    exported = open_baseline(
        tmp_path / "model", onnxruntime_search(tmp_path / "retrieval.onnx"), lambda features: None
    )
    texts = ["The old, old pub", "a pub!", "nothing known", ""]
    wanted, _ = predictor.index.neighbours.kneighbors(
        predictor.index.vectoriser.transform(texts), 12
    )
    terms = exported.index.vectoriser.transform(texts)
    found, _ = exported.index.neighbours.kneighbors(terms, 12)
    assert found == pytest.approx(wanted, abs=1e-6)


def test_forest_and_regression_judge_as_their_arrays(tmp_path):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(500, 10))
    sixth = float(np.float32(features[6, 0]))  # a threshold that a feature meets exactly
    ten = np.ones(10)
    forest = Forest(
        feature=np.array([0, 0, 0, 3, 0, 0], np.int32),
        threshold=np.array([sixth, 0.0, 0.0, 1e-9, 0.0, 0.0]),
        left=np.array([1, 1, 2, 4, 4, 5], np.int32),
        right=np.array([2, 1, 2, 5, 4, 5], np.int32),
        value=np.array([0.5, 0.0, 0.9, 0.5, 0.3, 1.0]),
        roots=np.array([0, 3], np.int32),
    )
    linear = Linear(ten * 0.3, ten * 2.0, np.linspace(-1, 1, 10), np.array([0.2]))
    for model in (forest, linear):
        classifier = Classifier(model, 1.7, -0.4)
        write_confidence(classifier, 10, tmp_path / "confidence.onnx")
        judge = onnxruntime_judge(tmp_path / "confidence.onnx")
        asked = features.astype(np.float32)
        wanted = classifier.probabilities(asked.astype(np.float64))
        assert judge(asked)[:, 0] == pytest.approx(wanted, abs=1e-5)


def test_a_baseline_of_other_training_prompts_is_refused(project, tmp_path):
    root, _ = project
    original = load(root / "baseline")
    matrix = original.index.neighbours._fit_X.copy()
    matrix.data[::2] *= 0.5
    write_retrieval(
        replace(original.index, neighbours=_search(matrix)), 48, tmp_path / "retrieval.onnx"
    )
    asked = read_asked(root / "calibration.jsonl", PROMPTS)
    with pytest.raises(StillhouseError, match="exported baseline is another model: similarity"):
        compare_baseline(
            original, open_exported(root, retrieval=tmp_path / "retrieval.onnx"), asked
        )


def test_an_export_that_was_changed_is_refused(project, tmp_path):
    folder = shutil.copytree(project[0] / "out/student", tmp_path / "student")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(StillhouseError, match=r"tokenizer\.json was changed"):
        Student(folder, onnxruntime_step(folder / "model.onnx"))
    with pytest.raises(StillhouseError, match="expected an export for onnx"):
        Student(project[0] / "student", lambda feeds: {})


def test_the_export_is_bound_to_its_source_and_pins_what_it_needs(project):
    root, report = project
    contract = read_contract(root / "out/student")
    assert contract.base_revision == report["student"]["source_sha256"]
    assert report["student"]["source_sha256"] != report["student"]["sha256"]
    pins = (root / "out/requirements/triton.txt").read_text().splitlines()
    assert [pin.partition("==")[0] for pin in pins][:2] == ["safetensors", "scikit-learn"]
    assert all("==" in pin for pin in pins)


def test_the_command_line_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "stages.export", "--model", str(tmp_path / "none")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: export: ")
    assert "Traceback" not in done.stderr
