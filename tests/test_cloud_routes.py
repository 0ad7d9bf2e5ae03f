"""A cloud's own paths: led to our routes through the same gate, by a key that it lets pass."""

import asyncio
import json
from io import StringIO

import pytest
from gate_cases import Client, chunk, gate
from scripted_backend import CHAT, Scripted
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serving._cloud.document import operations_of
from serving._cloud.instances import MOST, Predict
from serving._cloud.paths import HEALTH, KEY_HEADERS, PREDICT, paths_of
from serving._entry_gate import guard_entry
from serving._items import ServiceError
from serving._lifecycle import Lifecycle
from serving._metrics import Metrics
from serving._native_document import OPERATIONS
from serving._observing import Observers
from serving._openai_routes import build_app, direct_routes
from serving._openapi import describe
from serving._request_log import RequestLog
from serving._service_settings import ServiceSettings
from serving._starting import check_start
from serving._tracing import Tracing
from serving.errors import StillhouseError
from serving.keys import add_key

CLOUDS = tuple(PREDICT)
LOCAL, AFAR = ("127.0.0.1", 1), ("10.0.0.9", 1)
BODY = {"prompt": "fish"}
SECRET = "secret words"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("KEYS", "KEY_LINES", "CLOUD"):
        monkeypatch.delenv(f"STILLHOUSE_{name}", raising=False)


@pytest.fixture
def key(monkeypatch, tmp_path):
    presented, _ = add_key(tmp_path / "keys", "acme", {})
    monkeypatch.setenv("STILLHOUSE_KEYS", str(tmp_path / "keys"))
    return presented


async def generate(asked, state):
    """The student's answer in capitals, its tokens reserved and then known; "late" is refused."""
    await state["admitted"].reserve_tokens(50)
    if asked.prompts[0] == "late":
        raise ServiceError("expired", "too late", 1.0)
    state["record"].prompt_tokens, state["record"].completion_tokens = 2, 3
    await state["admitted"].correct_tokens(5)
    return {"text": asked.prompts[0].upper(), "decoding": asked.decoding, "answers": asked.answers}


async def echo(request):
    return JSONResponse({"at": request.url.path, "body": await request.json()})


class Service:
    """The gate before routes that stand for the entry's."""

    def __init__(self, state="ready"):
        life, self.log = Lifecycle(), StringIO()
        life.state = state
        self.metrics = Metrics()
        observers = Observers(self.metrics, RequestLog(self.log), Tracing())
        app = build_app(Scripted())
        ready = Route("/readyz", lambda _: PlainTextResponse("inner state"))
        routes = [ready, Route("/generate", echo, methods=["POST"]), *app.routes]
        direct = direct_routes(app) | {"/predict": Predict(generate)}
        self.gate = guard_entry(Starlette(routes=routes), life, lambda: observers, direct)

    def ask(self, method, path, address=LOCAL, **sent):
        return TestClient(self.gate, client=address).request(method, path, **sent)


@pytest.fixture
def service(monkeypatch):
    def made(cloud, state="ready", **environment):
        monkeypatch.setenv("STILLHOUSE_CLOUD", cloud)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Service(state)

    return made


def body_of(cloud):
    return {"instances": [BODY]} if cloud == "vertex" else BODY


def carried(cloud, key):
    """How a cloud lets a key through."""
    attributes = f"trace=a1, stillhouse-key={key};b=c"
    return {KEY_HEADERS[cloud].decode(): attributes if cloud == "sagemaker" else key}


@pytest.mark.parametrize("path", ["/ping", "/invocations", "/predict", "/score", "/health"])
def test_without_a_cloud_there_are_none_of_its_paths(path):
    app = build_app(Scripted())
    observers = Observers(Metrics(), RequestLog(StringIO()), Tracing())
    life = Lifecycle()
    life.state = "ready"
    gate = guard_entry(app, life, lambda: observers, direct_routes(app))
    assert TestClient(gate, client=LOCAL).post(path, json=BODY).status_code == 404


def test_an_unknown_cloud_is_refused():
    with pytest.raises(StillhouseError, match="one of sagemaker, vertex, azureml"):
        ServiceSettings.from_environment({"STILLHOUSE_CLOUD": "heroku"})


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(
    ("state", "status"), [("starting", 503), ("ready", 200), ("draining", 503), ("broken", 503)]
)
def test_health_tells_strangers_whether_requests_are_taken(service, key, cloud, state, status):
    answer = service(cloud, state).ask("GET", HEALTH[cloud], AFAR)
    assert answer.status_code == status
    assert cloud == "azureml" or answer.content == b""  # there it is /readyz itself


