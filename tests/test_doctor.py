"""The doctor: what it works out from shapes, and what it says of a machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stages._doctor import machine, needs, programs
from stages._doctor.findings import describe, enough
from stages._doctor.machine import Gpu
from stages._doctor.memory import activations, answering_mb, decoder_shape, training_mb
from stages._params import Params, check_params
from stages.doctor import check_device, check_hub, check_memory, check_python, check_sources, tell

ROOT = Path(__file__).parent.parent
TEACHER = decoder_shape(1536, 4, 160, 5, 5, 448)
QWEN = {
    "vocab_size": 151936,
    "num_hidden_layers": 24,
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "tie_word_embeddings": True,
}
"""Of Qwen2-0.5B, whose own card says 0.49 B parameters."""


QWEN_7B = {
    "vocab_size": 152064,
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""Of Qwen2.5-7B."""


def params(**sections):
    return check_params(sections, Path("params.yaml"))


def states(findings):
    return {one.what: one.state for one in findings}


def test_parameters_are_those_that_training_counted():
    assert TEACHER.parameters == 1_518_880  # reports/teacher/teacher.json of the default run
    assert decoder_shape(1536, 2, 96, 3, 3, 256).parameters == 369_696
    assert decoder_shape(1536, 12, 768, 12, 12, 2048).parameters == 86_161_152


@pytest.mark.parametrize(
    ("shape", "copies", "measured_mb"),
    [
        ((4, 160, 5, 5, 448), 1, 1523.2),
        ((3, 160, 5, 5, 448), 2, 2151.9),
        ((2, 96, 3, 3, 256), 1, 1373.6),
        ((12, 768, 12, 12, 2048), 1, 5521.5),
    ],
)
def test_the_estimate_is_within_a_tenth_of_what_was_measured(shape, copies, measured_mb):
    found = training_mb(decoder_shape(1536, *shape), 2048, copies=copies)
    assert found == pytest.approx(measured_mb, rel=0.1)


def test_a_config_of_the_hub_gives_the_shape():
    shape = needs.shape_of_config(QWEN)
    assert shape.parameters == pytest.approx(494e6, rel=0.01)
    untied = needs.shape_of_config(QWEN | {"tie_word_embeddings": False})
    assert untied.parameters == shape.parameters + 151936 * 896
    assert needs.shape_of_config({"vocab_size": 100}) is None


def test_adapters_need_less_and_four_bits_least():
    shape = needs.shape_of_config(QWEN)
    full, lora, qlora = (training_mb(shape, 512, tuning) for tuning in ("full", "lora", "qlora"))
    assert full > 3 * lora > 3 * qlora
    assert training_mb(shape, 4096) > training_mb(shape, 512)


def test_four_bits_are_of_matrices_and_the_head_stays_in_float32():
    shape = needs.shape_of_config(QWEN_7B)
    assert shape.parameters == pytest.approx(7.616e9, rel=0.001)  # its card says 7.61 B
    gigabytes = training_mb(shape, 0, "qlora", 16) / 1e3
    head, matrices, adapter = 2 * 152064 * 3584 * 4, 6.53e9 * 0.52, 40.37e6 * 32
    assert gigabytes == pytest.approx(1.4 + (head + matrices + adapter) / 1e9, abs=0.3)


def test_logits_of_a_large_vocabulary_never_exist_at_once():
    shape = needs.shape_of_config(QWEN)
    more = activations(shape, 8192) - activations(shape, 4096)
    assert more == 4096 * 24 * 896 * 68


@pytest.mark.parametrize(
    ("layers", "tokens", "judged", "at_once", "measured_mb"),
    [
        (4, 65_536, 4096, 1, 936.6),
        (4, 8192, 0, 1, 585.2),
        (3, 65_536, 4096, 2, 932.1),
        (3, 16_384, 0, 2, 693.6),
    ],
)
def test_answers_and_labels_are_within_a_tenth_of_what_was_measured(
    layers, tokens, judged, at_once, measured_mb
):
    shape = decoder_shape(1536, layers, 160, 5, 5, 448)
    found = answering_mb(shape, tokens, judged=judged, at_once=at_once)
    assert found == pytest.approx(measured_mb, rel=0.1)


