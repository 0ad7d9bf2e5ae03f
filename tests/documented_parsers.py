"""What the programs' own parsers say of words, without running a program.

Run     python tests/documented_parsers.py < a JSON list of word lists

It writes a list of what is wrong with each, "" where nothing is. Modules of this project are run up
to the point where their parser has taken the words; dvc, bentoml, mlflow, torchrun and accelerate
are asked for their parsers. The process works in an empty folder, and may start no other one, open
no connection and write no file: an audit hook refuses it.
"""

import argparse
import importlib
import json
import os
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from structure import ROOT, read_yaml

TOOLS = {
    "accelerate": "accelerate.commands.launch",
    "bentoml": "bentoml_cli.cli",
    "dvc": "dvc.cli.parser",
    "mlflow": "mlflow.cli",
    "torchrun": "torch.distributed.run",
}
REFUSED = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "socket.bind",
    "socket.connect",
    "subprocess.Popen",
)


class Parsed(Exception):
    """The arguments were taken."""


class Acts(Exception):
    """A program did something before it had looked at its arguments."""


def trouble(words: list[str]) -> str:
    """What the program's own parser says of these words."""
    said = StringIO()
    name, rest = words[0], words[1:]
    if name.startswith("python"):
        if "-m" not in rest[:1] or "<" in rest[1]:
            return ""
        name, rest = rest[1], rest[2:]
    if name == "stages._pipeline":  # which hands its words on
        name, rest = "dvc", ["repro", *rest]
    checks: dict[str, Callable[[list[str]], None]] = {
        "accelerate": parse_accelerate,
        "bentoml": parse_bentoml,
        "dvc": parse_dvc,
        "mlflow": parse_mlflow,
        "torchrun": parse_torchrun,
    }
    try:
        with redirect_stdout(said), redirect_stderr(said), suppress(Parsed):
            if name in checks:
                checks[name](rest)
            elif name.startswith("benchmarks."):
                parse_benchmark(name, rest)
            else:
                parse_module(name, rest)
    except SystemExit as ended:
        return "" if ended.code in (0, None) else said.getvalue().strip() or str(ended.code)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def parse_module(module: str, words: list[str]) -> None:
    """Run a module of ours up to where its parser has taken the words.

    What the parser demands is not demanded here, since a sentence names a part of a command.
    """
    original = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, *_: object) -> None:
        relax(parser)
        original(parser, words)
        raise Parsed

    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no module {module}")
    if not re.search(r"parse_args\(|run_stage\(|_arguments\(|_parser\(", read(spec.origin)):
        return  # it reads the words itself, or none
    argparse.ArgumentParser.parse_args = parse  # type: ignore[assignment,method-assign]
    sys.argv = [module, *words]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            runpy.run_module(module, run_name="__main__")
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    raise ValueError(f"{module} parsed nothing")


def read(path: str) -> str:
    """A file's text."""
    return Path(path).read_text(encoding="utf-8")


def refuse(event: str, told: tuple[object, ...]) -> None:
    """Audit hook: no process, no connection, no file that is written."""
    writes = event == "open" and isinstance(told[1], str) and set(told[1]) & set("wax+")
    if (event in REFUSED or writes) and not str(told[0]).startswith("/dev/"):
        raise Acts(f"{event} {told[0]}")


def relax(parser: argparse.ArgumentParser) -> None:
    """Ask for nothing; only what is given is looked at."""
    for group in parser._mutually_exclusive_groups:
        group.required = False
    for action in parser._actions:
        takes_one = action.nargs is None and not isinstance(action, argparse._HelpAction)
        if takes_one:
            action.nargs = "?"
        if takes_one and not action.option_strings:
            action.default = argparse.SUPPRESS
        if action.nargs == "+":
            action.nargs = "*"
        action.required = False
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                relax(below)


def parse_benchmark(module: str, words: list[str]) -> None:
    """A benchmark's options stand in its file, or its package's: to import one takes long."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no module {module}")
    origin = Path(spec.origin)
    files = origin.parent.glob("*.py") if origin.name == "__init__.py" else [origin]
    text = "".join(read(str(file)) for file in files)
    missing = [w for w in words if w.startswith("--") and f'"{w.split("=")[0]}"' not in text]
    if missing:
        raise ValueError(f"{module} has no {missing}")


def parse_dvc(words: list[str]) -> None:
    """DVC's own parser, and the stages of dvc.yaml."""
    from dvc.cli.parser import get_main_parser

    parser = get_main_parser()
    relax(parser)
    parser.parse_args(words)
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    if words[0] in ("repro", "commit", "status"):
        for word in words[1:]:
            if not word.startswith("-") and word.split("@")[0] not in stages:
                raise ValueError(f"dvc.yaml has no stage {word}")


def parse_bentoml(words: list[str]) -> None:
    """BentoML's own commands."""
    parse_click(importlib.import_module(TOOLS["bentoml"]).cli, words)


def parse_mlflow(words: list[str]) -> None:
    """MLflow's own commands."""
    parse_click(importlib.import_module(TOOLS["mlflow"]).cli, words)


def parse_click(command: object, words: list[str]) -> None:
    """The parser of a click command and of those below it."""
    import click

    assert isinstance(command, click.Command)
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            name, below, rest = command.resolve_command(context, words)
        assert below is not None, f"no command {name}"
        parse_click(below, rest)
        return
    for parameter in command.params:
        parameter.required = False
    try:
        command.make_context(command.name, list(words), resilient_parsing=False)
    except click.ClickException as error:
        raise ValueError(error.format_message()) from None


def parse_torchrun(words: list[str]) -> None:
    """Torch's launcher, and the module that it starts."""
    from torch.distributed.run import get_args_parser

    launched = get_args_parser().parse_args(words)
    parse_module(launched.training_script, launched.training_script_args)


def parse_accelerate(words: list[str]) -> None:
    """Accelerate's launcher, and the module that it starts."""
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    relax(parser)
    launched = parser.parse_args(words[1:])
    if getattr(launched, "training_script", None):
        parse_module(launched.training_script, launched.training_script_args)


def main() -> None:
    """Look at the word lists of stdin."""
    asked = json.load(sys.stdin)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    for tool in {words[0] for words in asked} & set(TOOLS):  # some start `uname` on import
        importlib.import_module(TOOLS[tool])
    busy = [True]
    sys.addaudithook(lambda event, told: refuse(event, told) if busy else None)
    with TemporaryDirectory() as empty:
        os.chdir(empty)
        found = [trouble(words) for words in asked]
        busy.clear()
        os.chdir(ROOT)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
