"""What the image of a Bento runs: the service for everybody who has a key, or the check of it.

    python -m serving.container            # the image's entrypoint (serving/Dockerfile.j2)
    python -m serving.container serve      # as SageMaker starts an image: on port 8080
    python -m serving.container healthy    # its HEALTHCHECK: exit code 0 while the service is ready

What listens beyond loopback needs keys (STILLHOUSE_KEYS, STILLHOUSE_KEY_LINES): without any the
image does not start, unless BENTOML_HOST is this machine. The port is the first that is set of PORT
(Cloud Run, Knative), AIP_HTTP_PORT (Vertex AI), SAGEMAKER_BIND_TO_PORT and BENTOML_PORT. Arguments
that begin with a dash go to `bentoml serve`, such as --ssl-certfile.
"""

import os
import ssl
import sys
import tempfile
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path

from serving.errors import StillhouseError

BENTO = Path(__file__).resolve().parents[2]  # of bento/src/serving/container.py
PORTS = ("PORT", "AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", "BENTOML_PORT")
PORT, SAGEMAKER_PORT = 3000, 8080
OURS = ("--host", "--port")  # and -p: an option that comes later would undo what was checked
LISTENING = Path(tempfile.gettempdir()) / "stillhouse-listening"
"""Says where the service listens: who checks it knows neither its arguments nor its settings."""
PROBE_LIMIT_S = 4.0


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What is to run: `bentoml serve` of this Bento with its address.

    Raises:
        StillhouseError: an unknown argument, a port that is none, or no usable keys for an
            address that others reach.
    """
    words = [word for word in arguments[:1] if not word.startswith("-")]
    if words not in ([], ["serve"]):
        raise StillhouseError(
            f'expected "serve", options of "bentoml serve" or nothing, found {words[0]!r}.'
        )
    options = list(arguments[len(words) :])
    if taken := [word for word in options if word.partition("=")[0] in OURS or word[:2] == "-p"]:
        raise StillhouseError(f"expected the address in BENTOML_HOST and PORT, found {taken[0]!r}.")
    host = environment.get("BENTOML_HOST") or "0.0.0.0"  # noqa: S104 - with keys alone
    if not _is_loopback(host):
        require_keys(host, environment)
    port = choose_port(SAGEMAKER_PORT if words else PORT, environment)
    return ["bentoml", "serve", str(BENTO), "--host", host, "--port", str(port), *options]


def require_keys(host: str, environment: Mapping[str, str]) -> None:
    """Refuse to listen for others where nobody could be told from anybody.

    Raises:
        StillhouseError: no key is configured, or the source of keys cannot be used.
    """
    from serving._keys import FILE_VARIABLE, LINES_VARIABLE, open_keyring

    if not open_keyring(environment).configured:
        raise StillhouseError(
            f"expected keys, because everybody could ask at {host}, found none. Name a file of "
            f"keys in {FILE_VARIABLE} or give their lines in {LINES_VARIABLE} (docs/operating.md), "
            f"or set BENTOML_HOST=127.0.0.1."
        )


def choose_port(default: int, environment: Mapping[str, str]) -> int:
    """The first port that the environment names.

    Raises:
        StillhouseError: it is no port.
    """
    name = next((name for name in PORTS if environment.get(name)), None)
    if name is None:
        return default
    if not (text := environment[name]).isdecimal() or not 0 < int(text) < 65536:
        raise StillhouseError(f"expected a port from 1 to 65535 in {name}, found {text!r}.")
    return int(text)


def is_healthy() -> bool:
    """Whether the service that runs beside this process takes requests."""
    try:
        scheme, host, port = LISTENING.read_text(encoding="utf-8").split()
        connection = _connect(scheme, host, int(port))
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, ValueError, HTTPException):
        return False


def _connect(scheme: str, host: str, port: int) -> HTTPConnection:
    if scheme == "http":
        return HTTPConnection(host, port, timeout=PROBE_LIMIT_S)
    unchecked = ssl._create_unverified_context()  # noqa: S323 - our own process, on loopback
    return HTTPSConnection(host, port, timeout=PROBE_LIMIT_S, context=unchecked)


def _tell(served: Sequence[str]) -> None:
    """Write down where the service is going to listen."""
    host, port = served[served.index("--host") + 1], served[served.index("--port") + 1]
    near = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    scheme = "https" if any(word.startswith("--ssl-certfile") for word in served) else "http"
    LISTENING.write_text(f"{scheme} {near} {port}\n", encoding="utf-8")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    """Become the service, or say by the exit code whether it is healthy."""
    if sys.argv[1:] == ["healthy"]:
        sys.exit(0 if is_healthy() else 1)
    try:
        served = command(sys.argv[1:], os.environ)
        _tell(served)
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    os.execvp(served[0], served)  # noqa: S606 - the same process: SIGTERM reaches it


if __name__ == "__main__":
    main()
