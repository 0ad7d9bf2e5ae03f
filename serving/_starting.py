"""What keeps a process of the service from starting, told in one line.

The entry looks for it before any process is started, a model that runs alone when it loads.
"""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from serving._cascade.checking import check_cascade
from serving._cloud.paths import paths_of
from serving._model_address import check_addresses
from serving._service_settings import ServiceSettings
from serving._student_service import check_student
from serving.errors import StillhouseError


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
