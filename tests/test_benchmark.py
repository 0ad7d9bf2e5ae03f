"""A candidate is measured in a process of its own, and the report says what and how."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_models import write_model
from toy import SCHEMA, write_prepared
from transformers import AttentionInterface

from serving.completion import Request
from serving.contract import digest
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _benchmark_figures as figures
from stages import _benchmark_kinds as kinds
from stages import _benchmark_worker as worker
from stages import _io
from stages._params import check_params
from stages.baseline import baseline
from stages.benchmark import benchmark, choose_devices, draw_requests
from stages.select import read_benchmarks

TINY = {"prompts": 3, "seconds": 0.02, "batch_sizes": [1, 4], "kinds_batch": 2}
PARAMS = check_params(
    {
        "run": {"device": "cpu"},
        "baseline": {"confidence_rows": 50, "jobs": 1},
        "benchmark": {**TINY, "hourly_price_usd": {"cpu": 0.36, "cuda": 3.6}},
    },
    Path("params.yaml"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    examples = write_prepared(root)
    return root, examples


@pytest.fixture(scope="module")
def measured(prepared):
    """The baseline's folder, and its report from a process of its own."""
    root, _ = prepared
    read = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, read, {"model": root / "baseline", "reports": root / "reports"})
    inputs, outputs = paths(root, root / "baseline")
    metrics = benchmark(PARAMS, inputs, outputs)
    return root / "baseline", metrics, _io.read_json(outputs["report"])


@pytest.fixture(scope="module")
def decoder(prepared):
    """Figures of a tiny decoder, measured by the worker's code in this process."""
    root, examples = prepared
    folder = write_model(root / "decoder", decoding={"max_new_tokens": 6})
    job = {**PARAMS.benchmark.model_dump(), "model": str(folder)}
    job["requests"] = draw_requests(examples["calibration"], 3, 0)
    raw = json.loads(json.dumps(worker.measure(job)))
    return figures.summarise(raw)


def paths(root, folder):
    inputs = {"model": folder, "calibration": root / "calibration.jsonl"}
    return inputs, {"report": root / f"{folder.name}.json"}


def test_the_report_has_the_names_that_others_rely_on(measured):
    folder, metrics, report = measured
    assert report["device"] == "cpu"
    assert report["threads"] >= 1
    assert set(report["latency_ms"]) == {"p50", "p95", "p99"}
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p95"] <= report["latency_ms"]["p99"]
    assert set(report["throughput_tokens_per_s"]) == {"1", "4"}
    assert report["model_sha256"] == digest(folder)
    numbers = ["ttft_ms", "load_s", "peak_memory_mb", "disk_mb", "cost_per_1k_requests_usd"]
    assert all(math.isfinite(report[name]) and report[name] > 0 for name in numbers)
    assert isinstance(report["cpu_flags"], list)
    assert set(report["machine"]) == {"matmul_gflops", "change", "noisy", "load_before"}
    assert report["engine"] == "baseline"
    assert report["tokens_per_answer"] > 3, "words"
    assert "attention" not in report
    assert report["by_device"]["cpu"]["latency_ms"] == report["latency_ms"] == metrics["latency_ms"]


def test_memory_is_that_of_a_process_with_one_model_in_it(measured):
    memory = measured[2]["memory_mb"]
    assert 5 < memory["bare"] < 100, "nothing heavy before the first look"
    assert memory["bare"] < memory["loaded"] <= memory["batch_1"] <= memory["peak"]
    assert measured[2]["peak_memory_mb"] == memory["peak"]
    assert memory["above_bare"] == pytest.approx(memory["peak"] - memory["bare"])


def test_a_stream_s_first_piece_comes_before_the_answer_is_whole(decoder, measured):
    assert decoder["streams"] is True
    assert decoder["ttft_ms"] < decoder["latency_ms"]["p99"]
    assert 1 <= decoder["tokens_per_answer"] <= 6
    assert measured[2]["streams"] is False, "retrieval has no pieces"


