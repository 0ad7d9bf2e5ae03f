"""Our own code as it goes with an export: a program and the files that it imports, no more."""

import ast
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("serving", "stages")


def ship(program: Path, as_file: Path, imports: Path) -> None:
    """Copy `program` to `as_file`, and what it imports of ours into the folder `imports`."""
    imports.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(program, as_file)
    for file in sorted(first_party(program) - {program}):
        target = imports / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def first_party(program: Path) -> set[Path]:
    """Our files that a program needs: those it imports, those these import, and their packages."""
    found: set[Path] = set()
    waiting = [program]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [path for name in _imported(file) for path in _files(name)]
    return found


def _imported(file: Path) -> set[str]:
    """Dotted names of ours that a file imports: `a.b` for `from a import b`, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def _files(name: str) -> list[Path]:
    """The module's file and the packages that it is in."""
    parts = name.split(".")
    packages = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return [
        path for path in (*packages, ROOT.joinpath(*parts).with_suffix(".py")) if path.is_file()
    ]
