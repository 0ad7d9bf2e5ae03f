"""Export the sentence model of `semantic_similarity` as ONNX, for services without torch.

    python -m stages._embedder models/embedder           # float32
    python -m stages._embedder models/embedder --int8    # a quarter of the size, a little off

Writes a model folder of engine "embedding" (serving/_embedding): model.onnx with pooling and
normalisation in it, tokenizer.json, agreement.json and contract.json. Before the contract is
written, the folder's vectors are compared with the original's on texts of one word to more than
the model reads, each alone and all in batches with others; too far off, and there is no contract.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from serving._embedding.embedder import ENGINE, MODEL_NAME, TOKENIZER_NAME, Embedder, Vector
from serving.contract import Contract, digest, write_contract
from serving.errors import StillhouseError
from stages import _io
from stages._sentences import PACKAGE, Encoder, load_encoder

Scheme = Literal["float32", "int8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
LEAST_COSINE: dict[Scheme, float] = {"float32": 0.9999, "int8": 0.97}
"""Least cosine of an exported vector with the original's, of any checked text."""
# int8 activations are scaled by the whole batch, so a text's vector would depend on its neighbours.
BATCH: dict[Scheme, int] = {"float32": 16, "int8": 1}
OPSET = 18
AGREEMENT = "agreement.json"
CHECKED = (
    "a",
    "fish?",
    "How do I get from Leeds to York by train?",
    "name[The Eagle], food[fish], customer rating[3 out of 5], familyFriendly[no]",
    "Ça coûte 12,50 €; “naïve” — 東京 🙂",
    "the service was slow and then the disk failed in eu-west-1 at 18:41 with 5 % errors " * 3,
    "a report of the incident with all its times and what was done about it " * 12,
    "more words than the model reads, so that both must cut them at the same token " * 60,
)


def export(source: str, out: Path, scheme: Scheme = "float32") -> dict[str, float]:
    """Write the embedder folder `out`; an older one is replaced once the new one is complete.

    Args:
        source: what `stages._sentences.load_encoder` takes: the package's name or a folder.

    Returns:
        The agreement with the original: least and mean cosine, number of texts, size [MB].

    Raises:
        StillhouseError: the source is no model, its graph cannot be exported, or the exported one
            gives other vectors.
    """
    encoder = load_encoder(source, None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".embedder-") as place:
        folder = Path(place) / "embedder"
        folder.mkdir()
        _write_graph(encoder, folder / MODEL_NAME, scheme)
        tokenizer = encoder._model.tokenizer.backend_tokenizer
        (folder / TOKENIZER_NAME).write_text(tokenizer.to_str(), encoding="utf-8")
        contract = _contract(encoder, scheme)
        write_contract(folder, contract)
        agreement = measure_agreement(encoder, folder, scheme)
        _io.write_json(folder / AGREEMENT, agreement)
        write_contract(folder, replace(contract, quantization=_quantization(scheme, agreement)))
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return agreement


def measure_agreement(encoder: Encoder, folder: Path, scheme: Scheme) -> dict[str, float]:
    """How near a folder's vectors are to the original's; refuses those that are too far."""
    exported = Embedder(folder)
    original = [encoder.encode([text])[0] for text in CHECKED]  # one by one: nothing is padded
    alone = [exported.encode([text])[0] for text in CHECKED]
    cosines = [*_cosines(alone, original), *_cosines(exported.encode(CHECKED), original)]
    least, limit = min(cosines), LEAST_COSINE[scheme]
    if not least >= limit:  # a NaN is refused, too
        raise StillhouseError(
            f"the exported embedder gives other vectors than {encoder.backend['model']}: least "
            f"cosine {least:.6f}, expected at least {limit}. Export float32, or another version of "
            f"onnx and onnxscript."
        )
    return {
        "least_cosine": round(least, 7),
        "mean_cosine": round(float(np.mean(cosines)), 7),
        "texts": len(CHECKED),
        "size_mb": round((folder / MODEL_NAME).stat().st_size / 1e6, 2),
    }


def _cosines(ones: Iterable[Vector], others: Iterable[Vector]) -> list[float]:
    pairs = zip(ones, others, strict=True)
    norms = ((one, other, np.linalg.norm(one) * np.linalg.norm(other)) for one, other in pairs)
    return [float(np.dot(one, other) / norm) for one, other, norm in norms]


def _write_graph(encoder: Encoder, path: Path, scheme: Scheme) -> None:
    """The model from token ids to unit vectors, any number of rows and tokens."""
    import torch

    class Whole(torch.nn.Module):
        """Sentence model as a function of two tensors, shape [rows, tokens] each."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            said = {"input_ids": input_ids, "attention_mask": attention_mask}
            vectors: torch.Tensor = self.model(said)["sentence_embedding"]  # [rows, width]
            return vectors

    ids = torch.ones((2, 7), dtype=torch.int64)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    whole = Whole(encoder._model.to("cpu").eval())
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens", max=_most(encoder))
    shape = {0: rows, 1: tokens}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own, about its exporter
        program = torch.onnx.export(
            whole,
            (ids, mask),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_shapes={"input_ids": shape, "attention_mask": shape},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "torch.onnx.export gave no program"
    program.save(str(path), external_data=False)
    if scheme == "int8":
        _quantize(path)


def _quantize(path: Path) -> None:
    """Weights in 8 bits, activations rounded as they come (onnxruntime's dynamic scheme)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("float32.onnx")
    path.rename(whole)
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True)
    whole.unlink()


def _most(encoder: Encoder) -> int:
    return int(encoder._model.max_seq_length)


def _contract(encoder: Encoder, scheme: Scheme) -> Contract:
    return Contract(
        engine=ENGINE,
        prompt_template="{prompt}",
        slot_schema=None,
        limits={
            "max_tokens": _most(encoder),
            "max_batch": BATCH[scheme],
            "width": int(encoder.encode(["width"]).shape[1]),
        },
        decoding={},
        params_hash=hashlib.sha256(f"{scheme} {OPSET}".encode()).hexdigest(),
        data_hash=hashlib.sha256(b"").hexdigest(),  # no data of ours
        base_model=encoder.backend["model"],
        base_revision=encoder.backend["sha256"],
    )


def _quantization(scheme: Scheme, agreement: dict[str, float]) -> dict[str, Any] | None:
    if scheme == "float32":
        return None
    return {"scheme": "int8", "kind": "onnxruntime dynamic", **agreement}


def main() -> None:
    """Export to the folder on the command line and say how near it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", default=PACKAGE, help="another sentence model's folder")
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        agreement = export(arguments.source, arguments.out, "int8" if arguments.int8 else "float32")
    except StillhouseError as error:
        sys.exit(f"error: embedder: {error}")
    told = ", ".join(f"{name} {value}" for name, value in agreement.items())
    sys.stdout.write(f"{arguments.out}: {told}; digest {digest(arguments.out)[:12]}\n")


if __name__ == "__main__":
    main()
