"""What /metrics shows is bounded, zero from the start, and the sum of all processes."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from metric_samples import samples, value
from prometheus_client import Histogram

from serving import _memory_use
from serving._cascade.series import CASCADE_SERIES
from serving._items import STATUS
from serving._live.series import LIVE_SERIES
from serving._memory_use import Memory, memory_of, process_tree, service_root, tree_memory
from serving._metric_series import ROUTES, SCRAPED, SERIES, route_of
from serving._metrics import Metrics, forget_dead
from serving._scheduler_counts import Counts, StreamObservation
from serving._student_service import tell_streams
from serving.errors import StillhouseError

ROOT = Path(__file__).parent.parent

EVERYWHERE = [s for s in (*SERIES, *CASCADE_SERIES, *LIVE_SERIES) if () not in s.labels.values()]
"""Series whose labels are known beforehand."""


def test_every_series_is_there_at_zero_before_anything_happens():
    found = samples(Metrics().exposition())
    names = {key[0].removesuffix("_count") for key in found}
    lacking = {f"stillhouse_{s.name}" for s in EVERYWHERE} - names
    assert not lacking
    assert all(
        v == 0 for key, v in found.items() if not key[0].endswith(("memory_bytes", "_created"))
    )
    for reason in STATUS:
        assert ("stillhouse_refusals_total", ("reason", reason)) in found


def test_labels_are_bounded_whatever_is_asked_for():
    assert [route_of(route) for route in ROUTES[:6]] == list(ROUTES[:6])
    assert route_of("/v1/models/any name") == "/v1/models/{model}"
    for path in ("/", "/v1/models/", "/v1/", "/.env", "/v1/modelsx", "/generate/1", "models/x"):
        assert route_of(path) == "other"


def test_rows_of_a_micro_batch_share_its_cost():
    metrics = Metrics(usd_per_hour=3600.0)
    batch = {"rows": 4, "real_tokens": 30, "padded_tokens": 40, "seconds": 0.5}
    metrics.observe_batch("student", **batch, queue_s=(0.1, 0.2))
    assert value(metrics, "cost_usd_total", model="student") == pytest.approx(0.5)
    assert value(metrics, "request_cost_usd_count", model="student") == 4
    assert value(metrics, "request_cost_usd_sum", model="student") == pytest.approx(0.5)
    assert value(metrics, "padded_share_sum", model="student") == pytest.approx(0.25)
    assert value(metrics, "padding_tokens_total", model="student") == 10
    assert value(metrics, "queue_seconds_sum", model="student") == pytest.approx(0.3)
    assert value(metrics, "cost_usd_total", model="baseline") == 0


def test_a_batch_without_rows_counts_as_none():
    metrics = Metrics(1.0)
    metrics.observe_batch("student", rows=0, real_tokens=0, padded_tokens=0, seconds=0.0)
    assert value(metrics, "micro_batch_rows_count", model="student") == 0


def test_work_for_callers_who_left_is_told_apart():
    metrics = Metrics()
    metrics.count_cancelled("student", "waiting", 2)
    metrics.count_cancelled("student", "computing")
    metrics.count_tokens("student", prompt=7, completion=5, wasted=3)
    assert value(metrics, "cancelled_total", model="student", stage="waiting") == 2
    assert value(metrics, "cancelled_total", model="student", stage="computing") == 1
    assert value(metrics, "wasted_tokens_total", model="student") == 3
    assert value(metrics, "completion_tokens_total", model="student") == 5


def test_streams_are_counted_while_they_live():
    metrics = Metrics()
    with pytest.raises(ConnectionError), metrics.stream_alive():
        assert value(metrics, "streams_alive") == 1
        raise ConnectionError
    assert value(metrics, "streams_alive") == 0
    metrics.observe_stream("student", 0.2, (0.01, 0.03), queue_s=0.1, compute_s=0.1)
    assert value(metrics, "first_token_seconds_sum", model="student") == pytest.approx(0.2)
    assert value(metrics, "token_gap_seconds_count", model="student") == 2


def test_a_stream_costs_what_was_computed_for_it():
    metrics = Metrics(usd_per_hour=3600.0)
    stream = StreamObservation(
        0.9, (0.1,), tokens=2, prompt_tokens=7, queue_s=0.5, compute_s=0.25, wasted_tokens=0
    )
    tell_streams(metrics, lambda: Counts(waiting_items=3, waiting_tokens=90))(stream)
    expected = {
        "prompt_tokens_total": 7,
        "completion_tokens_total": 2,
        "cost_usd_total": 0.25,
        "request_cost_usd_count": 1,
        "queue_seconds_sum": 0.5,
        "compute_seconds_sum": 0.25,
        "queue_items": 3,
        "queue_tokens": 90,
    }
    assert {name: value(metrics, name, model="student") for name in expected} == expected


def test_a_series_is_looked_up_once_for_all_rows(monkeypatch):
    metrics, looked_up, labels = Metrics(1.0), Counter(), Histogram.labels

    def count(family, *values):
        looked_up[family] += 1
        return labels(family, *values)

    monkeypatch.setattr(Histogram, "labels", count)
    batch = {"rows": 32, "real_tokens": 30, "padded_tokens": 40, "seconds": 0.5}
    metrics.observe_batch("student", **batch, queue_s=(0.1,) * 32)
    assert set(looked_up.values()) == {1}


def test_models_and_limits_are_shown():
    metrics = Metrics()
    metrics.set_model("student", "ctranslate2", "0123456789abcdef")
    metrics.set_limits("student", token_budget=4096, largest_batch_rows=32)
    info = {"model": "student", "engine": "ctranslate2", "digest": "0123456789ab"}
    assert value(metrics, "model_info", **info) == 1
    assert value(metrics, "token_budget", model="student") == 4096


def test_the_document_names_every_series_with_its_labels():
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `stillhouse_(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert told == {s.name: (s.kind, set(s.labels)) for s in (*SERIES, *SCRAPED, *CASCADE_SERIES)}
    assert len(rows) == len(told)


def test_memory_is_told_by_part():
    found = samples(Metrics().exposition())
    key = ("part", "supervisor")
    resident = found["stillhouse_memory_bytes", ("kind", "resident"), key]
    assert resident > 2**20
    assert 0 < found["stillhouse_memory_bytes", ("kind", "proportional"), key] <= resident


@pytest.mark.slow
def test_a_process_tree_has_its_children_until_they_are_gone():
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.pid in process_tree(os.getpid())
        assert memory_of(child.pid).resident_bytes > 0
        assert tree_memory(os.getpid())["other"].resident_bytes > 0
        child.stdin.close()
        child.wait(20)
    assert child.pid not in process_tree(os.getpid())
    assert memory_of(child.pid) is None
    assert service_root(os.getpid()) == os.getpid()


def test_a_program_may_have_any_name(tmp_path, monkeypatch):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a) S 1 (b) R 5 5")
    (tmp_path / "7" / "status").write_text("Name:\tx\nVmRSS:\t    3 kB\n")
    monkeypatch.setattr(_memory_use, "PROC", tmp_path)
    assert process_tree(5) == [5, 7]
    assert memory_of(7) == Memory(3 * 1024, 0)


def test_gpus_are_told_where_there_is_a_driver(tmp_path, monkeypatch):
    assert _memory_use.gpu_memory() == [] or Path("/proc/driver/nvidia").is_dir()
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    device = SimpleNamespace(used=3, total=8)
    binding = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: device,
    )
    monkeypatch.setitem(sys.modules, "pynvml", binding)
    monkeypatch.setattr(_memory_use, "PROC", tmp_path)
    assert _memory_use.gpu_memory() == [(0, 3, 8), (1, 3, 8)]


WORKER = """
import os, sys
from pathlib import Path
from serving._metrics import Metrics
metrics = Metrics(2.0, Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
metrics.count_refusal("expired")
metrics.set_limits("student", int(sys.argv[1]), 1)
with metrics.stream_alive():
    print("counted", flush=True)
    if sys.stdin.read() == "show":
        sys.stdout.write(metrics.exposition().decode())
    os._exit(1)  # as one that crashes: it takes back nothing
"""


def start_worker(folder, budget):
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKER, str(budget)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    worker = subprocess.Popen(command, env=environment, **pipes)
    assert worker.stdout.readline() == "counted\n"
    return worker


@pytest.mark.slow
def test_processes_are_summed_and_one_that_crashed_leaves_its_counts_but_no_streams(tmp_path):
    with start_worker(tmp_path, 100) as crashed:
        crashed.communicate("", timeout=20)
    with start_worker(tmp_path, 10) as one, start_worker(tmp_path, 30) as other:
        found = samples(one.communicate("show", timeout=20)[0])
        other.communicate("", timeout=20)
    assert found["stillhouse_refusals_total", ("reason", "expired")] == 3
    assert found["stillhouse_streams_alive",] == 2
    assert found["stillhouse_token_budget", ("model", "student")] == 30
    assert found["stillhouse_usd_per_hour",] == 2.0
    assert not [key for key in found if any(pair[0] == "pid" for pair in key[1:])]
    forget_dead(tmp_path)
    assert not list(tmp_path.glob("gauge_live*"))


def test_a_library_loaded_before_its_folder_was_set_is_a_mistake_at_start(tmp_path):
    with pytest.raises(StillhouseError, match="before PROMETHEUS_MULTIPROC_DIR was set"):
        Metrics(folder=tmp_path)
