"""Every span is in the trace of its own request, whichever context a batch runs in."""

import asyncio
import subprocess
import sys
from contextvars import ContextVar
from pathlib import Path

import pytest
from bentoml._internal.marshal.dispatcher import CorkDispatcher
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving._items import Answer, Choice, Item
from serving._tracing import Tracing, exporter_of, tracing_from
from serving.errors import StillhouseError

ROOT = Path(__file__).parent.parent
GIVEN = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield Tracing(provider)
    provider.shutdown()


def test_queue_and_compute_are_children_of_the_item_s_span(tracing, spans):
    with tracing.request("POST /generate", GIVEN) as span:
        pass
    tracing.record_work(span.traceparent, 0.2, 0.5, {"rows": 3}, ended_ns=10**18)
    request, queue, compute = spans.get_finished_spans()
    assert request.parent.span_id == int("b" * 16, 16)
    assert {s.context.trace_id for s in (request, queue, compute)} == {int("a" * 32, 16)}
    assert {s.parent.span_id for s in (queue, compute)} == {request.context.span_id}
    assert queue.end_time == compute.start_time
    assert (queue.end_time - queue.start_time, compute.end_time) == (200_000_000, 10**18)
    assert dict(compute.attributes) == {"rows": 3}


def test_an_answer_is_recorded_and_a_refusal_is_not(tracing, spans):
    item = Item(id="a", prompt="secret", traceparent=GIVEN)
    tracing.record_answer(item, Answer(id="a", refusal="expired"))
    assert spans.get_finished_spans() == ()
    choice = Choice(text="secret", finish_reason="stop", completion_tokens=4)
    tracing.record_answer(item, Answer(id="a", choices=[choice], prompt_tokens=9, batch_rows=2))
    _, compute = spans.get_finished_spans()
    assert compute.context.trace_id == int("a" * 32, 16)
    assert compute.attributes["gen_ai.usage.output_tokens"] == 4
    assert "secret" not in compute.to_json()


def test_without_a_parent_a_trace_begins_and_the_context_is_not_asked(tracing, spans):
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(7, 7, is_remote=False))):
        tracing.record_work(None, 0.0, 0.0)
        with tracing.request("GET /v1/models", None):
            pass
    found = spans.get_finished_spans()
    assert len(found) == 3
    assert all(s.parent is None and s.context.trace_id != 7 for s in found)


@pytest.mark.parametrize("header", ["", "x", GIVEN + "\n", GIVEN.replace("a", "0"), "a" * 9999])
def test_a_malformed_header_begins_a_trace(tracing, spans, header):
    with tracing.request("POST /generate", header):
        pass
    assert spans.get_finished_spans()[0].parent is None


def test_a_batch_of_many_callers_has_each_span_in_its_own_trace(tracing, spans):
    """BentoML runs later batches in the context of the first request: a context would be wrong."""
    request_of: ContextVar[str] = ContextVar("request")
    seen = []

    async def batch(batches):
        items = [item for items in batches for item in items]
        seen.append((request_of.get(), [item.id for item in items]))
        for item in items:
            tracing.record_work(item.traceparent, 0.0, 0.0, {"id": item.id})
        return batches

    async def main():
        dispatcher = CorkDispatcher(
            max_latency_in_ms=60_000,
            max_batch_size=4,
            fallback=lambda: None,
            get_batch_size=len,
            batch_dim=(0, 0),
        )(batch)

        async def call(number):
            request_of.set(f"r{number}")
            parent = f"00-{number:032x}-{number:016x}-01"
            item = Item(id=f"r{number}", prompt="x", traceparent=parent)
            return await dispatcher([item])

        await call(1)
        await asyncio.gather(call(2), call(3), call(4))

    asyncio.run(main())
    wrong = [items for context, items in seen if context not in items]
    assert wrong, "BentoML has mended its contexts: the reason for Item.traceparent is gone"
    computed = [s for s in spans.get_finished_spans() if s.name == "compute"]
    assert len(computed) == 4
    for span in computed:
        number = int(span.attributes["id"][1:])
        assert (span.context.trace_id, span.parent.span_id) == (number, number)


@pytest.mark.slow
def test_without_an_exporter_there_is_no_tracer_and_no_import():
    script = (
        "import sys; from serving._tracing import tracing_from\n"
        "with tracing_from({}, 'x').request('GET /', None) as span: span.set('a', 1)\n"
        "tracing_from({}, 'x').record_work(None, 0.1, 0.1)\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, "none"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, "none"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, "none"),
    ],
)
def test_the_standard_variables_choose_the_exporter(environment, exporter):
    assert exporter_of(environment) == exporter


def test_an_unknown_exporter_is_a_mistake_at_start():
    with pytest.raises(StillhouseError, match="zipkin"):
        exporter_of({"OTEL_TRACES_EXPORTER": "zipkin"})


def test_closing_sends_what_is_left(monkeypatch, capsys):
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    tracing = tracing_from({"OTEL_TRACES_EXPORTER": "console"}, "stillhouse")
    with tracing.request("POST /generate", GIVEN):
        pass
    tracing.close()
    out = capsys.readouterr().out
    assert '"name": "POST /generate"' in out
    assert '"service.name": "stillhouse"' in out
