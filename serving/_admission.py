"""Who and what is let in, decided before any work: an ASGI middleware in front of all routes.

In this order: key and path (401, 403) → declared length (413) → requests per minute (429) → room
in the queue (503) → deadline (422) → the body itself, bounded in bytes and in time (413, 422) → a
place in the queue, held until the response is over. A body is never read for a stranger, and is
whole before a route runs, so that a slow sender holds no place. What depends on tokens is up to the
route: `Admitted.reserve_tokens`, then `correct_tokens` when the true number is known.

Every path takes all of this; what is exempt is listed by its exact path, so that a path which only
looks like another (a slash, a line break) is not. Pure ASGI: a middleware that wraps responses
would hold streams back and hide that a client left. That it left is `Admitted.left`, and what any
receive() of the route says; the route ends its work, and only then is its place given back.

Browsers' preflight requests bear no key, so they are refused: this API is not for pages.
"""

import asyncio
import json
import math
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from serving._exchange import ClientLeftError, Exchange, Rendered
from serving._items import Refusal, ServiceError
from serving._keys import Headers, Key, Keyring, identify, is_local
from serving._observing import record_of
from serving._queue_bound import Place, QueueBound
from serving._rates import Rates, Reservation

TIMEOUT_HEADER = b"x-request-timeout-s"
SECONDS = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class AdmissionSettings:
    """Limits that hold for everybody, and the paths that are exempt from some."""

    max_body_bytes: int = 1 << 20
    """Of one request; as much memory as it takes until its route has read it."""
    body_timeout_s: float = 10.0
    """In which a body must have arrived."""
    timeout_s: float = 30.0
    """Deadline of a request that names none."""
    max_timeout_s: float = 120.0
    """A later deadline is brought forward to this."""
    local_requests_per_minute: int | None = None
    """Of this machine, where no key is configured."""
    local_tokens_per_minute: int | None = None
    open_paths: frozenset[str] = frozenset({"/livez", "/readyz"})
    """For everybody."""
    local_paths: frozenset[str] = frozenset({"/metrics", "/openapi.json", "/"})
    """For this machine, without a key; for others, with a key whose `paths` name the path itself,
    such as a monitor's. A key for all paths does not do, because callers' keys are such."""
    light_paths: frozenset[str] = frozenset({"/v1/models", "/page.json"})
    """Need a key and count as requests, but are no work and take no place."""


Render = Callable[[ServiceError, str], Rendered]
"""Form of a refusal at a path."""


def render_json(error: ServiceError, _path: str) -> Rendered:
    """A refusal as plain JSON, whatever the path."""
    told = {"code": error.refusal, "message": error.message, "parameter": error.parameter}
    headers = [(b"content-type", b"application/json"), *refusal_headers(error)]
    return Rendered(error.status, headers, json.dumps({"error": told}).encode())


def refusal_headers(error: ServiceError) -> list[tuple[bytes, bytes]]:
    """Headers that a refusal has in any protocol: Retry-After in whole seconds, and how to log in.

    Retry-After is at least 1: with 0, a client would be back at once.
    """
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(math.ceil(error.retry_after_s), 1)))
    if error.refusal == "invalid_key":
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


@dataclass
class Admitted:
    """A request that was let in: `scope["state"]["admitted"]`."""

    id: str
    """Ours, so that it is unique whatever callers send."""
    request_id: str
    """The caller's own, where it is short and clean; stands in the answer's x-request-id."""
    tenant: str
    key_id: str
    deadline_s: float
    """From arrival to the answer's end [s]."""
    expires_at: float
    """[s, monotonic]"""
    left: asyncio.Event
    """The client left before its answer was complete."""
    key: Key = field(repr=False)
    rates: Rates = field(repr=False)
    place: Place | None = field(default=None, repr=False)
    reservation: Reservation | None = field(default=None, init=False, repr=False)

    def remaining_s(self) -> float:
        """Time left to answer; 0 when there is none [s]."""
        return max(self.expires_at - time.monotonic(), 0.0)

    async def reserve_tokens(self, most: int) -> None:
        """Once, before the prompt is encoded: its bytes and the longest answer, an upper bound.

        Room in the queue comes first, because it can be given back exactly.

        Raises:
            ServiceError: overloaded, rate_limited, unavailable.
        """
        if self.place:
            self.place.take(most)
        try:
            self.reservation = await self.rates.reserve_tokens(
                self.key_id, self.key.tokens_per_minute, most
            )
        except BaseException:
            if self.place:
                self.place.undo()
            raise

    async def correct_tokens(self, tokens: int) -> None:
        """Give back what was reserved beyond the true number, as often as it is better known.

        Raises:
            ServiceError: prompt_too_long, for more than the key may use in a minute.
        """
        if self.place:
            self.place.correct(tokens)
        if self.reservation:
            await self.rates.correct_tokens(self.reservation, tokens)


