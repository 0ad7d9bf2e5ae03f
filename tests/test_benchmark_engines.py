"""The engines' benchmark: its formula, its turns, and all that it reports, on a tiny model."""

import math

import pytest
import torch
from tiny_models import write_model

from benchmarks import _engine_models as models
from benchmarks import engines
from benchmarks._engine_variants import Answers, engine_variant, float32_copy, plain_variant
from serving.completion import Request
from serving.errors import StillhouseError

SHAPE = "1,32,2,48,400"
TINY = ["--shape", SHAPE, "--rounds=1", "--tokens=4", "--prompts=4", "--batch-sizes", "1", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.random_model(SHAPE, tmp_path_factory.mktemp("models") / "random")


def test_a_token_multiplies_every_matrix_and_the_head_but_looks_the_embedding_up(model):
    # query, key, value and output 32 x 32; gate, up 32 -> 48 and down 48 -> 32; head 32 -> 400
    expected = [(32, 32)] * 4 + [(32, 48)] * 2 + [(48, 32), (32, 400)]
    assert sorted(models.matrices_of(model)) == sorted(expected)
    assert models.matrices_of(model)[-1] == (32, 400)


def test_plain_generation_answers_what_our_engine_does(tmp_path):
    """Left padding and end tokens are right on both sides, or the comparison is none."""
    folder = write_model(tmp_path / "decoder", seed=3)
    requests = [Request(text) for text in ("fish", "name[The Eagle], food[fish]", "dogs")]
    plain, ours = (make(folder, 12)(requests) for make in (plain_variant, engine_variant))
    assert plain == ours
    assert len(set(plain.texts)) == 3


def test_variants_take_turns_and_the_first_round_is_not_counted():
    seen = []

    def variant(name, text):
        return lambda batch: seen.append(name) or Answers([text for _ in batch], 10)

    variants = {"plain": variant("plain", "x"), "other": variant("other", "y")}
    rates, seconds, same = engines.take_turns(
        variants, {"own": lambda: seen.append("own")}, [[1], [2], [3]], "turns"
    )
    assert seen == ["plain", "other", "own"] * 3
    assert {name: len(values) for name, values in rates.items()} == {"plain": 2, "other": 2}
    assert len(seconds["own"]) == 2
    assert same == {"plain": [True] * 3, "other": [False] * 3}


def test_everything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "SQUARE", 64)
    options = engines.read_options([*TINY, f"--threads={torch.get_num_threads()}"])
    found = engines.run(options, tmp_path)
    assert set(found["missing"]) == {"speculative"}
    assert set(found["batch_sizes"]) == {"1", "2"}
    for size in found["batch_sizes"].values():
        assert set(size["tokens_per_s"]) == {"plain", "transformers", "ct2_float32", "ct2_int8"}
        assert all(math.isfinite(v) and v > 0 for v in size["tokens_per_s"].values())
        assert size["same_answers"]["transformers"] == size["same_answers"]["ct2_float32"] == 1.0
        rate, limit = size["tokens_per_s"]["plain"], size["allowed_tokens_per_s"]["own"]
        assert size["share_of_allowed"]["plain"]["own"] == pytest.approx(rate / limit)
        assert size["allowed_tokens_per_s"]["own"] == pytest.approx(
            1e9 * size["gflops"]["own"] / (2 * found["model"]["matrix_weights"])
        )
    said = engines.summarise(found).splitlines()
    assert "at least 3.0" in said[0] and "at least" not in said[1]


def test_what_plain_transformers_cannot_load_is_refused(tmp_path):
    folder = write_model(tmp_path / "int8", quantization={"scheme": "bitsandbytes_int8"})
    with pytest.raises(StillhouseError, match=r"start from a plain model.*--model"):
        float32_copy(folder, tmp_path / "copy")


def test_a_wrong_shape_is_told(tmp_path):
    with pytest.raises(StillhouseError, match="five whole numbers"):
        models.random_model("4,256", tmp_path / "model")
