"""The parts of an export: model folders with graphs, what Triton and TorchServe take, the pins."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving._prompts import TOKENIZER_NAME
from serving.baseline import FEATURE_NAMES, BaselinePredictor
from serving.contract import CONTRACT_NAME, Contract, digest, write_contract
from stages import _io
from stages._bento import read_pins
from stages._export import shipped
from stages._export.baseline_graphs import write_confidence, write_retrieval
from stages._export.decoder import write_decoder
from stages._export.shipped.generate import DECODER, MODEL_NAME
from stages._export.shipped.retrieve import CONFIDENCE, RETRIEVAL, count_nearest
from stages._export.shipping import ship
from stages._export.triton import DELAY_US, Tensor, add_graph, write_config

SHIPPED = Path(shipped.__file__).parent
STUDENT, BASELINE = "student", "baseline"
PROMPT = Tensor("prompt", "TYPE_STRING", (1,))
CONTEXT = Tensor("context", "TYPE_STRING", (1,), optional=True)
TEXT = Tensor("text", "TYPE_STRING", (1,))
STUDENT_OUTPUTS = (
    TEXT,
    Tensor("finish_reason", "TYPE_STRING", (1,)),
    Tensor("completion_tokens", "TYPE_INT32", (1,)),
    Tensor("mean_logprob", "TYPE_FP32", (1,)),
)
BASELINE_OUTPUTS = (TEXT, Tensor("confidence", "TYPE_FP32", (1,)))
REQUIREMENTS = {
    "triton.txt": ("safetensors", "scikit-learn", "scipy", "tokenizers"),
    "torchserve.txt": ("numpy", "onnxruntime", "tokenizers"),
}
"""What the shipped code needs beside the server, for each of them; Triton's image has numpy."""


def write_student(source: Path, predictor: Any, out: Path) -> Path:
    """Write the folder of the exported student: graph, tokenizer, contract."""
    folder = out / STUDENT
    folder.mkdir(parents=True)
    past = write_decoder(predictor.model, folder / MODEL_NAME)
    shutil.copyfile(source / TOKENIZER_NAME, folder / TOKENIZER_NAME)
    contract: Contract = predictor.contract
    limits = {"layers": past.layers, "heads": past.heads, "head_width": past.width}
    decoding = {
        "method": "greedy",
        "max_new_tokens": predictor.decoding.max_new_tokens,
        "end_tokens": sorted(predictor.ends),
    }
    made = replace(
        contract,
        engine="onnx",
        limits={"max_prompt_tokens": predictor.longest_prompt, **limits},
        decoding=decoding,
        base_model=source.name,
        base_revision=digest(source),
    )
    write_contract(folder, made)
    return folder


def write_baseline(predictor: BaselinePredictor, out: Path) -> Path:
    """Write the baseline's two graphs."""
    folder = out / BASELINE
    folder.mkdir(parents=True)
    write_retrieval(predictor.index, count_nearest(predictor), folder / "retrieval.onnx")
    write_confidence(predictor.classifier, len(FEATURE_NAMES), folder / "confidence.onnx")
    return folder


def lay_out_student(folder: Path, contract: Contract, out: Path) -> None:
    """What Triton and TorchServe load of the student; graphs are links to the folder's own."""
    add_graph(out / "triton", DECODER, folder / MODEL_NAME)
    model = out / "triton" / STUDENT
    write_config(model, "python", (PROMPT, CONTEXT), STUDENT_OUTPUTS, DELAY_US)
    ship(SHIPPED / "triton_student.py", model / "1" / "model.py", model / "1")
    own = model / "1" / STUDENT
    own.mkdir()
    shutil.copyfile(folder / TOKENIZER_NAME, own / TOKENIZER_NAME)
    write_contract(own, contract)
    served = out / "torchserve"
    ship(SHIPPED / "torchserve.py", served / "handler.py", served / "extra")
    (served / "extra" / STUDENT).mkdir()
    for file in (MODEL_NAME, TOKENIZER_NAME, CONTRACT_NAME):
        (served / "extra" / STUDENT / file).hardlink_to(folder / file)


def lay_out_baseline(folder: Path, source: Path, out: Path) -> None:
    """What Triton loads of the baseline."""
    add_graph(out / "triton", RETRIEVAL, folder / "retrieval.onnx")
    add_graph(out / "triton", CONFIDENCE, folder / "confidence.onnx")
    model = out / "triton" / BASELINE
    write_config(model, "python", (PROMPT,), BASELINE_OUTPUTS, DELAY_US)
    ship(SHIPPED / "triton_baseline.py", model / "1" / "model.py", model / "1")
    shutil.copytree(source, model / "1" / BASELINE)


def write_requirements(lock: Path, out: Path) -> None:
    """What the shipped code needs, as the project pins it.

    Raises:
        StillhouseError: there is no lock file.
    """
    pins = read_pins(lock)
    for name, packages in REQUIREMENTS.items():
        _io.write_text(out / "requirements" / name, "".join(f"{pins[p]}\n" for p in packages))
