"""Stages side by side: what may start when, and a small DVC project run for real in two lanes."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from stages._lanes import Plan, count

REPOSITORY = Path(__file__).parent.parent
EDGES = [
    ("prepare", "baseline"),
    ("prepare", "teacher"),
    ("teacher", "student"),
    ("student", "answer"),
    ("teacher", "time@teacher"),
    ("student", "time@student"),
    ("answer", "report"),
    ("time@teacher", "report"),
    ("time@student", "report"),
]
NAMES = ["prepare", "baseline", "teacher", "student", "answer"]
NAMES += ["time@teacher", "time@student", "report"]
ALONE = ["time@teacher", "time@student"]


def plan(stale):
    return Plan.of(EDGES, NAMES, stale, ALONE)


def schedule(what, lanes):
    """Which stages run at the same time if all take as long, in turn."""
    done, turns = set(), []
    while len(done) < len(what.needs):
        running = set()
        while len(running) < lanes and (name := what.next(frozenset(done), frozenset(running))):
            running.add(name)
        turns.append(sorted(running))
        done |= running
        assert running, f"nothing can start after {turns}"
    return turns


def test_what_comes_after_a_changed_stage_is_done_too_and_nothing_else():
    assert list(plan(["student"]).needs) == ["student", "answer", "time@student", "report"]
    assert list(plan(["report"]).needs) == ["report"]
    assert plan([]).needs == {}


def test_a_stage_waits_for_what_is_done_before_it_and_not_for_what_is_valid():
    what = plan(["student"])
    assert what.needs["student"] == frozenset()
    assert what.needs["report"] == {"answer", "time@student"}


def test_two_lanes_take_what_most_wait_for_first_and_time_alone():
    assert schedule(plan(NAMES), 2) == [
        ["prepare"],
        ["baseline", "teacher"],
        ["student"],
        ["answer"],
        ["time@teacher"],
        ["time@student"],
        ["report"],
    ]
    assert schedule(plan(NAMES), 1)[1:3] == [["teacher"], ["student"]]


def test_nothing_starts_beside_a_stage_that_is_alone():
    what = plan(["baseline", "time@teacher"])
    assert what.next(frozenset(), frozenset({"time@teacher"})) is None
    assert what.next(frozenset(), frozenset({"baseline"})) is None
    assert what.next(frozenset({"baseline"}), frozenset()) == "time@teacher"


STAGE = """
import sys, time
from pathlib import Path
name, partners = sys.argv[1], sys.argv[2:]
Path("here", name).touch()
print(f"{name} says 1\\n\\n{name} says 2", flush=True)
if name == "bad":
    sys.exit("no good")
until = time.monotonic() + 60
while not all(Path("here", partner).exists() for partner in partners):
    if time.monotonic() > until:
        sys.exit(f"{name} met nobody")
    time.sleep(0.05)
if name == "hang":
    time.sleep(600)
Path("running", name).touch()
for _ in range(10):
    others = [file.name for file in Path("running").iterdir() if file.name != name]
    if len(others) > (0 if name.startswith("time") else 1):
        sys.exit(f"{name} has too many beside it: {others}")
    time.sleep(0.05)
Path("running", name).unlink()
Path(f"{name}.txt").write_text(name)
"""
DVC_YAML = """
stages:
  one:
    cmd: PYTHON stage.py one two
    deps: [source.txt]
    outs: [one.txt]
  two:
    cmd: PYTHON stage.py two one
    deps: [source.txt]
    outs: [two.txt]
  three:
    cmd: PYTHON stage.py three
    deps: [source.txt]
    outs: [three.txt]
  time:
    foreach: [a, b]
    do:
      meta: {alone: true}
      cmd: PYTHON stage.py time_${item}
      deps: [source.txt]
      outs: ["time_${item}.txt"]
  last:
    cmd: PYTHON stage.py last
    deps: [one.txt, two.txt, three.txt, time_a.txt, time_b.txt]
    outs: [last.txt]
"""


def make_project(root, text=DVC_YAML):
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(text.replace("PYTHON", sys.executable))
    (root / "source.txt").write_text("good")
    (root / "params.yaml").write_text("pipeline: {lanes: 2}\n")
    for name in ("here", "running"):
        (root / name).mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    return root


def start(root):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STILLHOUSE_", "MLFLOW_TRA"))}
    return subprocess.Popen(
        [sys.executable, "-m", "stages._pipeline"],
        cwd=root,
        env={**kept, "PYTHONPATH": str(REPOSITORY), "STILLHOUSE_TRACKING": "off"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def dvc_status(root):
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    return json.loads(subprocess.run(command, cwd=root, capture_output=True, check=True).stdout)


@pytest.mark.slow
def test_two_stages_meet_and_those_that_time_are_alone(tmp_path):
    root = make_project(tmp_path)
    process = start(root)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    lines = out.splitlines()
    assert {"one | one says 1", "one | one says 2", "two | two says 2"} <= set(lines)
    assert "Updating lock file" not in out
    assert dvc_status(root) == {}
    for path in (root / "here").iterdir():
        path.unlink()
    again = start(root)
    out, _ = again.communicate(timeout=100)
    assert again.returncode == 0, out
    assert list((root / "here").iterdir()) == [], "nothing runs twice"


@pytest.mark.slow
def test_after_a_failure_nothing_is_started_and_what_runs_is_kept(tmp_path):
    bad = "  bad:\n    cmd: PYTHON stage.py bad\n    deps: [one.txt]\n    outs: [bad.txt]\n"
    root = make_project(tmp_path, DVC_YAML.replace("  time:", f"{bad}  time:"))
    process = start(root)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 255, out
    assert "bad | no good" in out
    assert "Next: mend what DVC says above" in out
    assert (root / "two.txt").is_file()
    assert not (root / "last.txt").exists()
    assert set(dvc_status(root)) >= {"bad", "last"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_reaches_every_lane(tmp_path, number, code):
    hang = DVC_YAML.replace("stage.py two one", "stage.py hang one")
    root = make_project(tmp_path, hang.replace("stage.py one two", "stage.py one nobody"))
    process = start(root)
    seen = set()
    for line in process.stdout:  # until both lanes are at a stage that does not end
        seen |= {said for said in ("one says 2", "hang says 2") if said in line}
        if len(seen) == 2:
            break
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    assert "pipeline interrupted" in out
    assert not (root / "last.txt").exists()
    assert left_in(root) == [], "no process is left"


@pytest.mark.slow
def test_a_lane_that_is_killed_ends_the_run_with_its_signal(tmp_path):
    root = make_project(tmp_path, DVC_YAML.replace("stage.py two one", "stage.py hang one"))
    process = start(root)
    assert any("hang says 2" in line for line in process.stdout)
    for number in left_in(root):
        if "stages._lane" in told_of(number):
            os.killpg(number, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, out
    assert not (root / "last.txt").exists()


def test_lanes_that_are_no_number_are_one():
    assert count({"pipeline": {"lanes": 3}}) == 3
    assert [count(s) for s in ({}, {"pipeline": None}, {"pipeline": {"lanes": "two"}})] == [1, 1, 1]


def left_in(root):
    """Processes that work in a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (place / "cwd").readlink() == root:
                found.append(int(place.name))
    return found


def told_of(number):
    """A process's command line; empty once it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ")
    return ""
