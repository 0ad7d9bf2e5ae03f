"""The bill of materials of the models in a Bento, as CycloneDX: `make sbom`.

Reads   models/bento/<bento>.bento, reports/package/release.json
Writes  scratch/container/<bento>.models.cdx.json
Run     python3 -m stages._model_sbom [--bento cpu]

Scanners of images know packages, not weights. Every model in the archive is listed by its digest,
every file of it by its own, after each was hashed and compared with the model's contract; a deploy
job compares the winner's digest with what was attested (.ci/verify). Only the standard library is
imported. The same archive gives the same bytes.
"""

import argparse
import json
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from serving.contract import CONTRACT_NAME, Contract, digest, read_contract
from serving.errors import StillhouseError
from stages import _io

BENTOS = Path("models/bento")
RELEASE = Path("reports/package/release.json")
SCRATCH = Path("scratch/container")
MODELS = PurePosixPath("src/models")
"""Where a Bento has its models (stages/_bento.py)."""
SPECIFICATION = "1.6"
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # of URLs, RFC 9562


def describe(archive: Path, tag: str, sha256: str) -> dict[str, Any]:
    """The bill of one archive.

    Args:
        tag, sha256: what the stage package says of it.

    Raises:
        StillhouseError: the archive is another one, has no model, or one that misses its contract.
    """
    if not archive.is_file() or (found := _io.sha256_file(archive)) != sha256:
        shown = found[:12] if archive.is_file() else "no file"
        raise StillhouseError(
            f'{archive} is {shown}, expected {sha256[:12]} of {RELEASE}. Run "dvc repro package".'
        )
    with TemporaryDirectory() as place:
        models = list(_models(archive, Path(place)))
    if not models:
        raise StillhouseError(f'{archive} holds no model. Run "dvc repro package".')
    name, _, version = tag.partition(":")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": uuid.uuid5(NAMESPACE, sha256).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": name,
                "version": version,
                "hashes": _hashes(sha256),
            }
        },
        "components": models,
    }


def _models(archive: Path, place: Path) -> Iterator[dict[str, Any]]:
    with tarfile.open(archive) as tar:
        inside = [m for m in tar if PurePosixPath(m.name).is_relative_to(MODELS)]
        tar.extractall(place, inside, filter="data")
    for contract in sorted((place / MODELS).rglob(CONTRACT_NAME)):
        folder = contract.parent
        yield _model(folder.relative_to(place / MODELS).as_posix(), read_contract(folder), folder)


def _model(name: str, contract: Contract, folder: Path) -> dict[str, Any]:
    sha256 = digest(folder)
    facts = {"engine": contract.engine, "data_hash": contract.data_hash}
    if contract.base_model:
        facts["base_model"] = f"{contract.base_model}@{contract.base_revision}"
    if contract.quantization:
        facts["quantization"] = json.dumps(contract.quantization, sort_keys=True)
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{name}",
        "name": name,
        "version": sha256[:12],
        "hashes": _hashes(sha256),
        "properties": [{"name": f"stillhouse:{k}", "value": v} for k, v in sorted(facts.items())],
        "components": [
            {"type": "file", "name": file, "hashes": _hashes(hexadecimal)}
            for file, hexadecimal in sorted(contract.files.items())
        ],
    }


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def main() -> None:
    """Describe the Bento that the stage package made."""
    parser = argparse.ArgumentParser(
        prog="python -m stages._model_sbom",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bento", default="cpu", help="in models/bento: cpu, cuda or teacher")
    bento = parser.parse_args().bento
    try:
        packed = _io.read_json(RELEASE)["bentos"].get(bento)
        if packed is None:
            raise StillhouseError(f'{RELEASE} has no Bento {bento!r}. Run "dvc repro package".')
        archive = BENTOS / f"{bento}.bento"
        bill = describe(archive, packed["bento_tag"], packed["bento_sha256"])
    except StillhouseError as error:
        sys.exit(f"error: sbom: {error}")
    path = SCRATCH / f"{bento}.models.cdx.json"
    _io.write_json(path, bill)
    sys.stdout.write(f"{path}: {len(bill['components'])} models\n")


if __name__ == "__main__":
    main()
