"""The baseline's settings reach the model folder, and its confidence is learned on honest rows."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from toy import SCHEMA, example, write_prepared

from serving._classifier import Classifier, Forest, Linear
from serving._retrieval import build_index
from serving.completion import Request
from serving.contract import read_contract
from serving.predictor import load
from serving.slots import SlotSchema
from stages import _io
from stages._params import check_params, params_hash
from stages.baseline import answer_all, baseline

NAMES = ("train.jsonl", "validation.jsonl", "slots.json")
PUBS = SlotSchema.from_dict(SCHEMA)
SHARED = ["printer", "router", "laptop", "camera", "phone", "tablet"]
OTHERS = ["mouse", "scanner", "screen", "charger"]
ASKED = ["hangs", "is too slow", "red light", "restart", "makes a strange noise", "smells"]


def settings(**changed):
    section = {"confidence_rows": 50, "jobs": 1} | changed
    return check_params({"baseline": section}, Path("params.yaml"))


def fit(root, params):
    inputs = {name: root / name for name in NAMES}
    outputs = {"model": root / "model", "reports": root / "reports"}
    return outputs["model"], baseline(params, inputs, outputs)


def text_data(root, train, validation):
    _io.write_jsonl(root / "train.jsonl", train)
    _io.write_jsonl(root / "validation.jsonl", validation)
    _io.write_json(root / "slots.json", None)


def question(prompt, reference):
    return {"id": prompt, "prompt": prompt, "references": [reference]}


def own_words(number):
    """An answer that has next to nothing in common with another number's."""
    return " ".join(hashlib.sha256(f"{number} {n}".encode()).hexdigest()[:9] for n in range(4))


def noisy_questions(root):
    """Training prompts of six topics share their topic's answer, those of four have their own.

    Validation asks four more questions a topic; the six topics' answers fit three of them.
    """
    train, validation = [], []
    for topic, name in enumerate(SHARED + OTHERS):
        known = name in SHARED
        for kind, asked in enumerate(ASKED):
            reference = own_words(topic if known else f"{topic} {kind}")
            train.append(question(f"office {name} {name} {asked}", reference))
        for kind, asked in enumerate(["", "hangs again", "is it slow", "what now please"]):
            fits = known and kind != topic % 4
            reference = own_words(topic if fits else f"{topic} new {kind}")
            validation.append(question(f"office {name} {name} {asked}", reference))
    text_data(root, train, validation)
    return validation


