"""Container: a Bento as an image, by `bentoml containerize`, and the proof that it is what it says.

Reads   models/bento/<bento>.bento, reports/package/release.json; with --check also params.yaml,
        the model's folder and data/prepared/calibration.jsonl (golden requests)
Writes  an image in the engine's store, scratch/container/<bento>.json (its id, bytes and what takes
        them), logs in scratch/container/<bento>/
Run     python -m stages.container [--bento cpu] [--name stillhouse:local] [--check]

No DVC stage: an image lies in the store of docker, podman or buildah, not in a file. Its recipe,
serving/Dockerfile.j2, is in the Bento. --check refuses an image of more than 900 MB, with a
compiler, git or a needless torch in it, one that runs as root, starts without keys, can write
elsewhere than in /tmp, does not end at SIGTERM, or answers one golden request otherwise than the
model's folder does. docs/container.md has the whole of it.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _golden, _io
from stages._container import checking
from stages._container.building import PROGRAMS, build_image, choose_base, choose_engine
from stages._container.image import Engine, Image
from stages._endings import sigterm_as_exit
from stages._params import Params, load_params
from stages._stage import print_line, set_environment

RELEASE = Path("reports/package/release.json")
BENTOS = Path("models/bento")
CALIBRATION = Path("data/prepared/calibration.jsonl")
SCRATCH = Path("scratch/container")
SHOWN = 12  # packages in the table; the report has all of them

Report = dict[str, Any]


def container(params: Params, asked: argparse.Namespace) -> Report:
    """Build the image that was asked for, check it where that was asked, and describe it.

    Raises:
        StillhouseError: no such Bento, an engine that refuses, or a check that fails.
    """
    told = read_packed(asked.bento)
    place = SCRATCH / asked.bento
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    report = place.with_suffix(".json")
    report.unlink(missing_ok=True)  # none stays from an image that was refused
    engine = choose_engine(asked.backend)
    base = choose_base(engine, asked.base, SCRATCH)
    name = asked.name or f"localhost/{told['bento_tag']}"
    print_line(f"{told['bento_tag']}: {engine.program} builds {name} ({place}/build.log)")
    archive = BENTOS / f"{asked.bento}.bento"
    image = build_image(engine, archive, told["bento_tag"], name, base, asked.pip_options, place)
    made = describe(engine, image, base, told)
    if fault := made.pop("torch_fault"):
        raise StillhouseError(
            f"{image.name}: its torch does not start ({fault}). A plain index has torch for CUDA "
            f"alone; for the CPU name PyTorch's CPU index: "
            f'--pip-options="--extra-index-url URL" (docs/container.md).'
        )
    if asked.check:
        made |= check(params, engine, image, made, told["candidate"], place)
    shutil.rmtree(place / "store")
    _io.write_json(report, made)
    return made


def read_packed(bento: str) -> Report:
    """What the stage package says of a Bento whose archive is the one that it made.

    Raises:
        StillhouseError: there is no such Bento, or its archive is another one.
    """
    path = BENTOS / f"{bento}.bento"
    found = _io.read_json(RELEASE)["bentos"].get(bento) if RELEASE.is_file() else None
    if found is None or not path.is_file():
        raise StillhouseError(f'there is no {path} with its report. Run "dvc repro package".')
    if (sha256 := _io.sha256_file(path)) != found["bento_sha256"]:
        raise StillhouseError(
            f"{path} is {sha256[:12]}, expected {found['bento_sha256'][:12]} of {RELEASE}. "
            f'Run "dvc repro package".'
        )
    return dict(found)


def describe(engine: Engine, image: Image, base: str | None, told: Mapping[str, Any]) -> Report:
    """What is reported of an image: whose it is, what it stands on and what takes the room."""
    inside = checking.look_into(engine, image)
    return {
        "bento_tag": told["bento_tag"],
        "bento_sha256": told["bento_sha256"],
        "model_sha256": told["model_sha256"],
        "image": image.name,
        "image_id": image.id,
        "engine": engine.program,
        "base": base or "as pinned in serving/Dockerfile.j2",
        "user": image.user,
        **inside,
    }


def check(
    params: Params, engine: Engine, image: Image, made: Report, candidate: str, place: Path
) -> Report:
    """Everything that an image must hold to; what the started one showed.

    Raises:
        StillhouseError: all that speaks against what is in it, or the first check that fails.
    """
    expected = expect(params, params.answer.folder(candidate), made["model_sha256"])
    if wrong := checking.objections(image, made, expected.torch):
        raise StillhouseError(f"{image.name}: {'; '.join(wrong)}. See docs/container.md.")
    checking.check_refusal(engine, image)
    print_line("  without keys it does not start; it is started with one, read-only")
    return checking.check_service(engine, image, expected, place)


def expect(params: Params, folder: Path, sha256: str) -> checking.Expected:
    """Golden requests and the answers of the model's own folder.

    Raises:
        StillhouseError: the folder holds another model than the Bento.
    """
    from serving.contract import digest, read_contract

    contract = read_contract(folder)
    if (found := digest(folder)) != sha256:
        raise StillhouseError(
            f"{folder} holds the model {found[:12]}, the Bento {sha256[:12]}. "
            f'Run "dvc repro package".'
        )
    settings = params.package
    golden = _golden.draw(_io.read_jsonl(CALIBRATION), settings.golden_requests, params.seed)
    return checking.Expected(
        golden=golden,
        said=_golden.predict(folder, golden, "cpu"),
        start_limit_s=settings.start_limit_s,
        request_limit_s=settings.request_limit_s,
        torch=contract.engine == "transformers",
    )


def table(made: Report) -> list[str]:
    """What takes the room, the largest first [MB]."""
    packages = sorted(made["packages"].items(), key=lambda item: -item[1])
    counted = sum(size for _, size in packages)
    base = made["bytes"] - made["environment_bytes"] - made["bento_bytes"]
    rows = [
        ("all files", made["bytes"]),
        ("  base: Debian and Python", base),
        (f"  {len(packages)} packages", made["environment_bytes"]),
        *((f"    {name}", size) for name, size in packages[:SHOWN]),
        ("    the others", counted - sum(size for _, size in packages[:SHOWN])),
        ("  the Bento: code and notes", made["bento_bytes"] - made["model_bytes"]),
        ("  the Bento: both models", made["model_bytes"]),
    ]
    return [f"  {name:<32}{size / 1e6:>9.1f} MB" for name, size in rows]


def main() -> None:
    """Build, and check if asked."""
    asked = _parse_arguments()
    try:
        params = load_params(asked.params)
        set_environment(params)
        with sigterm_as_exit():  # so that no container is left
            made = container(params, asked)
    except StillhouseError as error:
        sys.exit(f"error: container: {error}")
    for line in table(made):
        print_line(line)
    if "golden_parity" in made:
        parity = made["golden_parity"]
        print_line(
            f"  ready after {made['start_s']:.1f} s, ended {made['stop_s']:.1f} s after SIGTERM, "
            f"{parity['identical']} of {parity['requests']} answers identical"
        )
    print_line(f"{made['image']}: {made['image_id']}\n  {SCRATCH / asked.bento}.json")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.container",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bento", choices=("cpu", "cuda", "teacher"), default="cpu", help="which (%(default)s)")
    add("--backend", choices=PROGRAMS, help="what builds; default: the first that works here")
    add("--name", metavar="NAME[:TAG]", help="of the image (localhost/ and the Bento's tag)")
    add("--base", metavar="IMAGE", help="build on this one, not on that of serving/Dockerfile.j2")
    add("--pip-options", metavar="OPTIONS", help="of the pip that installs packages in the image")
    add("--check", action="store_true", help="start it and check all that it must hold to")
    add("--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
