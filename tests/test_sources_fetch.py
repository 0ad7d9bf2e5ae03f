"""Raw files from paths and URLs: safe downloads, one line for each that fails."""

import hashlib
import io
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from source_cases import write

from serving.errors import StillhouseError
from stages._sources import fetch
from stages._sources.fetch import _SafeRedirects

DATA = b"mr,ref\na,b\n" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/missing.csv":
                self.send_error(404)
            case "/to-file":
                self._redirect(f"file://{__file__}")
            case "/to-data":
                self._redirect("/data.csv")
            case "/loop":
                self._redirect("/loop")
            case "/short.csv":
                self._send(DATA[:500], len(DATA))
            case "/other.csv":
                self._send(DATA + b"x", len(DATA) + 1)
            case _:
                self._send(DATA, len(DATA))

    def _send(self, body: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]


@contextmanager
def _serving() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.requested = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with _serving() as server:
        yield server


@pytest.fixture
def url(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.requested.clear()  # type: ignore[attr-defined]
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    "written",
    ["in/data.csv", "${FOLDER}/data.csv", "$FOLDER/data.csv", "{root}/in/data.csv", "~/data.csv"],
)
def test_a_path_is_found_however_it_is_written(tmp_path, monkeypatch, written: str) -> None:
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "data.csv", DATA)
    monkeypatch.setenv("FOLDER", "in")
    monkeypatch.setenv("HOME", str(tmp_path / "in"))
    source = written.replace("{root}", str(tmp_path))

    assert fetch(source, None, tmp_path / "cache", tmp_path) == path
    assert fetch(source, DIGEST.upper(), tmp_path / "cache", tmp_path) == path
    assert fetch(f"file://{path}", DIGEST, tmp_path / "cache", tmp_path) == path


@pytest.mark.parametrize(
    ("source", "sha256", "message"),
    [
        ("${NOT_SET}/a.csv", None, "environment variable NOT_SET, which is not set"),
        ("missing.csv", None, "missing.csv is missing"),
        (".", None, "is a folder, expected a file"),
        ("data.csv", "0" * 64, f"has the SHA-256 {DIGEST}, expected {'0' * 64}"),
        ("data.csv", "abc", "expected 64 hexadecimal digits"),
        ("x" * 5000, None, "cannot be read"),
        ("~no-such-person/a.csv", None, "no such home folder"),
        ("https://example.com/a.csv", None, "is a URL and needs a sha256"),
        ("file:///a.csv", None, "is a URL and needs a sha256"),
        ("ftp://example.com/a.csv", "0" * 64, "expected a path or a file://, http:// or https://"),
        ("file://elsewhere/a.csv", "0" * 64, "expected a path or a file://"),
    ],
)
def test_a_source_that_cannot_be_used_gives_one_line(tmp_path, source, sha256, message) -> None:
    path = write(tmp_path / "data.csv", DATA)
    with pytest.raises(StillhouseError, match=message) as error:
        fetch(source, sha256, tmp_path / "cache", tmp_path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("page", ["/data.csv", "/to-data", "/a%2Fb/../%00.csv?x=/y"])
def test_a_download_is_verified_and_kept(tmp_path: Path, url: str, page: str) -> None:
    path = fetch(url + page, DIGEST, tmp_path / "cache", tmp_path)

    assert path.read_bytes() == DATA
    assert [file.parent for file in (tmp_path / "cache").iterdir()] == [tmp_path / "cache"]


def test_what_is_in_the_cache_is_verified_before_use(tmp_path: Path, url: str, server) -> None:
    path = fetch(f"{url}/data.csv", DIGEST, tmp_path / "cache", tmp_path)
    fetch(f"{url}/data.csv", DIGEST, tmp_path / "cache", tmp_path)
    assert len(server.requested) == 1

    path.write_bytes(b"damaged")
    assert fetch(f"{url}/data.csv", DIGEST, tmp_path / "cache", tmp_path).read_bytes() == DATA
    assert len(server.requested) == 2


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("/other.csv", f"has the SHA-256 {hashlib.sha256(DATA + b'x').hexdigest()}, expected"),
        ("/short.csv", r"\(500 of 11,000 bytes came\)"),
        ("/missing.csv", "404"),
        ("/to-file", "cannot be downloaded .*not allowed"),
        ("/loop", "infinite loop"),
    ],
)
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, url: str, page: str, message: str
) -> None:
    with pytest.raises(StillhouseError, match=message) as error:
        fetch(url + page, DIGEST, tmp_path / "cache", tmp_path)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://example.com/a.csv")
    redirect = _SafeRedirects().redirect_request
    with pytest.raises(ValueError, match="refused"):
        redirect(request, io.BytesIO(), 302, "Found", {}, "http://example.com/a.csv")
    followed = redirect(request, io.BytesIO(), 302, "Found", {}, "https://example.com/b.csv")
    assert followed.full_url == "https://example.com/b.csv"


def test_a_download_past_the_limit_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StillhouseError, match="is larger than 999 bytes"):
        fetch(f"{url}/data.csv", DIGEST, tmp_path, tmp_path, max_bytes=999)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_gives_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _serving() as server:
        port = server.server_port
    with pytest.raises(StillhouseError, match="cannot be downloaded"):
        fetch(f"http://127.0.0.1:{port}/data.csv", DIGEST, tmp_path, tmp_path)
