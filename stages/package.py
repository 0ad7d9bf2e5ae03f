"""Package: the winner, the baseline and the service as a Bento that answers as it was measured.

Reads   models/winner.json and the model folders that it names, models/baseline, serving/,
        models/route.json, reports/evaluate/ (the winner's scores), requirements/ (exact pins),
        data/prepared/calibration.jsonl (golden requests); models/teacher for `package.teacher`
Writes  models/bento/cpu.bento, cuda.bento where there is a winner on CUDA, and teacher.bento for
        `package.teacher`, reports/package/release.json (tag, digests, scores, parity, bytes)
Run     python -m stages.package

A Bento holds serving/ and two model folders, nothing else; its version follows from what is in it.
Its archive is imported into a fresh store and served as a process of its own. Golden requests are
asked there one at a time, and a single answer that is not the predictor's own fails the stage; how
many agree when clients ask at once is told apart, in run.json, since batches differ from run to
run. `package.gpu_candidate` builds the CUDA Bento on a machine without CUDA and asks it on the CPU.
`package.teacher` builds the teacher's own Bento, which the winner's asks by its address.

    BENTOML_HOME=$PWD/scratch/bentoml bentoml import models/bento/cpu.bento
    BENTOML_HOME=$PWD/scratch/bentoml bentoml serve stillhouse:latest
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving._cascade.route import read_route
from serving.contract import CONTRACT_NAME, digest, read_contract
from serving.errors import StillhouseError
from stages import _bento, _golden, _io
from stages._golden import Golden
from stages._params import Params
from stages._served import served
from stages._stage import print_line, run_stage

SERVICE, ROUTE = "serving.service:Stillhouse", "/generate"
INPUTS = {
    "winner": Path("models/winner.json"),
    "baseline": Path("models/baseline"),
    "route": Path("models/route.json"),
    "serving": Path("serving"),
    "evaluate": Path("reports/evaluate"),
    "calibration": Path("data/prepared/calibration.jsonl"),
    "base": Path("requirements/base.txt"),
    "train": Path("requirements/train.txt"),
    "gpu": Path("requirements/gpu.txt"),
}
OUTPUTS = {"bentos": Path("models/bento"), "report": Path("reports/package/release.json")}
SCRATCH = Path("scratch/package")  # stays after a failure: serve.log has what the service said
NAMES = {"cpu": "stillhouse", "cuda": "stillhouse_cuda", "teacher": "stillhouse_teacher"}
TEACHER = "teacher"  # its name among answer.candidates, as the stage route asks for it

Device = Literal["cpu", "cuda"]
Kind = Literal["cpu", "cuda", "teacher"]
Report = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What is to be packed."""

    device: Device
    candidate: str
    folder: Path
    sha256: str
    """Digest of the model that was chosen."""
    teaches: bool = False
    """Whether it is the teacher, in a Bento of its own whatever its device."""

    @property
    def kind(self) -> Kind:
        """Its key in release.json, and the name of its file."""
        return "teacher" if self.teaches else self.device


