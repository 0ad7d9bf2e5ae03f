"""Who reaches a model: its entry by a socket, others by a key, and nobody with a pickle."""

import json

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving._keys import Keyring, open_keyring
from serving._lifecycle import Lifecycle
from serving._model_gate import PICKLE, AdmitEntry, guard_model, runs_alone
from serving._observing import Observers
from serving._request_log import RequestLog
from serving._tracing import tracing_from
from serving.errors import StillhouseError
from serving.keys import add_key

ENTRYS = {"stillhouse": "http://localhost:3000", "stillhouse_student": "file:///s"}
NEAR, FAR = ("127.0.0.1", 1), ("10.0.0.7", 1)


class Shown:
    """Figures to show."""

    def exposition(self):
        return b"stillhouse_queue_items 3\n"


def observers():
    return Observers(Shown(), RequestLog(), tracing_from({}, "test"))


async def model(scope, receive, send):
    await PlainTextResponse("an answer")(scope, receive, send)


@pytest.fixture
def keys(tmp_path):
    """A file of keys, the entry's key and the monitor's."""
    file = tmp_path / "keys.jsonl"
    entry, _ = add_key(file, "entry", {})
    monitor, _ = add_key(file, "monitor", {"paths": ("/metrics",)})
    return file, entry, monitor


def asked(app, path, key=None, client=FAR, **headers):
    if key:
        headers["authorization"] = f"Bearer {key}"
    return TestClient(app, client=client).post(path, headers=headers)


def test_with_keys_nobody_comes_in_without_one_from_wherever(keys):
    file, entry, monitor = keys
    app = AdmitEntry(model, Keyring(file), observers)
    assert asked(app, "/answer", entry).text == "an answer"
    for client in (NEAR, FAR):
        assert asked(app, "/answer", None, client).status_code == 401
        assert asked(app, "/docs.json", None, client).status_code == 401
        assert asked(app, "/answer", f"sh_{'0' * 12}_{'a' * 43}", client).status_code == 401
    assert asked(app, "/answer", monitor).status_code == 403


def test_without_keys_this_machine_alone_comes_in():
    app = AdmitEntry(model, Keyring(), observers)
    assert asked(app, "/answer", client=NEAR).text == "an answer"
    assert asked(app, "/answer", client=FAR).status_code == 403
    forwarded = {"x-forwarded-for": "10.0.0.7"}
    assert asked(app, "/answer", client=NEAR, **forwarded).status_code == 403


def test_probes_need_no_key_and_figures_do(keys):
    file, _, monitor = keys
    app = AdmitEntry(model, Keyring(file), observers)
    assert asked(app, "/readyz").text == "an answer"
    assert asked(app, "/metrics").status_code == 401
    assert asked(app, "/metrics", monitor).text == "stillhouse_queue_items 3\n"


@pytest.mark.parametrize(
    ("started", "alone"),
    [
        (ENTRYS, False),
        ({"stillhouse_student": "http://localhost:3000"}, True),
        ({}, True),
    ],
)
def test_a_model_knows_whether_an_entry_has_started_it(started, alone):
    assert runs_alone({"BENTOML_RUNNER_MAP": json.dumps(started)}) is alone
    assert runs_alone({})


@pytest.fixture
def gate(keys, monkeypatch):
    """The whole gate of a ready model with keys, by the services that were started with it."""

    def make(started):
        monkeypatch.setenv("BENTOML_RUNNER_MAP", json.dumps(started))
        monkeypatch.setenv("STILLHOUSE_KEYS", str(keys[0]))
        lifecycle = Lifecycle("model")
        lifecycle.mark_ready()
        return guard_model(model, lifecycle, observers)

    return make


def test_an_entrys_own_model_asks_nobody_for_a_key(gate):
    assert asked(gate(ENTRYS), "/answer", client=NEAR).text == "an answer"


def test_a_model_that_runs_alone_asks_for_a_key_and_takes_no_pickle(gate, keys):
    app = gate({"stillhouse_student": "http://localhost:3000"})
    assert asked(app, "/answer", client=NEAR).status_code == 401
    assert asked(app, "/livez").status_code == 200
    pickled = {"content-type": PICKLE}
    assert asked(app, "/answer", keys[1], **pickled).status_code == 415
    assert asked(app, "/answer", None, **pickled).status_code == 401


def test_keys_that_cannot_be_used_stop_it(tmp_path):
    (tmp_path / "keys").write_text("")
    with pytest.raises(StillhouseError):
        open_keyring({"STILLHOUSE_KEYS": str(tmp_path / "keys")})
