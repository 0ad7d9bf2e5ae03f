"""One ASGI layer that watches every request to its end: counted, logged and traced, once each.

It sits inside the lifecycle's gate and outside admission, so that refusals are seen too. Parts that
learn something of a request write it into its record (`record_of`); what nobody wrote is told by
the status. A caller who leaves before the answer is whole is counted as "left", streams included,
which a count on the last piece would miss.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving._items import Refusal
from serving._lifecycle import CUT
from serving._metric_series import Outcome, route_of
from serving._metrics import CONTENT_TYPE, Metrics
from serving._request_log import RequestLog, RequestRecord, texts_wanted
from serving._tracing import RequestSpan, Tracing, tracing_from
from serving.errors import StillhouseError

UNSEEN = ("/livez", "/healthz", "/readyz", "/metrics")
PRICE = "STILLHOUSE_USD_PER_HOUR"
REQUEST_ID = b"x-request-id"
REASONS: Mapping[int, Refusal] = {
    401: "invalid_key",
    403: "forbidden",
    413: "body_too_large",
    429: "rate_limited",
    503: "unavailable",
}
"""Of a refusal that nobody gave a reason for, such as BentoML's own."""


@dataclass(frozen=True)
class Observers:
    """What watches the requests of a process; the model's processes use the metrics alone."""

    metrics: Metrics
    log: RequestLog
    tracing: Tracing


def observers_from(environment: Mapping[str, str], service: str) -> Observers:
    """As the environment wants them; once per process, since metrics must not be declared twice.

    Raises:
        StillhouseError: the price is no number, or the exporter of traces is not known.
    """
    folder = environment.get("PROMETHEUS_MULTIPROC_DIR")
    return Observers(
        Metrics(_price(environment), Path(folder) if folder else None),
        RequestLog(texts=texts_wanted(environment)),
        tracing_from(environment, service),
    )


def record_of(scope: Mapping[str, Any]) -> RequestRecord:
    """The record of a request; one that nobody reads where none is kept."""
    found = scope.get("state", {}).get("record")
    return found if isinstance(found, RequestRecord) else RequestRecord()


def span_of(scope: Mapping[str, Any]) -> RequestSpan:
    """The span of a request; its `traceparent` goes into the Item."""
    found = scope.get("state", {}).get("span")
    return found if isinstance(found, RequestSpan) else RequestSpan(None, None)


class ObserveRequests:
    """Watches requests; every response carries the request's id as x-request-id."""

    def __init__(self, app: ASGIApp, observers: Callable[[], Observers]) -> None:
        """`observers` is called here, when the server starts, and not as a module is imported."""
        self.app = app
        self.observers = observers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and tell what came of it."""
        if scope["type"] != "http" or scope["path"] in UNSEEN:
            await self.app(scope, receive, send)
            return
        seen = _Seen(scope, receive, send)
        metrics, name = self.observers.metrics, f"{scope['method']} {seen.record.route}"
        traceparent = _header(scope, b"traceparent")
        with metrics.request_under_way(), self.observers.tracing.request(name, traceparent) as span:
            scope["state"]["span"] = span
            seen.record.trace_id = span.trace_id
            try:
                await self.app(scope, seen.receive, seen.send)
            except asyncio.CancelledError as error:
                seen.fail("draining" if error.args == (CUT,) else "internal")
                raise
            except Exception:
                seen.fail("internal")
                raise
            finally:
                self._tell(seen.finish(), span)

    def _tell(self, record: RequestRecord, span: RequestSpan) -> None:
        metrics, outcome = self.observers.metrics, record.outcome
        assert outcome is not None, "a request that has ended has an outcome"
        metrics.count_request(record.route, outcome, (record.total_ms or 0.0) / 1000.0)
        if record.refusal is not None:
            metrics.count_refusal(record.refusal)
        if outcome in ("refused", "failed"):
            span.fail(record.refusal or "internal")
        span.set("http.route", record.route)
        span.set("http.response.status_code", record.status or 0)
        self.observers.log.write(record)


def show_metrics(observers: Callable[[], Observers]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of /metrics, in place of BentoML's."""

    async def metrics(_: Request) -> Response:
        body = await asyncio.to_thread(observers().metrics.exposition)
        return Response(body, headers={"content-type": CONTENT_TYPE})

    return metrics


class _Seen:
    """One request as it passes by."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.record = RequestRecord(id=secrets.token_hex(16), route=route_of(scope["path"]))
        self._scope, self._receive, self._send = scope, receive, send
        self._started = time.monotonic()
        self._whole = self._left = False
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["record"] = self.record

    async def receive(self) -> Message:
        """Notices that the caller left."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._whole:
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        """Notices the status and the last piece."""
        if message["type"] == "http.response.start":
            self.record.status = message["status"]
            message = self._with_id(message)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self._whole = True
        await self._send(message)

    def _with_id(self, message: Message) -> Message:
        """The id that admission chose is the one to look for in the log; else it is ours."""
        headers = list(message.get("headers", []))
        chosen = [value for name, value in headers if name.lower() == REQUEST_ID]
        if chosen:
            self.record.id = chosen[0].decode("latin-1")
            return message
        return {**message, "headers": [*headers, (REQUEST_ID, self.record.id.encode())]}

    def fail(self, refusal: Refusal) -> None:
        """It ended by an exception; a caller who left is no failure of ours."""
        if not self._left:
            self.record.refusal = self.record.refusal or refusal

    def finish(self) -> RequestRecord:
        """The record with all that the passing by has told."""
        record = self.record
        record.total_ms = (time.monotonic() - self._started) * 1000.0
        admitted = self._scope["state"].get("admitted")  # serving/_admission.py writes it
        record.tenant = record.tenant or getattr(admitted, "tenant", None)
        record.key_id = record.key_id or getattr(admitted, "key_id", None)
        if self._left:
            record.outcome = "left"
        else:
            record.refusal = record.refusal or _reason(record.status)
            record.outcome = _outcome(record.refusal)
        return record


def _reason(status: int | None) -> Refusal | None:
    if status is not None and status < 400:
        return None
    if status is None or (status >= 500 and status != 503):
        return "internal"
    return REASONS.get(status, "invalid_request")


def _outcome(refusal: Refusal | None) -> Outcome:
    if refusal is None:
        return "answered"
    return "failed" if refusal == "internal" else "refused"


def _header(scope: Scope, name: bytes) -> str | None:
    values = [value for key, value in scope["headers"] if key == name]
    return str(values[0].decode("latin-1")) if len(values) == 1 else None


def _price(environment: Mapping[str, str]) -> float:
    text = environment.get(PRICE) or "0"
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0.0 <= price < 1e6:
        raise StillhouseError(f"{PRICE} is {text!r}. Give the machine's price per hour in USD.")
    return price
