"""Where a released model is now, and how to get it: in place, in DVC's cache, or by its commit."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from stages._releases import Git


def describe_place(root: Path, model: Mapping[str, str], git: Git) -> list[str]:
    """Lines for a person who has to redeploy `model`: where it is, else the command that gets it.

    Args:
        model: folder, model_sha256 and dvc_md5, as a decision record's candidates hold them.
        git: the commit that released it.
    """
    folder, sha256 = model["folder"], model["model_sha256"]
    if _is_in_place(root / folder, sha256):
        return [f"{folder} holds it ({sha256[:12]})"]
    cached = is_cached(cache_folder(root), model.get("dvc_md5", ""))
    place = "DVC's cache has it" if cached else "neither here nor in DVC's cache; its remote may"
    lines = [f"{folder} does not hold it ({sha256[:12]}); {place}"]
    if git["commit"]:
        lines.append(f"get it: dvc get . {folder} --rev {git['commit']} --out {folder} --force")
        if not cached:
            lines.append(f"or make it again: git checkout {git['commit']} && make repro")
    if git["dirty"] or not git["commit"]:
        lines.append("it was released from files that no commit holds, so check what you get:")
    lines.append(f"sha256sum {folder}/contract.json must begin with {sha256[:12]}")
    return lines


def is_cached(cache: Path, md5: str) -> bool:
    """Whether DVC's cache holds a folder, by the MD5 of its listing, with every file of it."""
    listing = object_path(cache, md5)
    if not md5.endswith(".dir") or not listing.is_file():
        return False
    files = json.loads(listing.read_text(encoding="utf-8"))
    return all(object_path(cache, file["md5"]).is_file() for file in files)


def object_path(cache: Path, md5: str) -> Path:
    """Where DVC keeps an object, in its cache or in a remote."""
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def cache_folder(root: Path) -> Path:
    """DVC's cache of the project."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    return Path(done.stdout.strip()) if done.returncode == 0 else root / ".dvc" / "cache"


def _is_in_place(folder: Path, sha256: str) -> bool:
    try:
        read_contract(folder)
    except StillhouseError:
        return False
    return digest(folder) == sha256