def package(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Build, serve and check each Bento; returns seconds and agreement under batching.

    Raises:
        StillhouseError: what was chosen is not what the folder holds, the teacher has no
            weights, BentoML refuses, or a served answer is not that of the model folder.
    """
    outputs["report"].unlink(missing_ok=True)  # none stays from a run that ended otherwise
    examples = _io.read_jsonl(inputs["calibration"])
    golden = _golden.draw(examples, params.package.golden_requests, params.seed)
    choices = choose(params, inputs["winner"])
    if params.package.teacher:
        choices.append(choose_teacher(params, inputs["route"], choices[-1].device))
    reports: dict[str, Report] = {}
    metrics: dict[str, Any] = {}
    with _io.writing_folder(outputs["bentos"]) as folder:
        for choice in choices:
            path = folder / f"{choice.kind}.bento"
            found = _pack(params, inputs, choice, golden, path)
            reports[choice.kind], metrics[choice.kind] = found
    _io.write_json(outputs["report"], {**reports["cpu"], "bentos": reports})
    return metrics


def choose(params: Params, winner: Path) -> list[Choice]:
    """What select decided, and `package.gpu_candidate` where it chose nothing for CUDA.

    Raises:
        StillhouseError: no winner on the CPU, or a folder that is not the chosen model.
    """
    winners = _io.read_json(winner)
    if not winners.get("cpu"):
        raise StillhouseError(f'{winner} names no winner for the CPU. Run "dvc repro select".')
    choices = [_chosen("cpu", winners["cpu"])]
    if winners.get("cuda"):
        choices.append(_chosen("cuda", winners["cuda"]))
    elif name := params.package.gpu_candidate:
        folder = params.answer.folder(name)
        read_contract(folder)
        choices.append(Choice("cuda", name, folder, digest(folder)))
    return choices


def _chosen(device: Device, winner: Mapping[str, Any]) -> Choice:
    folder = Path(winner["folder"])
    read_contract(folder)
    if (found := digest(folder)) != winner["model_sha256"]:
        raise StillhouseError(
            f"{folder} holds the model {found[:12]}, select chose {winner['model_sha256'][:12]} "
            f'for {device}. Run "dvc repro select".'
        )
    return Choice(device, winner["candidate"], folder, found)


def choose_teacher(params: Params, route: Path, device: Device) -> Choice:
    """The teacher, for a Bento of its own with what `device` needs.

    Raises:
        StillhouseError: it is an endpoint, or the route is for another teacher.
    """
    folder = params.answer.folder(TEACHER)
    if read_contract(folder).engine == "endpoint":
        raise StillhouseError(
            f"{folder} describes an endpoint, expected a teacher with weights. Set "
            f"package.teacher: false; the service asks an endpoint itself "
            f"(STILLHOUSE_TEACHER={folder})."
        )
    found = digest(folder)
    if (named := _rungs(route).get("teacher", found)) != found:  # whose answers alone are taken
        raise StillhouseError(
            f"{folder} holds the model {found[:12]}, {route} names the teacher {named[:12]}. "
            f'Run "dvc repro route".'
        )
    return Choice(device, TEACHER, folder, found, teaches=True)


def read_scores(folder: Path, choice: Choice) -> dict[str, Any]:
    """What evaluate measured of the model that is packed, each with interval and signature.

    Raises:
        StillhouseError: it was not evaluated, or another model was.
    """
    report = _io.read_json(folder / f"{choice.candidate}.json")
    if (found := report["model"].get("sha256")) != choice.sha256:
        raise StillhouseError(
            f"{choice.candidate} was evaluated as {str(found)[:12]}, its folder holds "
            f'{choice.sha256[:12]}. Run "dvc repro evaluate".'
        )
    return {n: v for n, v in report.items() if isinstance(v, Mapping) and "score" in v}


def route_for(path: Path, student: str, baseline: str) -> Path | None:
    """The route, where it was made for the models that are packed: the service refuses another.

    `student` and `baseline` are their digests.
    """
    rungs, packed = _rungs(path), {"student": student, "baseline": baseline}
    if not rungs:
        return None
    return path if all(rungs.get(name, own) == own for name, own in packed.items()) else None


def _rungs(route: Path) -> dict[str, str]:
    """Digests of the models that a route was made for; none where there is no route."""
    if not route.is_file():
        return {}
    return {one.name: one.model_sha256 for one in read_route(route).rungs}


def describe(inputs: Mapping[str, Path], choice: Choice) -> _bento.Parts:
    """What goes into one Bento; no route goes with the teacher, which passes nothing on."""
    engine = read_contract(choice.folder, check_files=False).engine
    read_contract(inputs["baseline"])
    name, baseline = NAMES[choice.kind], digest(inputs["baseline"])
    what = TEACHER if choice.teaches else "student"
    return _bento.Parts(
        name=name,
        service=SERVICE,
        serving=inputs["serving"],
        student=choice.folder,
        baseline=inputs["baseline"],
        route=None if choice.teaches else route_for(inputs["route"], choice.sha256, baseline),
        requirements=_bento.choose_requirements(engine, choice.device == "cuda", inputs),
        labels={
            "candidate": choice.candidate,
            "engine": engine,
            "model_sha256": choice.sha256,
            "baseline_sha256": baseline,
        },
        description=(
            f"# {name}\n\nStillhouse's {what} ({choice.candidate}, engine {engine}) and its "
            f"baseline. `bentoml serve {name}:latest` answers on loopback.\n"
        ),
    )


def _pack(
    params: Params, inputs: Mapping[str, Path], choice: Choice, golden: Sequence[Golden], path: Path
) -> tuple[Report, Report]:
    """One Bento at `path`; what is always the same of it, and what differs by run."""
    scores, parts = read_scores(inputs["evaluate"], choice), describe(inputs, choice)
    with _workplace(choice.kind) as place:
        made = _bento.make(parts, choice.sha256, path, place)
        size_mb = path.stat().st_size / 1e6
        print_line(f"{choice.kind}: {made.tag}, {size_mb:.2f} MB, is served and asked")
        parity, asked = _ask(params, choice, golden, made)
        contract = made.folder / "src" / _bento.STUDENT / CONTRACT_NAME
        report = {
            "bento_tag": made.tag,
            "bento_sha256": _io.sha256_file(path),
            "bento_bytes": path.stat().st_size,
            "candidate": choice.candidate,
            "model_sha256": choice.sha256,
            "contract_sha256": _io.sha256_file(contract),
            "model_bytes": _bytes(choice.folder),
            "baseline_sha256": digest(inputs["baseline"]),
            "baseline_bytes": _bytes(inputs["baseline"]),
            "scores": scores,
            "golden_parity": parity.to_dict(),
        }
    return report, {**made.seconds, **asked}


def _ask(
    params: Params, choice: Choice, golden: Sequence[Golden], made: _bento.Made
) -> tuple[_golden.Parity, Report]:
    """Parity of the imported Bento's answers; start, seconds, and agreement under batching."""
    settings, hidden = params.package, choice.device == "cpu" or params.run.device == "cpu"
    expected = _golden.predict(choice.folder, golden, "cpu" if hidden else None)
    environment = _bento.environment(made.home)
    # nobody's balancer looks at its readiness before it stops
    environment["STILLHOUSE_DRAIN_NOTICE_S"] = "0"
    if hidden:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with served(made.tag, made.home, environment, settings.start_limit_s) as server:
        url, limit_s = server.url + ROUTE, settings.request_limit_s
        started = time.monotonic()
        parity = _golden.compare(golden, expected, _golden.ask_singly(url, golden, limit_s))
        single_s = time.monotonic() - started
        _golden.check(parity, f"{choice.kind}: {made.tag}")
        found = _golden.ask_together(url, golden, settings.batched_clients, limit_s)
    batched = _golden.compare(golden, expected, found).to_dict()
    return parity, {
        "start_s": server.start_s,
        "golden_s": single_s,
        "batched_requests": batched["requests"],
        "batched_identical": batched["identical"],
    }


@contextmanager
def _workplace(kind: Kind) -> Iterator[Path]:
    """An empty folder of scratch; removed unless the block fails."""
    place = SCRATCH / kind
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    yield place
    shutil.rmtree(place)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(package, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
