"""An image of a Bento: its recipe as BentoML renders it, what it runs, what speaks against it."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from structure import ROOT

from serving.container import command
from serving.errors import StillhouseError
from serving.keys import add_key
from stages import _bento, _io
from stages._container import checking, inside
from stages._container.image import image_of
from stages._container.programs import ask, attempt
from stages.container import read_packed, table

LOCKS = {name: ROOT / "requirements" / f"{name}.txt" for name in ("base", "train", "gpu")}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Instructions of the Dockerfile that is in a Bento, as pairs of word and rest."""
    from bentoml._internal.bento.build_config import CondaOptions, DockerOptions
    from bentoml._internal.container.generate import generate_containerfile

    folder = tmp_path_factory.mktemp("bento")
    options = DockerOptions(
        python_version=_bento.PYTHON, dockerfile_template=_bento.DOCKERFILE
    ).with_defaults()
    text = generate_containerfile(
        options, str(ROOT), conda=CondaOptions(), bento_fs=folder, enable_buildkit=False
    )
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines()]


def last_stage(recipe):
    """What is in the image itself."""
    start = max(n for n, (word, _) in enumerate(recipe) if word == "FROM")
    return recipe[start + 1 :]


def test_the_base_is_pinned_by_its_digest_and_nothing_else_is_a_base(recipe):
    assert recipe[0][0] == "ARG"
    assert re.fullmatch(
        r"BASE=docker\.io/library/python:3\.11-slim-\w+@sha256:[0-9a-f]{64}", recipe[0][1]
    )
    bases = [rest for word, rest in recipe if word == "FROM"]
    assert bases == ["${BASE} AS made", "${BASE}"]


def test_packages_are_wheels_of_the_lock_alone(recipe):
    (install,) = [rest for _, rest in recipe if " install " in rest]
    for option in ("--no-deps", "--only-binary=:all:", "--requirement /requirements.lock"):
        assert option in install
    assert ("COPY", f"src/{_bento.LOCK} /requirements.lock") in recipe


def test_the_recipe_fetches_nothing_by_itself(recipe):
    words = [word for word, _ in recipe]
    assert "ADD" not in words and "ONBUILD" not in words
    text = "\n".join(rest for _, rest in recipe)
    assert not re.search(r":latest|https?://|\b(apt|apt-get|curl|wget|git|sudo)\b", text)


def test_the_image_has_a_user_a_health_check_and_no_step_that_builds(recipe):
    final = dict(last_stage(recipe))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final["USER"])
    for word in ("HEALTHCHECK", "ENTRYPOINT"):  # a list: no shell stands before the process
        module = json.loads(final[word][final[word].index("[") :])
        assert module[:3] == ["python", "-m", "serving.container"]
    assert final["STOPSIGNAL"] == "SIGTERM"
    runs = [rest for word, rest in last_stage(recipe) if word == "RUN"]
    assert len(runs) == 1 and runs[0].startswith("groupadd")
    copies = [rest for word, rest in last_stage(recipe) if word == "COPY"]
    assert len(copies) == 2 and all(c.startswith("--from=made") for c in copies)
    assert not any("chown" in rest for _, rest in recipe), "what is served is root's own"


def test_the_gpu_s_image_has_torch_with_its_cuda_libraries_by_exact_pins():
    pins = _bento.choose_requirements("transformers", True, LOCKS)
    names = {pin.partition("==")[0] for pin in pins}
    assert {"torch", "bitsandbytes", "triton", "nvidia-cublas", "bentoml"} <= names
    assert len({"--hash=" in pin for pin in pins}) == 1, "pip wants hashes of all, or of none"


def keyed(tmp_path):
    """An environment with one key."""
    add_key(tmp_path / "keys.jsonl", "acme", {})
    return {"STILLHOUSE_KEYS": str(tmp_path / "keys.jsonl")}