def test_kinds_of_attention_and_cache_are_measured_or_say_why_not(decoder):
    for group in ("attention", "caches"):
        assert len(decoder[group]) == 3
        for kind, found in decoder[group].items():
            if "unavailable" in found:
                assert kind == "flash_attention_2"
                assert len(found["unavailable"]) > 20
            else:
                assert found["prefill_ms"] > 0 and found["decode_ms_per_step"] > 0
    caches = decoder["caches"]
    assert caches["quantized"]["cache_mb"] < caches["dynamic"]["cache_mb"]
    assert caches["static"]["cache_mb"] > caches["dynamic"]["cache_mb"]


def test_a_kind_of_attention_that_fails_in_a_pass_is_left_out_and_leaves_the_rest(prepared):
    def refuses(*_, **__):
        raise RuntimeError("only fp16 and bf16")

    AttentionInterface.register("half_only", refuses)
    predictor = load(write_model(prepared[0] / "halves", decoding={"max_new_tokens": 4}))
    job = {"attention": ["half_only"], "caches": ["static"], "seconds": 1e-9}
    found = kinds.time_kinds(predictor, [Request("fish"), Request("dogs")], job)
    assert found["attention"] == {"half_only": {"unavailable": "only fp16 and bf16"}}
    assert found["caches"]["static"]["decode_s"]
    assert predictor.answer([Request("fish")])[0].completion_tokens


def test_cost_is_price_over_requests_at_the_best_batch_size(measured):
    report = measured[2]
    size, rate = max(report["requests_per_s"].items(), key=lambda item: item[1])
    assert report["cost_batch_size"] == int(size)
    assert report["cost_per_1k_requests_usd"] == pytest.approx(0.1 / rate)
    assert figures.cost_per_1k_requests(2.0, 3.6) == pytest.approx(0.5)  # 500 s at 0.001 USD/s


def test_a_tampered_model_is_told_and_nothing_is_written(prepared, tmp_path):
    root, _ = prepared
    folder = write_model(tmp_path / "tampered")
    (folder / "tokenizer.json").write_text("{}")
    inputs, outputs = paths(root, folder)
    with pytest.raises(StillhouseError, match=r"tokenizer\.json was changed") as caught:
        benchmark(PARAMS, inputs, outputs)
    assert "\n" not in str(caught.value)
    assert not outputs["report"].exists()


def test_an_endpoint_costs_money_and_is_left_out_unless_allowed(prepared, tmp_path):
    folder = write_model(tmp_path / "endpoint", engine="endpoint")
    inputs, outputs = paths(prepared[0], folder)
    assert benchmark(PARAMS, inputs, outputs) == {}
    report = json.loads(outputs["report"].read_text())
    assert "costs money" in report["not_measured"] and "device" not in report
    found = read_benchmarks(outputs["report"].parent)
    assert "endpoint" not in found, "select goes on without it"


def test_cuda_is_measured_beside_the_cpu_or_alone():
    assert choose_devices("ctranslate2", "auto") == ["cpu"]
    assert choose_devices("transformers", "cpu") == ["cpu"]
    assert choose_devices("transformers", "cuda") == ["cuda"]
    assert choose_devices("transformers", "auto")[0] == "cpu"


def test_prompts_are_drawn_by_the_seed_from_calibration_alone(prepared):
    examples = prepared[1]["calibration"]
    drawn = draw_requests(examples, 3, seed=20)
    assert drawn == draw_requests(examples, 3, seed=20)
    assert [row[0] for row in draw_requests(examples, 99, 1)] != [e["prompt"] for e in examples]
    known = {e["prompt"] for e in examples}
    assert {row[0] for row in drawn} <= known and len({row[0] for row in drawn}) == 3
    assert all(set(row[1]) == set(SCHEMA["slots"]) for row in drawn)
    with pytest.raises(StillhouseError, match="no prompts"):
        draw_requests([], 3, 1)


def test_percentiles_and_spread_by_hand():
    assert figures.percentile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5
    assert figures.percentile(list(range(101)), 0.95) == 95
    assert figures.percentile([7.0], 0.99) == 7.0
    assert figures.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


