"""A tiny model in training, here or in processes that a test can kill.

Processes are forked from a server that has imported the libraries and done nothing with them, so
each starts within a fraction of a second and shares no state with the test.
"""

import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM

from serving.errors import StillhouseError
from stages._labels import Distribution
from stages._params import Training
from stages._sequences import TrainingSequence, collate
from stages._training import PLAIN, Learner, train

Moment = tuple[str, str, int, int]
"""Audit event, part of its path, how often, and the signal to send then or FULL_DISK."""
FULL_DISK = 0
END = 2
VOCABULARY = 260
SETTINGS = Training(
    steps=8,
    batch_tokens=64,
    learning_rates=(1e-2,),
    validations=2,
    checkpoint_every_s=1000.0,
    precision="fp32",
)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "accelerate",
        "safetensors.torch",
        "torch.distributed.checkpoint.hf_storage",
        "torch.distributed.checkpoint.state_dict",
        "torch.distributed.fsdp",
        "transformers.models.gpt2.modeling_gpt2",
        "transformers.models.llama.modeling_llama",
    ]
)


class Rows(list):
    """Sequences that tell the audit hooks when the loop reads one."""

    def __getitem__(self, index):
        sys.audit("tiny.row", str(index))
        return super().__getitem__(index)


def make(kind: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random decoder of width 32."""
    config = tiny_config(kind)
    config.update({"vocab_size": VOCABULARY, **changes})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def make_with_dropout() -> Any:
    """A model whose steps depend on the state of the random generator."""
    return make("gpt2", embd_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1)


def rows(count: int = 40, seed: int = 0, first: int = 10) -> Rows:
    """Ragged prompts of few tokens, each answered by its own reverse and the end token."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(first, first + 8, rng.integers(1, 9)).tolist() for _ in range(count)]
    return Rows(TrainingSequence(prompt, [*prompt[::-1], END]) for prompt in prompts)


def with_teacher(sequences: Rows, k: int = 4, seed: int = 0) -> Rows:
    """The same rows with a random teacher's top k."""
    rng = np.random.default_rng(seed)
    return Rows(replace(row, distribution=_distribution(row, k, rng)) for row in sequences)


def _distribution(row: TrainingSequence, k: int, rng: Any) -> Distribution:
    size = len(row.answer)
    ids = np.stack([rng.choice(VOCABULARY, k, replace=False) for _ in range(size)])
    shares = rng.dirichlet(np.ones(k + 1), size)
    logs = np.log(shares)
    return Distribution(ids, logs[:, :k], logs[:, k], logs[:, 0])


def validate(model: Any) -> dict[str, float]:
    """Loss on rows that were not trained on; lower is better."""
    sys.audit("tiny.validate", "")
    assert not model.training
    batch = collate(rows(10, seed=9), 1)
    with torch.no_grad():
        _, (ce, _, tokens) = Learner(model, PLAIN, VOCABULARY)(batch, 1)
    return {"loss_nats": float(ce / tokens), "selection": -float(ce / tokens)}


def run(scratch: Path, settings: Training = SETTINGS, **changes: Any) -> Any:
    """Train the tiny model; `changes` are arguments of `train`."""
    arguments = {
        "make": make,
        "sequences": rows(),
        "validate": validate,
        "vocabulary": VOCABULARY,
        "seed": 3,
        "device": "cpu",
    }
    return train(settings=settings, scratch=scratch, **{**arguments, **changes})


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all weights by name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def interrupt(event: str, path: str, count: int, number: int, of: int | None = None) -> None:
    """Send a signal the count-th time that Python audits an event with such a path.

    It goes to this process or `of` another; FULL_DISK is a disk that takes no file of more than
    1 kB (RLIMIT_FSIZE).
    """
    left = count

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name == event and (not path or path in str(arguments[0])):
            left -= 1
            if left == 0 and number == FULL_DISK:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            elif left == 0:
                os.kill(of or os.getpid(), number)

    sys.addaudithook(watch)


def work(folder: Path, moment: Moment | None, environment: dict[str, str], changes: Any) -> None:
    """What a process does: train in folder/scratch and write what came of it."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    if moment:
        interrupt(*moment)
    try:
        trained = run(folder / "scratch", **changes)
    except StillhouseError as error:
        (folder / f"error-{os.environ.get('RANK', 0)}.txt").write_text(str(error))
        sys.exit(1)
    if trained.model is not None and os.environ.get("RANK", "0") == "0":
        save_file(weights(trained.model), folder / "weights.safetensors")
        facts = {name: getattr(trained, name) for name in ("best_step", "curve", "tokens", "sweep")}
        (folder / "trained.json").write_text(json.dumps(facts))


def train_in_processes(
    folder: Path,
    moment: Moment | None = None,
    processes: int = 1,
    environment: dict[str, str] | None = None,
    **changes: Any,
) -> list[int | None]:
    """Run `work` in real processes; `moment` is for the first of them. Returns as the next."""
    folder.mkdir(exist_ok=True)
    return join_processes(_work_as, processes, folder, moment, environment or {}, changes)


def _work_as(folder: Path, moment: Moment | None, environment: Any, changes: Any) -> None:
    first = os.environ.get("RANK", "0") == "0"
    work(folder, moment if first else None, environment, changes)


def join_processes(target: Any, processes: int, *arguments: Any) -> list[int | None]:
    """Exit statuses, minus the signal that killed one; several are joined by gloo over loopback."""
    port = _free_port()
    joined = [_joined(n, processes, port) if processes > 1 else {} for n in range(processes)]
    started = [FORKS.Process(target=_start, args=(each, target, arguments)) for each in joined]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()  # no effect on one that has ended
        process.join()
    return [process.exitcode for process in started]


def _start(environment: dict[str, str], target: Any, arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    target(*arguments)


def _joined(rank: int, processes: int, port: int) -> dict[str, str]:
    """The environment that torchrun gives."""
    sizes = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
    numbers = {**sizes, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in numbers.items()}}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def result(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and facts that a process wrote."""
    facts = json.loads((folder / "trained.json").read_text())
    return load_file(folder / "weights.safetensors"), facts


def main() -> None:
    """Train under a launcher: FOLDER, and "stop" to have it asked to end after step 3 of many."""
    settings = SETTINGS
    if "stop" in sys.argv:
        settings = SETTINGS.model_copy(update={"steps": 5000, "validations": 1})
        interrupt("tiny.row", "", 60, signal.SIGTERM, of=os.getppid())
    work(Path(sys.argv[1]), None, {}, {"settings": settings})


if __name__ == "__main__":
    main()
