"""The baseline retrieves, re-lexicalises, knows how sure it is, and loads as it was saved."""

import json
from pathlib import Path

import numpy as np
import pytest
from toy import SCHEMA, example, write_prepared

from serving._classifier import Classifier, Forest, Linear, log_odds, sigmoid
from serving._retrieval import build_index, load_index, retrieval_text, save_index
from serving.baseline import find_candidates
from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import load
from serving.slots import SlotSchema
from stages import _io
from stages._confidence import (
    brier_score,
    calibrate,
    cross_calibrated,
    forest_arrays,
    reliability,
    train_model,
)
from stages._params import check_params
from stages.baseline import baseline, keep_cleanest_references

PARAMS = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))
PUBS = SlotSchema.from_dict(SCHEMA)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("baseline")
    write_prepared(root)
    names = ("train.jsonl", "validation.jsonl", "slots.json")
    inputs = {name: root / name for name in names}
    outputs = {"model": root / "model", "reports": root / "reports"}
    return inputs, outputs, baseline(PARAMS, inputs, outputs)


def test_it_answers_an_unseen_pub_in_a_known_pubs_words(project):
    _, outputs, _ = project
    completion = load(outputs["model"]).answer([Request("name[Zizzi], food[pies], dogs[no]")])[0]
    expected = example("Zizzi", "pies", "no")["references"]
    assert completion.text in expected
    assert completion.finish_reason == "stop"
    assert 0.0 <= completion.confidence <= 1.0


def test_a_batch_keeps_its_order_and_equals_single_answers(project):
    _, outputs, _ = project
    predictor = load(outputs["model"])
    requests = [
        Request(example(n, "curry", d)["prompt"]) for n in ("A", "B") for d in ("yes", "no")
    ]
    batch = predictor.answer(requests)
    assert batch == [predictor.answer([request])[0] for request in requests]
    assert "".join(predictor.stream(requests[0])) == batch[0].text
    assert predictor.answer([]) == []


def test_the_report_carries_scores_with_interval_and_signature(project):
    _, outputs, metrics = project
    report = json.loads((outputs["reports"] / "validation.json").read_text())
    assert report == json.loads(json.dumps(metrics))
    assert report["bleu"]["low"] <= report["bleu"]["score"] <= report["bleu"]["high"]
    assert "tok:13a" in report["bleu"]["signature"]
    assert report["slot_error_rate"]["score"] == 0.0
    assert set(report["confidence"]["brier"]) == {"logistic_regression", "random_forest"}


def test_the_same_inputs_give_the_same_bytes(project, tmp_path):
    inputs, outputs, _ = project
    again = {"model": tmp_path / "model", "reports": tmp_path / "reports"}
    baseline(PARAMS, inputs, again)
    for path in outputs["model"].iterdir():
        assert path.read_bytes() == (again["model"] / path.name).read_bytes(), path.name


def test_a_prompt_does_not_answer_itself_when_left_out():
    examples = [example("A", "fish", "yes"), example("B", "pasta", "no")]
    index = build_index(examples, PUBS, 100)
    requests = [Request(examples[0]["prompt"])]
    assert find_candidates(index, requests, 1)[0][0].similarity == pytest.approx(1.0)
    left_out = find_candidates(index, requests, 1, leave_out=[0])[0]
    assert {c.entry.slots["name"] for c in left_out} == {"B"}


def test_candidates_with_fewer_slot_errors_come_first():
    index = build_index([example("A", "fish", "yes"), example("B", "fish", "no")], PUBS, 100)
    best = find_candidates(index, [Request(example("C", "fish", "no")["prompt"])], 2)[0][0]
    assert best.check.errors == 0
    assert "stay outside" in best.text


def test_retrieval_sees_structure_and_closed_values_only():
    slots = {"name": "The Eagle", "food": "fish", "dogs": "no"}
    assert retrieval_text("", slots, PUBS) == "has=name has=food food=fish has=dogs dogs=no"
    assert retrieval_text("plain words", None, None) == "plain words"


