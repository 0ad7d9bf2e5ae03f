"""The quantize stage: a variant is complete, counted, checked after a reload, or not there."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import write_model
from toy import SCHEMA, write_prepared

from serving.completion import Request
from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._params import check_params
from stages._roundtrip import answer_afresh, require_identical, share_identical
from stages.answer import count_parameters
from stages.quantize import quantize

DECODING = {"max_new_tokens": 12, "answers": 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("quantize")
    write_prepared(root)
    write_model(root / "student", "gpt2", decoding=DECODING, slot_schema=SCHEMA)
    return root


@pytest.fixture(scope="module")
def made(prepared):
    """An int8 variant, its report and its folder; new processes take seconds, so once for all."""
    return make(prepared, prepared, scheme="int8", cache="static")


def make(prepared, root, student="student", min_coverage=0.95, **settings):
    """Run the stage for one variant, small; gives its report and its folder."""
    section = {"variants": {"small": settings}, "prompts": 4, "max_new_tokens": 8}
    section["min_coverage"] = min_coverage
    params = check_params({"quantize": section, "run": {"threads": 1}}, Path("params.yaml"))
    inputs = {"student": prepared / student, "teacher": prepared / "student"}
    inputs |= {f"{s}.jsonl": prepared / f"{s}.jsonl" for s in ("train", "validation")}
    outputs = {"model": root / "variants/small", "reports": root / "reports"}
    return quantize(params, inputs, outputs), outputs["model"]


def test_a_variant_is_a_whole_folder_with_its_own_contract(prepared, made):
    report, folder = made
    student, found = read_contract(prepared / "student"), read_contract(folder)
    assert found.quantization["scheme"] == report["scheme"] == "int8"
    assert found.quantization["embeddings"] == "int8"
    assert found.quantization["coverage"] == report["coverage"]["parameters"] > 0.95
    assert (found.base_model, found.base_revision) == ("student", digest(prepared / "student"))
    for name in ("prompt_template", "slot_schema", "limits", "shots", "data_hash"):
        assert getattr(found, name) == getattr(student, name)
    assert found.decoding == student.decoding | {"cache": "static"}
    assert len(load(folder).answer([Request("fish"), Request("dogs")])) == 2


def test_the_report_says_what_was_made_and_how_near_it_is(prepared, made):
    report, folder = made
    assert report == _io.read_json(prepared / "reports/quantize.json")
    assert report["round_trip"]["prompts"] == 4
    assert report["round_trip"]["identical"]
    assert report["agreement"]["top1_agreement"] > 0.8
    assert 0.0 < report["agreement"]["mean_kl_nats"] < 0.1
    size = (folder / "model.safetensors").stat().st_size
    before = 4 * count_parameters(prepared / "student")  # in float32, whatever it is stored in
    assert report["bytes"] == {"before": before, "after": size, "ratio": size / before}
    skipped = report["coverage"]["skipped"]
    assert "transformer.ln_f" in skipped
    assert not {"transformer.h.0.attn.c_attn", "transformer.wte", "lm_head"} & set(skipped)


def test_too_little_coverage_leaves_nothing(prepared, tmp_path):
    with pytest.raises(StillhouseError, match=r"6\d\.\d% .*transformer\.wte") as caught:
        make(prepared, tmp_path, scheme="nf4", embeddings="keep")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "variants").iterdir()) == []
    assert not (tmp_path / "reports").exists()


def test_an_unknown_variant_and_a_quantized_student_are_refused(prepared, made, tmp_path):
    _, folder = made
    shutil.copytree(folder, prepared / "again")
    with pytest.raises(StillhouseError, match=r"must be an unquantized model .*int8"):
        make(prepared, tmp_path, student="again", scheme="nf4")
    params = check_params({}, Path("params.yaml"))
    with pytest.raises(StillhouseError, match=r"has no 'other' \(there are: int8, nf4"):
        quantize(params, {"student": prepared / "student"}, {"model": tmp_path / "other"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("contract.json", None, r"student has no contract\.json \(found: config\.json"),
        ("contract.json", '{"schema_version": 99}', "schema version 99, this program reads up to"),
        ("model.safetensors", "other weights", r"model\.safetensors was changed"),
        ("tokenizer.json", None, r"tokenizer\.json is missing"),
    ],
)
def test_a_damaged_student_is_refused_and_nothing_is_made(prepared, tmp_path, name, text, message):
    shutil.copytree(prepared / "student", tmp_path / "student")
    (tmp_path / "student" / name).unlink()
    if text is not None:
        (tmp_path / "student" / name).write_text(text)
    with pytest.raises(StillhouseError, match=message) as caught:
        make(tmp_path, tmp_path, scheme="int8")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "variants").exists()
    assert not (tmp_path / "reports").exists()


def test_no_prompts_to_check_on_are_told(prepared, tmp_path):
    shutil.copytree(prepared / "student", tmp_path / "student")
    for name, text in (("train", ""), ("validation", "")):
        (tmp_path / f"{name}.jsonl").write_text(text)
    with pytest.raises(StillhouseError, match=r"validation\.jsonl has no prompts"):
        make(tmp_path, tmp_path, scheme="nf4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_told(prepared, tmp_path):
    params = check_params({"run": {"device": "cuda"}}, Path("params.yaml"))
    inputs = {"student": prepared / "student", "teacher": prepared / "student"}
    inputs |= {f"{s}.jsonl": prepared / f"{s}.jsonl" for s in ("train", "validation")}
    with pytest.raises(StillhouseError, match="cuda was asked for, and torch finds no CUDA"):
        quantize(params, inputs, {"model": tmp_path / "int8", "reports": tmp_path})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_the_new_process_runs_on_the_device_that_is_asked_for(prepared):
    with pytest.raises(StillhouseError, match=r"could not be loaded again .*no CUDA device here"):
        answer_afresh(prepared / "student", [Request("fish")], 4, "cuda")


def test_a_student_whose_contract_does_not_limit_its_answers_is_told(prepared, tmp_path):
    write_model(tmp_path / "student", decoding={"method": "greedy"})
    for name in ("train", "validation"):
        shutil.copyfile(prepared / f"{name}.jsonl", tmp_path / f"{name}.jsonl")
    with pytest.raises(StillhouseError, match="max_new_tokens is missing"):
        make(tmp_path, tmp_path, scheme="nf4")


def test_a_folder_that_does_not_load_again_is_told_in_one_line(prepared, tmp_path):
    shutil.copytree(prepared / "student", tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"not weights")
    with pytest.raises(StillhouseError, match=r"could not be loaded again .*was changed") as caught:
        answer_afresh(tmp_path / "model", [Request("fish")], 4)
    assert "\n" not in str(caught.value)


def test_other_tokens_after_a_reload_are_refused():
    answers = [[1, 2], [3], [4, 5, 6]]
    require_identical(answers, [list(row) for row in answers], "x")
    with pytest.raises(StillhouseError, match=r"variant x answers 2 of 3 .*first is prompt 1"):
        require_identical(answers, [[1, 2], [3, 7], [4, 5]], "x")
    assert share_identical(answers, [[1, 2], [3, 7], [4, 5, 6]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"engine": "ctranslate2", "scheme": "nf4"},
            "ctranslate2 has no scheme nf4; it has float32",
        ),
        ({"scheme": "int16"}, "transformers has no scheme int16; it has int8, nf4"),
        ({"scheme": "int8", "block_size": 64}, "block_size do not go with .*scheme int8"),
        ({"scheme": "bf16", "embeddings": "int8"}, "embeddings do not go with .*scheme bf16"),
        (
            {"engine": "ctranslate2", "scheme": "int8", "cache": "static"},
            "cache do not go with engine ctranslate2",
        ),
        ({"scheme": "nf4", "outlier_threshold": 6.0}, "outlier_threshold do not go with"),
        ({"scheme": "nf4", "block_size": 100}, "block_size"),
        ({"scheme": "bf16", "recovery": {}}, "recovery needs prune or a scheme of at most 8 bits"),
        ({"scheme": "nf4", "prune": {}}, "prune names nothing to cut"),
    ],
)
def test_settings_that_contradict_each_other_are_told(settings, said):
    with pytest.raises(StillhouseError, match=said):
        check_params({"quantize": {"variants": {"x": settings}}}, Path("params.yaml"))


def test_a_variant_cannot_be_named_like_another_candidate():
    for name in ("teacher", "a/b"):
        section = {"variants": {name: {"scheme": "int8"}}}
        with pytest.raises(StillhouseError, match="need other names"):
            check_params({"quantize": section}, Path("params.yaml"))


@pytest.mark.slow
def test_a_ctranslate2_variant_is_checked_between_two_new_processes(prepared, tmp_path):
    changes = {"min_coverage": 0.85}  # positions stay in float32, a tenth of so small a model
    report, folder = make(prepared, tmp_path, engine="ctranslate2", scheme="int8", **changes)
    assert report["coverage"]["skipped"][0] == "decoder/layer_*/ffn/layer_norm/beta"
    assert report["round_trip"]["with"] == "another new process"
    assert report["bytes"]["after"] == (folder / "model.bin").stat().st_size
    assert report["bytes"]["ratio"] < 0.5
    assert report["agreement"]["answers_identical"] > 0.0
    found = read_contract(folder)
    assert (found.engine, found.quantization["scheme"]) == ("ctranslate2", "int8")
    assert load(folder).answer([Request("fish")])[0].completion_tokens > 0


@pytest.mark.slow
def test_a_cut_and_recovered_student_becomes_a_ctranslate2_variant(prepared, tmp_path):
    write_model(tmp_path / "student", "qwen2", decoding=DECODING, slot_schema=SCHEMA)
    for name in ("train", "validation"):
        shutil.copyfile(prepared / f"{name}.jsonl", tmp_path / f"{name}.jsonl")
    recovery = {"steps": 5, "batch_tokens": 256}
    changes = {"prune": {"layers": 1}, "recovery": recovery}
    report, folder = make(tmp_path, tmp_path, engine="ctranslate2", scheme="float32", **changes)
    assert report["recovery"]["steps"] == 5
    assert report["coverage"]["parameters_total"] < 20_000  # of 28,960 with both layers
    assert load(folder).answer([Request("fish")])[0].completion_tokens > 0


def test_a_student_drafts_what_the_teacher_answers(prepared, tmp_path):
    report, folder = make(prepared, tmp_path, engine="speculative", scheme="float32")
    assert read_contract(folder).engine == "speculative"
    assert report["round_trip"] == {"prompts": 4, "identical": True, "with": "the teacher alone"}
    assert report["bytes"]["ratio"] == pytest.approx(2.0, rel=0.05)  # here teacher and student
