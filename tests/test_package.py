"""The winner's Bento: what is in it, always the same bytes, and that it answers as measured."""

import lzma
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from package_cases import LOCKS, inputs_of, params, run, write_project
from structure import ROOT

from serving._service_settings import ServiceSettings, check_digest
from serving._transformers_model import load_model
from serving.contract import digest, read_contract, write_contract
from serving.errors import StillhouseError
from stages import _bento, _io
from stages._bitsandbytes import quantize_model, save
from stages._params import check_params
from stages._params.quantize import Variant
from stages.package import SERVICE, Choice, choose, describe, package

WRONG = """
import bentoml

@bentoml.service(name="stillhouse", http={"host": "127.0.0.1"})
class Stillhouse:
    @bentoml.api(route="/generate")
    def generate(self, prompt: str, slots: dict[str, str] | None = None) -> dict[str, object]:
        choice = {"text": "no", "completion_tokens": 1, "finish_reason": "stop"}
        return {"choices": [choice], "prompt_tokens": 1}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("package"))


def parts_of(project):
    return _bento.Parts(
        name="stillhouse",
        service=SERVICE,
        serving=ROOT / "serving",
        student=project / "models/ct2",
        baseline=project / "models/baseline",
        route=None,
        requirements=_bento.choose_requirements("ctranslate2", False, LOCKS),
        labels={"candidate": "ct2"},
        description="A Bento.",
    )


def test_only_serving_and_the_two_models_are_laid_out(project, tmp_path):
    _bento.lay_out(parts_of(project), tmp_path / "context")
    files = {p.relative_to(tmp_path / "context") for p in (tmp_path / "context").rglob("*.*")}
    tops = {path.parts[0] for path in files}
    assert tops == {"serving", "models", "requirements.txt", _bento.LOCK, "bentofile.yaml"}
    models = {p.parts[1] for p in files if p.parts[0] == "models"}
    assert models == {"student", "baseline", "winner.json"}
    assert not any("__pycache__" in path.parts for path in files)
    assert read_contract(tmp_path / "context/models/student").engine == "ctranslate2"


def test_the_service_finds_the_winner_where_it_is_laid_out(project, tmp_path, monkeypatch):
    _bento.lay_out(parts_of(project), tmp_path / "context")
    monkeypatch.chdir(tmp_path / "context")
    for device in ("cpu", "cuda"):
        folder = ServiceSettings(device=device).student_folder()
        assert digest(folder) == digest(project / "models/ct2")
        check_digest(folder, digest(folder))
    with pytest.raises(StillhouseError, match="holds model 000000000000"):
        check_digest(folder, "0" * 64)


def test_the_version_is_the_model_s_digest_and_changes_with_any_other_byte(project, tmp_path):
    versions = []
    for name in ("one", "two", "three"):
        _bento.lay_out(parts_of(project), tmp_path / name)
        if name == "three":
            (tmp_path / name / "serving/service.py").write_text("# other code\n")
        versions.append(_bento.version_of(tmp_path / name, "ab" * 32))
    assert versions[0] == versions[1] != versions[2]
    assert all(version.startswith("abababababab-") for version in versions)


def test_what_is_packed_is_what_was_chosen(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    winner = _io.read_json(Path("models/winner.json"))
    assert [c.device for c in choose(params(), Path("models/winner.json"))] == ["cpu"]
    for changes, message in (
        ({"cpu": None}, "names no winner for the CPU"),
        ({"cpu": winner["cpu"] | {"model_sha256": "0" * 64}}, "select chose 000000000000 for cpu"),
    ):
        _io.write_json(tmp_path / "winner.json", winner | changes)
        with pytest.raises(StillhouseError, match=message):
            choose(params(), tmp_path / "winner.json")


def test_a_gpu_candidate_is_packed_only_where_select_chose_none(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    settings = check_params(
        {
            "package": {"gpu_candidate": "student"},
            "answer": {"candidates": {"student": "models/student"}},
        },
        Path("params.yaml"),
    )
    found = choose(settings, Path("models/winner.json"))
    assert [(c.device, c.candidate) for c in found] == [("cpu", "ct2"), ("cuda", "student")]
    winner = _io.read_json(Path("models/winner.json"))
    _io.write_json(tmp_path / "winner.json", winner | {"cuda": winner["cpu"]})
    found = choose(settings, tmp_path / "winner.json")
    assert [(c.device, c.candidate) for c in found] == [("cpu", "ct2"), ("cuda", "ct2")]


def test_scores_of_another_model_are_not_packed(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    _io.write_json(tmp_path / "ct2.json", {"model": {"sha256": "f" * 64}})
    outputs = {"bentos": tmp_path / "bento", "report": tmp_path / "release.json"}
    with pytest.raises(StillhouseError, match="ct2 was evaluated as ffffffffffff"):
        package(params(), inputs_of(project, evaluate=tmp_path), outputs)
    assert not outputs["bentos"].exists() and not outputs["report"].exists()


def write_nf4(folder, source):
    """The model in `source` with layers and embedding quantized; its digest."""
    contract, variant = read_contract(source), Variant(scheme="nf4")
    save(quantize_model(load_model(source, contract, torch.device("cpu"))[0], variant), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    quantization = {"scheme": "nf4", "dtype": "float32", "embeddings": "int8"}
    return write_contract(folder, replace(contract, quantization=quantization))


@pytest.fixture(scope="module")
def packed(project):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return run(project, "packed", params())


@pytest.mark.slow
def test_the_winner_s_bento_answers_as_its_folder_does(project, packed):
    report, bentos, metrics = packed
    sha256 = digest(project / "models/ct2")
    assert report["golden_parity"] == {"requests": 3, "identical": 3}
    assert report["model_sha256"] == report["contract_sha256"] == sha256
    assert report["bento_tag"].startswith(f"stillhouse:{sha256[:12]}-")
    assert report["scores"] == {"bleu": {"score": 60.0, "low": 50.0}}
    assert report["bento_bytes"] == (bentos / "cpu.bento").stat().st_size
    assert report["bentos"]["cpu"]["bento_tag"] == report["bento_tag"]
    assert metrics["cpu"]["batched_requests"] == 3
    assert not (project / "scratch/package/cpu").exists()


@pytest.mark.slow
def test_the_exported_bento_holds_nothing_of_this_machine_nor_of_the_pipeline(packed):
    _, bentos, _ = packed
    content = lzma.decompress((bentos / "cpu.bento").read_bytes())
    assert str(ROOT).encode() not in content and str(bentos.parent.parent).encode() not in content
    with tarfile.open(bentos / "cpu.bento") as tar:
        names = [entry.name for entry in tar.getmembers() if entry.isfile()]
        pins = tar.extractfile("env/python/requirements.txt").read().decode().split()
        lock = tar.extractfile(f"src/{_bento.LOCK}").read().decode().splitlines()
        recipe = tar.extractfile("env/docker/Dockerfile").read().decode()
    sources = {Path(name).parts[1] for name in names if name.startswith("src/")}
    assert sources == {"serving", "models", _bento.LOCK, "bentofile.yaml"}
    models = {Path(name).parts[2] for name in names if name.startswith("src/models/")}
    assert models == {"student", "baseline", "winner.json"}
    assert lock == _bento.choose_requirements("ctranslate2", False, LOCKS)
    assert sorted(pins) == sorted(map(_bento.without_hash, lock))
    assert 'ENTRYPOINT ["python", "-m", "serving.container"]' in recipe


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(project, packed, tmp_path, monkeypatch):
    report, bentos, _ = packed
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    settings = {
        "candidate": "ct2",
        "folder": "models/ct2",
        "sha256": digest(project / "models/ct2"),
    }

    monkeypatch.chdir(project)
    choice = Choice("cpu", settings["candidate"], Path(settings["folder"]), settings["sha256"])
    parts = describe(inputs_of(project), choice)
    made = _bento.make(parts, choice.sha256, tmp_path / "again.bento", tmp_path / "place")
    assert made.tag == report["bento_tag"]
    assert (tmp_path / "again.bento").read_bytes() == (bentos / "cpu.bento").read_bytes()


@pytest.mark.slow
def test_one_other_answer_fails_the_stage_and_leaves_no_bento(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    serving = tmp_path / "serving"
    shutil.copytree(ROOT / "serving", serving, ignore=shutil.ignore_patterns("__pycache__"))
    (serving / "service.py").write_text(WRONG)
    with pytest.raises(StillhouseError, match="3 of 3 served answers are not those") as caught:
        run(project, "wrong", params(), serving=serving)
    assert "\n" not in str(caught.value)
    assert list((project / "wrong").iterdir()) == []
    assert (project / "scratch/package/cpu/store/serve.log").is_file()


@pytest.mark.slow
def test_the_gpu_s_bento_is_built_and_asked_on_the_cpu(project, monkeypatch):
    monkeypatch.chdir(project)
    sha256 = write_nf4(project / "models/nf4", project / "models/student")
    _io.write_json(project / "reports/evaluate/nf4.json", {"model": {"sha256": sha256}})
    report, bentos, _ = run(project, "both", params(gpu_candidate="nf4"))
    found = report["bentos"]["cuda"]
    assert found["golden_parity"] == {"requests": 3, "identical": 3}
    assert found["bento_tag"].startswith(f"stillhouse_cuda:{sha256[:12]}-")
    assert sorted(p.name for p in bentos.iterdir()) == ["cpu.bento", "cuda.bento"]
