"""Workflows as data, and a small runner that executes a job's `run:` blocks for real.

The runner knows what GitHub does with a step: expressions, `if`, env of three levels, the shell of
the workflow, the files GITHUB_OUTPUT and GITHUB_STEP_SUMMARY. Actions (`uses:`) are not run; each
is noted with its inputs, and a test may put something in its place.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from structure import ROOT, read_yaml

WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.S)
STAND_INS = ("gh", "docker", "kubectl", "aws", "gcloud", "curl", "sudo", "apt-get")
WORDS = {"&&": " and ", "||": " or ", "!=": "!="}


class Context(dict):
    """A context of GitHub's: what is absent is an empty string, however deep."""

    def __getattr__(self, name):
        value = self.get(name, "")
        return Context(value) if isinstance(value, dict) else value


class Absent(str):
    """An empty string that has empty fields."""

    def __getattr__(self, name):
        return Absent()


def evaluate(expression, contexts, failed=False):
    """The value of a GitHub expression; operators and functions are written as Python's."""
    source = re.sub(r"&&|\|\||!=|!", lambda m: WORDS.get(m[0], " not "), expression.strip())
    known = {name: Context(value) for name, value in contexts.items()}
    functions = {
        "always": lambda: True,
        "cancelled": lambda: False,
        "contains": lambda whole, part: part in whole,
        "failure": lambda: failed,
        "fromJSON": lambda text: json.loads(text, object_hook=Context),
        "hashFiles": lambda *patterns: "0" * 64,
        "success": lambda: not failed,
        "true": True,
        "false": False,
    }
    return eval(source, {"__builtins__": {}}, Names(functions | known))


class Names(dict):
    """The names of an expression; a context that a test did not give is empty."""

    def __missing__(self, name):
        return Absent()


def fill(value, contexts):
    """`value` with every expression in it replaced by its text."""
    if not isinstance(value, str):
        return value

    def text(match):
        found = evaluate(match[1], contexts)
        return {True: "true", False: "false"}.get(found, str(found))

    return EXPRESSION.sub(text, value)


@dataclass
class Ended:
    """How a job ended."""

    failed: bool = False
    log: str = ""
    uses: list = field(default_factory=list)
    """(action without its commit, its inputs), in order."""
    ran: list = field(default_factory=list)
    """Names of the steps with a run block that were run."""
    steps: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    summary: str = ""


@dataclass
class Machine:
    """A folder that holds a copy of the project, stand-ins for programs, and what they noted."""

    place: Path
    project: Path
    actions: dict = field(default_factory=dict)
    """What to do in place of an action: {name: function of its inputs}."""

    def reply(self, *replies):
        """What stand-ins answer from now on."""
        (self.place / "replies.json").write_text(json.dumps(replies), encoding="utf-8")

    @property
    def calls(self):
        """Command lines of all stand-ins that were called, in order."""
        return [call["line"] for call in self.noted()]

    def noted(self):
        path = self.place / "calls.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines]

    def run_job(self, workflow, job, **contexts):
        """Execute a job; `contexts` are GitHub's: github, vars, inputs, needs …"""
        described = read_yaml(WORKFLOWS[workflow])
        temp = self.place / "temp"
        temp.mkdir(exist_ok=True)
        contexts = {"runner": {"temp": str(temp), "os": "Linux"}, "steps": {}} | contexts
        return run_steps(self, described, described["jobs"][job], contexts)


def run_steps(machine, workflow, job, contexts):
    """The steps of one job, after GitHub's rules."""
    ended = Ended(steps=contexts["steps"])
    env = _env(workflow, {}, contexts)
    env = _env(job, env, contexts)
    contexts["env"] = env
    for step in job["steps"]:
        if "id" in step:
            contexts["steps"][step["id"]] = {"outcome": "skipped", "outputs": {}}
        if not _wanted(step.get("if"), contexts, ended.failed):
            continue
        if "uses" in step:
            _use(machine, workflow, job, step, contexts, ended)
        else:
            _run(machine, workflow, job, step, contexts, ended)
    ended.outputs = {k: fill(v, contexts) for k, v in job.get("outputs", {}).items()}
    return ended


