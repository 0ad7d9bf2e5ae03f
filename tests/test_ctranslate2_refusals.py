"""What the ctranslate2 engine cannot run as it was measured is refused at load, in one line."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
from converted_models import write_converted
from tiny_models import write_model

from serving.contract import read_contract
from serving.ctranslate2_engine import CTranslate2Predictor
from serving.errors import StillhouseError
from serving.predictor import load

ctranslate2 = pytest.importorskip("ctranslate2")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_converted(root / "ct2", write_model(root / "model"))
    return root / "ct2"


def told(folder, contract, device="cpu"):
    """The one line in which loading ends."""
    with pytest.raises(StillhouseError) as caught:
        CTranslate2Predictor(folder, contract, device=device)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_dtype(contract, dtype):
    return replace(contract, quantization={"scheme": dtype, "dtype": dtype})


def test_a_library_that_is_not_installed_is_named(good, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(
        StillhouseError, match="needs the engine ctranslate2, which is not installed"
    ):
        load(good)


def test_a_compute_type_that_the_device_lacks_is_refused_and_not_replaced(good):
    contract = with_dtype(read_contract(good), "int8_float16")  # of CUDA only
    line = told(good, contract)
    assert "computes in int8_float16, which this cpu cannot (it can: " in line
    assert "float32" in line


@pytest.mark.parametrize(("stored", "said"), [("float32", "int8"), ("int8", "float32")])
def test_weights_of_another_type_than_the_contract_s_are_not_converted(tmp_path, stored, said):
    source = write_model(tmp_path / "model")
    write_converted(tmp_path / "ct2", source, stored)
    contract = with_dtype(read_contract(tmp_path / "ct2"), said)
    assert "holds a model of compute type" in told(tmp_path / "ct2", contract)
    CTranslate2Predictor(tmp_path / "ct2", with_dtype(contract, stored), device="cpu")


@pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="there is CUDA here")
def test_cuda_where_there_is_none_is_refused(good):
    assert "finds no CUDA device" in told(good, read_contract(good), device="cuda")


def test_a_cache_that_the_engine_has_not_is_refused(good):
    contract = read_contract(good)
    changed = replace(contract, decoding={**contract.decoding, "cache": "static"})
    assert "cache 'static'" in told(good, changed)


def damage(folder, how):
    model, config = folder / "model.bin", folder / "config.json"
    match how:
        case "cut":
            model.write_bytes(model.read_bytes()[:-500])
        case "garbage":
            model.write_bytes(b"not a model, and no pickle either")
        case "absent":
            model.unlink()
        case "config":
            config.write_text("{")
        case "vocabulary":
            (folder / "vocabulary.json").write_text(json.dumps([str(i) for i in range(100)]))
        case "tokenizer":
            (folder / "tokenizer.json").unlink()
        case "ends":
            facts = json.loads(config.read_text())
            config.write_text(json.dumps({**facts, "end_token_ids": []}))
        case "positions":
            facts = json.loads(config.read_text())
            config.write_text(json.dumps({**facts, "max_positions": 60}))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "holds no model that ctranslate2 can load"),
        ("garbage", "holds no model that ctranslate2 can load"),
        ("absent", "holds no model that ctranslate2 can load"),
        ("config", "holds no model that ctranslate2 can load"),
        ("vocabulary", "they do not belong together"),
        ("tokenizer", "has no tokenizer.json"),
        ("ends", "names no end_token_ids"),
        ("positions", "do not fit the model's 60 positions"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(good, tmp_path, how, said):
    contract = read_contract(good)
    shutil.copytree(good, tmp_path / "ct2")
    damage(tmp_path / "ct2", how)
    assert said in told(tmp_path / "ct2", contract)
    with pytest.raises(StillhouseError, match="does not match its contract"):
        load(tmp_path / "ct2")