def test_without_a_schema_the_closest_prompts_answer_is_taken():
    examples = [
        {"prompt": "reset my password", "references": ["Use the reset page."]},
        {"prompt": "delete my account", "references": ["Write to support."]},
    ]
    index = build_index(examples, None, 100)
    found = find_candidates(index, [Request("how do I reset a password?")], 2)[0]
    assert found[0].text == "Use the reset page."


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 1e-3), ("int8", 5e-3)])
def test_a_stored_index_finds_the_same_rows(tmp_path, dtype, error):
    index = build_index([example(n, f, "no") for n in "ABC" for f in ("fish", "pies")], PUBS, 100)
    save_index(tmp_path, index, dtype)
    loaded = load_index(tmp_path, PUBS)
    query = index.vectoriser.transform(["has=name food=pies"])
    near, rows = index.neighbours.kneighbors(query, 3)
    near_loaded, rows_loaded = loaded.neighbours.kneighbors(
        loaded.vectoriser.transform(["has=name food=pies"]), 3
    )
    assert np.abs(near - near_loaded).max() <= error
    assert set(rows[0]) == set(rows_loaded[0])


def test_forest_arrays_equal_scikit_learn(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    features = np.random.default_rng(0).normal(size=(300, 4))
    good = (features[:, 0] + features[:, 1] ** 2 > 0.5).astype(float)
    model = RandomForestClassifier(n_estimators=20, max_depth=5, random_state=0)
    model.fit(features, good)
    Classifier(forest_arrays(model), slope=1.0, offset=0.0).save(tmp_path / "c.safetensors")
    loaded = Classifier.load(tmp_path / "c.safetensors")
    assert isinstance(loaded.model, Forest)
    expected = model.predict_proba(features)[:, 1]
    np.testing.assert_allclose(loaded.model.scores(features), expected, atol=1e-12)


def test_logistic_arrays_equal_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = np.random.default_rng(1).normal(3.0, 2.0, size=(200, 3))
    good = (features[:, 0] > 3.0).astype(float)
    scaled = StandardScaler().fit(features)
    model = LogisticRegression().fit(scaled.transform(features), good)
    linear = Linear(scaled.mean_, scaled.scale_, model.coef_[0], model.intercept_)
    expected = model.predict_proba(scaled.transform(features))[:, 1]
    np.testing.assert_allclose(linear.scores(features), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["logistic_regression", "random_forest"])
def test_confidence_is_calibrated_on_data_it_did_not_see(kind):
    generator = np.random.default_rng(2)
    features = generator.normal(size=(6000, 3))
    good = (generator.random(6000) < sigmoid(2 * features[:, 0])).astype(float)
    model = train_model(kind, features[:2000], good[:2000], seed=0)
    confidence = calibrate(model, features[2000:4000], good[2000:4000]).probabilities(
        features[4000:]
    )
    held_out = good[4000:]
    assert confidence.mean() == pytest.approx(held_out.mean(), abs=0.03)
    sure = confidence > 0.8
    assert held_out[sure].mean() == pytest.approx(confidence[sure].mean(), abs=0.06)


def test_answers_that_are_all_good_give_that_share():
    model = train_model("random_forest", np.zeros((50, 3)), np.ones(50), seed=0)
    confidence = calibrate(model, np.zeros((9, 3)), np.ones(9)).probabilities(np.ones((2, 3)))
    assert (confidence > 0.99).all()


def test_reliability_by_hand():
    confidence, good = np.asarray([0.9, 0.1, 0.8, 0.2]), np.asarray([1.0, 0.0, 1.0, 1.0])
    assert reliability(confidence, good, bins=2) == [
        (pytest.approx(0.15), 0.5, 2),
        (pytest.approx(0.85), 1.0, 2),
    ]


def test_only_the_cleanest_references_are_handed_on():
    pub = example("A", "fish", "yes")
    short = pub | {"references": ["A serves fish.", *pub["references"], "A."]}
    only_short = pub | {"references": ["A serves fish.", "A."]}
    kept = keep_cleanest_references([short, only_short], PUBS, jobs=1)
    assert kept[0]["references"] == pub["references"]
    assert kept[1]["references"] == ["A serves fish."]


def test_calibration_moves_a_model_that_was_trained_on_easier_rows():
    generator = np.random.default_rng(3)
    features = generator.normal(size=(3000, 1))
    model = train_model("logistic_regression", features, (features[:, 0] > 1).astype(float), 0)
    good = (generator.random(3000) < 0.9).astype(float)
    confidence = calibrate(model, features, good).probabilities(features)
    assert confidence.mean() == pytest.approx(0.9, abs=0.02)


def test_cross_calibration_leaves_each_row_out_of_its_own_calibration():
    scores, good = np.linspace(0.1, 0.9, 40), np.asarray([0.0, 1.0] * 20)
    before = cross_calibrated(scores, good, seed=0, folds=40)
    flipped = good.copy()
    flipped[7] = 1 - flipped[7]
    after = cross_calibrated(scores, flipped, seed=0, folds=40)
    assert after[7] == before[7]
    assert not np.allclose(np.delete(after, 7), np.delete(before, 7))


def test_brier_score_by_hand():
    assert brier_score(np.asarray([0.8, 0.3]), np.asarray([1.0, 0.0])) == pytest.approx(0.065)


def test_log_odds_and_sigmoid_are_inverse_away_from_the_margin():
    values = np.asarray([-3.0, 0.0, 4.0])
    np.testing.assert_allclose(log_odds(sigmoid(values)), values)
    assert np.isfinite(log_odds(np.asarray([0.0, 1.0]))).all()


def test_a_record_with_the_same_slots_beats_a_nearer_one_without_them():
    full = example("The Eagle", "fish", "no")
    short = {
        "prompt": "name[Zizzi], food[fish]",
        "slots": {"name": "Zizzi", "food": "fish"},
        "references": ["Zizzi serves fish."],
    }
    index = build_index([short, full], PUBS, 100)
    best = find_candidates(index, [Request("name[Aromi], food[pies], dogs[no]")], 1)[0][0]
    assert best.text == "Aromi serves pies and dogs must stay outside."


def test_a_flag_the_wrong_way_round_counts_against_a_record():
    index = build_index([example("A", "fish", "yes"), example("B", "pies", "no")], PUBS, 100)
    best = find_candidates(index, [Request(example("C", "fish", "no")["prompt"])], 1)[0][0]
    assert best.entry.slots["name"] == "B"


@pytest.mark.parametrize("prompt", ["1 + 1", "?", ""])
def test_prompts_without_long_words_are_searched_or_refused(prompt):
    examples = [{"prompt": prompt, "references": ["a"]}] * 3
    if prompt == "1 + 1":
        assert find_candidates(build_index(examples, None, 100), [Request("1")], 1)[0]
    else:
        with pytest.raises(StillhouseError, match="Check the prompt column"):
            build_index(examples, None, 100)


def test_slots_that_the_schema_does_not_know_are_refused():
    index = build_index([example("A", "fish", "yes")], PUBS, 100)
    with pytest.raises(StillhouseError, match="slots colour are not in the schema pubs"):
        find_candidates(index, [Request("name[A], colour[red]")], 1)


def test_too_little_data_is_one_clear_error(tmp_path):
    write_prepared(tmp_path)
    names = ("train.jsonl", "validation.jsonl", "slots.json")
    inputs = {name: tmp_path / name for name in names}
    _io.write_jsonl(inputs["train.jsonl"], [example("A", "fish", "yes")])
    with pytest.raises(StillhouseError, match="has 1 prompts; the baseline needs 10"):
        baseline(PARAMS, inputs, {"model": tmp_path / "model", "reports": tmp_path / "reports"})
