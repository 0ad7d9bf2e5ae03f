"""What is in an image, told by its own Python as one line of JSON: this file runs inside it.

Nothing but the standard library, because it is handed over as text:

    python -c "$(cat stages/_container/inside.py)"
"""

import importlib
import importlib.util
import json
import os
import shutil
from importlib import metadata
from pathlib import Path

BENTO = Path("/opt/bento")
PACKAGES = Path("/opt/venv")
BUILDERS = ("cc", "gcc", "g++", "c++", "clang", "make", "ld", "rustc", "cargo", "go", "git")
PLACES = ("/", "/etc", "/opt/bento/src", "/opt/venv", "/var/tmp", "/tmp")  # noqa: S108


def size_of(folder: Path) -> int:
    """Bytes of all files on the root file system below `folder`, each counted once."""
    device, total, seen = folder.stat().st_dev, 0, set()
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = [f for f in folders if not (here / f).is_symlink()]
        folders[:] = [f for f in folders if (here / f).stat().st_dev == device]
        for file in files:
            found = (here / file).lstat()
            if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return total


def size_of_packages() -> dict[str, int]:
    """Bytes of each installed package."""
    sizes = {}
    for one in metadata.distributions():
        places = [Path(str(one.locate_file(file))) for file in one.files or []]
        sizes[one.metadata["Name"].lower()] = sum(p.stat().st_size for p in places if p.is_file())
    return dict(sorted(sizes.items()))


def can_write(folder: str) -> bool:
    """Whether this user can make a file there."""
    file = Path(folder, ".stillhouse")
    try:
        file.touch()
        file.unlink()
    except OSError:
        return False
    return True


def fault_of(package: str) -> str | None:
    """Why a package that is installed cannot be imported."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        importlib.import_module(package)
    except (ImportError, OSError, ValueError) as error:  # a CUDA build without its libraries
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Say it."""
    found = {
        "uid": os.getuid(),
        "bytes": size_of(Path("/")),
        "bento_bytes": size_of(BENTO),
        "model_bytes": size_of(BENTO / "src/models"),
        "environment_bytes": size_of(PACKAGES),
        "packages": size_of_packages(),
        "torch": importlib.util.find_spec("torch") is not None,
        "torch_fault": fault_of("torch"),
        "builders": [name for name in BUILDERS if shutil.which(name)],
        "writable": [place for place in PLACES if can_write(place)],
    }
    print(json.dumps(found))  # noqa: T201 - it is read


if __name__ == "__main__":
    main()
