"""What an engine of containers is asked for, and what it tells of an image."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving.errors import StillhouseError
from stages._container.programs import Ended


@dataclass(frozen=True)
class Image:
    """An image in an engine's own store."""

    name: str
    id: str
    """Digest of its configuration: sha256: and 64 hexadecimal digits."""
    user: str
    entrypoint: tuple[str, ...]
    health: tuple[str, ...]
    """The command of its HEALTHCHECK."""
    labels: Mapping[str, str]


class Running(Protocol):
    """A container that was started from an image."""

    def ask(self, command: Sequence[str]) -> int:
        """Exit code of a command that runs in it, too."""

    def stop(self, limit_s: float) -> int:
        """Send SIGTERM to its first process and wait; that one's exit code.

        Raises:
            StillhouseError: it did not end in time.
        """


class Engine(Protocol):
    """docker, podman or buildah. Nothing can be written in its containers but /tmp."""

    program: str
    options: tuple[str, ...]
    """For `bentoml containerize`, without which it loses a part of the image."""

    def inspect(self, name: str) -> Image:
        """What an image says of itself."""

    def run(self, image: Image, command: Sequence[str], variables: Mapping[str, str]) -> Ended:
        """How a command ends in a fresh container."""

    def start(
        self, image: Image, port: int, variables: Mapping[str, str], log: Path
    ) -> AbstractContextManager[Running]:
        """The image's own process, which is told to listen at `port` and can be reached there."""


def image_of(name: str, identity: str, config: Mapping[str, Any]) -> Image:
    """An image by its configuration, as Docker's format has it.

    Raises:
        StillhouseError: it has no entrypoint or no health check.
    """
    health = (config.get("Healthcheck") or {}).get("Test") or []
    entrypoint = config.get("Entrypoint") or []
    if not entrypoint or health[:1] != ["CMD"]:
        raise StillhouseError(
            f"{name} has the entrypoint {json.dumps(entrypoint)} and the health check "
            f"{json.dumps(health)}, expected both. Build it with make container."
        )
    return Image(
        name=name,
        id="sha256:" + identity.removeprefix("sha256:"),
        user=config.get("User") or "",
        entrypoint=tuple(entrypoint),
        health=tuple(health[1:]),
        labels=config.get("Labels") or {},
    )
