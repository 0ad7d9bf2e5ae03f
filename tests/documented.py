"""The commands of README.md, docs/ and deploy/, as a reader would type them, each with its place.

Three kinds: `shell` out of a block, with continued lines and here-documents; `python`, a block as a
whole; `inline`, a command in a sentence or a table. Pure: text in, commands out.

In a block that has lines with `$ `, these are the commands and what follows one is its output. In
another one every line is a command where the language says so (bash, console, sh, shell), or where
there is no language and the first word is a program. Lines that are indented by four and begin with
a program are commands, too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

SHELLS = ("bash", "console", "sh", "shell")
PROGRAMS = re.compile(
    "accelerate|aws|az|bash|bentoml|buildah|cat|cd|curl|docker|dvc|export|gcloud|gh|git|gunzip|"
    "helm|jq|kubectl|ls|make|mkdir|mlflow|nvidia-smi|openssl|pg_dump|pip|podman|promtool|pytest|"
    r"python(3\.11)?|redis-server|ruff|sed|sha256sum|source|sudo|tar|time|torchrun|"
    "torch-model-archiver|torchserve|tritonserver|unzip|uv|wget"
)
OURS = (".ci/", ".venv/bin/", "deploy/")
FENCE = re.compile(r"^( *)```([\w-]*) *$")
ASSIGNED = re.compile(r"^(?:[A-Z][A-Z0-9_]*=(?:'[^']*'|\"[^\"]*\"|[^\s'\"]*)\s+)+")
HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")

Kind = Literal["shell", "python", "inline"]


@dataclass(frozen=True)
class Command:
    """What a document tells a reader to run."""

    file: str
    line: int
    text: str
    """Without prompt, comment and indentation; `\\` and line ends as they are."""
    kind: Kind
    block: int = 0
    """Line of the block that it is from: commands of one block are typed into one shell."""
    output: tuple[str, ...] = ()
    """What the document shows below it."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Block(NamedTuple):
    """Lines between two fences, without the block's own indentation."""

    line: int
    language: str
    lines: list[str]


def documents(root: Path) -> list[Path]:
    """README.md, what is below docs/, and READMEs below deploy/, in the order of a reader."""
    return [
        root / "README.md",
        *sorted((root / "docs").rglob("*.md")),
        *sorted((root / "deploy").rglob("README.md")),
    ]


def collect(root: Path) -> list[Command]:
    """All commands of all documents."""
    found = []
    for path in documents(root):
        found += read(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    return found


def read(file: str, text: str) -> list[Command]:
    """All commands of one document."""
    blocks, prose = split(text.splitlines())
    found = list(inline_commands(file, "\n".join(prose)))
    for block in blocks:
        if block.language == "python":
            found.append(
                Command(file, block.line + 1, "\n".join(block.lines), "python", block.line)
            )
        else:
            found += shell_commands(file, block)
    return sorted(found, key=lambda command: command.line)


def split(lines: list[str]) -> tuple[list[Block], list[str]]:
    """Blocks, and the text with nothing in their places, so that its lines keep their numbers."""
    blocks: list[Block] = []
    prose: list[str] = []
    opened: tuple[int, Block] | None = None
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if opened is not None:
            indent, block = opened
            if fence:
                blocks.append(block)
                opened = None
            else:
                block.lines.append(line[indent:] if not line[:indent].strip() else line)
        elif fence:
            opened = len(fence[1]), Block(number, fence[2], [])
        elif line.startswith("    ") and is_command(line.strip()) and not prose[-1].strip():
            blocks.append(Block(number - 1, "sh", [line.strip()]))
        elif line.startswith("    ") and blocks and follows(blocks[-1], number):
            blocks[-1].lines.append(line[4:])
        else:
            prose.append(line)
            continue
        prose.append("")
    return blocks, prose


def follows(block: Block, number: int) -> bool:
    """Whether a line stands right below an indented block."""
    return block.language == "sh" and block.line + len(block.lines) + 1 == number


def is_command(text: str) -> bool:
    """Whether the first word, settings aside, is a program, of ours or of others."""
    words = ASSIGNED.sub("", text).split()
    if len(words) < 2 or "·" in text:
        return False
    return bool(PROGRAMS.fullmatch(words[0])) or words[0].startswith(OURS)


def shell_commands(file: str, block: Block) -> Iterator[Command]:
    """The commands of a block, each with the output that is shown below it."""
    prompted = any(line.lstrip().startswith("$ ") for line in block.lines)
    if not prompted and block.language not in SHELLS:
        first = next((line for line in block.lines if line.strip()), "")
        if block.language or not is_command(first.strip()):
            return
    numbered = iter(enumerate(block.lines, block.line + 1))
    command: Command | None = None
    for number, line in numbered:
        typed = line.lstrip()
        if prompted and not typed.startswith("$ "):
            if command is not None:
                command = command_with_output(command, line)
            continue
        if command is not None:
            yield command
        text = whole(typed.removeprefix("$ ") if prompted else typed, numbered)
        command = Command(file, number, text, "shell", block.line) if text else None
    if command is not None:
        yield command


def command_with_output(command: Command, line: str) -> Command:
    """The same command with one more line of output."""
    shown = (*command.output, line)
    return Command(command.file, command.line, command.text, "shell", command.block, shown)


def whole(line: str, rest: Iterator[tuple[int, str]]) -> str:
    """A command to its end: continued by a backslash, an open quotation, or a here-document."""
    text, open_quote = scan(line)
    while text.endswith("\\") or open_quote:
        _, line = next(rest)
        text, open_quote = scan(f"{text}\n{line}")
    for _, end in HERE.findall(text):
        for _, line in rest:
            text += f"\n{line}"
            if line.strip() == end:
                break
    return text


def scan(text: str) -> tuple[str, bool]:
    """The text without a comment at its end, and whether a quotation is still open."""
    quote = ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[place - 1] != "\\" else quote
        elif letter in "'\"" and text[place - 1 : place] != "\\":
            quote = letter
        elif letter == "#" and text[place - 1 : place] in ("", " "):
            return text[:place].rstrip(), False
    return text.rstrip(), bool(quote)


def inline_commands(file: str, prose: str) -> Iterator[Command]:
    """Commands in sentences and tables; one may go over the end of a line, not of a paragraph."""
    for match in INLINE.finditer(prose):
        text = " ".join(match[1].split())
        if "\n\n" not in match[1] and is_command(text):
            line = prose.count("\n", 0, match.start()) + 1
            yield Command(file, line, text, "inline")


def simple_commands(text: str) -> Iterator[str]:
    """The parts of a line between `&&`, `||`, `;` and `|`, outside of quotations."""
    part, quote, escaped = "", "", False
    for letter in [*re.sub(r"\\\n\s*", " ", text), "\n"]:
        if escaped or letter == "\\":
            escaped = not escaped
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "&|;\n":
            if part.strip():
                yield part.strip()
            part = ""
            continue
        part += letter