@pytest.mark.parametrize("cloud", CLOUDS)
def test_predict_is_for_callers_with_a_key(service, key, cloud):
    running, own = service(cloud), {"authorization": f"Bearer {key}"}
    foreign = {"authorization": "Bearer a-token-of-the-cloud"}
    tried = [{}, foreign, carried(cloud, "sh_x"), own, carried(cloud, key)]
    tried.append(foreign | carried(cloud, key))
    asked = [
        running.ask("POST", PREDICT[cloud], AFAR, json=body_of(cloud), headers=headers)
        for headers in tried
    ]
    assert [one.status_code for one in asked] == [401, 401, 401, 200, 200, 200]
    assert key not in running.log.getvalue()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_without_keys_predict_is_for_this_machine(service, cloud):
    running = service(cloud)
    answers = [
        running.ask("POST", PREDICT[cloud], address, json=body_of(cloud))
        for address in (LOCAL, AFAR)
    ]
    assert [one.status_code for one in answers] == [200, 403]


def test_two_keys_are_none(service, key):
    header = {"x-amzn-sagemaker-custom-attributes": f"stillhouse-key={key};stillhouse-key={key}"}
    answer = service("sagemaker").ask("POST", "/invocations", AFAR, json=BODY, headers=header)
    assert answer.status_code == 401


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_clouds_header_is_no_key_on_other_paths(service, key, cloud):
    answer = service(cloud).ask("POST", "/generate", AFAR, json=BODY, headers=carried(cloud, key))
    assert answer.status_code == 401


def test_a_key_for_other_paths_is_not_for_this_one(service, monkeypatch, tmp_path):
    presented, _ = add_key(tmp_path / "k", "acme", {"paths": ("/generate",)})
    monkeypatch.setenv("STILLHOUSE_KEYS", str(tmp_path / "k"))
    headers = carried("sagemaker", presented)
    answer = service("sagemaker").ask("POST", "/invocations", AFAR, json=BODY, headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("cloud", ["sagemaker", "azureml"])
def test_the_body_says_which_route_answers(service, cloud):
    running, path = service(cloud), PREDICT[cloud]
    native = running.ask("POST", path, json=BODY).json()
    assert native == {"at": "/generate", "body": BODY}
    chat = running.ask("POST", path, json=CHAT).json()
    assert chat["choices"][0]["message"]["content"] == "pong"
    streamed = running.ask("POST", path, json=CHAT | {"stream": True}).text
    assert streamed.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"[" * 99_999, "application/json", 400),
        (b"{}", "application/json", 422),
        (b"{}", "text/csv", 415),
        (b"{}", "", 415),
        (b"x" * 1_000_001, "application/json", 413),
    ],
    ids=["cut", "list", "deep", "empty", "csv", "no type", "too large"],
)
def test_a_wrong_body_is_refused_in_the_protocols_form(service, cloud, content, kind, status):
    headers = {"content-type": kind} if kind else {}
    answer = service(cloud).ask("POST", PREDICT[cloud], content=content, headers=headers)
    assert (answer.status_code, set(answer.json()["error"])) == (
        status,
        {"message", "type", "param", "code"},
    )
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_predict_takes_post_alone(service, cloud):
    answer = service(cloud).ask("GET", PREDICT[cloud])
    assert (answer.status_code, answer.headers.get("allow")) == (405, "POST")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_requests_are_counted_and_logged_by_the_clouds_path(service, cloud):
    running = service(cloud)
    running.ask("POST", PREDICT[cloud], json=body_of(cloud), headers={"x-request-id": "mine"})
    line = json.loads(running.log.getvalue())
    assert (line["route"], line["id"], line["status"]) == (PREDICT[cloud], "mine", 200)
    counted = f'requests_total{{outcome="answered",route="{PREDICT[cloud]}"}} 1.0'
    assert counted in running.metrics.exposition().decode()


def predict(running, *instances, **rest):
    return running.ask("POST", "/predict", json={"instances": list(instances), **rest})


def test_predictions_come_in_the_order_of_their_instances(service):
    running = service("vertex")
    prompts = [f"fish {number}" for number in range(MOST)]
    answer = predict(running, *({"prompt": prompt} for prompt in prompts))
    told = [one["text"] for one in answer.json()["predictions"]]
    assert told == [prompt.upper() for prompt in prompts]
    line = json.loads(running.log.getvalue())
    assert (line["prompt_tokens"], line["completion_tokens"]) == (2 * MOST, 3 * MOST)


