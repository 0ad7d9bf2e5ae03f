"""A cloud's own paths, led to ours before anything else sees a request.

Its health path becomes /readyz, answered with the status alone. Its predict path becomes a route of
ours, behind the same gate as /generate. What a cloud calls its paths:

- SageMaker: GET /ping, POST /invocations
  (https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html).
- Vertex AI: whatever AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE say
  (https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements).
- Azure ML: whatever the environment's inference_config says; its own images score at /score.

Each checks its callers by itself, by the header Authorization, which it keeps or fills with a token
of its own. So there our key comes in another header, one that it passes on, and is put where the
keyring looks for it. Whoever brings none is a stranger, as everywhere.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving._metric_series import ROUTES
from serving._probes import LIVE, READY
from serving._service_settings import Cloud
from serving.errors import StillhouseError

PREDICT: Mapping[Cloud, str] = {
    "sagemaker": "/invocations",
    "vertex": "/predict",
    "azureml": "/score",
}
HEALTH: Mapping[Cloud, str] = {"sagemaker": "/ping", "vertex": "/health", "azureml": READY}
KEY_HEADERS: Mapping[Cloud, bytes] = {
    "sagemaker": b"x-amzn-sagemaker-custom-attributes",
    "vertex": b"x-vertex-ai-stillhouse-key",
    "azureml": b"x-stillhouse-key",
}
ATTRIBUTE = re.compile(rb"(?:^|[;,])\s*stillhouse-key=([^;,\s]*)")
"""Of SageMaker's one header for everything that a caller wants to tell a container."""
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class CloudPaths:
    """What a cloud calls the paths, and what they are here."""

    cloud: Cloud
    health: str
    predict: str
    route: str
    """Our route behind `predict`."""


def paths_of(cloud: Cloud, environment: Mapping[str, str]) -> CloudPaths:
    """The paths of a cloud; those of Vertex AI as it tells its containers.

    A predict path that is one of our routes, such as /v1/chat/completions, stays that route.

    Raises:
        StillhouseError: a path that is none.
    """
    health, predict = HEALTH[cloud], PREDICT[cloud]
    if cloud == "vertex":
        health = _path(environment, "AIP_HEALTH_ROUTE", health)
        predict = _path(environment, "AIP_PREDICT_ROUTE", predict)
    return CloudPaths(cloud, health, predict, predict if predict in ROUTES else PREDICT[cloud])


def _path(environment: Mapping[str, str], name: str, default: str) -> str:
    found = environment.get(name) or default
    if not re.fullmatch(r"/[!-~]*", found):
        raise StillhouseError(f"{name} is {found!r}. Give a path that begins with a slash.")
    return found


class LeadCloudPaths:
    """The outermost layer where a cloud is set."""

    def __init__(self, app: ASGIApp, paths: CloudPaths) -> None:
        """`app` has the gates."""
        self.app, self.paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lead a request to the path that it is for."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self._asks_health(scope):
            await self.app({**scope, "path": READY}, receive, _status_alone(send))
        elif scope["path"] in (self.paths.predict, self.paths.route):
            headers = with_key(scope["headers"], self.paths.cloud)
            await self.app({**scope, "path": self.paths.route, "headers": headers}, receive, send)
        else:
            await self.app(scope, receive, send)

    def _asks_health(self, scope: Scope) -> bool:
        """Vertex AI's defaults give both the same path, told apart by the method."""
        paths = self.paths
        if scope["path"] != paths.health or paths.health in (*LIVE, READY):
            return False
        return paths.health != paths.predict or scope["method"] in ("GET", "HEAD")


def with_key(headers: Headers, cloud: Cloud) -> list[tuple[bytes, bytes]]:
    """The headers, with a key that the cloud's own header carries in place of Authorization.

    Several keys become several headers, which the keyring refuses.
    """
    carrier = KEY_HEADERS[cloud]
    found = [value for name, value in headers if name == carrier]
    if cloud == "sagemaker":
        found = [key for value in found for key in ATTRIBUTE.findall(value)]
    if not found:
        return list(headers)
    others = [header for header in headers if header[0] not in (carrier, b"authorization")]
    return [*others, *((b"authorization", b"Bearer " + key) for key in found)]


def _status_alone(send: Send) -> Send:
    """Sends the status of a response and nothing of what it says."""
    ended = False

    async def sent(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            kept = [header for header in message.get("headers", ()) if header[0] == b"connection"]
            bare = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
            await send({**message, "headers": [*kept, *bare, (b"cache-control", b"no-store")]})
        elif message["type"] == "http.response.body" and not ended:
            ended = True
            await send({"type": "http.response.body", "body": b""})

    return sent
