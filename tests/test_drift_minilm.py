"""MiniLM by numpy: the vectors of sentence-transformers, whatever stands beside a text."""

import math

import numpy as np
import pytest

from stages._drift import minilm
from stages._drift.vectors import Encoder

TEXTS = [
    "a",
    "",
    "fish?",
    "name[The Eagle], food[fish]",
    "Ça coûte 12,50 €; 東京 🙂",
    "fish? " * 700,
]


def encode(texts, threads=2):
    return Encoder(None, threads)(texts)


@pytest.mark.slow  # torch and sentence-transformers
def test_vectors_are_those_of_sentence_transformers():
    from stages._sentences import PACKAGE, load_encoder

    assert encode(TEXTS) == pytest.approx(load_encoder(PACKAGE, None).encode(TEXTS), abs=2e-6)


def test_vectors_are_of_unit_length_and_near_in_meaning():
    texts = ["Is there a cheap pub?", "An inexpensive bar, please.", "The disk of db-4 is full."]
    vectors = encode(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_a_texts_vector_does_not_depend_on_its_neighbours():
    together = encode(TEXTS)
    alone = np.concatenate([encode([text]) for text in TEXTS])
    assert together == pytest.approx(alone, abs=3e-6)


def test_threads_change_no_bit():
    texts = [f"pub number {number}, {'very ' * (number % 7)}old" for number in range(70)]
    assert (encode(texts, threads=1) == encode(texts, threads=3)).all()


def test_what_is_beyond_the_models_length_is_not_read():
    vectors = encode(["fish " * 300, "fish " * 300 + "and a disk that failed"])
    assert vectors[0].tolist() == vectors[1].tolist()


def test_no_texts_have_no_vectors():
    assert len(encode([])) == 0


def test_gelu_is_x_times_the_normal_distribution():
    points = np.linspace(-6.0, 6.0, 97, dtype=np.float32)
    wanted = [x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0))) for x in points.tolist()]
    assert minilm._gelu(points[:, None].copy())[:, 0] == pytest.approx(wanted, abs=1e-6)
