"""What the engines' benchmark runs on: a model with random weights, its matrices, and prompts."""

import json
from pathlib import Path

from serving.completion import Request
from serving.contract import Contract, write_contract
from serving.errors import StillhouseError
from stages import _io
from stages._decoder import build_decoder
from stages._incidents import IncidentCounts, generate
from stages._params import DecoderShape
from stages._tokenizer import template_for, train_tokenizer

PREPARED = Path("data/prepared/calibration.jsonl")
SEED = 20
POSITIONS = 512
LONGEST_PROMPT = 256  # tokens; the rest of the positions is the answer's
TEXTS = 600  # incidents that a random model's tokenizer is trained on


def random_model(shape: str, folder: Path) -> Path:
    """Write an untrained decoder with a real tokenizer as a model folder.

    Args:
        shape: "layers,width,heads,feed_forward,vocabulary".
    """
    try:
        layers, width, heads, inside, vocabulary = (int(part) for part in shape.split(","))
    except ValueError:
        raise StillhouseError(
            f"--shape {shape!r} is not layers,width,heads,feed_forward,vocabulary. "
            f"Write five whole numbers, such as 4,256,4,704,1536."
        ) from None
    examples = generate(SEED, IncidentCounts(TEXTS, 0, 0, 0, 1))["train"]
    texts = (text for e in examples for text in (e["prompt"], *e["references"]))
    tokenizer = train_tokenizer(texts, vocabulary)
    decoder = DecoderShape(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        feed_forward=inside,
        positions=POSITIONS,
    )
    build_decoder(decoder, tokenizer, SEED).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_contract(
        folder,
        Contract(
            engine="transformers",
            prompt_template=template_for(examples),
            slot_schema=None,
            limits={"max_prompt_tokens": LONGEST_PROMPT},
            decoding={"max_new_tokens": POSITIONS - LONGEST_PROMPT},
            params_hash="0" * 64,
            data_hash="0" * 64,
        ),
    )
    return folder


def matrices_of(folder: Path) -> list[tuple[int, int]]:
    """In and out of every linear layer of a decoder, the head at last, as often as it has them."""
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes: list[tuple[int, int]] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as arrays:
            for name in arrays.keys():  # noqa: SIM118 - no mapping
                shape = arrays.get_slice(name).get_shape()
                if len(shape) == 2 and ".layers." in name:
                    sizes.append((shape[1], shape[0]))
    return [*sizes, (config["hidden_size"], config["vocab_size"])]


def read_requests(count: int) -> list[Request]:
    """Calibration prompts of the folder this runs in, or new incidents where there are none."""
    if PREPARED.is_file():
        examples = _io.read_jsonl(PREPARED)
    else:
        examples = generate(SEED + 1, IncidentCounts(count, 0, 0, 0, 1))["train"]
    return [Request(e["prompt"], e.get("slots"), e.get("context")) for e in examples[:count]]