def test_a_model_in_sixteen_bits_answers_in_half_of_what_float32_takes():
    shape = needs.shape_of_config(QWEN_7B)
    halves = [answering_mb(shape, 8192, shape.stored_bytes(how)) - 550 for how in ("lora", "full")]
    assert halves[0] == pytest.approx(halves[1] / 2)


def test_default_settings_need_what_each_training_and_the_answers_need():
    found = needs.training_needs(Params(), needs.find_shapes(Params(), lambda _: None))
    assert [one.what for one in found] == [
        "train teacher",
        "train student",
        "make labels",
        "answer with the teacher",
    ]
    assert all(one.memory_mb and one.memory_mb < 2500 for one in found)


def test_a_model_that_is_not_here_cannot_be_told_and_how_to_fetch_it():
    pretrained = {"model": "someone/large", "revision": "a" * 40}
    chosen = params(teacher={"source": "pretrained", "pretrained": pretrained})
    first = next(check_memory(chosen, needs.find_shapes(chosen, lambda _: None), []))
    assert (first.state, first.found) == ("note", "cannot be told")
    assert "fetch someone/large" in first.step


def test_a_student_has_its_teacher_s_vocabulary():
    pretrained = {"model": "someone/large", "revision": "a" * 40}
    chosen = params(teacher={"source": "pretrained", "pretrained": pretrained})
    assert needs.find_shapes(chosen, lambda _: QWEN)["student"].vocabulary == 151936
    assert needs.find_shapes(Params(), lambda _: None)["student"].vocabulary == 1536


def test_disk_is_for_labels_models_and_dvc_s_copies():
    shapes = needs.find_shapes(Params(), lambda _: None)
    default = needs.disk_mb(Params(), shapes)
    assert 119 < default < 500  # a default run took 119 MB
    assert needs.disk_mb(params(label={"train_prompts": 10**6}), shapes) > default + 5000


def test_disk_counts_the_students_that_there_are():
    pretrained = {"model": "someone/small", "revision": "a" * 40, "tuning": "full"}
    starts = {name: {"method": "sft", "init": "pretrained"} for name in ("student", "control")}
    starts["student"]["method"] = "seqkd"
    chosen = params(distill={"recipes": starts, "pretrained": pretrained})
    shapes = needs.find_shapes(chosen, lambda _: QWEN)
    assert needs.disk_mb(chosen, shapes) > 2 * 494 * 4 * 2  # both students, and DVC's copies


def test_recipes_of_one_kind_of_student_are_told_once():
    recipes = {"student": {"init": "prune"}, "control": {"method": "sft", "init": "scratch"}}
    chosen = params(distill={"recipes": recipes})
    found = needs.training_needs(chosen, needs.find_shapes(chosen, lambda _: None))
    assert [one.what for one in found].count("train student") == 1


def test_students_that_train_side_by_side_need_their_memory_together():
    def found(lanes):
        chosen = check_params({"pipeline": {"lanes": lanes}}, Path("p"))
        shapes = needs.find_shapes(chosen, lambda _: None)
        return {one.what: one.memory_mb for one in needs.training_needs(chosen, shapes)}

    both = found(2)
    assert both["train 2 students side by side"] == 2 * both["train student"]
    assert found(9)["train 2 students side by side"], "there are two recipes"
    assert not any("side by side" in what for what in found(1))


def test_too_large_a_model_is_in_the_way_of_the_memory_that_counts():
    pretrained = {"model": "someone/large", "revision": "a" * 40, "tuning": "full"}
    chosen = params(teacher={"source": "pretrained", "pretrained": pretrained})
    large = QWEN | {"num_hidden_layers": 2400}
    shapes = needs.find_shapes(chosen, lambda _: large)
    found = states(check_memory(chosen, shapes, [Gpu("small", 24_000.0, 20_000.0)]))
    assert found["GPU memory to train teacher"] == "problem"
    assert found["GPU memory to train student"] == "ok"


@pytest.mark.parametrize(("free", "state"), [(99, "problem"), (105, "note"), (200, "ok")])
def test_enough_says_how_much_is_needed_and_free(free, state):
    found = enough("disk", 100, free, "free some")
    assert found.state == state
    assert f"needs about 100 MB, {free} MB are free" in describe(found)[0]
    assert describe(found)[1:] == ([] if state == "ok" else ["        → free some"])


