"""From a Bento's archive to an image, by `bentoml containerize`, and the base that it stands on."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from serving.errors import StillhouseError
from stages import _bento
from stages._container.buildah import Buildah
from stages._container.docker import Docker
from stages._container.image import Engine, Image
from stages._container.programs import PLAIN, attempt, environment, record
from stages._stage import print_line

PROGRAMS = ("docker", "buildah", "podman")
SCRIPT_VARIABLE = "LOCAL_BASE_IMAGE"
SCRIPT = Path("../shared/tools/local-base-image")
LOCAL_BASE = "docker.io/library/python:3.11-slim"  # what that script makes
MIRROR = "http://deb.debian.org/debian"
DEBIAN = (
    "--variant=minbase",
    "--include=python3,python3-venv,python3-pip,ca-certificates",
    "bookworm",
)
NEEDLESS = (
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
)


def choose_engine(program: str | None) -> Engine:
    """The engine of this name; without one, the first that works here.

    Raises:
        StillhouseError: none works.
    """
    if program is None:
        program = next(filter(_works, PROGRAMS), None)
    if program is None:
        raise StillhouseError(
            f"expected one of {', '.join(PROGRAMS)}, found none that works. Install one of them; "
            f".ci/packages installs buildah on Debian."
        )
    return Buildah() if program == "buildah" else Docker(program)


def _works(program: str) -> bool:
    return shutil.which(program) is not None and attempt([program, "info"]).code == 0


def choose_base(engine: Engine, asked: str | None, place: Path) -> str | None:
    """The image to build on; None: that which the Dockerfile names by its digest.

    Where buildah builds and there is a script that makes a base without a registry, it is run,
    unless its image is there already.

    Args:
        place: for what is in between.

    Raises:
        StillhouseError: LOCAL_BASE_IMAGE names no file, or the script fails.
    """
    script = Path(os.environ.get(SCRIPT_VARIABLE) or SCRIPT)
    if asked or engine.program != "buildah":
        return asked
    if not script.is_file():
        if os.environ.get(SCRIPT_VARIABLE):
            raise StillhouseError(f"{SCRIPT_VARIABLE} names {script}, which is no file.")
        return None
    if attempt(["buildah", "inspect", "--type=image", LOCAL_BASE]).code != 0:
        print_line(f"{script} makes {LOCAL_BASE} (minutes, once)")
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="stillhouse-base-") as folder:
            _make_base(script, Path(folder), place / "base.log")
    return LOCAL_BASE


def _make_base(script: Path, root: Path, log: Path) -> None:
    """Debian and its Python in `root`, as small as Debian's slim images, and the image of it.

    The script would ask the first of apt's sources, which may be another vendor's.
    """
    record(["debootstrap", *DEBIAN, str(root), MIRROR], log, environment())
    for folder in NEEDLESS:
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    # Wheels of this machine that pip's settings name would get into the image.
    variables = environment() | {"PIP_CONFIG_FILE": os.devnull}
    record(["bash", str(script), str(root)], log, variables)


def build_image(
    engine: Engine,
    archive: Path,
    tag: str,
    name: str,
    base: str | None,
    pip_options: str | None,
    place: Path,
) -> Image:
    """The image `name` of the Bento `tag`, which is in `archive`.

    Args:
        pip_options: of the pip that installs packages there.
        place: an empty folder for what is in between.

    Raises:
        StillhouseError: BentoML or the engine refuses.
    """
    home = place / "store"
    _bento.import_archive(archive, home, tag)
    options = [*engine.options, f"label=org.opencontainers.image.version={tag}"]
    options += [f"build-arg=BASE={base}"] if base else []
    options += [f"build-arg=PIP_OPTIONS={pip_options}"] if pip_options else []
    words = [sys.executable, "-m", "bentoml", "containerize", tag, "--image-tag", name]
    words += ["--backend", engine.program, *(f"--opt={option}" for option in options)]
    # In 1.4.39 it refuses its own temporary copy of the Dockerfile unless it runs above that one
    # (bentoml/BentoML#5566).
    above = Path(tempfile.gettempdir())
    record(words, place / "build.log", PLAIN | _bento.environment(home), above)
    return engine.inspect(name)