def test_an_image_without_keys_listens_to_nobody_else(tmp_path):
    with pytest.raises(StillhouseError, match="expected keys, because everybody could ask"):
        command([], {})
    near = command([], {"BENTOML_HOST": "127.0.0.1"})
    assert near[near.index("--host") + 1] == "127.0.0.1"
    far = command([], keyed(tmp_path))
    assert far[far.index("--host") + 1] == "0.0.0.0"
    assert far[:2] == ["bentoml", "serve"]


@pytest.mark.parametrize(
    ("arguments", "variables", "port"),
    [
        ([], {}, "3000"),
        (["serve"], {}, "8080"),
        (["serve"], {"SAGEMAKER_BIND_TO_PORT": "8081"}, "8081"),
        ([], {"AIP_HTTP_PORT": "8082"}, "8082"),
        ([], {"PORT": "8083", "AIP_HTTP_PORT": "8082"}, "8083"),
    ],
)
def test_the_port_is_where_a_platform_looks_for_it(tmp_path, arguments, variables, port):
    served = command(arguments, keyed(tmp_path) | variables)
    assert served[served.index("--port") + 1] == port


def test_options_of_bentoml_are_passed_on_but_for_the_address(tmp_path):
    environment = keyed(tmp_path)
    assert command(["--ssl-certfile", "c.pem"], environment)[-2:] == ["--ssl-certfile", "c.pem"]
    for option in ("--host=0.0.0.0", "--port", "-p", "-p3001"):
        with pytest.raises(StillhouseError, match="expected the address in BENTOML_HOST"):
            command(["serve", option], environment)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["bash"], {}, "found 'bash'"),
        ([], {"PORT": "http"}, "expected a port from 1 to 65535 in PORT, found 'http'"),
        ([], {"PORT": "65536"}, "found '65536'"),
    ],
)
def test_what_cannot_be_run_is_told(tmp_path, arguments, variables, message):
    with pytest.raises(StillhouseError, match=message):
        command(arguments, keyed(tmp_path) | variables)


class Ready(BaseHTTPRequestHandler):
    """A service that is ready until it is told otherwise."""

    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


def healthy(folder):
    """Exit code of the health check, as a process of its own whose /tmp is `folder`."""
    words = [sys.executable, "-m", "serving.container", "healthy"]
    return subprocess.run(words, cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)}).returncode


def test_the_health_check_asks_the_service_where_it_listens(tmp_path):
    assert healthy(tmp_path) == 1, "nobody has started it"
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "stillhouse-listening").write_text(f"http 127.0.0.1 {server.server_port}\n")
        assert healthy(tmp_path) == 0
        Ready.status = 503
        assert healthy(tmp_path) == 1, "it drains"
        server.shutdown()
    assert healthy(tmp_path) == 1, "it has gone"


FINE = {"bytes": 9, "builders": [], "torch": False, "uid": 1034, "writable": ["/tmp"]}
CONFIG = {
    "User": "1034:1034",
    "Entrypoint": ["python", "-m", "serving.container"],
    "Healthcheck": {"Test": ["CMD", "python", "-m", "serving.container", "healthy"]},
}


@pytest.mark.parametrize(
    ("found", "user", "message"),
    [
        ({"bytes": 900_100_000}, "1034:1034", "it has 900.1 MB, expected 900 MB at most"),
        ({"builders": ["git"]}, "1034:1034", "it has git, expected no compiler"),
        ({"torch": True}, "1034:1034", "torch is in it"),
        ({"uid": 0}, "1034:1034", "it runs as root"),
        ({}, "", "it runs as root"),
        ({"writable": ["/tmp", "/opt/venv"]}, "1034:1034", "expected /tmp alone"),
    ],
)
def test_what_speaks_against_an_image_is_named(found, user, message):
    image = image_of("name", "ab", CONFIG | {"User": user})
    wrong = checking.objections(image, FINE | found, torch=False)
    assert len(wrong) == 1 and message in wrong[0]
    assert checking.objections(image_of("name", "ab", CONFIG), FINE, torch=False) == []
    large = FINE | {"torch": True, "bytes": 9_000_000_000}
    assert checking.objections(image_of("name", "ab", CONFIG), large, torch=True) == []


