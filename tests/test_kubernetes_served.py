"""The manifests' own environment, tried: three processes and Redis on loopback, wired as they say.

What a cluster would do is done here by hand: names of services become ports of this machine,
secrets become files, volumes become folders. Everything else is as rendered.
"""

import os
import re
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest
from kubernetes_cases import applied, containers_of, environment_of, named
from metric_samples import samples
from service_models import service_environment
from service_process import free_port, served
from toy import example

from serving.keys import add_key

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow
PARTS = ("student", "baseline", "entry")
STORES = ("redis-limits", "redis-cache")
PASSWORD = "5ec2e7"
PROMPT = example("Zizzi", "pies", "no")["prompt"]
CHAT = {"model": "student", "messages": [{"role": "user", "content": "fish"}]}


def write_secrets(folder):
    """The secrets that the README asks for: values, and files in a folder per secret."""
    made = {}
    for name, tenant in (("caller-keys", "acme"), ("model-keys", "entry")):
        file = folder / name / "keys.jsonl"
        file.parent.mkdir(parents=True)
        limits = {"requests_per_minute": 10_000} if tenant == "acme" else {}
        made[tenant], _ = add_key(file, tenant, limits)
        made[f"{name}-monitor"], _ = add_key(file, "monitor", {"paths": ("/metrics",)})
        file.chmod(0o440)
    return made


def localize(told, ports, folder, name):
    """The environment of a container on this machine: its names, volumes and ports."""
    here = dict(told)
    for host, port in ports.items():
        pattern = rf"(?<=[/@]){host}:\d+"
        here = {key: re.sub(pattern, f"127.0.0.1:{port}", text) for key, text in here.items()}
    mounts = {"/etc/stillhouse/keys": f"{'caller' if name == 'entry' else 'model'}-keys"}
    mounts |= {"/var/lib/stillhouse": f"{name}-live", "/tmp": f"{name}-tmp"}
    place = re.compile(rf"^({'|'.join(mounts)})\b")
    for key, text in here.items():
        here[key] = place.sub(lambda match: str(folder / mounts[match[1]]), text)
    (folder / f"{name}-tmp").mkdir()
    return here | {"BENTOML_HOST": "127.0.0.1", "BENTOML_PORT": str(ports[name])}


def start_redis(documents, name, port, folder, stack):
    """Redis by the manifest's own command, at another port and with another folder."""
    kind = "StatefulSet" if name == "redis-limits" else "Deployment"
    (container,) = containers_of(named(documents, kind, name))
    *shell, script = container["command"]
    (folder / name).mkdir()
    script = f"{script} --port {port} --bind 127.0.0.1".replace("/data", str(folder / name))
    environment = os.environ | {"REDIS_PASSWORD": PASSWORD}
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*shell, script], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    probe = [*container["readinessProbe"]["exec"]["command"]]
    probe[-1] = probe[-1].replace("redis-cli", f"redis-cli -p {port}")
    for _ in range(100):
        if subprocess.run(probe, env=environment, capture_output=True).returncode == 0:
            return
        threading.Event().wait(0.1)
    raise AssertionError((folder / f"{name}.log").read_text())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The champion's set of the overlay cpu."""
    documents, folder = applied("cpu"), tmp_path_factory.mktemp("cluster")
    secrets = write_secrets(folder)
    values = {"entry-key": secrets["entry"], "redis-limits": PASSWORD, "redis-cache": PASSWORD}
    ports = {name: free_port() for name in (*PARTS, *STORES)}
    (folder / "models").mkdir()
    models = service_environment(folder / "models")
    with ExitStack() as stack:
        for name in STORES:
            start_redis(documents, name, ports[name], folder, stack)
        running = {}
        for name in PARTS:
            deployment = named(documents, "Deployment", name)
            told = environment_of(documents, deployment, values)
            (container,) = containers_of(deployment)
            assert [*container["command"], container["args"][0]] == ["bentoml", "serve"]
            environment = models | localize(told, ports, folder, name)
            environment["TMPDIR"] = str(folder / f"{name}-tmp")
            process = served(container["args"][1], folder / name, environment, port=ports[name])
            running[name] = stack.enter_context(process)
        yield SimpleNamespace(**running, secrets=secrets, folder=folder, ports=ports)


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def series(part, key):
    """Samples of a process, as Prometheus reads them with the monitor's key."""
    asked = Request(f"{part.url}/metrics", headers=bearer(key))
    with urlopen(asked, timeout=30) as response:
        return samples(response.read().decode())