def test_a_device_that_is_asked_for_must_be_there():
    gpu = Gpu("H100", 80_000.0, 79_000.0)
    assert check_device("cuda", []).state == "problem"
    assert check_device("auto", []).state == "ok"
    assert "H100" in check_device("auto", [gpu]).found
    assert check_device("cpu", [gpu]).state == "note"


def test_nvidia_smi_s_lines_are_read_in_mebibytes():
    told = "NVIDIA H100 80GB HBM3, 81559, 81000\nbroken\n"
    assert machine.read_gpus(told) == [
        Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20 / 1e6, 81000 * 2**20 / 1e6)
    ]


def test_another_python_is_in_the_way():
    assert check_python((3, 11)).state == "ok"
    assert check_python((3, 12)).state == "problem"


def test_packages_are_compared_with_the_lock_but_for_build_tags():
    locked = programs.read_lock("# made\ntorch==2.13.0\nnumpy==2.4.6\n  # via\ndvc==3.67.1\n")
    assert locked == {"torch": "2.13.0", "numpy": "2.4.6", "dvc": "3.67.1"}
    installed = {"torch": "2.13.0+cpu", "numpy": "2.4.5", "dvc": None}
    missing, other = programs.differences(locked, installed)
    assert (missing, other) == (["dvc"], ["numpy 2.4.5 (locked: 2.4.6)"])


def test_the_lock_of_this_environment_is_found():
    name, locked = programs.lock_of(ROOT / "requirements")
    assert name in ("train.txt", "gpu.txt")
    assert "torch" in locked


def test_modules_are_those_that_the_settings_load():
    assert {"ctranslate2", "bitsandbytes"} <= programs.needed_modules(Params()).keys()
    plain = params(quantize={"variants": {}}, evaluate={"metrics": ["bleu"]})
    needed = programs.needed_modules(plain).keys()
    assert not {"ctranslate2", "bitsandbytes", "sentence_transformers"} & needed


def test_a_module_that_does_not_load_says_why():
    failing = programs.failing_imports(["json", "no_such_module"])
    assert list(failing) == ["no_such_module"]
    assert "No module named 'no_such_module'" in failing["no_such_module"]


def test_a_taken_port_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.taken_ports([port]) == [port]


def test_the_hub_is_not_asked_while_offline():
    found = list(check_hub(params(run={"offline": True}), asked=False))
    assert [(one.state, one.found) for one in found] == [("ok", "not asked: run.offline is true")]


def test_a_hub_that_does_not_answer_is_in_the_way_only_where_it_is_needed(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # closed again: nothing is there
        free = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free}")
    assert next(check_hub(params(run={"offline": False}), asked=False)).state == "problem"
    assert next(check_hub(params(run={"offline": True}), asked=True)).state == "note"


def test_raw_files_and_keys_that_are_not_there_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", str(tmp_path))
    (tmp_path / "here.jsonl").touch()
    files = {"train": {"path": "$MINE/here.jsonl"}, "test": {"path": "$MINE/gone.jsonl"}}
    endpoint = {"base_url": "https://x/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    chosen = params(
        prepare={"source": "jsonl", "files": files},
        teacher={"source": "endpoint", "endpoint": endpoint},
    )
    found = list(check_sources(chosen))
    assert [one.what for one in found] == ["data", "teacher's key"]
    assert "$MINE/gone.jsonl is not there" in found[0].found


def test_the_exit_code_says_whether_anything_is_in_the_way(capsys):
    fine, short = enough("disk", 1, 9, ""), enough("memory", 9, 1, "take less")
    assert (tell([fine]), tell([fine, short])) == (0, 1)
    assert "1 in the way (memory)" in capsys.readouterr().out


@pytest.mark.slow
def test_it_examines_this_machine():
    done = subprocess.run(
        [sys.executable, "-m", "stages.doctor"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    for what in ("python", "packages", "engines and tools", "memory to train teacher", "disk"):
        assert f"{what}: " in done.stdout, done.stderr
    assert done.returncode in (0, 1)