def test_rates_are_medians_over_batches():
    batch = figures.Batch
    timed = {2: [batch(1.0, 2, 10), batch(2.0, 2, 10), batch(0.5, 2, 10)]}
    found = figures.summarise_throughput(timed)
    assert found["throughput_tokens_per_s"] == {"2": 10.0}
    assert found["requests_per_s"] == {"2": 2.0}
    assert found["throughput_batches"] == {"2": 3}


def test_a_machine_that_slowed_down_is_flagged():
    assert figures.describe_machine(100.0, 85.0, 0.1)["noisy"] is True
    assert figures.describe_machine(100.0, 105.0, 0.1)["noisy"] is False


class Slow:
    """A predictor whose answers take no time but claim a token for each request."""

    def __init__(self):
        self.asked = []

    def answer(self, requests):
        self.asked.append(len(requests))
        return [type("Answer", (), {"completion_tokens": 1}) for _ in requests]


def test_batches_take_turns_after_a_warm_up_and_too_slow_sizes_are_left_out():
    predictor = Slow()
    found = worker.time_batches(predictor, [1, 2, 3], [4, 1, 2], seconds=1e-9)
    assert predictor.asked[0] == 1
    assert found["left_out_batch_sizes"] == [2, 4]
    predictor = Slow()
    found = worker.time_batches(predictor, [1, 2, 3], [4, 1, 2], seconds=1e-3)
    assert predictor.asked[:6] == [1, 2, 4, 1, 2, 4]
    assert found["left_out_batch_sizes"] == []
    assert all(row[1:] == (4, 4) for row in found["batches"][4])


def test_rounds_of_batches_are_repeated_unless_they_take_far_too_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Clocked(Slow):
        def answer(self, requests):
            now[0] += 0.4 * len(requests)
            return super().answer(requests)

    rounds = {}
    for seconds in (0.1, 0.5, 1.0, 10.0):  # a round takes 0.4 + 0.8 s, and the first warms up
        found = worker.time_batches(Clocked(), [1, 2, 3], [1, 2], seconds)
        rounds[seconds] = [len(timed) for timed in found["batches"].values()]
    assert rounds == {0.1: [1, 1], 0.5: [3, 3], 1.0: [3, 3], 10.0: [8, 8]}


def test_single_requests_are_enough_for_a_percentile_unless_they_take_far_too_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Clocked(Slow):
        def answer(self, requests):
            now[0] += 0.1
            return super().answer(requests)

        def stream(self, request):
            streamed.append(request)
            now[0] += 0.1
            yield "all"

    counts, streamed = {}, []
    for seconds in (0.01, 0.1, 1.0, 5.0):  # each request takes 0.1 s
        found = worker.time_single(Clocked(), [1, 2], seconds)
        counts[seconds] = len(found["latency_s"])
        assert found["streams"] is False and found["first_piece_s"] == found["latency_s"]
    assert counts[0.01] == 3, "the fewest, however long they take"
    assert counts[0.1] in (10, 11), "ten budgets"
    assert counts[1.0] == 30
    assert counts[5.0] in (50, 51)
    assert len(streamed) == len(counts), "an answer that comes whole is not asked for twice"


def test_an_incomplete_folder_is_told(prepared, tmp_path):
    inputs, outputs = paths(prepared[0], tmp_path / "nothing")
    with pytest.raises(StillhouseError, match=r"has no contract\.json"):
        benchmark(PARAMS, inputs, outputs)


@pytest.mark.slow
def test_a_decoder_is_measured_in_a_fresh_process_too(prepared, tmp_path):
    inputs, outputs = paths(prepared[0], write_model(tmp_path / "decoder"))
    report = benchmark(PARAMS, inputs, outputs)
    assert report["device"] == "cpu"
    assert report["memory_mb"]["bare"] < 100 < report["memory_mb"]["loaded"]
    assert set(report["caches"]) == {"dynamic", "static", "quantized"}
