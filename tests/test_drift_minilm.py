"""Sentence vectors of the drift stage: the original's, whatever stands beside a text, no torch."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from tiny_sentences import write_sentence_model

from serving.errors import StillhouseError
from stages._drift import minilm
from stages._drift.minilm import make_embedder
from stages._drift.vectors import Encoder
from stages._embedder import export
from stages._sentences import PACKAGE, load_encoder

TEXTS = [
    "the eagle",
    "",
    "fish?",
    "name[The Eagle], food[fish]",
    "Ça coûte 12,50 €; 東京 🙂",
    "the mill serves pies and dogs must stay outside " * 90,
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    source = write_sentence_model(place / "source")
    export(str(source), place / "embedder")
    return source, place / "embedder"


def test_vectors_are_those_of_sentence_transformers(tiny):
    source, folder = tiny
    expected = load_encoder(str(source), None).encode(TEXTS)
    assert Encoder(folder)(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_texts_vector_does_not_depend_on_its_neighbours(tiny):
    encode = Encoder(tiny[1])
    alone = np.concatenate([encode([text]) for text in TEXTS])
    assert encode(TEXTS) == pytest.approx(alone, abs=3e-6)


def test_threads_change_no_bit(tiny):
    texts = [f"the eagle serves {'fish ' * (number % 7)}{number}" for number in range(70)]
    assert (Encoder(tiny[1], threads=1)(texts) == Encoder(tiny[1], threads=3)(texts)).all()


def test_no_texts_have_no_vectors(tiny):
    assert len(Encoder(tiny[1])([])) == 0


def test_nothing_of_torch_is_loaded(tiny):
    program = (
        "import sys; from pathlib import Path; import stages.drift\n"
        "from stages._drift.vectors import Encoder\n"
        "assert 'onnxruntime' not in sys.modules\n"
        f"assert len(Encoder(Path({str(tiny[1])!r}))(['fish'])) == 1\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_embedder_that_was_made_is_kept_for_its_weights_alone(tmp_path, monkeypatch):
    (tmp_path / minilm.WEIGHTS).write_bytes(b"weights")
    folder = tmp_path / "kept" / hashlib.sha256(b"weights").hexdigest()[:32]
    folder.mkdir(parents=True)
    (folder / "contract.json").write_text("{}")
    assert make_embedder(tmp_path, tmp_path / "kept") == folder
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-model")
    (tmp_path / minilm.WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(StillhouseError, match="no-such-model"):
        make_embedder(tmp_path, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir() if path.is_dir()] == [folder.name]


@pytest.mark.slow  # MiniLM is exported, where that was not done before
def test_minilm_s_vectors_are_those_of_sentence_transformers():
    texts = [*TEXTS, "Is there a cheap pub?", "An inexpensive bar, please.", "The disk is full."]
    found = Encoder(None)(texts)
    assert found == pytest.approx(load_encoder(PACKAGE, None).encode(texts), abs=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)
    pub, bar, disk = found[-3:]
    assert pub @ bar > pub @ disk + 0.3


@pytest.mark.slow
def test_what_is_beyond_the_models_length_is_not_read():
    first, second = Encoder(None)(["fish " * 300, "fish " * 300 + "and a disk that failed"])
    assert first.tolist() == second.tolist()
