"""The three services as `bentoml serve` runs them: answers, refusals, streams, load, the end."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from converted_models import write_converted
from service_process import served
from tiny_models import write_model
from toy import example, write_prepared

from stages._params import check_params
from stages.baseline import baseline

pytest.importorskip("ctranslate2")
PARAMS = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))
PROMPT = example("Zizzi", "pies", "no")["prompt"]
CHAT = {"model": "student", "messages": [{"role": "user", "content": "fish"}]}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_converted(root / "student", write_model(root / "plain"))
    write_prepared(root)
    inputs = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, inputs, {"model": root / "baseline", "reports": root / "reports"})
    return {
        "STILLHOUSE_STUDENT": str(root / "student"),
        "STILLHOUSE_BASELINE": str(root / "baseline"),
        "STILLHOUSE_USD_PER_HOUR": "1.0",
    }


@pytest.fixture(scope="module")
def service(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with served("serving.service:Stillhouse", folder, environment) as running:
        yield running


def test_the_native_endpoints_answer(service):
    status, answer = service.post("/generate", {"prompt": PROMPT, "decoding": {"beams": 1}})
    assert (status, answer["text"]) == (200, answer["choices"][0]["text"])
    assert answer["cost_usd"] > 0
    status, classic = service.post("/baseline", {"prompt": PROMPT})
    assert (status, 0 <= classic["confidence"] <= 1) == (200, True)
    status, both = service.post("/compare", {"prompt": PROMPT})
    assert (status, both["student"]["text"]) == (200, answer["text"])
    assert both["baseline"]["text"] == classic["text"]
    assert 0 <= both["similarity"] < 1


def test_a_chat_is_answered_whole_and_as_a_stream(service):
    status, whole = service.post("/v1/chat/completions", CHAT)
    assert status == 200
    status, text = service.post("/v1/chat/completions", {**CHAT, "stream": True})
    *events, done = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    said = "".join(delta.get("content", "") for delta in deltas)
    assert (done, said) == ("[DONE]", whole["choices"][0]["message"]["content"])
    used, streamed = whole["usage"], chunks[-1]["usage"]
    assert streamed.keys() == used.keys()
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [streamed[name] for name in counts] == [used[name] for name in counts]
    assert all(one["cost_by_rung"] == {"student": one["cost_usd"]} for one in (used, streamed))


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/generate", {}, 422),
        ("/generate", {"prompt": 5}, 422),
        ("/generate", b'{"prompt": "\xff"}', 400),
        ("/generate", {"prompt": "x" * 3000}, 422),
        ("/generate", {"prompt": "x", "decoding": {"max_new_tokens": 900}}, 422),
        ("/generate", b"x" * 1_100_000, 413),
        ("/baseline", {"prompt": "no record"}, 422),
        ("/compare", {"prompt": "x", "answers": 2}, 422),
        ("/v1/chat/completions", {**CHAT, "model": "gpt"}, 404),
        ("/v1/elsewhere", {}, 404),
    ],
)
def test_bad_input_is_a_4xx_in_the_protocols_form(service, path, body, expected):
    status, answer = service.post(path, body)
    assert status == expected, answer
    assert answer["error"]["message"]
    assert "xxx" not in service.log, "no prompt stands in a log"


def test_no_pickle_is_read(service):
    kind = {"content-type": "application/vnd.bentoml+pickle"}
    assert service.post("/generate", b"x", kind)[0] == 415


def test_callers_at_once_are_batched_and_none_fails(service):
    alone = service.post("/generate", {"prompt": "fish"})[1]["text"]
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: service.post("/generate", {"prompt": "fish"}), range(160)))
    assert {status for status, _ in made} == {200}
    assert {answer["text"] for _, answer in made} == {alone}
    assert max(answer["batch_rows"] for _, answer in made) > 1
    assert (
        'stillhouse_requests_total{outcome="failed",route="/generate"} 0.0'
        in (service.get("/metrics")[1])
    )


def test_a_stream_that_ends_early_is_counted_and_hurts_nobody(service):
    body = json.dumps({**CHAT, "stream": True}).encode()
    address = urlsplit(service.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        line.recv(64)
    status, whole = service.post("/v1/chat/completions", CHAT)
    assert (status, whole["choices"][0]["finish_reason"]) == (200, "length")


def test_a_model_that_was_changed_is_refused_in_one_line(environment, tmp_path):
    changed = tmp_path / "student"
    for file in Path(environment["STILLHOUSE_STUDENT"]).iterdir():
        changed.mkdir(exist_ok=True)
        (changed / file.name).write_bytes(file.read_bytes())
    with (changed / "tokenizer.json").open("a") as tokenizer:
        tokenizer.write(" ")
    told = {**environment, "STILLHOUSE_STUDENT": str(changed)}
    with served("serving.service:Stillhouse", tmp_path / "s", told, wait=False) as refused:
        assert refused.process.wait(120) == 1
        (line,) = refused.log.splitlines()
        assert "tokenizer.json was changed" in line


def test_sigterm_ends_all_processes(environment, tmp_path):
    with served("serving.service:Stillhouse", tmp_path, environment) as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        with pytest.raises(OSError):
            running.get("/livez")
