"""A Bento from model folders and our serving code: laid out, built, archived, imported again.

BentoML is called as the program it is, in processes of its own: a build imports the service it
packs, which must be the copy and not what runs here. Every call has a home of its own inside the
project, no usage tracking, and needs no network.

The same inputs give the same archive, byte by byte: the version follows from what is in it, entries
are sorted and have no owner, and all times are `EPOCH`, that of creation in bento.yaml included.
When a Bento was built is in reports/package/run.json.
"""

import hashlib
import os
import re
import shutil
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from serving.contract import digest
from serving.errors import StillhouseError
from stages import _io
from stages._bento_command import run_bentoml

PYTHON = "3.11"
STUDENT = "models/student"  # what is served, whatever its folder is called outside
EPOCH = "1980-01-01T00:00:00+00:00"  # what archives without a time of their own bear by custom
DOCKERFILE = "serving/Dockerfile.j2"  # what `bentoml containerize` makes the image from
XZ_PRESET: Final = 0  # weights hardly shrink, and 6, BentoML's own, takes twice the time
# What the engine transformers needs beyond requirements/base.txt; a test compares with metadata.
TORCH_PACKAGES = (
    "accelerate",
    "annotated-doc",
    "bitsandbytes",
    "mpmath",
    "networkx",
    "regex",
    "setuptools",
    "shellingham",
    "sympy",
    "torch",
    "transformers",
    "typer",
)
HASHES = r"(?: --hash=sha256:[0-9a-f]{64})*"
PIN = re.compile(rf"(([A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==\S+){HASHES}")
LOCK = "requirements.lock"
"""In the Bento: its pins with the hashes that the lock has, which BentoML's own list loses."""


@dataclass(frozen=True)
class Parts:
    """What goes into a Bento."""

    name: str
    service: str
    """Where the entry service is: `package.module:Name`."""
    serving: Path
    """The folder of our serving code."""
    student: Path
    """The model that is served: the winner, or the teacher in the Bento of its own."""
    baseline: Path
    """The folder of the baseline, which the service has beside it."""
    route: Path | None
    """The file of the cascade, where there is one for these models."""
    requirements: list[str]
    labels: Mapping[str, str]
    description: str


@dataclass(frozen=True)
class Made:
    """A Bento that was built, exported, and imported again."""

    tag: str
    home: Path
    """BENTOML_HOME that holds nothing but the imported Bento."""
    folder: Path
    """Where it lies in there."""
    seconds: Mapping[str, float]
    """How long each step took [s]."""


def make(parts: Parts, model_sha256: str, path: Path, place: Path) -> Made:
    """Build a Bento, export it to `path` and import that into a fresh store.

    Args:
        place: an empty folder for what is in between.

    Raises:
        StillhouseError: BentoML refuses, or would install other packages than `parts` name.
    """
    context, store = place / "context", place / "store"
    times = [time.monotonic()]
    lay_out(parts, context)
    version = version_of(context, model_sha256)
    built = build(context, place / "build", parts, version)
    times.append(time.monotonic())
    archive(built, path)
    times.append(time.monotonic())
    tag = f"{parts.name}:{version}"
    folder = import_archive(path, store, tag)
    times.append(time.monotonic())
    names = ("build_s", "archive_s", "import_s")
    seconds = {n: b - a for n, a, b in zip(names, times[:-1], times[1:], strict=True)}
    return Made(tag, store, folder, seconds)


def read_pins(path: Path) -> dict[str, str]:
    """Pins of a lock file by the name of their package, each with its hashes in one line.

    Raises:
        StillhouseError: the file is absent, or a line is no exact pin.
    """
    try:
        lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    except FileNotFoundError:
        raise StillhouseError(f'{path} is missing. Run "make lock" to write it.') from None
    pins = {}
    for line in filter(None, (" ".join(line.partition("#")[0].split()) for line in lines)):
        if not (found := PIN.fullmatch(line)):
            raise StillhouseError(
                f'{path}: expected name==version, found "{line}". Run "make lock" to write it.'
            )
        pins[found[2].lower()] = line
    return pins


def without_hash(pin: str) -> str:
    """Name and version of a pin."""
    return pin.partition(" ")[0]


def choose_requirements(engine: str, cuda: bool, locks: Mapping[str, Path]) -> list[str]:
    """Exact pins of what a Bento needs whose model has `engine`; no torch where it needs none.

    With hashes where all of them have some: pip takes all or none.

    Args:
        cuda: whether it is to run on CUDA, whose libraries are then pinned too.
        locks: lock files by name: base, train, gpu.

    Raises:
        StillhouseError: an engine that no Bento carries, or a package that is in no lock.
    """
    pins = read_pins(locks["base"])
    if engine == "transformers":
        train = read_pins(locks["train"])
        if absent := [name for name in TORCH_PACKAGES if name not in train]:
            raise StillhouseError(
                f'{locks["train"]} does not pin {", ".join(absent)}. Run "make lock".'
            )
        pins |= {name: train[name] for name in TORCH_PACKAGES}
        if cuda:
            gpu = read_pins(locks["gpu"])
            pins = {name: gpu.get(name, line) for name, line in pins.items()}
            pins |= {name: line for name, line in gpu.items() if name not in train}
    elif engine != "ctranslate2":
        raise StillhouseError(
            f"expected a model of engine ctranslate2 or transformers, found {engine}. "
            f"Choose another winner; this one cannot be packed."
        )
    lines = [pins[name] for name in sorted(pins)]
    hashed = all("--hash=" in line for line in lines)
    return lines if hashed else [without_hash(line) for line in lines]


