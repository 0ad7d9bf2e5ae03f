"""A project that can be watched and retrained: prepared data, windows, a release, small models."""

import json
from datetime import UTC, datetime

from select_cases import write_model
from toy import example, write_prepared
from window_cases import window_row, write_window

from stages import _io
from stages._params import check_params
from stages._params.retrain import Retrain
from stages._params.watch import Watch
from stages._releases import FIELDS, SCHEMA_VERSION
from stages.retrain import Asked, Settings, retrain
from stages.watch import watch

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
RULES = Watch(windows=1, alarms=1, min_gold=20)
SETTINGS = Settings(Retrain(), RULES, 20)
LEFT = ("data/answers/incumbent.test.jsonl", "reports/benchmark/incumbent.json")
PARAMS = """\
seed: 20
prepare:
  source: incidents   # kept
  windows: {}
answer:
  candidates:
    student: models/student
"""


def pub(number):
    """A prepared example that no toy split has."""
    return example(f"Pub {chr(65 + number % 26)}{number}", "fish", "yes")


def asked(number, **fields):
    """A window's row that asks for a pub, and what the service answered."""
    row = pub(number)
    told = {
        "prompt": row["prompt"],
        "slots": json.dumps(row["slots"]),
        "answer": row["references"][0],
    }
    return window_row(number, **(told | fields))


def gold_line(number):
    return {"id": f"row-{number:06d}", "references": pub(number)["references"]}


def make_window(windows, rows, gold=()):
    """A window under its proper name; returns the folder."""
    folder = write_window(windows / "new", rows)
    info = _io.read_json(folder / "window.json")
    days = "_".join(info[name][:10] for name in ("first", "last"))
    name = f"{days}-{info['content_sha256'][:10]}"
    _io.write_json(folder / "window.json", info | {"id": name})
    if gold:
        _io.write_jsonl(folder / "gold.jsonl", [gold_line(number) for number in gold])
    return folder.rename(windows / name)


def write_drift(root, folder, verdict="drift"):
    """The report that the drift stage leaves of a window."""
    info = _io.read_json(folder / "window.json")
    facts = {name: info[name] for name in ("rows", "first", "last")}
    report = {"verdict": verdict, "verdicts": {"input": verdict}, "top_features": [{"name": "x"}]}
    _io.write_json(root / "reports/drift/drift.json", report | {"window": facts})


class Project:
    """One project below a folder."""

    def __init__(self, root):
        self.root = root
        (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
        (root / "configs").mkdir()
        write_prepared(root / "data/prepared")
        _io.write_jsonl(root / "data/prepared/windows.jsonl", [])
        self.windows = root / "data/windows"
        self.windows.mkdir(parents=True)
        write_model(root / "models/teacher", "teacher", engine="endpoint")
        self.released = write_model(root / "models/student", "student")
        record = dict.fromkeys(FIELDS) | {"schema_version": SCHEMA_VERSION, "kind": "release"}
        winner = {"candidate": "student", "folder": "models/student"}
        winner |= {"model_sha256": self.released}
        record |= {"release": 1, "serves": 1, "winners": {"cpu": winner, "cuda": None}}
        record |= {"candidates": {}, "git": {"commit": None, "dirty": None}}
        _io.write_json(root / "releases/current.json", record)

    def window(self, start=0, rows=60, gold=30):
        """A window of new prompts, the first of them with gold."""
        numbers = range(start, start + rows)
        return make_window(self.windows, [asked(n) for n in numbers], numbers[:gold])

    def params(self):
        from ruamel.yaml import YAML

        data = YAML(typ="safe").load((self.root / "params.yaml").read_text(encoding="utf-8"))
        return check_params(data, self.root / "params.yaml")


def watched(project, verdict="drift", **window):
    """A window that drift and watch have looked at; returns its folder."""
    folder = project.window(**window)
    write_drift(project.root, folder, verdict)
    watch(project.root, folder.name, RULES, 20, NOW)
    return folder


class Pipeline:
    """In place of the pipeline: notes what it was given, and leaves a decision."""

    def __init__(self, project, verdict="replace", code=0, winner="student"):
        self.project, self.code, self.params = project, code, []
        self.decision = {"winners": {"cpu": winner}, "reason": "because"}
        self.decision |= {"incumbent": {"cpu": {"verdict": verdict}}}

    def __call__(self):
        root = self.project.root
        assert not (root / "reports/select/decision.json").exists(), "an old one could be read"
        self.params.append(self.project.params())
        for name in LEFT:
            _io.write_json(root / name, {})
        if self.decision:
            _io.write_json(root / "reports/select/decision.json", self.decision)
        return self.code


def go(project, pipeline, settings=SETTINGS, now=NOW, **wanted):
    """Retrain; how it ended, or why it did not begin."""
    return retrain(project.root, settings, Asked(**wanted), pipeline, now)