@pytest.fixture(scope="module")
def pubs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pubs")
    write_prepared(root)
    return root


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Questions whose answers are good now and then, and the baseline fitted on them."""
    root = tmp_path_factory.mktemp("noisy")
    validation = noisy_questions(root)
    model, metrics = fit(root, settings())
    completions = load(model).answer([Request(row["prompt"]) for row in validation])
    return root, validation, completions, metrics


def test_the_better_classifier_by_brier_score_is_saved(noisy):
    root, _, _, metrics = noisy
    confidence = metrics["confidence"]
    brier = confidence["brier"]
    assert abs(brier["logistic_regression"] - brier["random_forest"]) > 1e-3
    assert confidence["classifier"] == min(brier, key=brier.get)
    saved = Classifier.load(root / "model/classifier.safetensors").model
    expected = {"logistic_regression": Linear, "random_forest": Forest}[confidence["classifier"]]
    assert isinstance(saved, expected)


@pytest.mark.parametrize(
    ("kind", "array"), [("logistic_regression", Linear), ("random_forest", Forest)]
)
def test_a_classifier_that_is_asked_for_is_taken(tmp_path, kind, array):
    noisy_questions(tmp_path)
    model, metrics = fit(tmp_path, settings(classifier=kind))
    assert (metrics["confidence"]["classifier"], set(metrics["confidence"]["brier"])) == (
        kind,
        {kind},
    )
    assert isinstance(Classifier.load(model / "classifier.safetensors").model, array)


def test_confidence_is_calibrated_on_validation_not_on_training_rows(noisy):
    _, _, completions, metrics = noisy
    confidence = [completion.confidence for completion in completions]
    # 18 of 40 answers fit: three of four in the six topics that share an answer, none elsewhere
    assert metrics["confidence"]["good"] == 18 / 40
    assert np.mean(confidence[:24]) == pytest.approx(18 / 24, abs=0.01)
    assert max(confidence[24:]) < 0.01


def test_reported_confidence_is_of_rows_outside_their_own_calibration(noisy):
    root, validation, completions, metrics = noisy
    good = [c.text == row["references"][0] for c, row in zip(completions, validation, strict=True)]
    assert sum(good) == 18
    seen = np.mean([(c.confidence - fits) ** 2 for c, fits in zip(completions, good, strict=True)])
    reported = metrics["confidence"]
    assert reported["brier"][reported["classifier"]] > seen + 0.005
    lines = (root / "reports/reliability.csv").read_text().splitlines()
    highest = max(float(line.split(",")[0]) for line in lines[1:])
    assert highest > max(completion.confidence for completion in completions) + 0.02


def test_training_prompts_do_not_answer_themselves(tmp_path):
    train = [question(f"how do I mend item {n}", own_words(n)) for n in range(60)]
    later = [question(f"can I mend item {n}", own_words(f"new {n}")) for n in range(20)]
    text_data(tmp_path, train, later)
    model, metrics = fit(tmp_path, settings())
    assert metrics["confidence"]["good"] == 0.0
    # no training answer fits another prompt; those that answer themselves would all be good
    confidence = load(model).answer([Request(train[0]["prompt"])])[0].confidence
    assert confidence == pytest.approx(0.001)


def test_each_prompt_leaves_itself_out_however_many_there_are():
    rows = list(range(300))[::-1]  # more than one chunk, in another order than the index
    examples = [question(f"mend item {n}", own_words(n)) for n in range(300)]
    index = build_index(examples, None, 1000)
    found = answer_all(settings(), index, [examples[row] for row in rows], rows)
    assert found.features.shape == (300, 10)
    for row, best in zip(rows, found.best, strict=True):
        assert best.text != examples[row]["references"][0]
    assert found.good.sum() == 0
    alone = answer_all(settings(), index, examples, None)
    assert [best.text for best in alone.best] == [e["references"][0] for e in examples]


@pytest.mark.parametrize(
    ("good_chrf", "expected"),
    [(60.0, [1, 0, 0]), (0.0, [1, 0, 1])],
    ids=["floor of 60", "no floor"],
)
def test_a_good_answer_has_no_slot_error_and_enough_chrf(good_chrf, expected):
    index = build_index([example("A", "fish", "yes")], PUBS, 100)
    right, wrong_way, other_words = (example("B", "fish", dogs) for dogs in ("yes", "no", "yes"))
    wrong_way |= {"references": right["references"]}  # the answer's very words, but dogs are out
    other_words |= {"references": [own_words(1)]}
    found = answer_all(settings(good_chrf=good_chrf), index, [right, wrong_way, other_words], None)
    assert found.good.tolist() == expected


def test_context_and_given_records_decide_the_answer():
    things = ["printer", "door", "lamp", "oven"]
    asked = [question("It is broken.", f"Fix the {x}.") | {"context": x} for x in things]
    found = answer_all(settings(), build_index(asked, None, 100), asked, None)
    assert [best.text for best in found.best] == [f"Fix the {x}." for x in things]
    pubs = [example("A", "fish", dogs) | {"prompt": "Tell me."} for dogs in ("yes", "no")]
    found = answer_all(settings(), build_index(pubs, PUBS, 100), pubs, None)
    assert found.good.tolist() == [1, 1]


def test_references_with_slot_errors_are_not_handed_on(tmp_path):
    train = write_prepared(tmp_path)["train"]
    dirty = [pub | {"references": ["Come and see us!", *pub["references"]]} for pub in train]
    _io.write_jsonl(tmp_path / "train.jsonl", dirty)
    model, _ = fit(tmp_path, settings())
    answers = json.loads((model / "answers.json").read_text())
    assert [entry["references"] for entry in answers] == [pub["references"] for pub in train]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_index_is_stored_as_told(pubs, dtype):
    model, metrics = fit(pubs, settings(index=dtype))
    assert load_file(model / "index.safetensors")["data"].dtype == dtype
    size = sum(file.stat().st_size for file in model.iterdir())
    assert metrics["size_mb"] == size / 1e6


def test_the_contract_says_what_the_model_was_made_from(pubs):
    params = settings(candidates=4, max_prompt_chars=77)
    model, _ = fit(pubs, params)
    contract = read_contract(model)
    train = (pubs / "train.jsonl").read_bytes()
    assert contract.data_hash == hashlib.sha256(train).hexdigest()
    assert contract.params_hash == params_hash(params, "baseline")
    assert contract.params_hash != params_hash(settings(), "baseline")
    assert contract.slot_schema == SCHEMA
    assert (contract.limits, contract.decoding) == ({"max_prompt_chars": 77}, {"candidates": 4})
