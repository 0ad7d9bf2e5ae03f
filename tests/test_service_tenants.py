"""The served service with keys of several tenants: each refusal is its own, nobody another's."""

import http.client
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from service_models import service_environment
from service_process import served

from serving.keys import add_key, disable_key

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow
ASK = {"prompt": "fish", "decoding": {"max_new_tokens": 2}}
CHAT = {
    "model": "student",
    "messages": [{"role": "user", "content": "fish"}],
    "max_tokens": 2,
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of keys, and the keys by what they are for."""
    file = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    limits = {
        "acme": {},
        "blue": {"requests_per_minute": 3},
        "tokens": {"tokens_per_minute": 40},
        "native": {"paths": ("/generate",)},
        "monitor": {"paths": ("/metrics",)},
        "expired": {"expires": datetime.now(UTC) - timedelta(days=1)},
        "disabled": {},
    }
    made = {name: add_key(file, name, one) for name, one in limits.items()}
    disable_key(file, made["disabled"][1].id)
    return file, {name: presented for name, (presented, _) in made.items()}


@pytest.fixture(scope="module")
def service(keys, tmp_path_factory):
    environment = service_environment(tmp_path_factory.mktemp("models"))
    environment |= {"STILLHOUSE_KEYS": str(keys[0])}
    with served("serving.service:Stillhouse", tmp_path_factory.mktemp("s"), environment) as running:
        yield running


def ask(service, key, path="/generate", body=ASK, method="POST"):
    """Status, headers and body of an answer to who shows `key`."""
    line = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=60)
    shown = {} if key is None else {"authorization": f"Bearer {key}"}
    line.request(method, path, json.dumps(body), {"content-type": "application/json", **shown})
    response = line.getresponse()
    headers, text = dict(response.getheaders()), response.read().decode()
    line.close()
    return response.status, headers, text


def test_each_tenants_key_is_let_in(service, keys):
    for name in ("acme", "native"):
        assert ask(service, keys[1][name])[0] == 200


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
def test_without_a_good_key_nobody_is(service, keys, path):
    secret = keys[1]
    mixed = secret["acme"][:16] + secret["blue"][16:]
    for key in (None, "", "x", mixed, secret["expired"], secret["disabled"]):
        status, headers, text = ask(service, key, path, CHAT)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(text)["error"]["message"]


def test_a_key_for_other_paths_is_forbidden_here(service, keys):
    secret = keys[1]
    assert ask(service, secret["native"], "/v1/chat/completions", CHAT)[0] == 403
    assert ask(service, secret["native"], "/baseline", {"prompt": "fish"})[0] == 403
    assert ask(service, secret["monitor"])[0] == 403
    assert ask(service, secret["monitor"], "/metrics", method="GET")[0] == 200


def test_one_tenants_limit_is_no_other_ones(service, keys):
    told = [ask(service, keys[1]["blue"]) for _ in range(5)]
    assert [status for status, _, _ in told] == [200] * 3 + [429] * 2
    assert 1 <= int(told[-1][1]["retry-after"]) <= 60
    assert ask(service, keys[1]["acme"])[0] == 200


def test_tokens_are_limited_per_key_too(service, keys):
    body = {"prompt": "fish " * 3, "decoding": {"max_new_tokens": 12}}
    told = [ask(service, keys[1]["tokens"], body=body) for _ in range(6)]
    assert {status for status, _, _ in told} == {200, 429}
    assert json.loads(told[-1][2])["error"]["code"] == "rate_limit_exceeded"
    assert int(told[-1][1]["retry-after"]) >= 1


def test_a_key_that_is_taken_away_is_refused_by_the_running_service(service, keys):
    file, _ = keys
    presented, key = add_key(file, "short", {})
    assert ask(service, presented)[0] == 200
    disable_key(file, key.id)
    assert ask(service, presented)[0] == 401


def test_what_is_logged_has_the_tenant_and_no_key(service, keys):
    ask(service, keys[1]["acme"])
    lines = [json.loads(one) for one in service.log.splitlines() if one.startswith("{")]
    assert {one.get("tenant") for one in lines} >= {"acme", "blue", "native"}
    assert not any(presented[16:] in service.log for presented in keys[1].values())
