"""What is measured side by side: the service, its peers, and how each is started.

All get one core, the same number of threads, the same prompts, greedy decoding and the same longest
answer. Peers that run on transformers load the student in float32; `stillhouse_float32` is our
service on the same weights in the same type, `stillhouse` serves the winner as it is.
"""

import csv
import json
import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.serve_load.dialects import Dialect
from benchmarks.serve_load.servers import Server
from benchmarks.serve_load.wire import HOST
from serving.contract import read_contract, write_contract
from serving.errors import StillhouseError

BIN = Path(sys.executable).parent
DEADLINE_HEADER = "X-Request-Timeout-S"
OURS, SAME_DTYPE = "stillhouse", "stillhouse_float32"
BARE = Dialect("bare", "/generate")
OURS_SETTINGS = {"STILLHOUSE_STUDENT": "{model}", "STILLHOUSE_BASELINE": "{baseline}"}
E2E_FILE = "testset_w_refs.csv"
SEED = 21  # of incidents, where no prompts are given


def read_prompts(path: Path | None, count: int) -> tuple[str, list[str]]:
    """Where prompts come from, and up to `count` different ones.

    A JSON-lines file with `prompt`, or an E2E file; without one E2E's test prompts where E2E_DIR
    names its folder, else new incidents.
    """
    if path is None and "E2E_DIR" in os.environ:
        path = Path(os.environ["E2E_DIR"]) / E2E_FILE
    if path is None:
        from stages._incidents import IncidentCounts, generate

        examples = generate(SEED, IncidentCounts(count, 0, 0, 0, 1))["train"]
        return "incidents", [example["prompt"] for example in examples]
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".csv":
            found = [row.get("mr") or row["MR"] for row in csv.DictReader(stream)]
        else:
            found = [json.loads(line)["prompt"] for line in stream if line.strip()]
    return path.name, list(dict.fromkeys(found))[:count]


