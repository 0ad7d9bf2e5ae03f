"""Models, answers and reports as the stages before route leave them, by hand."""

from dataclasses import replace

from select_cases import FIGURES, PUBS
from toy import FOODS, SCHEMA

from serving.contract import Contract, write_contract
from stages import _io
from stages._params import check_params

PROMPTS = PUBS  # 240 pubs
PATHS = {
    "calibration": "data/prepared/calibration.jsonl",
    "slots": "data/prepared/slots.json",
    "answers": "data/answers",
    "winner": "models/winner.json",
    "benchmark": "reports/benchmark",
}


def answer(number, wrong, surety):
    """A right answer, or one with another food; `surety` is every kind of score it has."""
    pub = PROMPTS[number]
    food = pub["slots"]["food"]
    other = FOODS[(FOODS.index(food) + 1) % len(FOODS)]
    text = pub["references"][0].replace(f" {food} ", f" {other if wrong else food} ")
    counts = {"prompt_tokens": 10, "completion_tokens": 20, "finish_reason": "stop"}
    return {"id": pub["id"], "text": text} | counts | surety


class Case:
    """A project's files below one folder; every model is sure of its first answers."""

    def __init__(self, root, schema=SCHEMA, **route):
        self.root, self.route = root, route
        self.candidates = {n: str(root / "models" / n) for n in ("baseline", "teacher", "student")}
        _io.write_jsonl(root / PATHS["calibration"], PROMPTS)
        _io.write_json(root / PATHS["slots"], schema)
        # the baseline's surest half is right, of the rest the student's; the teacher has 12 errors
        self.add("baseline", range(120, 240), "confidence", requests_per_s={"8": 1000.0})
        self.add("student", range(200, 240), "min_logprob", requests_per_s={"8": 100.0})
        self.add("teacher", range(228, 240), "min_logprob", requests_per_s={"8": 10.0})
        self.win("student")

    def add(self, name, wrong, score, engine="transformers", requests_per_s=None, **more):
        """A model whose answers to the prompts with the numbers `wrong` are wrong."""
        folder = self.root / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        contract = Contract(engine, "{prompt}", more.get("schema"), {}, {}, name, "d")
        sha256 = write_contract(folder, replace(contract, base_revision=more.get("revision")))
        numbers = range(len(PROMPTS))
        rows = [answer(n, n in wrong, {score: -n * more.get("scale", 1.0)}) for n in numbers]
        _io.write_jsonl(self.root / "data" / "answers" / f"{name}.calibration.jsonl", rows)
        _io.write_json(self.root / "data" / "answers" / f"{name}.model.json", {"sha256": sha256})
        if requests_per_s:
            report = FIGURES | {"model_sha256": sha256, "requests_per_s": requests_per_s}
            _io.write_json(self.root / "reports" / "benchmark" / f"{name}.json", report)
        return sha256

    def win(self, name):
        """Make a model the winner on the CPU."""
        sha256 = _io.read_json(self.root / "data" / "answers" / f"{name}.model.json")["sha256"]
        winner = {"candidate": name, "folder": self.candidates[name], "model_sha256": sha256}
        _io.write_json(self.root / PATHS["winner"], {"cpu": winner, "cuda": None})

    def params(self):
        sections = {"answer": {"candidates": self.candidates}, "route": self.route}
        return check_params(sections, self.root / "params.yaml")

    def paths(self):
        outputs = {
            "route": self.root / "models" / "route.json",
            "reports": self.root / "reports" / "route",
        }
        return {name: self.root / path for name, path in PATHS.items()}, outputs

    def report(self):
        return _io.read_json(self.root / "reports" / "route" / "calibration.json")