def test_parameters_are_what_instances_leave_unsaid(service):
    own = {"prompt": "b", "decoding": {"beams": 3}, "answers": 1}
    parameters = {"decoding": {"beams": 2}, "answers": 2}
    found = predict(service("vertex"), {"prompt": "a"}, own, parameters=parameters).json()
    told = [(one["decoding"], one["answers"]) for one in found["predictions"]]
    assert told == [({"beams": 2}, 2), ({"beams": 3}, 1)]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"instances": []}, "instances"),
        ({"instances": [BODY] * (MOST + 1)}, "instances"),
        ({"instances": BODY}, "instances"),
        ({"instances": [BODY, SECRET]}, "instances"),
        ({"instances": [BODY, {}]}, "instances.1.prompt"),
        ({"instances": [BODY, {"prompt": 5}]}, "instances.1.prompt"),
        ({"instances": [BODY, BODY | {SECRET: 1}]}, "instances.1"),
        ({"instances": [BODY | {"decoding": {"beams": SECRET}}]}, "instances.0.decoding.beams"),
        ({"instances": [BODY], "parameters": {SECRET: 1}}, "parameters"),
        ({"instances": [BODY], "parameters": {"answers": 0}}, "parameters.answers"),
        ({"instances": [BODY], SECRET: 1}, None),
    ],
)
def test_a_wrong_instance_is_named_and_nothing_is_quoted(service, body, parameter):
    answer = service("vertex").ask("POST", "/predict", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, parameter)
    assert SECRET not in answer.text


def test_an_instance_that_is_refused_refuses_the_request_and_is_named(service):
    running = service("vertex")
    answer = predict(running, BODY, {"prompt": "late"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["message"].startswith("instances.1: ")
    line = json.loads(running.log.getvalue())
    assert (line["refusal"], line["completion_tokens"]) == ("expired", 3)


def test_a_caller_who_leaves_takes_all_instances_along():
    begun, ended = [], []

    async def never(asked, state):
        begun.append(asked.prompts[0])
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(asked.prompts[0])

    async def leave():
        body = json.dumps({"instances": [{"prompt": "a"}, {"prompt": "b"}]}).encode()
        caller = Client(chunk(body), headers=[("content-type", "application/json")])
        asking = asyncio.ensure_future(caller.ask(gate(Predict(never))))
        while len(begun) < 2:
            await asyncio.sleep(0)
        caller.leave.set()
        await asking

    asyncio.run(asyncio.wait_for(leave(), 10))
    assert sorted(ended) == ["a", "b"]


def test_instances_count_in_the_queue_and_leave_it(service):
    running = service("vertex", STILLHOUSE_MAX_QUEUE_TOKENS="120")
    # each takes 50 for a moment and 5 until the request is over
    counts = (2, 14, 32, 14)
    statuses = [predict(running, *[BODY] * count).status_code for count in counts]
    assert statuses == [200, 200, 503, 200]
    assert predict(running, {"prompt": "late"}, BODY).status_code == 503
    assert predict(running, *[BODY] * 14).status_code == 200


def test_vertex_names_the_paths_itself(service):
    routes = {"AIP_HEALTH_ROUTE": "/a/health", "AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict"}
    running = service("vertex", **routes)
    assert running.ask("GET", "/a/health", AFAR).status_code == 200
    answer = running.ask("POST", "/v1/endpoints/7:predict", json={"instances": [BODY]})
    assert answer.json()["predictions"][0]["text"] == "FISH"


def test_one_path_for_both_is_told_apart_by_the_method(service):
    running = service("vertex", AIP_HEALTH_ROUTE="/both", AIP_PREDICT_ROUTE="/both")
    assert running.ask("GET", "/both", AFAR).status_code == 200
    answer = running.ask("POST", "/both", json={"instances": [BODY]})
    assert len(answer.json()["predictions"]) == 1
    assert running.ask("POST", "/both", AFAR, json={"instances": [BODY]}).status_code == 403


def test_a_path_of_ours_stays_what_it_is(service, key):
    own = "/v1/chat/completions"
    running = service("vertex", AIP_HEALTH_ROUTE="/livez", AIP_PREDICT_ROUTE=own)
    answer = running.ask("POST", own, AFAR, json=CHAT, headers=carried("vertex", key))
    assert answer.json()["choices"][0]["message"]["content"] == "pong"
    assert running.ask("GET", "/livez", AFAR).status_code == 200


@pytest.mark.parametrize("path", ["predict", "/a b", "/é", "/a\n"])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(StillhouseError, match="begins with a slash"):
        paths_of("vertex", {"AIP_PREDICT_ROUTE": path})


def test_such_a_path_keeps_the_service_from_starting(monkeypatch, tmp_path):
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "health")
    with pytest.raises(StillhouseError, match="AIP_HEALTH_ROUTE"):
        check_start(ServiceSettings(cloud="vertex"), tmp_path)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_document_has_a_clouds_paths(cloud):
    document = describe("1", [*OPERATIONS, *operations_of(paths_of(cloud, {}))])
    assert {"200", "401", "413", "422", "503"} <= set(
        document["paths"][PREDICT[cloud]]["post"]["responses"]
    )
    assert set(document["paths"][HEALTH[cloud]]["get"]["responses"]) == {"200", "503"}
    assert {"GenerateBody", "ErrorBody"} <= set(document["components"]["schemas"])
