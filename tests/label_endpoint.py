"""Labelling by an endpoint on loopback, here or in a process that a test can kill."""

import sys
from pathlib import Path
from typing import Any

from tiny_pipeline import label_inputs, run_teacher, tiny_params

from stages._labels import PAID_NAME
from stages._params import Params

PROMPTS = 24  # training prompts, in shards of 10
ENDPOINT = {
    "model": "tiny",
    "max_retries": 0,
    "timeout_s": 10.0,
    "concurrency": 1,
    "price_per_1k_prompt_tokens_usd": 1.0,
    "price_per_1k_completion_tokens_usd": 10.0,
}
LABEL = {
    "train_prompts": PROMPTS,
    "pool_prompts": 0,
    "max_slot_errors": None,
    "shard_prompts": 10,
    "gold": False,
}


def endpoint_params(url: str, label: Any = None, **endpoint: Any) -> Params:
    """Tiny params with a server as teacher; `endpoint` are changes of its settings."""
    described = ENDPOINT | {"base_url": url} | endpoint
    generation = {"max_new_tokens": 24}
    return tiny_params(
        teacher={"source": "endpoint", "endpoint": described, "generation": generation},
        label=LABEL | {"generation": generation} | (label or {}),
    )


def label_with(params: Params, root: Path, folder: str = "labels") -> dict[str, Any]:
    """Describe the server again and label into `root`/`folder`."""
    run_teacher(params, root)
    return label_again(params, root, folder)


def label_again(params: Params, root: Path, folder: str = "labels") -> dict[str, Any]:
    """Label with the description that is there."""
    from stages.label import label

    outputs = {"labels": root / folder, "reports": root / "reports" / folder}
    return label(params, label_inputs(root), outputs)


def asked(server: Any) -> list[str]:
    """The prompts that the server was asked, in order."""
    posts = [seen["body"] for seen in server.seen if seen["path"].endswith("/completions")]
    return [body["messages"][-1]["content"] for body in posts]


def prompt_of(number: int) -> str:
    """A training prompt of the toy data by its place."""
    from toy import FOODS, NAMES

    food, dogs = FOODS[number // 2 % 4], ("yes", "no")[number % 2]
    return f"name[{NAMES[number // 8]}], food[{food}], dogs[{dogs}]"


def labelled(folder: Path) -> dict[str, bytes]:
    """The store's files by name, without the bill."""
    files = [path for path in folder.iterdir() if path.name != PAID_NAME]
    return {path.name: path.read_bytes() for path in files}


if __name__ == "__main__":  # url, folder
    label_with(endpoint_params(sys.argv[1]), Path(sys.argv[2]))
