"""What the consistency tests read: the project's files as text and as syntax trees."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent


def read_yaml(path: Path) -> Any:
    """A YAML file as plain data."""
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


# What acts on the world is no DVC stage: one that is restored from a cache acts on nothing.
ACTIONS = (
    "release",
    "rollback",
    "window",
    "watch",
    "retrain",
    "canary",
    "challenge",
    "backup",
    "restore",
    "container",
    "export",
    "doctor",
    "status",
)


def programs() -> dict[str, Path]:
    """What can be run, by name: files of stages/ without underscore."""
    return {p.stem: p for p in sorted((ROOT / "stages").glob("*.py")) if p.stem[0] != "_"}


def stage_files() -> dict[str, Path]:
    """Stages by name: programs that DVC runs."""
    return {name: path for name, path in programs().items() if name not in ACTIONS}


def dvc_stages() -> dict[str, dict[str, Any]]:
    """Stages of dvc.yaml; what stands under `do` for those that run once per candidate."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def out_paths(stage: dict[str, Any]) -> list[str]:
    """Paths that a dvc.yaml stage writes, whether outs, metrics or plots."""
    entries = [e for kind in ("outs", "metrics", "plots") for e in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def python_files(*folders: str) -> list[Path]:
    """All Python files below the given folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Dotted names a file imports, wherever the import stands: `a.b` for `from a import b`."""
    return _imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def _imported(nodes: Iterable[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def for_types_alone(path: Path) -> set[str]:
    """Dotted names a file imports under `if TYPE_CHECKING:`, which no program ever runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    inside = {id(node) for block in blocks for node in ast.walk(block)}
    outside = [node for node in ast.walk(tree) if id(node) not in inside]
    return _imported(n for block in blocks for n in ast.walk(block)) - _imported(outside)


def first_party_imports(path: Path) -> set[Path]:
    """The project's own files whose content can change what a file does, imported directly."""
    found = set()
    for name in imported_modules(path) - for_types_alone(path):
        module = ROOT / Path(*name.split("."))
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if name.split(".")[0] in ("stages", "serving") and file.is_file():
                found.add(file)
    return found


def transitive_imports(path: Path) -> set[Path]:
    """The project's own files that a file imports, directly or through others."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        for file in first_party_imports(waiting.pop()) - seen:
            seen.add(file)
            waiting.append(file)
    return seen
