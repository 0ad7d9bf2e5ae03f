"""The whole service as one process: same gate, same answers, without BentoML."""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import psutil
import pytest
from cascade_service import teaching, write_route
from service_models import service_environment
from service_process import Served, end, free_port
from toy import example

from benchmarks.edge import LIMIT_MIB, measure
from serving._items import Item
from serving._metrics import Metrics
from serving._own_models import OwnBaseline, OwnStudent
from serving._student_service import StudentWork
from serving._tracing import Tracing
from serving.completion import Completion, Request
from serving.keys import add_key
from serving.predictor import load
from stages._params import check_params, read_yaml
from stages._profile import merge

ROOT = Path(__file__).parent.parent
PROMPT = example("Zizzi", "pies", "no")["prompt"]
CHAT = {"model": "student", "messages": [{"role": "user", "content": "fish"}]}
OBSERVERS = SimpleNamespace(metrics=Metrics(), tracing=Tracing())


class Scheduling:
    """A scheduler that answers nobody until it is told that the caller left."""

    alive = True

    def __init__(self):
        self.left = None

    def submit_many(self, items, left):
        self.left = left[0]
        return [Future()]

    def stream(self, item, emit, left):
        self.left = left
        for piece in ("fi", "sh"):
            emit(piece)


class Counting:
    """A baseline that would notice if it were asked for two at once."""

    contract = SimpleNamespace(limits={"max_prompt_chars": 10})

    def __init__(self):
        self.busy = Event()

    def answer(self, requests):
        assert not self.busy.is_set()
        self.busy.set()
        made = [Completion(request.prompt.upper(), 1, 2, "stop", 0.5) for request in requests]
        self.busy.clear()
        return made


def test_a_caller_who_leaves_is_told_to_the_scheduler():
    scheduling = Scheduling()

    async def leave():
        asking = asyncio.ensure_future(
            OwnStudent(StudentWork(scheduling), OBSERVERS).answer(Item(id="a", prompt="fish"))
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not scheduling.left.is_set()
        asking.cancel()
        await asyncio.wait([asking])
        return asking.cancelled()

    assert asyncio.run(leave())
    assert scheduling.left.is_set()


def test_a_stream_that_nobody_reads_on_is_ended():
    scheduling = Scheduling()

    async def leave():
        stream = OwnStudent(StudentWork(scheduling), OBSERVERS).stream(Item(id="a", prompt="x"))
        pieces = [await anext(stream), await anext(stream)]
        await stream.aclose()
        return pieces

    assert asyncio.run(leave()) == ["fi", "sh"]
    assert scheduling.left.is_set()


def test_the_baseline_answers_one_at_a_time():
    baseline = OwnBaseline(Counting(), OBSERVERS)

    async def ask():
        items = [Item(id=str(number), prompt="fish") for number in range(20)]
        return await asyncio.gather(*(baseline.answer(item) for item in items))

    answers = asyncio.run(ask())
    assert [answer.id for answer in answers] == [str(number) for number in range(20)]
    assert {answer.choices[0].text for answer in answers} == {"FISH"}


def test_the_profile_leaves_what_fits():
    params = read_yaml(ROOT / "params.yaml")
    merge(params, read_yaml(ROOT / "configs/edge.yaml"))
    chosen = check_params(params, ROOT / "configs/edge.yaml")
    assert {variant.engine for variant in chosen.quantize.variants.values()} == {"ctranslate2"}
    assert chosen.run.threads == 1
    assert chosen.select.gates.peak_memory_mb < LIMIT_MIB
    assert chosen.route.rungs.teacher is None


def start(folder, environment, *options):
    """`python -m serving.edge` on a free port; the caller ends it."""
    port, log = free_port(), folder / "log"
    told = os.environ | {"STILLHOUSE_DRAIN_NOTICE_S": "0", **environment}
    command = [sys.executable, "-m", "serving.edge", "--port", str(port), *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=told, stdout=stream, stderr=stream)
    return Served(f"http://127.0.0.1:{port}", process, log)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    pytest.importorskip("ctranslate2")
    return service_environment(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def edge(environment, tmp_path_factory):
    running = start(tmp_path_factory.mktemp("edge"), environment)
    try:
        running.wait()
        yield running
    finally:
        end(running.process)


@pytest.mark.slow
def test_it_is_one_process_without_bentoml_or_torch(edge):
    assert psutil.Process(edge.process.pid).children(recursive=True) == []
    loaded = Path(f"/proc/{edge.process.pid}/maps").read_text()
    assert "libctranslate2" in loaded
    assert "libtorch" not in loaded
    code = "import sys, serving._edge_app; print({'bentoml', 'torch'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.strip() == "set()", told.stderr


@pytest.mark.slow
def test_its_answers_are_the_models_own(edge, environment):
    (own,) = load(Path(environment["STILLHOUSE_STUDENT"])).answer([Request("fish")])
    status, answer = edge.post("/generate", {"prompt": "fish"})
    assert (status, answer["text"]) == (200, own.text)
    status, both = edge.post("/compare", {"prompt": PROMPT})
    classic = edge.post("/baseline", {"prompt": PROMPT})[1]
    assert (status, both["baseline"]["text"]) == (200, classic["text"])
    assert edge.post("/cascade", {"prompt": PROMPT})[0] == 404


@pytest.mark.slow
def test_a_chat_is_answered_whole_and_as_a_stream(edge):
    whole = edge.post("/v1/chat/completions", CHAT)[1]["choices"][0]["message"]["content"]
    text = edge.post("/v1/chat/completions", CHAT | {"stream": True})[1]
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    deltas = [one["delta"] for line in lines for one in json.loads(line)["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/generate", {}, 422),
        ("/generate", b"{", 400),
        ("/generate", b"x" * 1_100_000, 413),
        ("/generate", {"prompt": "x" * 3000}, 422),
        ("/baseline", {"prompt": "no record"}, 422),
        ("/compare", {"prompt": "x", "answers": 2}, 422),
        ("/v1/elsewhere", {}, 404),
        ("/elsewhere", {}, 404),
    ],
)
def test_wrong_requests_are_refused_in_the_protocols_form(edge, path, body, status):
    found, answer = edge.post(path, body)
    assert (found, set(answer["error"])) == (status, {"message", "type", "param", "code"})


@pytest.mark.slow
def test_callers_at_once_get_the_answers_of_one(edge):
    alone = edge.post("/generate", {"prompt": "fish"})[1]["text"]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: edge.post("/generate", {"prompt": "fish"}), range(40)))
    assert {(status, answer["text"]) for status, answer in made} == {(200, alone)}
    assert edge.get("/livez")[0] == 200
    counted = 'requests_total{outcome="answered",route="/generate"}'
    assert counted in edge.get("/metrics")[1]