def test_a_request_goes_through_all_three(cluster):
    caller = bearer(cluster.secrets["acme"])
    status, answer = cluster.entry.post("/generate", {"prompt": PROMPT}, caller)
    assert (status, answer["text"] != "") == (200, True)
    status, both = cluster.entry.post("/compare", {"prompt": PROMPT}, caller)
    assert (status, both["student"]["text"]) == (200, answer["text"])
    assert both["baseline"]["text"]
    status, text = cluster.entry.post("/v1/chat/completions", {**CHAT, "stream": True}, caller)
    assert (status, text.splitlines()[-2]) == (200, "data: [DONE]")


def test_callers_at_once_share_micro_batches(cluster):
    caller = bearer(cluster.secrets["acme"])
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(
                lambda _: cluster.entry.post("/generate", {"prompt": "fish"}, caller), range(40)
            )
        )
    assert {status for status, _ in made} == {200}
    assert len({answer["text"] for _, answer in made}) == 1
    assert max(answer["batch_rows"] for _, answer in made) > 1


@pytest.mark.parametrize(
    ("part", "path", "whose", "expected"),
    [
        ("entry", "/generate", None, 401),
        ("entry", "/generate", "entry", 401),
        ("student", "/answer", None, 401),
        ("student", "/answer", "acme", 401),
        ("student", "/answer", "model-keys-monitor", 403),
        ("baseline", "/baseline", None, 401),
        ("baseline", "/docs.json", None, 401),
        ("student", "/metrics", None, 401),
    ],
)
def test_nobody_comes_in_without_the_right_key(cluster, part, path, whose, expected):
    headers = bearer(cluster.secrets[whose]) if whose else None
    status, _ = getattr(cluster, part).post(path, {"prompt": "fish"}, headers)
    assert status == expected


def test_the_student_shows_what_scaling_asks_for(cluster):
    cluster.entry.post("/generate", {"prompt": PROMPT}, bearer(cluster.secrets["acme"]))
    found = series(cluster.student, cluster.secrets["model-keys-monitor"])
    for name in ("queue_seconds_count", "completion_tokens_total"):
        assert found[f"stillhouse_{name}", ("model", "student")] > 0
    own = series(cluster.entry, cluster.secrets["caller-keys-monitor"])
    answered = ("outcome", "answered"), ("route", "/generate")
    assert own["stillhouse_requests_total", *answered] > 0
    assert own["stillhouse_queue_seconds_count", ("model", "student")] == 0, "it has no queue"


def test_limits_are_counted_in_redis(cluster):
    cluster.entry.post("/generate", {"prompt": PROMPT}, bearer(cluster.secrets["acme"]))

    def ask(*words):
        command = ["redis-cli", "-p", str(cluster.ports["redis-limits"]), *words]
        told = os.environ | {"REDISCLI_AUTH": PASSWORD}
        return subprocess.run(command, env=told, capture_output=True, text=True).stdout

    assert int(ask("dbsize")) >= 1
    assert "noeviction" in ask("config", "get", "maxmemory-policy")


def test_nothing_is_written_outside_the_volumes(cluster):
    written = {path.name for path in cluster.folder.iterdir()}
    assert {"student-tmp", "baseline-tmp", "entry-tmp"} <= written
    assert list((cluster.folder / "student-tmp").rglob("*.db")), "its series"


def test_a_student_that_must_go_ends_what_it_took_and_the_entry_says_so(cluster):
    caller = bearer(cluster.secrets["acme"])
    body = {"prompt": PROMPT}
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(cluster.entry.post, "/generate", body, caller) for _ in range(24)]
        threading.Event().wait(0.2)
        cluster.student.process.send_signal(signal.SIGTERM)
        statuses = [one.result()[0] for one in asked]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 1
    assert cluster.student.process.wait(60) == 0
    status, body = cluster.entry.post("/generate", {"prompt": PROMPT}, caller)
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert cluster.entry.get("/readyz")[0] == 503
    for name in PARTS:
        log = getattr(cluster, name).log
        assert not [key for key in (*cluster.secrets.values(), PASSWORD) if key in log]
