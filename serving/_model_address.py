"""Where the entry reaches its models: those it starts, and those that run by themselves.

A model that runs by itself is the same service, started alone, on this machine or another:

    bentoml serve serving.service:Student                               # with STILLHOUSE_KEYS
    STILLHOUSE_STUDENT_URL=http://127.0.0.1:3001 STILLHOUSE_MODELS_KEY=sh_… \\
        bentoml serve serving.service:Stillhouse
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from serving._cascade.teacher_address import is_elsewhere
from serving._service_settings import ServiceSettings
from serving._settings_reading import PREFIX
from serving.errors import StillhouseError

STUDENT_URL, BASELINE_URL = f"{PREFIX}STUDENT_URL", f"{PREFIX}BASELINE_URL"


def runs_elsewhere(variable: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a model is not to be started here, since `variable` has an address for it."""
    return bool(environment.get(variable, "").strip())


def check_addresses(settings: ServiceSettings) -> None:
    """Refuse addresses that are none, and prompts on their way unencrypted.

    Raises:
        StillhouseError: no such address, or http beyond this machine. It is not repeated: a key is
            easily pasted into it.
    """
    for name, url in ((STUDENT_URL, settings.student_url), (BASELINE_URL, settings.baseline_url)):
        if url is not None:
            _check_address(name, url, settings.models_insecure)


def address_of(service: Any, url: str | None) -> str:
    """Where a model is reached: at `url`, or where `bentoml serve` has started it.

    Raises:
        SystemExit: nowhere, because nobody has started it.
    """
    found: str | None = url.rstrip("/") if url else service.url
    if found is None:
        raise SystemExit('This service runs by "bentoml serve", which starts its models too.')
    return found


def _check_address(name: str, url: str, insecure: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    extra = parts.username or parts.query or parts.fragment or parts.path not in ("", "/")
    if parts.scheme not in ("http", "https") or not host or extra:
        raise StillhouseError(
            f"{name} must be http://host:port or https://host:port. Correct it in the environment."
        )
    if parts.scheme == "http" and is_elsewhere(url) and not insecure:
        raise StillhouseError(
            f"{name}: prompts would go to {host} unencrypted. Use https, or set "
            f"{PREFIX}MODELS_INSECURE=1 for a network that you trust."
        )