def _use(machine, workflow, job, step, contexts, ended):
    """Note an action; the steps of one of our own are run."""
    name, inputs = step["uses"].split("@")[0], step.get("with", {})
    filled = {key: fill(value, contexts) for key, value in inputs.items()}
    ended.uses.append((name, filled))
    machine.actions.get(name, lambda inputs: None)(filled)
    if name.startswith("./"):
        action = read_yaml(ROOT / name / "action.yml")
        declared = {k: v.get("default", "") for k, v in action.get("inputs", {}).items()}
        inner = contexts | {"inputs": declared | filled}
        for own in action["runs"]["steps"]:
            if not _wanted(own.get("if"), inner, ended.failed):
                continue
            run = _use if "uses" in own else _run
            run(machine, workflow, job, own, inner, ended)


def _env(level, outer, contexts):
    return outer | {k: str(fill(v, contexts)) for k, v in level.get("env", {}).items()}


def _wanted(condition, contexts, failed):
    if condition is None:
        return not failed
    text = str(condition)
    whole = EXPRESSION.fullmatch(text.strip())
    wanted = evaluate(whole[1] if whole else text, contexts, failed)
    says = re.search(r"(always|failure|cancelled|success)\(\)", text)
    return bool(wanted) and (not failed or bool(says))


def _run(machine, workflow, job, step, contexts, ended):
    """Execute a run block as GitHub would."""
    files = {name: machine.place / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.write_text("")
    script = machine.place / "step.sh"
    script.write_text(fill(step["run"], contexts), encoding="utf-8")
    told = {
        **_env(step, contexts["env"], contexts),
        **{name: str(path) for name, path in files.items()},
        "RUNNER_TEMP": contexts["runner"]["temp"],
    }
    defaults = {**workflow.get("defaults", {}), **job.get("defaults", {})}
    shell = step.get("shell") or workflow["defaults"]["run"]["shell"]
    done = subprocess.run(
        [str(script) if word == "{0}" else word for word in shlex.split(shell)],
        cwd=fill(defaults["run"].get("working-directory"), contexts) or machine.project,
        env=_environment(machine, contexts) | told,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    ended.ran.append(step.get("name", step["run"].splitlines()[0]))
    ended.log += done.stdout
    ended.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
    ended.failed |= done.returncode != 0
    lines = files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines()
    outputs = dict(line.split("=", 1) for line in lines)
    if "id" in step:
        outcome = "failure" if done.returncode else "success"
        contexts["steps"][step["id"]] = {"outputs": outputs, "outcome": outcome}


def _environment(machine, contexts):
    """What every step finds: GitHub's own variables, stand-ins first on PATH, none of make's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "GITHUB_", "PYTEST"))}
    github = contexts.get("github", {})
    return kept | {
        "PATH": f"{machine.place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "STAND_IN": str(machine.place),
        "PYTHON": sys.executable,
        "GITHUB_REPOSITORY": github.get("repository", "somebody/project"),
        "GITHUB_SHA": github.get("sha", ""),
        "GITHUB_RUN_ID": "7",
        "GITHUB_RUN_ATTEMPT": "1",
    }


def make_machine(place, project, programs=()):
    """A machine around a project's folder.

    Args:
        programs: modules that take minutes or a network: `python -m <module>` of the project's
            environment is a stand-in for these, and the real Python for all others.
    """
    (place / "bin").mkdir(parents=True)
    for name in (*STAND_INS, *programs):
        (place / "bin" / name).symlink_to(Path(__file__).with_name("stand_in.py"))
    if not (project / ".venv").exists():
        _make_environment(project)
    machine = Machine(place, project)
    machine.reply()
    return machine


def _make_environment(project):
    """An environment that make takes for complete; its Python looks for a stand-in first."""
    bin_folder = project / ".venv/bin"
    bin_folder.mkdir(parents=True)
    python = bin_folder / "python"
    python.write_text(
        f"""#!/bin/bash
if [[ $1 == -m && -x $STAND_IN/bin/$2 ]]; then exec "$STAND_IN/bin/$2" "${{@:3}}"; fi
exec "{sys.executable}" "$@"
"""
    )
    python.chmod(0o755)
    for name in ("ruff", "mypy"):
        (bin_folder / name).symlink_to(Path(sys.executable).with_name(name))
    for stamp in (".created", ".train", ".dev"):
        (bin_folder.parent / stamp).touch()
    for lock in (project / "requirements").glob("*.txt"):
        os.utime(lock, (0, 0))  # older than the stamps: nothing is installed


def copy_project(target, *paths):
    """The project's files below `paths` (all) at `target`: those that Git has or would take."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *paths]
    names = subprocess.check_output(listed, cwd=ROOT, text=True)
    for name in filter(None, names.split("\0")):
        source, path = ROOT / name, target / name
        if source.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path)
    return target
