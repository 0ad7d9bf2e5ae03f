"""A model folder is what its contract says, or it is refused in one line."""

import json

import pytest

from serving.contract import Contract, digest, read_contract, write_contract
from serving.errors import StillhouseError
from serving.predictor import load


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    (path / "tokenizer").mkdir(parents=True)
    (path / "weights.safetensors").write_bytes(b"1234")
    (path / "tokenizer/vocab.json").write_text("{}")
    write_contract(
        path,
        Contract(
            engine="baseline",
            prompt_template="{prompt}",
            slot_schema=None,
            limits={"max_prompt_chars": 10},
            decoding={},
            params_hash="p",
            data_hash="d",
        ),
    )
    return path


def edit(folder, **changes):
    path = folder / "contract.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_untouched_folder_is_accepted_and_lists_its_files(folder):
    assert set(read_contract(folder).files) == {"weights.safetensors", "tokenizer/vocab.json"}


def test_the_digest_follows_the_weights(folder):
    before = digest(folder)
    (folder / "weights.safetensors").write_bytes(b"1235")
    assert write_contract(folder, read_contract(folder, check_files=False)) != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "weights.safetensors").write_bytes(b"0"),
            "weights.safetensors was changed",
        ),
        (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda f: (f / "more.txt").touch(), "more.txt is not in the contract"),
        (lambda f: (f / "model.pkl").touch(), "model.pkl is a pickle"),
        (lambda f: (f / "pytorch_model.bin").touch(), "pytorch_model.bin is a pickle"),
        (lambda f: (f / "link").symlink_to("/"), "link is a link"),
        (lambda f: edit(f, files=None), "no schema_version"),
        (lambda f: edit(f, schema_version=0), "no schema_version"),
        (lambda f: (f / "contract.json").unlink(), "has no contract.json .found: tokenizer"),
        (lambda f: (f / "contract.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "contract.json").write_text("[]"), "no schema_version"),
        (lambda f: edit(f, schema_version=99), "schema version 99, this program reads up to 2"),
        (lambda f: edit(f, colour="red"), r"unknown fields \['colour'\]"),
        (lambda f: edit(f, decoding=None, limits="x"), "limits is str 'x'; decoding is NoneType"),
    ],
    ids=[
        "changed",
        "missing",
        "extra",
        "pickle",
        "torch",
        "link",
        "files",
        "zero",
        "none",
        "broken",
        "list",
        "newer",
        "unknown",
        "kinds",
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(folder, damage, message):
    damage(folder)
    with pytest.raises(StillhouseError, match=message):
        read_contract(folder)


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(StillhouseError, match="no such folder"):
        read_contract(tmp_path / "nothing")


def test_an_unknown_engine_is_refused(folder):
    edit(folder, engine="steam")
    with pytest.raises(StillhouseError, match="asks for engine 'steam'"):
        load(folder)
