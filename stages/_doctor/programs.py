"""Packages and programs: installed as the lock says, and loadable where params.yaml needs them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from stages._params import Params

IMPORT_S = 180.0
BITSANDBYTES = ("int8", "nf4", "fp4")
TOOLS = {"git": "run.json and releases name commits", "make": "its targets are the commands"}
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")


def read_lock(text: str) -> dict[str, str]:
    """Versions by package of a lock file."""
    return {found[1]: found[2] for line in text.splitlines() if (found := PIN.match(line))}


def differences(
    locked: Mapping[str, str], installed: Mapping[str, str | None]
) -> tuple[list[str], list[str]]:
    """Packages that are missing, and those of another version; build tags (+cpu) don't count."""
    missing = [name for name in locked if installed.get(name) is None]
    other = [
        f"{name} {found} (locked: {version})"
        for name, version in locked.items()
        if (found := installed.get(name)) and found.partition("+")[0] != version.partition("+")[0]
    ]
    return missing, other


def installed_versions(names: Sequence[str]) -> dict[str, str | None]:
    """Versions in this environment; None for what is not there."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def torch_has_cuda() -> bool:
    """Whether torch's build can use a GPU, by its version, since loading it takes seconds."""
    version = installed_versions(["torch"])["torch"]
    return version is not None and not version.endswith("+cpu")


def needed_modules(params: Params) -> dict[str, str]:
    """Modules that these settings load, and what for."""
    variants = params.quantize.variants.values()
    tuned = (params.teacher.pretrained, params.distill.pretrained)
    needed = {
        "transformers": "engine of teacher and student",
        "bentoml": "the service",
        "dvc.api": "what runs when",
        "mlflow": "the record of runs",
    }
    if any(one.engine == "ctranslate2" for one in variants):
        needed["ctranslate2"] = "engine of a variant"
    schemes = {one.scheme for one in variants if one.engine == "transformers"}
    if schemes & set(BITSANDBYTES) or any(one and one.tuning == "qlora" for one in tuned):
        needed["bitsandbytes"] = "8 and 4 bits"
    if "semantic_similarity" in params.evaluate.metrics:
        needed["sentence_transformers"] = "semantic similarity"
    if params.drift.embeddings:
        needed["onnxruntime"] = "sentence vectors of drift"
    return needed


def failing_imports(modules: Sequence[str]) -> dict[str, str]:
    """Modules that do not load, and why, in processes of their own, which they may take down.

    All in one first, since that loads what they share once; each by itself if that fails.
    """
    if not _try(*modules):
        return {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        return {
            name: why for name, why in zip(modules, pool.map(_try, modules), strict=True) if why
        }


def missing_tools() -> list[str]:
    """Programs that are not on PATH."""
    return [name for name in TOOLS if shutil.which(name) is None]


def _try(*modules: str) -> str:
    """Why modules do not load together; empty where they do."""
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and names
            command, capture_output=True, text=True, timeout=IMPORT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {IMPORT_S:.0f} s"
    if done.returncode < 0:
        return f"it was killed by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines() or ["no reason was given"]
    return "" if done.returncode == 0 else lines[-1]


def lock_of(folder: Path) -> tuple[str, dict[str, str]]:
    """Name and versions of the lock that this environment was made from.

    That of CUDA where most of what it has beyond the other one is installed.

    Raises:
        FileNotFoundError: there are no locks here.
    """
    locks = {
        name: read_lock((folder / name).read_text(encoding="utf-8"))
        for name in ("train.txt", "gpu.txt")
    }
    beyond = sorted(locks["gpu.txt"].keys() - locks["train.txt"].keys())
    there = sum(version is not None for version in installed_versions(beyond).values())
    name = "gpu.txt" if 2 * there > len(beyond) else "train.txt"
    return name, locks[name]
