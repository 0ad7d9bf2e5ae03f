"""Whether a command could be run: its target, module, options, stages and files exist.

Nothing is run but `make --dry-run`, which says what a target would start. What the programs' own
parsers say of the words is asked of tests/documented_parsers.py, in a process of its own.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from documented import ASSIGNED, simple_commands
from structure import ROOT

TOOLS = ("accelerate", "bentoml", "dvc", "mlflow", "torchrun")
GIVEN = {"mine": "tiny"}
"""Profiles that a reader writes, by ours that stand for them."""


def problems(text: str) -> Iterator[str]:
    """What the project's own files have against a command."""
    for name in set(re.findall(r"\bSTILLHOUSE_[A-Z_]+[A-Z]\b", text)):
        if name not in sources():
            yield f"no code reads {name}"
    for part in simple_commands(text):
        words = arguments(part)
        if words and words[0] in ("pip", "pip3"):
            yield from (f"no extra {e}" for e in extras(part) - extras_here())
        if (
            words
            and words[0].startswith((".ci/", "deploy/"))
            and not os.access(ROOT / words[0], os.X_OK)
        ):
            yield f"no program {words[0]}"
        if words and words[0] == "kubectl" and "-k" in words[:-1]:
            yield from (f"no folder {w}" for w in words if "/" in w and not (ROOT / w).is_dir())


def to_parse(text: str) -> Iterator[list[str]]:
    """The word lists that parsers are to look at; of make those that it would start.

    Raises:
        AssertionError: make has no such target, or a profile is not there.
    """
    for part in simple_commands(text):
        words = arguments(part)
        if words[:1] == ["make"] and len(words) > 1 and "…" not in words[1]:
            yield from made(tuple(words[1:]))
        elif words[:1] and (words[0] in TOOLS or re.match(r"(\.venv/bin/)?python", words[0])):
            yield words


def arguments(part: str) -> list[str]:
    """The words of a simple command without its settings; what a reader fills in is dropped."""
    plain = ASSIGNED.sub("", re.sub(r"\bARGS=…", "ARGS=", part)).removeprefix("time ")
    words = shlex.split(plain, comments=True)
    return [re.sub(r"^\.venv/bin/", "", word) for word in words if word != "…"]


@cache
def made(words: tuple[str, ...]) -> list[list[str]]:
    """What of ours make would start for these targets and settings."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = []
    for word in words:
        name, equals, value = word.partition("=")
        known = re.search(rf"\$[{{(]{name}[)}}]", makefile)
        assert not equals or known, f"the Makefile does not read {name}"
        if name == "NAME":
            value = GIVEN.get(value, value)
            there = value == "default" or (ROOT / f"configs/{value}.yaml").is_file()
            assert there, f"no profile configs/{value}.yaml"
        asked.append(f"{name}{equals}{value}")
    unchanged = [f"--assume-old=.venv/{stamp}" for stamp in (".created", ".train", ".dev")]
    quiet = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "ARGS"))}
    command = ["make", "--dry-run", *unchanged, *asked]
    ended = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr.strip()
    lines = ended.stdout.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in simple_commands(line)]
    ours = [p for p in parts if re.match(r"\S*python3?(\.11)? -m (stages|serving)\.", p)]
    return [["python", *shlex.split(part)[1:]] for part in ours]


@cache
def sources() -> str:
    """The text of all code that reads settings, and of what sets them."""
    found = [p for folder in ("stages", "serving", "tests") for p in (ROOT / folder).rglob("*.py")]
    return "".join(path.read_text(encoding="utf-8") for path in found)


def extras(part: str) -> set[str]:
    """Extras of our own package that a line of pip names."""
    named = re.findall(r"(?:stillhouse|\.)\[([\w,]+)\]", part)
    return {extra for one in named for extra in one.split(",")}


def extras_here() -> set[str]:
    """Extras that pyproject.toml has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


def refused(asked: Iterable[list[str]]) -> dict[tuple[str, ...], str]:
    """What the programs' own parsers say of word lists, "" where they take them."""
    different = sorted({tuple(words) for words in asked})
    program = Path(__file__).with_name("documented_parsers.py")
    ended = subprocess.run(
        [sys.executable, str(program)], input=json.dumps(different), capture_output=True, text=True
    )
    assert not ended.returncode, ended.stderr[-3000:]
    said = json.loads(ended.stdout.splitlines()[-1])
    return dict(zip(different, said, strict=True))
