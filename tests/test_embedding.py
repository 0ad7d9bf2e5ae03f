"""The ONNX embedder: the original's vectors, no torch, refusals; its cache and its faults."""

import asyncio
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_sentences import write_sentence_model

from serving._embedding.cached import CachedEmbedder, vector_key
from serving._embedding.embedder import Embedder
from serving._responses.tiered import Tiers
from serving._responses.tiers import MemoryTier
from serving.contract import read_contract
from serving.errors import StillhouseError
from stages import _embedder
from stages._embedder import export, measure_agreement
from stages._sentences import PACKAGE, load_encoder

TEXTS = [
    "the eagle serves fish",
    "dogs",
    "the mill serves pies and dogs must stay outside " * 20,
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("sentences") / "tiny")


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedder") / "tiny"
    export(str(source), out)
    return out


@pytest.fixture
def embedder(folder):
    return Embedder(folder)


class Counting:
    """An embedder that counts the texts it is given."""

    digest, width = "d" * 64, 2

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen += texts
        return [np.array([len(text), 1], np.float32) for text in texts]


class Broken(MemoryTier):
    """A tier that is away."""

    async def get(self, key):
        raise ConnectionError("away")

    async def put(self, key, value, ttl_s):
        raise ConnectionError("away")


def tiers(*places):
    return Tiers(places or [MemoryTier(100, 100_000)], lambda tier, event: None, 60.0)


def test_vectors_are_those_of_the_original_alone_and_in_a_batch(source, embedder):
    original = [load_encoder(str(source), None).encode([text])[0] for text in TEXTS]
    batch = embedder.encode(TEXTS)
    for text, whole, expected in zip(TEXTS, batch, original, strict=True):
        assert embedder.encode([text])[0] == pytest.approx(expected, abs=1e-5)
        assert whole == pytest.approx(expected, abs=1e-5)
        assert whole.dtype == np.float32
    assert embedder.encode([]) == []


def test_more_than_the_model_reads_is_cut_as_the_original_cuts_it(folder, embedder):
    most = read_contract(folder).limits["max_tokens"]
    at_limit, beyond = "fish " * most, "fish " * most + "dogs " * 50
    assert (embedder.encode([at_limit])[0] == embedder.encode([beyond])[0]).all()


def test_threads_get_the_vectors_they_asked_for(embedder):
    texts = [f"the {word} serves" for word in ("eagle", "mill", "dogs", "pies")] * 5
    expected = [embedder.encode([text])[0] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda text: embedder.encode([text])[0], texts))
    assert np.array_equal(made, expected)


def test_an_embedder_needs_neither_torch_nor_transformers(folder):
    program = (
        "import sys; from pathlib import Path; from serving._embedding.embedder import Embedder\n"
        "assert 'onnxruntime' not in sys.modules\n"
        f"assert len(Embedder(Path({str(folder)!r})).encode(['fish'])) == 1\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_folder_that_gives_other_vectors_than_the_original_is_refused(folder, tmp_path):
    other = load_encoder(str(write_sentence_model(tmp_path / "other", seed=1)), None)
    with pytest.raises(StillhouseError, match="other vectors than other: least cosine"):
        measure_agreement(other, folder, "float32")


def test_the_folder_tells_how_near_it_is(folder):
    told = json.loads((folder / "agreement.json").read_text())
    assert told["least_cosine"] >= 0.9999
    assert told["texts"] == len(_embedder.CHECKED)
    assert read_contract(folder).engine == "embedding"


def test_a_folder_that_was_changed_or_holds_another_model_is_refused(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"other")
    with pytest.raises(StillhouseError, match=r"model\.onnx was changed"):
        Embedder(broken)
    contract = json.loads((folder / "contract.json").read_text()) | {"engine": "baseline"}
    shutil.copy(folder / "model.onnx", broken)
    (broken / "contract.json").write_text(json.dumps(contract))
    with pytest.raises(StillhouseError, match=r"no embedder.*stages\._embedder"):
        Embedder(broken)


def test_a_text_is_embedded_once(embedder):
    async def scenario():
        counting = Counting()
        cached = CachedEmbedder(counting, tiers())
        first = await cached.encode(["a", "bb", "a"])
        again = await cached.encode(["bb", "ccc"])
        await cached.close()
        return counting.seen, first, again

    seen, first, again = asyncio.run(scenario())
    assert seen == ["a", "bb", "ccc"]
    assert [vector[0] for vector in first] == [1, 2, 1]
    assert (again[0] == first[1]).all()


def test_a_tier_that_is_away_is_a_miss():
    async def scenario():
        counting = Counting()
        cached = CachedEmbedder(counting, tiers(Broken(10, 10_000)))
        vectors = [await cached.encode(["a"]), await cached.encode(["a"])]
        await cached.close()
        return counting.seen, vectors

    seen, vectors = asyncio.run(scenario())
    assert seen == ["a", "a"]
    assert (vectors[0][0] == [1, 1]).all()


def test_another_models_vectors_and_broken_ones_are_never_met():
    async def scenario():
        shared, counting = tiers(), Counting()
        await shared.put(vector_key(Counting.digest, "a"), b"short")
        await shared.put(vector_key(Counting.digest, "b"), np.float32([np.nan, 1]).tobytes())
        await shared.put(vector_key("e" * 64, "c"), np.float32([9, 9]).tobytes())
        cached = CachedEmbedder(counting, shared)
        await cached.encode(["a", "b", "c"])
        await cached.close()
        return counting.seen

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_a_key_holds_no_text_and_fits_every_tier():
    key = vector_key("d" * 64, "Müller \ud800")
    assert len(key) <= 128
    assert "ller" not in key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "least", "size_mb"), [("float32", 0.9999, 95), ("int8", 0.97, 25)]
)
def test_minilm_exports_as_it_is(tmp_path, scheme, least, size_mb):
    told = export(PACKAGE, tmp_path / scheme, scheme)
    assert told["least_cosine"] >= least
    assert told["size_mb"] < size_mb
    assert bool(read_contract(tmp_path / scheme).quantization) == (scheme == "int8")
    made = Embedder(tmp_path / scheme)
    texts = [
        "Fish is served here.",
        "The disk failed.",
        "They serve fish in this place by the sea.",
    ]
    near, far, text = made.encode(texts)
    assert near @ text > 0.6 > 0.3 > far @ text
    alone = made.encode(texts[:1])[0]
    assert (near == alone).all() if scheme == "int8" else near == pytest.approx(alone, abs=1e-5)
