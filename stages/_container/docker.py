"""Images by docker, or by podman, which takes the same words."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from serving.errors import StillhouseError
from stages._container.image import Image, image_of
from stages._container.programs import Ended, ask, attempt, told

HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)


class Docker:
    """docker or podman."""

    def __init__(self, program: str) -> None:
        """`program`: docker or podman."""
        self.program = program
        podman = program == "podman"
        # podman's own format, OCI, has no health check
        self.options: tuple[str, ...] = ("format=docker",) if podman else ()
        # podman would give more places in memory than /tmp
        self._run = [program, "run", *HARDENED, *(["--read-only-tmpfs=false"] if podman else [])]

    def inspect(self, name: str) -> Image:
        """What an image says of itself.

        Raises:
            StillhouseError: there is none of this name, or it is not one of ours.
        """
        found = json.loads(ask([self.program, "image", "inspect", name]))[0]
        config = dict(found["Config"])
        config.setdefault("Healthcheck", found.get("Healthcheck"))  # where podman has it
        return image_of(name, found["Id"], config)

    def run(self, image: Image, command: Sequence[str], variables: Mapping[str, str]) -> Ended:
        """How a command ends in a fresh container without network."""
        words = [*self._run, "--rm", "--network=none", *told(variables)]
        return attempt([*words, f"--entrypoint={command[0]}", image.id, *command[1:]])

    @contextmanager
    def start(
        self, image: Image, port: int, variables: Mapping[str, str], log: Path
    ) -> Iterator["Container"]:
        """The image's own process, reached at `port` of loopback; what it said goes to `log`."""
        reached = [f"--publish=127.0.0.1:{port}:{port}", *told({**variables, "PORT": str(port)})]
        name = ask([*self._run, "--detach", *reached, image.id]).strip()
        try:
            yield Container(self.program, name)
        finally:
            log.write_text(attempt([self.program, "logs", name]).said, encoding="utf-8")
            attempt([self.program, "rm", "--force", name])


class Container:
    """One that runs."""

    def __init__(self, program: str, name: str) -> None:
        """`name`: its id."""
        self._program, self._name = program, name

    def ask(self, command: Sequence[str]) -> int:
        """Exit code of a command in it."""
        return attempt([self._program, "exec", self._name, *command]).code

    def stop(self, limit_s: float) -> int:
        """Send SIGTERM and wait.

        Raises:
            StillhouseError: it did not end in time.
        """
        ask([self._program, "kill", "--signal=TERM", self._name])
        try:
            said = subprocess.run(  # noqa: S603 - our own words
                [self._program, "wait", self._name],
                stdout=subprocess.PIPE,
                text=True,
                timeout=limit_s,
                check=True,
            )
        except subprocess.TimeoutExpired:
            raise StillhouseError(
                f"the container did not end within {limit_s:g} s of SIGTERM. See its log."
            ) from None
        return int(said.stdout)
