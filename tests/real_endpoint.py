"""A real OpenAI-compatible server, `transformers serve`, with a tiny model on loopback."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket

import httpx
from safetensors.torch import load_file, save_file
from tiny_models import TEMPLATE, tiny_tokenizer, write_model

from serving.contract import read_contract, write_contract


def plain_model(folder):
    """A tiny model that writes whole characters only, with a chat template that is `TEMPLATE`."""
    write_model(folder)
    weights = load_file(folder / "model.safetensors")
    tokenizer = tiny_tokenizer()
    for token, number in tokenizer.get_vocab().items():
        if not (tokenizer.decode([number]).isascii() and token.isascii()):
            weights["model.embed_tokens.weight"][number] = 0  # tied: its logit is always 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    template = TEMPLATE.replace("{prompt}", "{{ messages[-1]['content'] }}")
    (folder / "chat_template.jinja").write_text(template)
    write_contract(folder, replace(read_contract(folder, check_files=False), files={}))
    return folder


@contextmanager
def serving(folder, log):
    """`transformers serve` in a process of its own; gives its address."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", folder]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    (folder.parent / "hub").mkdir()
    environment = os.environ | {"HF_HUB_CACHE": str(folder.parent / "hub"), "OMP_NUM_THREADS": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)
