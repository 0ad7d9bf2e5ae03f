"""Known paths are asked without BentoML's routers: as strictly let in, and answered the same."""

import asyncio
import json
from io import StringIO

import pytest
from gate_cases import Client, Route, answer, chunk
from scripted_backend import CHAT, Scripted
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving._entry_gate import GoStraight, guard_entry
from serving._lifecycle import Lifecycle
from serving._metrics import Metrics
from serving._observing import Observers
from serving._openai_routes import build_app, direct_routes
from serving._page.route import page_route
from serving._request_log import RequestLog
from serving._tracing import Tracing
from serving.keys import add_key

FIXED = {"/", "/openapi.json", "/v1/chat/completions", "/v1/completions", "/v1/models"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
LOCAL = ("127.0.0.1", 1)


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("STILLHOUSE_KEYS", "STILLHOUSE_KEY_LINES"):
        monkeypatch.delenv(name, raising=False)


def entry_app(backend=None):
    """The entry's routes, as serving/_entry_app.py has them."""
    app = build_app(backend or Scripted(), openapi={"openapi": "3.1.0"})
    app.routes[:0] = [page_route()]
    return app


def entry(app, direct, state="ready"):
    """All of the gate before `app`, and its lifecycle."""
    life = Lifecycle()
    life.state = state
    observers = Observers(Metrics(), RequestLog(StringIO()), Tracing())
    return guard_entry(app, life, lambda: observers, direct)


async def asked_of(gate, kind, path):
    scope = {"type": kind, "path": path} if path else {"type": kind}
    await gate(scope, None, None)


def straight():
    """A gate to one known path, and what came where."""
    seen = []

    def app(name):
        async def noted(scope, receive, send):
            seen.append((name, scope["type"], scope.get("path")))

        return noted

    return GoStraight(app("routers"), {"/v1/models": app("straight")}), seen


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/v1/models", "straight"),
        ("/v1/models/", "routers"),
        ("//v1/models", "routers"),
        ("/V1/models", "routers"),
        ("/v1/models\n", "routers"),
        ("/v1/models/a", "routers"),
        ("/x/v1/models", "routers"),  # the routers take a root_path off
        ("", "routers"),
    ],
)
def test_a_path_goes_straight_only_as_it_is_known(path, where):
    gate, seen = straight()
    asyncio.run(gate({"type": "http", "path": path}, None, None))
    assert seen == [(where, "http", path)]


@pytest.mark.parametrize(("kind", "path"), [("lifespan", None), ("websocket", "/v1/models")])
def test_what_is_no_request_goes_the_usual_way(kind, path):
    gate, seen = straight()
    asyncio.run(asked_of(gate, kind, path))
    assert seen == [("routers", kind, path)]


def test_only_paths_without_parameters_are_known():
    assert set(direct_routes(entry_app())) <= FIXED
    assert {"/v1/chat/completions", "/v1/completions"} <= set(direct_routes(entry_app()))


@pytest.mark.parametrize("path", sorted(FIXED))
@pytest.mark.parametrize("method", METHODS)
def test_strangers_reach_no_known_path_by_any_method(path, method):
    route = Route()
    caller = Client(path=path, address="10.0.0.9")
    caller.scope["method"] = method
    gate = entry(route, dict.fromkeys(FIXED, route))
    assert (asyncio.run(caller.ask(gate)), route.scopes) == (403, [])


def test_with_keys_configured_a_known_path_needs_one(monkeypatch, tmp_path):
    route, (presented, _) = Route(), add_key(tmp_path / "keys", "acme", {})
    route.go_on.set()
    monkeypatch.setenv("STILLHOUSE_KEYS", str(tmp_path / "keys"))
    direct = {"/v1/completions": route}

    def status(headers):
        caller = Client(path="/v1/completions", headers=headers)
        return asyncio.run(caller.ask(entry(answer, direct)))

    found = [status([]), status([("authorization", "Bearer sh_x")])]
    assert (found, route.scopes) == ([401, 401], [])
    assert status([("authorization", f"Bearer {presented}")]) == 200
    assert route.scopes[0]["state"]["admitted"].tenant == "acme"


@pytest.mark.parametrize("state", ["starting", "draining", "broken"])
def test_a_known_path_is_closed_when_the_process_is(state):
    route = Route()
    gate = entry(answer, {"/v1/completions": route}, state)
    assert asyncio.run(Client(path="/v1/completions").ask(gate)) == 503
    assert route.scopes == []


def test_a_body_too_long_does_not_reach_a_known_path(monkeypatch):
    monkeypatch.setenv("STILLHOUSE_MAX_BODY_BYTES", "2000")
    route = Route()
    gate = entry(answer, {"/v1/completions": route})
    caller = Client(chunk(b"x" * 2001), path="/v1/completions")
    assert (asyncio.run(caller.ask(gate)), route.scopes) == (413, [])


def clients():
    """One to whom known paths are straight, and one who goes through the routers."""
    app = entry_app()
    gates = entry(app, direct_routes(app)), entry(app, {})
    return [TestClient(gate, client=LOCAL, follow_redirects=False) for gate in gates]


@pytest.mark.parametrize("path", sorted(FIXED))
def test_the_straight_way_answers_every_method_as_the_routers_do(path):
    differ = {}
    for method in METHODS:
        answers = [client.request(method, path, json=CHAT) for client in clients()]
        told = [(one.status_code, sorted(one.headers.keys()), one.content[:9]) for one in answers]
        differ |= {method: told} if told[0] != told[1] else {}
    assert differ == {}


def test_ids_are_the_callers_own_on_both_ways():
    for client in clients():
        headers = {"x-request-id": "mine"}
        response = client.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert (response.status_code, response.headers.get_list("x-request-id")) == (200, ["mine"])


def test_a_fault_on_the_straight_way_is_told_in_the_protocols_form_without_its_text():
    app = entry_app(Scripted(whole=RuntimeError("somebody's words")))
    client = TestClient(entry(app, direct_routes(app)), client=LOCAL)
    response = client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, "words" in response.text) == (500, False)
    assert response.json()["error"]["code"] == "internal_error"


def test_a_fault_of_an_app_that_does_not_catch_it_is_an_answer_all_the_same():
    async def faulty(scope, receive, send):
        raise RuntimeError("somebody's words")

    client = TestClient(entry(Starlette(), {"/v1/models": faulty}), client=LOCAL)
    response = client.get("/v1/models")
    assert (response.status_code, "words" in response.text) == (500, False)


@pytest.mark.parametrize("path", ["/generate", "/cascade", "/baseline", "/compare"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_native_path_refuses_other_methods_by_what_it_takes(path, method):
    app = entry_app()  # what is mounted behind BentoML's routes, and matches any path
    client = TestClient(entry(app, direct_routes(app)), client=LOCAL)
    response = client.request(method, path)
    assert (response.status_code, response.headers.get("allow")) == (405, "POST")
    assert json.loads(response.text)["error"]["code"] == "method_not_allowed"
