"""Ask a running server the prompts of the comparison: it must answer as the exported graph does.

    python -m stages._export.asking models/export --triton http://127.0.0.1:8000
    python -m stages._export.asking models/export --torchserve http://127.0.0.1:8080 --clients 8

The graph answers in onnxruntime here, one prompt at a time. Exits with 1 where an answer differs.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from serving.errors import StillhouseError
from stages._export.agreement import SHOWN, Asked
from stages._export.shipped.generate import open_student
from stages._stage import print_line

CALIBRATION = Path("data/prepared/calibration.jsonl")
PROMPTS, LIMIT_S = 200, 300.0

Ask = Callable[[Asked], str]


def compare_server(folder: Path, ask: Ask, asked: Sequence[Asked], clients: int) -> int:
    """How many answers of a server are those of the graph.

    Args:
        folder: the exported student.
        clients: prompts that are asked at the same time.

    Raises:
        StillhouseError: a single answer is another.
    """
    student = open_student(folder)
    prompts = [student.encode(one.request.prompt, one.request.context) for one in asked]
    wanted = [student.answer([prompt])[0].text for prompt in prompts]
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, asked))
    pairs = zip(asked, answers, wanted, strict=True)
    different = [one.id for one, answer, text in pairs if answer != text]
    if different:
        raise StillhouseError(
            f"{len(different)} of {len(asked)} answers differ from the graph's "
            f"({', '.join(different[:SHOWN])}). Deploy {folder.parent} anew, and see whether the "
            f"server's ONNX Runtime or numpy is of another version."
        )
    return len(asked)


def triton(client: httpx.Client, address: str) -> Ask:
    """Asks the model `student` of a Triton server."""

    def ask(one: Asked) -> str:
        texts = {"prompt": one.request.prompt, "context": one.request.context}
        inputs = [
            {"name": name, "shape": [1, 1], "datatype": "BYTES", "data": [text]}
            for name, text in texts.items()
            if text is not None
        ]
        said = _post(client, f"{address}/v2/models/student/infer", {"inputs": inputs})
        return str(next(o["data"][0] for o in said["outputs"] if o["name"] == "text"))

    return ask


def torchserve(client: httpx.Client, address: str) -> Ask:
    """Asks the model `student` of TorchServe."""

    def ask(one: Asked) -> str:
        body = {"prompt": one.request.prompt, "context": one.request.context}
        return str(_post(client, f"{address}/predictions/student", body)["text"])

    return ask


def _post(client: httpx.Client, url: str, body: Any) -> Any:
    try:
        response = client.post(url, json=body)
    except httpx.HTTPError as error:
        raise StillhouseError(
            f"{url} does not answer ({type(error).__name__}). Start it."
        ) from None
    if response.status_code != httpx.codes.OK:
        raise StillhouseError(
            f"{url} answers {response.status_code}: {response.text[:200]}. Read the server's log."
        )
    return response.json()


def main() -> None:
    """Ask the server of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", type=Path)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--triton", metavar="URL")
    kind.add_argument("--torchserve", metavar="URL")
    parser.add_argument("--clients", type=int, default=1, help="at the same time (%(default)s)")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="(%(default)s)")
    parser.add_argument("--calibration", type=Path, default=CALIBRATION)
    given = parser.parse_args()
    try:
        from stages._export.originals import read_asked

        asked = read_asked(given.calibration, given.prompts)
        with httpx.Client(trust_env=False, timeout=LIMIT_S) as client:
            ask = (
                triton(client, given.triton)
                if given.triton
                else torchserve(client, given.torchserve)
            )
            same = compare_server(given.export / "student", ask, asked, given.clients)
    except StillhouseError as error:
        sys.exit(f"error: asking: {error}")
    print_line(f"student: {same} of {same} answers identical, {given.clients} at a time")


if __name__ == "__main__":
    main()