def library_copy(student: Path, folder: Path) -> Path:
    """The student as transformers' own tools expect it: without a contract, with their files."""
    shutil.copytree(student, folder, ignore=shutil.ignore_patterns("contract.json"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    end = config.get("eos_token_id")
    generation = {"eos_token_id": end, "do_sample": False}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _text(folder, end)}
    for name, content in (("generation_config", generation), ("tokenizer_config", tokenizer)):
        if not (folder / f"{name}.json").is_file():
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _text(folder: Path, number: int | list[int]) -> str | None:
    from tokenizers import Tokenizer

    first = number[0] if isinstance(number, list) else number
    return Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token(first)


def greedy_copy(winner: Path, folder: Path, tokens: int) -> Path:
    """A model folder that answers greedily, once, with at most `tokens` tokens: what peers do."""
    shutil.copytree(winner, folder)
    contract = read_contract(winner)
    write_contract(folder, replace(contract, decoding={"max_new_tokens": tokens}))
    return folder


def prepare_models(options: Namespace, folder: Path) -> dict[str, Path]:
    """Model folders by what they are for, in `folder`."""
    models = {"winner": greedy_copy(options.winner, folder / "winner", options.tokens)}
    if options.student is None:
        return models
    from benchmarks._engine_variants import converted, float32_copy

    models["student"] = float32_copy(options.student, folder / "student")
    models["library"] = library_copy(models["student"], folder / "library")
    whole = converted(models["student"], folder / "converted", "float32")
    models["float32"] = greedy_copy(whole, folder / "float32", options.tokens)
    return models


def make_servers(options: Namespace, models: Mapping[str, Path], home: Path) -> dict[str, Server]:
    """Servers by name, those that --without names left out."""
    shared = {"OMP_NUM_THREADS": str(options.threads)}
    servers = [_ours(OURS, "our service, the winner", models["winner"], options, shared)]
    if "student" in models:
        told = "our service, the student in float32 (the peers' type)"
        servers.append(_ours(SAME_DTYPE, told, models["float32"], options, shared))
        servers += _library_peers(models, options, shared)
    servers.append(
        _bento(
            "plain_batching",
            "(c) BentoML's adaptive batching with our engine, the winner, no batcher of ours",
            "plain_batching:PlainBatching",
            Dialect("batch", "/generate"),
            options,
            {**shared, "LOAD_MODEL": str(models["winner"])},
        )
    )
    others = [*(server.name for server in servers if server.name != OURS), "offline"]
    if unknown := set(options.without) - set(others):
        raise StillhouseError(
            f"--without names {sorted(unknown)}, expected some of {', '.join(others)}. "
            f"All is compared with {OURS}, so that one stays."
        )
    chosen = [server for server in servers if server.name not in options.without]
    return {server.name: at_home(server, home) for server in chosen}


def at_home(server: Server, home: Path) -> Server:
    """With a folder of its own for what BentoML shares between a server's processes."""
    own = {"BENTOML_HOME": str(home / server.name)} if "bentoml" in server.command else {}
    return replace(server, environment={**server.environment, **own})


def pinned(core: int) -> list[str]:
    """Start of a command whose processes stay on one core."""
    return ["taskset", "--cpu-list", str(core)]


def _ours(
    name: str, what: str, model: Path, options: Namespace, shared: Mapping[str, str]
) -> Server:
    """Our service, with the model, settings and deadline that the options name."""
    values = {
        "model": str(model.resolve()),
        "baseline": str(options.baseline.resolve()),
        "tokens": str(options.tokens),
    }
    given = OURS_SETTINGS | dict(setting.split("=", 1) for setting in options.ours_env)
    settings = {key: value.format(**values) for key, value in given.items()}
    headers = {DEADLINE_HEADER: f"{options.deadline_s:g}"}
    headers |= dict(line.split(": ", 1) for line in options.ours_header)
    if options.ours_dialect == "native":
        dialect = Dialect("native", "/generate", headers=headers)
    else:
        dialect = Dialect("completions", "/v1/completions", options.ours_model, None, headers)
    return Server(
        name,
        what,
        [*pinned(options.server_core), *bentoml(options.ours)],
        {**shared, **settings},
        "/readyz",
        dialect,
    )


def _library_peers(
    models: Mapping[str, Path], options: Namespace, shared: Mapping[str, str]
) -> list[Server]:
    """One at a time, and transformers' own server in its two forms."""
    template = read_contract(models["student"]).prompt_template
    folder = str(models["library"])
    serve = [*pinned(options.server_core), str(BIN / "transformers"), "serve", folder]
    serve += ["--host", HOST, "--port", "{port}", "--device", "cpu", "--dtype", "float32"]
    offline = {**shared, "HF_HUB_OFFLINE": "1"}
    asked = Dialect("completions", "/v1/completions", folder, template)
    told = "(b) transformers serve, "
    batching = ["--continuous-batching", *shlex.split(options.batching_flags)]
    return [
        _bento(
            "one_at_a_time",
            "(a) transformers generate() behind the same HTTP layer, one request at a time",
            "one_at_a_time:OneAtATime",
            BARE,
            options,
            {**shared, "LOAD_MODEL": str(models["student"])},
        ),
        Server("serve", f"{told}as it starts", serve, offline, "/health", asked),
        Server(
            "serve_batching",
            f"{told}{' '.join(batching)}",
            [*serve, *batching],
            offline,
            "/health",
            asked,
        ),
    ]


def _bento(
    name: str,
    what: str,
    service: str,
    dialect: Dialect,
    options: Namespace,
    environment: Mapping[str, str],
) -> Server:
    settings = {**environment, "LOAD_TOKENS": str(options.tokens)}
    command = [*pinned(options.server_core), *bentoml(f"benchmarks.serve_load.{service}")]
    return Server(name, what, command, settings, "/readyz", dialect)


def bentoml(service: str) -> list[str]:
    """`bentoml serve` on loopback."""
    start = [sys.executable, "-m", "bentoml", "serve", service]
    return [*start, "--host", HOST, "--port", "{port}"]


def empty_service(options: Namespace, home: Path) -> Server:
    """The framework with nothing to load."""
    empty = _bento(
        "empty",
        "BentoML with an empty service",
        "empty_service:Empty",
        BARE,
        options,
        {},
    )
    return at_home(empty, home)


def null_server(options: Namespace) -> Server:
    """Answers at once: what the load generator can do."""
    module = [sys.executable, "-m", "benchmarks.serve_load.null_server", "{port}"]
    command: Sequence[Any] = [*pinned(options.server_core), *module]
    asked = Dialect("completions", "/v1/completions", "none")
    return Server("null", "answers everything at once", command, {}, "/", asked)
