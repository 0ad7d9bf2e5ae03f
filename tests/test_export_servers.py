"""What an export holds for Triton and TorchServe: they can load it, and it answers there."""

import json
import shutil
import subprocess
import sys

import httpx
import onnxruntime
import pytest
from export_cases import PROMPTS, exported
from google.protobuf import text_format
from toy import example
from triton_stand_in import Triton, model_configuration

from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import load
from stages._export import asking
from stages._export.originals import load_original, read_asked
from stages._export.shipped.generate import Student, onnxruntime_step

CONFIGURATION = model_configuration()
KINDS = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
KINDS["tensor(string)"] = "TYPE_STRING"


@pytest.fixture
def project():
    return exported()


def read_configuration(folder):
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, CONFIGURATION.ModelConfig())


def test_triton_s_configurations_are_what_the_graphs_take_and_give(project):
    graphs = sorted((project[0] / "out/triton").rglob("*.onnx"))
    checked = 0
    for path in graphs:
        folder, session = path.parent.parent, onnxruntime.InferenceSession(path)
        config = read_configuration(folder)
        assert (config.name, config.backend) == (folder.name, "onnxruntime")
        sides = [(config.input, session.get_inputs()), (config.output, session.get_outputs())]
        for told, values in sides:
            for one, value in zip(told, values, strict=True):
                assert one.name == value.name
                assert CONFIGURATION.DataType.Name(one.data_type) == KINDS[value.type]
                assert list(one.dims) == [d if isinstance(d, int) else -1 for d in value.shape[1:]]
                assert not isinstance(value.shape[0], int), "rows are Triton's batch"
                checked += 1
    assert len(graphs) == 3
    assert checked >= 17


def test_triton_batches_every_model_and_finds_its_files(project):
    repository = project[0] / "out/triton"
    names = [folder.name for folder in sorted(repository.iterdir())]
    graphs = ["baseline_confidence", "baseline_retrieval", "student_decoder"]
    assert names == sorted([*graphs, "baseline", "student"])
    for name in names:
        config = read_configuration(repository / name)
        assert config.max_batch_size == 16
        assert config.HasField("dynamic_batching")
        assert [group.count for group in config.instance_group] == [1]
        file = "model.onnx" if name in graphs else "model.py"
        assert (repository / name / "1" / file).is_file()


def test_triton_s_python_models_answer_as_the_predictors(project):
    root, _ = project
    asked = [example("Zizzi", "pies", "no")["prompt"], "a", "name[Zizzi], food[fish], dogs[yes]"]
    with Triton(root / "out/triton") as triton:
        told = triton.infer("student", [[asked[0]], asked[1:]])
        student = load_original(root / "student")
        wanted = [student.answer([Request(prompt)])[0] for prompt in asked]
        assert [text.decode() for one in told for text in one["text"].ravel()] == [
            answer.text for answer in wanted
        ]
        assert told[0]["mean_logprob"].shape == (1, 1)
        prompts = [asked[0], asked[2]]
        told = triton.infer("baseline", [[prompt] for prompt in prompts])
        for one, answer in zip(
            told, load(root / "baseline").answer([Request(p) for p in prompts]), strict=True
        ):
            assert one["text"].item().decode() == answer.text
            assert one["confidence"].item() == pytest.approx(answer.confidence, abs=1e-5)


def test_triton_refuses_a_wrong_prompt_and_answers_the_others(project):
    with Triton(project[0] / "out/triton") as triton:
        good, bad = triton.infer("student", [["a"], ["a very long prompt " * 40]])
        assert "this model takes 1 to 48" in str(bad)
        assert good["finish_reason"].item() in (b"stop", b"length")
        bad, good = triton.infer(
            "baseline", [["colour[red]"], [example("Z", "pies", "no")["prompt"]]]
        )
        assert "not in the schema" in str(bad)
        assert b"Z" in good["text"].item()


def test_torchserve_s_handler_answers_alone_with_what_was_exported(project, tmp_path):
    """In a process of its own that sees none of the project's files."""
    root, _ = project
    folder = tmp_path / "model"  # as torch-model-archiver lays it out: extra files at the top
    shutil.copytree(root / "out/torchserve/extra", folder)
    shutil.copy(root / "out/torchserve/handler.py", folder)
    program = """
import json, sys
from types import SimpleNamespace
import handler
statuses = []
context = SimpleNamespace(system_properties={"model_dir": sys.argv[1]},
    set_response_status=lambda **said: statuses.append(said))
service = handler.StudentService()
service.initialize(context)
data = [{"body": b"fish"}, {"body": {"prompt": "dogs are"}}, {"data": "x " * 400}, {"body": {}}]
assert not {"torch", "transformers", "stages.export"} & sys.modules.keys()
print(json.dumps([service.handle(data, context), statuses, handler.__file__]))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(folder)],
        env={"PYTHONPATH": str(folder)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers, statuses, file = json.loads(done.stdout)
    predictor = load_original(root / "student")
    wanted = [predictor.answer([Request(prompt)])[0].text for prompt in ("fish", "dogs are")]
    assert [answer["text"] for answer in answers[:2]] == wanted
    assert "this model takes" in answers[2]["error"]
    assert "has no prompt" in answers[3]["error"]
    assert [(said["code"], said["idx"]) for said in statuses] == [(400, 2), (400, 3)]
    assert file == str(folder / "handler.py")


def answering(student, spoilt):
    """What Triton and TorchServe say over HTTP; `spoilt` prompts get another answer."""

    def answer(request):
        body = json.loads(request.content)
        asked = {one["name"]: one["data"][0] for one in body.get("inputs", ())} or body
        if asked["prompt"] == "broken":
            return httpx.Response(500, text="stub is not healthy")
        text = student.answer([student.encode(asked["prompt"])])[0].text
        text += "!" * (asked["prompt"] in spoilt)
        if request.url.path == "/v2/models/student/infer":
            outputs = [
                {"name": "finish_reason", "data": ["stop"]},
                {"name": "text", "data": [text]},
            ]
            return httpx.Response(200, json={"outputs": outputs})
        assert request.url.path == "/predictions/student"
        return httpx.Response(200, json={"text": text})

    return httpx.Client(transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("kind", [asking.triton, asking.torchserve])
def test_a_running_server_must_answer_as_the_graph(project, kind):
    root, _ = project
    folder = root / "out/student"
    asked = read_asked(root / "calibration.jsonl", PROMPTS)
    student = Student(folder, onnxruntime_step(folder / "model.onnx"))
    same = asking.compare_server(folder, kind(answering(student, ()), "http://x"), asked, 2)
    assert same == PROMPTS
    spoilt = kind(answering(student, (asked[1].request.prompt,)), "http://x")
    with pytest.raises(StillhouseError, match=f"1 of {PROMPTS} answers differ"):
        asking.compare_server(folder, spoilt, asked, 1)
    with pytest.raises(StillhouseError, match="answers 500: stub is not healthy"):
        kind(answering(student, ()), "http://x")(asking.Asked("a", Request("broken")))
