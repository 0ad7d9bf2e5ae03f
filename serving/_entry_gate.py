"""What stands in front of the entry's routes: one place that says who comes after whom.

A cloud's paths, where one is set → lifecycle's gate → one line of log, figures and span per request
→ admission → bodies.
"""

import os
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from serving._admission import Admission, AdmissionSettings
from serving._cloud.bodies import AskByBody
from serving._cloud.paths import LeadCloudPaths, paths_of
from serving._exchange import Rendered
from serving._items import ServiceError
from serving._keys import open_keyring
from serving._lifecycle import Lifecycle
from serving._native import CheckNativeBodies
from serving._observing import ObserveRequests, Observers, record_of
from serving._openai_errors import RequestError, error_response
from serving._openai_routes import request_id
from serving._probes import LifecycleGate
from serving._queue_bound import QueueBound
from serving._rates import open_rates
from serving._service_settings import ServiceSettings


def guard_entry(
    app: ASGIApp,
    lifecycle: Lifecycle,
    observers: Callable[[], Observers],
    direct: Mapping[str, ASGIApp],
) -> ASGIApp:
    """All that a request passes on its way to a route; called when the server starts.

    Args:
        direct: apps by path that are asked without BentoML's routers, an eighth of what the entry
            computes for a request.

    Raises:
        StillhouseError: settings, keys or the store of the rates are wrong.
    """
    settings = ServiceSettings.from_environment(os.environ)
    keyring = open_keyring(os.environ)
    paths = paths_of(settings.cloud, os.environ) if settings.cloud else None
    routes: ASGIApp = GoStraight(RefuseLineBreaks(CheckNativeBodies(app)), direct)
    admission = Admission(
        AskByBody(routes, paths.route) if paths and paths.cloud != "vertex" else routes,
        settings=limits_of(settings, keyring.configured),
        keyring=keyring,
        rates=open_rates(settings.rates, settings.rates_ca),
        bound=QueueBound(settings.max_queue_items, settings.max_queue_tokens),
        render=_render,
        check_open=lifecycle.check_open,
    )
    gate = LifecycleGate(ObserveRequests(admission, observers), lifecycle)
    return LeadCloudPaths(gate, paths) if paths else gate


def limits_of(settings: ServiceSettings, keyed: bool = False) -> AdmissionSettings:
    """Of every request; a caller may ask for less time than the deadline, and never for more.

    Args:
        keyed: whether callers must show a key. Then the page, which is a file without any data, is
            open: a browser that loads it has no key to show yet.
    """
    usual = AdmissionSettings()
    page = frozenset({"/"}) if keyed else frozenset()
    return AdmissionSettings(
        open_paths=usual.open_paths | page,
        local_paths=usual.local_paths - page,
        max_body_bytes=settings.max_body_bytes,
        timeout_s=settings.deadline_s,
        max_timeout_s=settings.deadline_s,
    )


class GoStraight:
    """Asks the apps of known paths at once."""

    def __init__(self, app: ASGIApp, direct: Mapping[str, ASGIApp]) -> None:
        self.app, self.direct = app, direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything else on."""
        app = self.direct.get(scope["path"]) if scope["type"] == "http" else None
        await (app or self.app)(scope, receive, send)


class RefuseLineBreaks:
    """Answers 404 to a path with a line break: BentoML's mounts do not match one, and what is
    behind them would answer in another form."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on all other paths."""
        if scope["type"] == "http" and "\n" in scope["path"]:
            fault = RequestError("no such path. Correct it.", "unknown_url", 404)
            record_of(scope).refusal = fault.refusal
            response = error_response(fault, request_id(scope.setdefault("state", {})))
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _render(error: ServiceError, _path: str) -> Rendered:
    """The protocol's form at every path; the request's id is admission's to add."""
    response = error_response(error, "")
    own = {b"x-request-id", b"content-length"}
    headers = [header for header in response.raw_headers if header[0] not in own]
    if error.refusal == "invalid_key":
        headers.append((b"www-authenticate", b"Bearer"))
    return Rendered(response.status_code, headers, bytes(response.body))
