"""The bill of the models in a Bento: every digest is of bytes that were hashed."""

import hashlib
import json
import subprocess
import sys
import tarfile

import pytest
from bento_cases import TAG, make_bento
from structure import ROOT

from serving.errors import StillhouseError
from stages import _io
from stages._model_sbom import describe


def bill(tmp_path, **changes):
    path = tmp_path / "models/bento/cpu.bento"
    path.parent.mkdir(parents=True)
    student = make_bento(path, **changes)
    return student, describe(path, TAG, _io.sha256_file(path))


def test_every_model_and_every_file_has_its_digest(tmp_path):
    student, made = bill(tmp_path)
    assert [model["name"] for model in made["components"]] == ["baseline", "student"]
    model = made["components"][1]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": student}]
    [file] = model["components"]
    assert file["name"] == "model.bin"
    assert file["hashes"][0]["content"] == hashlib.sha256(b"weights").hexdigest()
    facts = {one["name"]: one["value"] for one in model["properties"]}
    assert facts["stillhouse:quantization"] == '{"scheme": "int8"}'


def test_it_has_what_a_reader_knows_cyclonedx_by_and_is_the_same_every_time(tmp_path):
    _, made = bill(tmp_path)
    assert made["bomFormat"] == "CycloneDX"
    assert made["serialNumber"].startswith("urn:uuid:")
    path = tmp_path / "models/bento/cpu.bento"
    assert describe(path, TAG, _io.sha256_file(path)) == made


def test_weights_that_miss_their_contract_are_refused(tmp_path):
    with pytest.raises(StillhouseError, match=r"model\.bin"):
        bill(tmp_path, change=lambda folder: (folder / "model.bin").write_bytes(b"others"))


def test_an_archive_other_than_package_s_is_refused(tmp_path):
    path = tmp_path / "cpu.bento"
    make_bento(path)
    with pytest.raises(StillhouseError, match="expected 000000000000"):
        describe(path, TAG, "0" * 64)
    path.unlink()
    with pytest.raises(StillhouseError, match="no file"):
        describe(path, TAG, "0" * 64)


def test_an_archive_without_a_model_is_refused(tmp_path):
    path = tmp_path / "cpu.bento"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(ROOT / "Makefile", arcname="src/Makefile")
    with pytest.raises(StillhouseError, match="no model"):
        describe(path, TAG, _io.sha256_file(path))


def test_a_path_that_leads_out_of_the_archive_is_refused(tmp_path):
    path = tmp_path / "cpu.bento"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(ROOT / "Makefile", arcname="src/models/../../../escaped")
    with pytest.raises((StillhouseError, tarfile.FilterError)):
        describe(path, TAG, _io.sha256_file(path))
    assert not list(tmp_path.parent.glob("**/escaped"))


def test_the_command_needs_nothing_but_the_standard_library(tmp_path):
    path = tmp_path / "models/bento/cpu.bento"
    path.parent.mkdir(parents=True)
    make_bento(path)
    packed = {"bento_tag": TAG, "bento_sha256": _io.sha256_file(path)}
    _io.write_json(tmp_path / "reports/package/release.json", {"bentos": {"cpu": packed}})
    command = [sys.executable, "-S", "-m", "stages._model_sbom"]
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    made = json.loads((tmp_path / "scratch/container/cpu.models.cdx.json").read_text())
    assert made["metadata"]["component"]["version"] == "0123456789ab-01234567"
    command += ["--bento", "cuda"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no Bento 'cuda'" in done.stderr
