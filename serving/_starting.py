"""What keeps a process of the service from starting, told in one line.

The entry looks for it before any process is started, a model that runs alone when it loads.
"""

import argparse
import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

from serving._cascade.checking import check_cascade
from serving._cloud.paths import paths_of
from serving._model_address import check_addresses
from serving._service_settings import ServiceSettings
from serving._student_service import check_student
from serving.errors import StillhouseError

PORT, LAST_PORT = 3000, 65535


def check_start(settings: ServiceSettings, home: Path) -> None:
    """Refuse addresses, a cloud's paths, models and a cascade that the entry could not work with.

    Args:
        home: folder that relative paths start from, as in the models' processes.

    Raises:
        StillhouseError: what is wrong.
    """
    if settings.cloud:
        paths_of(settings.cloud, os.environ)
    with chdir(home):
        check_addresses(settings)
        check_student(settings)
        check_cascade(settings)


def check_port(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuse an address that somebody listens on, which BentoML tells by a traceback.

    Args:
        arguments: of `bentoml serve`; --host and --port go before BENTOML_HOST and BENTOML_PORT.

    Raises:
        StillhouseError: the port is taken; what else may be wrong with an address BentoML tells.
    """
    if environment.get("BENTOML_CONFIG") or environment.get("BENTOML_CONFIG_OPTIONS"):
        return  # which may name an address that is not known here
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-p", "--port", default=environment.get("BENTOML_PORT") or str(PORT))
    parser.add_argument("--host", default=environment.get("BENTOML_HOST") or "127.0.0.1")
    found, _ = parser.parse_known_args(list(arguments))
    if not found.port.isdecimal() or int(found.port) > LAST_PORT:
        return
    try:
        with socket.socket(socket.AF_INET6 if ":" in found.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((found.host, int(found.port)))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return
        raise StillhouseError(
            f"{found.host}:{found.port} is taken. Stop what listens there, or choose another port "
            f'by --port or BENTOML_PORT (make serve ARGS="--port 3001").'
        ) from None


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """End the process with one line where a mistake is found.

    Raises:
        SystemExit: with what the mistake is.
    """
    try:
        yield
    except StillhouseError as error:
        raise SystemExit(str(error)) from None