def lay_out(parts: Parts, context: Path) -> None:
    """Copy what the Bento is made of to `context`, so that nothing else can get into it."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(parts.serving, context / "serving", ignore=ignored)
    shutil.copytree(parts.student, context / STUDENT)
    shutil.copytree(parts.baseline, context / "models/baseline")
    if parts.route is not None:
        shutil.copy(parts.route, context / "models/route.json")
    # what the service asks for the model's folder: the winner on any device is what is here
    winner = {"folder": STUDENT, "model_sha256": digest(parts.student)}
    _io.write_json(context / "models/winner.json", {"cpu": winner, "cuda": winner})
    _io.write_text(context / LOCK, "\n".join(parts.requirements) + "\n")
    # BentoML names itself, in the version that builds, without a hash that pip would then want
    pins = [without_hash(line) for line in parts.requirements if not line.startswith("bentoml==")]
    _io.write_text(context / "requirements.txt", "\n".join(pins) + "\n")
    _io.write_json(context / "bentofile.yaml", _bentofile(parts))  # JSON is YAML


def _bentofile(parts: Parts) -> dict[str, object]:
    return {
        "service": parts.service,
        "name": parts.name,
        "description": parts.description,
        "labels": dict(parts.labels),
        "include": ["serving/", "models/", LOCK],
        "python": {"requirements_txt": "requirements.txt", "lock_packages": False},
        "docker": {"python_version": PYTHON, "dockerfile_template": DOCKERFILE},
    }


def version_of(context: Path, model_sha256: str) -> str:
    """The model's digest, then that of all else: what has the same version has the same bytes."""
    whole = hashlib.sha256()
    for path in _sorted(context):
        if path.is_file():
            whole.update(f"{_name(path, context)} {_io.sha256_file(path)}\n".encode())
    return f"{model_sha256[:12]}-{whole.hexdigest()[:8]}"


def build(context: Path, home: Path, parts: Parts, version: str) -> Path:
    """Build the Bento that is laid out in `context` into the fresh `home`; returns its folder.

    Raises:
        StillhouseError: BentoML refuses, or would install other packages than `parts` name.
    """
    home.mkdir(parents=True)
    command = ["build", "--version", version, "--output", "tag", "."]
    run_bentoml(command, context, environment(home))
    folder = home / "bentos" / parts.name / version
    pinned = (folder / "env/python/requirements.txt").read_text(encoding="utf-8").splitlines()
    if strange := set(map(without_hash, parts.requirements)) ^ set(filter(None, pinned)):
        raise StillhouseError(
            f"the Bento would install other packages than the lock says "
            f"({', '.join(sorted(strange))}; installed here: bentoml "
            f"{metadata.version('bentoml')}). Install requirements/train.txt, or run "
            f'"make lock".'
        )
    _io.write_text(folder / "env/python/version.txt", f"{PYTHON}\n")  # else whose builds it
    facts = folder / "bento.yaml"
    text = facts.read_text(encoding="utf-8")
    _io.write_text(facts, re.sub(r"(?m)^creation_time: .*$", f"creation_time: '{EPOCH}'", text))
    return folder


def archive(bento: Path, path: Path) -> None:
    """Write the folder `bento` as `bentoml export` does (tar, xz), yet always the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz", preset=XZ_PRESET, format=tarfile.PAX_FORMAT) as tar:
        for file in _sorted(bento):
            entry = tarfile.TarInfo(_name(file, bento))
            if file.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            else:
                entry.size, entry.mode = file.stat().st_size, 0o644
                with file.open("rb") as stream:
                    tar.addfile(entry, stream)


def import_archive(path: Path, home: Path, tag: str) -> Path:
    """Import an exported Bento into the fresh `home`, as who deploys it does; returns its folder.

    Raises:
        StillhouseError: BentoML refuses it.
    """
    home.mkdir(parents=True)
    run_bentoml(["import", str(path.resolve())], home, environment(home))
    return home / "bentos" / Path(*tag.split(":"))


def environment(home: Path) -> dict[str, str]:
    """Environment of a BentoML process whose store is `home` and whose settings are its own.

    Ours that name other models, keys or addresses are left out, and so is the project's own code.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STILLHOUSE_", "BENTOML_"))
    }
    project = Path(__file__).parent.parent
    places = kept.pop("PYTHONPATH", "").split(os.pathsep)
    if places := [place for place in places if place and Path(place).resolve() != project]:
        kept["PYTHONPATH"] = os.pathsep.join(places)
    return kept | {
        "BENTOML_HOME": str(home.resolve()),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_NO_LOCAL_URL": "1",  # else a path of this machine may become a requirement
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _sorted(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"), key=lambda path: _name(path, folder))


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