class Admission:
    """The middleware; one per entry process."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: AdmissionSettings,
        keyring: Keyring,
        rates: Rates,
        bound: QueueBound,
        render: Render = render_json,
        count_refusal: Callable[[Refusal], None] = lambda _: None,
        check_open: Callable[[], None] = lambda: None,
    ) -> None:
        """Put a gate before `app`.

        Args:
            app: All routes.
            settings: Limits of everybody.
            keyring: Who may ask.
            rates: Limits of a key.
            bound: Of the work that is taken on at once.
            render: Form of a refusal, by path; x-request-id and content-length are added here.
            count_refusal: Told of every refusal that is answered here.
            check_open: Raises a ServiceError (draining) when nothing more is taken on.
        """
        self.app = app
        self.settings = settings
        self.keyring = keyring
        self.rates = rates
        self.bound = bound
        self.render = render
        self.count_refusal = count_refusal
        self.check_open = check_open
        self._local = Key(
            id="0" * 12,
            tenant="local",
            sha256="0" * 64,
            requests_per_minute=settings.local_requests_per_minute,
            tokens_per_minute=settings.local_tokens_per_minute,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let a route do it; anything but HTTP is passed on or closed."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await self._answer(scope, Exchange(scope, receive, send, self.settings.max_body_bytes))

    async def _answer(self, scope: Scope, exchange: Exchange) -> None:
        try:
            await self._let_in(scope, exchange)
        except ServiceError as error:
            if exchange.started:
                raise
            self.count_refusal(error.refusal)
            record_of(scope).refusal = error.refusal
            await exchange.refuse(self.render(error, scope["path"]))
        except ClientLeftError:
            return
        finally:
            exchange.end()

    async def _let_in(self, scope: Scope, exchange: Exchange) -> None:
        arrived, path, settings = time.monotonic(), scope["path"], self.settings
        if path in settings.open_paths or (path in settings.local_paths and is_local(scope)):
            await self.app(scope, exchange.receive_raw, exchange.send)
            return
        key = identify(scope, self.keyring, self._local)
        local = path in settings.local_paths
        if local:
            self._check_named(key, path)
        else:
            self.check_open()
        exchange.check_length()
        await self.rates.count_request(key.id, key.requests_per_minute)
        light = local or path in settings.light_paths
        if not light:
            self.bound.check()
        deadline_s = read_deadline(scope["headers"], settings)
        await exchange.read_body(min(settings.body_timeout_s, deadline_s))
        place = None if light else self.bound.enter()
        exchange.hold(place)
        admitted = self._admit(exchange, key, arrived, deadline_s, place)
        scope["state"] = {**(scope.get("state") or {}), "admitted": admitted}
        await self.app(scope, exchange.receive, exchange.send)

    def _check_named(self, key: Key, path: str) -> None:
        if key is self._local or path not in (key.paths or ()):
            raise ServiceError(
                "forbidden",
                "this path is for the service's own machine, or a key whose paths name it.",
            )

    def _admit(
        self, exchange: Exchange, key: Key, arrived: float, deadline_s: float, place: Place | None
    ) -> Admitted:
        return Admitted(
            id=uuid.uuid4().hex,
            request_id=exchange.request_id,
            tenant=key.tenant,
            key_id=key.id,
            deadline_s=deadline_s,
            expires_at=arrived + deadline_s,
            left=exchange.left,
            key=key,
            rates=self.rates,
            place=place,
        )


def read_deadline(headers: Headers, settings: AdmissionSettings) -> float:
    """Time that a request gives itself, as far as it is allowed [s].

    Raises:
        ServiceError: invalid_request, for what is no number of seconds above zero.
    """
    found = [value for name, value in headers if name == TIMEOUT_HEADER]
    if not found:
        return min(settings.timeout_s, settings.max_timeout_s)
    seconds = float(found[0]) if SECONDS.fullmatch(found[0]) else 0.0
    if len(found) > 1 or seconds <= 0:
        name = TIMEOUT_HEADER.decode()
        raise ServiceError(
            "invalid_request", f"{name} must be one number of seconds above 0.", parameter=name
        )
    return min(seconds, settings.max_timeout_s)