@pytest.mark.parametrize("lacking", ["Entrypoint", "Healthcheck"])
def test_an_image_without_entrypoint_or_health_check_is_not_ours(lacking):
    with pytest.raises(StillhouseError, match="expected both"):
        image_of("name", "ab", CONFIG | {lacking: None})


def test_bytes_are_counted_once_and_links_are_not_followed(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one").write_bytes(b"12345")
    (tmp_path / "in/same").hardlink_to(tmp_path / "in/one")
    (tmp_path / "link").symlink_to(tmp_path / "in", target_is_directory=True)
    links = (tmp_path / "link").lstat().st_size
    assert inside.size_of(tmp_path / "in") == 5
    assert inside.size_of(tmp_path) in (5, 5 + links)
    assert inside.can_write(str(tmp_path)) and not inside.can_write("/proc")


def test_only_the_archive_that_was_judged_becomes_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StillhouseError, match='Run "dvc repro package"'):
        read_packed("cpu")
    Path("models/bento").mkdir(parents=True)
    Path("models/bento/cpu.bento").write_bytes(b"a Bento")
    sha256 = _io.sha256_file(Path("models/bento/cpu.bento"))
    told = {"bentos": {"cpu": {"bento_tag": "stillhouse:1", "bento_sha256": sha256}}}
    _io.write_json(Path("reports/package/release.json"), told)
    assert read_packed("cpu")["bento_tag"] == "stillhouse:1"
    Path("models/bento/cpu.bento").write_bytes(b"another")
    with pytest.raises(StillhouseError, match=f"expected {sha256[:12]}"):
        read_packed("cpu")


def test_the_table_adds_up():
    made = {
        "bytes": 700_000_000,
        "environment_bytes": 500_000_000,
        "bento_bytes": 5_000_000,
        "model_bytes": 4_000_000,
        "packages": {f"p{n}": n * 1_000_000 for n in range(20)},
    }
    lines = table(made)
    assert lines[0].split()[-2:] == ["700.0", "MB"]
    assert "195.0 MB" in lines[1], "the base is what is left"
    assert lines[3].split()[0] == "p19"


def test_a_program_that_is_absent_or_fails_is_told_in_one_line():
    with pytest.raises(StillhouseError, match="no-such-engine is not installed here"):
        attempt(["no-such-engine"])
    with pytest.raises(StillhouseError, match=r'"bash -c" ended with 3: it broke') as caught:
        ask(["bash", "-c", "echo it broke >&2; exit 3"])
    assert "\n" not in str(caught.value)


def test_a_service_that_fails_is_told_by_its_own_words_and_one_that_is_silent_in_time(tmp_path):
    log, nobody = tmp_path / "serve.log", "http://127.0.0.1:1"
    with pytest.raises(StillhouseError, match=r"not ready in time\. See .*serve\.log"):
        checking._wait_until_ready(nobody, time.monotonic() + 0.3, log)
    log.write_text(
        'starting\n{"level": "info", "message": "hello"}\n'
        '{"level": "error", "message": "Initializing service error", "exception": "ValueError"}\n'
        '{"level": "error", "message": "Application startup failed. Exiting."}\n'
    )
    with pytest.raises(StillhouseError, match=r"failed: Initializing service error ValueError\."):
        checking._wait_until_ready(nobody, time.monotonic() + 60, log)


def test_a_package_that_is_there_and_does_not_start_says_why(tmp_path, monkeypatch):
    (tmp_path / "torn_build.py").write_text("raise ValueError('libcublas.so not found')")
    monkeypatch.syspath_prepend(tmp_path)
    assert inside.fault_of("torn_build") == "ValueError: libcublas.so not found"
    assert inside.fault_of("json") is None
    assert inside.fault_of("no_such_package") is None
