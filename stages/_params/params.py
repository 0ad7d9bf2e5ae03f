"""All sections together: the type of params.yaml, its schema and its hash."""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from stages._params.base import Section
from stages._params.baseline import Baseline
from stages._params.benchmark import Benchmark
from stages._params.canary import Canary
from stages._params.detectors import Detectors
from stages._params.distill import Distill
from stages._params.drift import Drift
from stages._params.evaluation import Answer, Evaluate, Ladder
from stages._params.label import Label
from stages._params.package import Package
from stages._params.plant import Plant
from stages._params.prepare import Prepare
from stages._params.quantize import Quantize
from stages._params.report import Report
from stages._params.retrain import Retrain
from stages._params.route import Route
from stages._params.select import Select
from stages._params.teacher import Teacher
from stages._params.watch import Watch


class Run(Section):
    """Where and how wide the stages run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the neural stages; auto takes CUDA where there is one."""
    threads: int = Field(2, ge=1)
    """Compute threads per process [count]; part of what makes a run repeatable bit by bit."""
    offline: bool = True
    """True keeps every Hugging Face library off the network (HF_HUB_OFFLINE)."""


class Pipeline(Section):
    """How `make repro` goes through the graph; no result depends on it."""

    lanes: int = Field(1, ge=1)
    """Most stages at a time [count]. Each has `run.threads` threads and its model in memory."""


class Params(Section):
    """All of params.yaml, in pipeline order."""

    seed: int = Field(20, ge=0, lt=2**32)
    """Seed of every random choice."""
    run: Run = Run()
    pipeline: Pipeline = Pipeline()
    prepare: Prepare = Prepare()
    baseline: Baseline = Baseline()
    teacher: Teacher = Teacher()
    label: Label = Label()
    distill: Distill = Distill()
    quantize: Quantize = Quantize()
    answer: Answer = Answer()
    detectors: Detectors = Detectors()
    evaluate: Evaluate = Evaluate()
    ladder: Ladder = Ladder()
    benchmark: Benchmark = Benchmark()
    select: Select = Select()
    route: Route = Route()
    package: Package = Package()
    plant: Plant = Plant()
    drift: Drift = Drift()
    report: Report = Report()
    watch: Watch = Watch()
    retrain: Retrain = Retrain()
    canary: Canary = Canary()

    @model_validator(mode="after")
    def _slots_have_a_schema(self) -> "Params":
        asked = "metrics" in self.evaluate.model_fields_set
        if asked and not self.prepare.slot_schema and "slot_error_rate" in self.evaluate.metrics:
            raise ValueError(
                "evaluate.metrics names slot_error_rate, but prepare.slot_schema is null; "
                "leave the metric out, or give a schema"
            )
        return self


def params_hash(params: Params, section: str) -> str:
    """SHA-256 over the seed and one section: what a model folder's contract is bound to."""
    content = {"seed": params.seed, section: getattr(params, section).model_dump(mode="json")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of params.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
