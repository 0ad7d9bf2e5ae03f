"""Models come from the hub at one commit, without pickles or code, and offline from its cache."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants
from tiny_models import write_model

from serving.errors import StillhouseError
from stages import _pretrained
from stages._params import Pretrained

COMMIT, OTHER = "c0ffee" + "0" * 34, "beef" * 10
NAME = "owner/tiny"


def model(revision=COMMIT, name=NAME):
    return Pretrained(model=name, revision=revision)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path, cache, monkeypatch):
    """A server that speaks the hub's protocol for one model; gives the paths it was asked for."""
    folder, asked = write_model(tmp_path / "remote"), []
    for name in ("pytorch_model.bin", "modeling.py", "training_args.bin", "weights.pt"):
        (folder / name).write_text("print('never')")

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            asked.append(self.path)
            route, _, name = self.path.partition("?")[0].partition(f"/{COMMIT}")
            file = folder / name.lstrip("/")
            if route == f"/{NAME}/resolve" and file.is_file():
                self.give(200, file.read_bytes(), body)
            elif route == f"/api/models/{NAME}/tree":
                tree = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": digest(p)}
                    for p in folder.iterdir()
                ]
                self.give(200, json.dumps(tree).encode(), body)
            else:
                known = self.path.startswith(f"/api/models/{NAME}/")
                self.give(404, b"{}", body, "RevisionNotFound" if known else "RepoNotFound")

        def give(self, status, content, body, error=None):
            self.send_response(status)
            headers = {"Content-Length": len(content), "X-Repo-Commit": COMMIT}
            headers |= {"X-Error-Code": error} if error else {}
            headers |= {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content if body else b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    path = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield asked
    server.shutdown()
    server.server_close()


def digest(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


def refused(settings, offline):
    with pytest.raises(StillhouseError) as caught:
        _pretrained.resolve(settings, offline)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_fetched_once_without_pickles_or_code(hub):
    base = _pretrained.resolve(model(), offline=False)
    assert (base.revision, base.folder.name) == (COMMIT, COMMIT)
    fetched = {path.name for path in base.folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= fetched
    assert not any(name.endswith((".bin", ".pt", ".py")) for name in fetched)
    assert not any(path.endswith((".bin", ".pt", ".py")) for path in hub)
    _pretrained.load(base, model(), "sdpa")
    count = len(hub)
    assert _pretrained.resolve(model(), offline=True).folder == base.folder
    assert len(hub) == count


def test_a_wrong_revision_or_name_is_told_in_one_line(hub):
    assert refused(model(OTHER), offline=False).startswith(f"{NAME} has no revision {OTHER}.")
    assert "no model owner/other" in refused(model(name="owner/other"), offline=False)


def test_offline_a_model_that_is_not_cached_says_what_to_do(cache):
    said = refused(model(), offline=True)
    assert f"{NAME} at {COMMIT} is not (whole) in this machine's cache" in said
    assert "Set run.offline: false once to fetch it, or name a local folder." in said


def test_a_download_that_was_cut_off_is_not_taken_for_whole(hub, cache):
    base = _pretrained.resolve(model(), offline=False)
    (base.folder / "model.safetensors").unlink()
    assert "is not (whole) in this machine's cache" in refused(model(), offline=True)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
def test_a_model_of_the_hub_needs_a_commit(cache, revision):
    said = refused(model(revision), offline=True)
    assert f"revision {revision!r}: expected the 40 hexadecimal digits" in said


@pytest.mark.parametrize("name", ["./models/absent", "/absent", "a b/c", "https://host/x/y"])
def test_a_name_that_is_neither_folder_nor_id_is_refused(cache, name):
    assert "expected a folder that exists or owner/name" in refused(model(name=name), True)
