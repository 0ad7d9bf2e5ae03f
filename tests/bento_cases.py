"""An archive as the stage package writes it: models with contracts and a little code."""

import shutil
import tarfile

from serving.contract import Contract, write_contract

TAG = "stillhouse:0123456789ab-01234567"


def make_model(folder, weights):
    """A model folder with one file; returns its digest."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(weights)
    contract = Contract(
        engine="ctranslate2",
        prompt_template="{prompt}",
        slot_schema=None,
        limits={},
        decoding={},
        params_hash="a" * 64,
        data_hash="d" * 64,
        quantization={"scheme": "int8"},
    )
    return write_contract(folder, contract)


def make_bento(path, *, change=None):
    """An archive of two models at `path`; returns the student's digest.

    Args:
        change: is given the student's folder before it is packed.
    """
    root = path.parent / "made"
    student = make_model(root / "src/models/student", b"weights")
    make_model(root / "src/models/baseline", b"index")
    (root / "src/models/winner.json").write_text("{}")
    (root / "bento.yaml").write_text("name: stillhouse\n")
    if change:
        change(root / "src/models/student")
    with tarfile.open(path, "w:xz") as tar:
        tar.add(root / "src", arcname="src")
        tar.add(root / "bento.yaml", arcname="bento.yaml")
    shutil.rmtree(root)
    return student