@pytest.mark.slow
def test_with_keys_it_needs_one_and_ends_when_it_is_told(environment, tmp_path):
    key, _ = add_key(tmp_path / "keys", "acme", {})
    running = start(tmp_path, environment | {"STILLHOUSE_KEYS": str(tmp_path / "keys")})
    try:
        running.wait()
        assert running.post("/generate", {"prompt": "fish"})[0] == 401
        held = {"authorization": f"Bearer {key}"}
        assert running.post("/generate", {"prompt": "fish"}, held)[0] == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) in (0, -signal.SIGTERM)
    finally:
        end(running.process)


@pytest.mark.slow
def test_what_its_models_are_not_sure_of_is_asked_of_a_teacher_elsewhere(environment, tmp_path):
    with teaching() as teacher:
        told = {
            "STILLHOUSE_ROUTE": str(write_route(tmp_path / "route.json", environment)),
            "STILLHOUSE_TEACHER_URL": teacher.url,
        }
        running = start(tmp_path, environment | told)
        try:
            running.wait()
            status, answer = running.post("/cascade", {"prompt": PROMPT})
            assert (status, answer["routing"]["rung"], answer["text"]) == (200, "teacher", "a fish")
            assert teacher.prompts() == [PROMPT]
        finally:
            end(running.process)
        assert "Traceback" not in running.log


@pytest.mark.slow
def test_a_missing_model_is_one_line(environment, tmp_path):
    running = start(tmp_path, environment | {"STILLHOUSE_STUDENT": str(tmp_path / "none")})
    try:
        assert running.process.wait(60) == 1
        assert len(running.log.splitlines()) == 1
        assert "none" in running.log
    finally:
        end(running.process)


@pytest.mark.slow
def test_the_benchmark_measures_a_real_process(environment, tmp_path):
    rows = [json.dumps({"prompt": PROMPT}) for _ in range(5)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    options = argparse.Namespace(
        student=Path(environment["STILLHOUSE_STUDENT"]),
        baseline=Path(environment["STILLHOUSE_BASELINE"]),
        route=tmp_path / "none.json",
        prompts=tmp_path / "prompts.jsonl",
        count=5,
        core=0,
        unbounded=True,
    )
    found = measure(options)
    assert set(found["latency_ms"]) == {"first", "generate", "baseline"}
    assert found["bounds"]["processes"] == 1
    assert 50 < found["memory"]["peak_resident_mb"] < 512
    assert found["latency_ms"]["generate"]["p50"] <= found["latency_ms"]["generate"]["p99"]
