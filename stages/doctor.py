"""Doctor: what this machine can do with params.yaml as it is, before any work, and what to change.

Reads   params.yaml, requirements/, a pretrained model's config.json where it is on this machine;
        memory, disk, devices, packages, ports. Writes nothing.
Run     python -m stages.doctor [--hub]

Memory needed is an estimate from the models' shapes (stages/_doctor/memory.py). The hub is asked
only where run.offline is false, or with --hub. Exit code 0: nothing is in the way; 1: something is.

No DVC stage: it looks at the machine, and a look from a cache says nothing.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving.errors import StillhouseError
from stages._doctor import machine, needs, programs
from stages._doctor.findings import Finding, describe, enough, note, ok, problem
from stages._doctor.machine import Gpu
from stages._doctor.memory import Shape
from stages._params import Params, Pretrained, load_params
from stages._stage import print_line

PYTHON = (3, 11)
Shapes = dict[str, Shape | None]


def examine(params: Params, root: Path, ask_hub: bool) -> Iterator[Finding]:
    """All findings, as they are made."""
    there = machine.list_gpus()
    gpus = there if programs.torch_has_cuda() else []
    shapes = needs.find_shapes(params, read_config)
    yield check_python(sys.version_info[:2])
    yield from check_packages(root)
    yield from check_modules(params)
    if there and not gpus:
        told = f"torch is a build for CPUs alone, though there is {there[0].name}"
        yield note("torch", told, "install requirements/gpu.txt")
    yield check_device(params.run.device, gpus)
    yield from check_memory(params, shapes, gpus)
    needed = needs.disk_mb(params, shapes)
    step = "free some, or move the project (and DVC's cache) to a larger disk"
    yield enough("disk", needed, machine.free_disk_mb(root), step)
    yield from check_sources(params)
    yield from check_hub(params, ask_hub)
    yield from check_ports(machine.taken_ports(list(machine.PORTS)))


def check_python(version: tuple[int, ...]) -> Finding:
    """Whether it is the Python that the lock is for."""
    told = ".".join(map(str, version))
    if tuple(version) == PYTHON:
        return ok("python", told)
    return problem("python", told, "make PYTHON=/path/to/python3.11 env")


def check_packages(root: Path) -> Iterator[Finding]:
    """Packages against the lock, and programs on PATH."""
    try:
        name, locked = programs.lock_of(root / "requirements")
    except FileNotFoundError as error:
        told = f"{error.filename} is missing"
        yield problem("packages", told, "run this in the project's own folder")
        return
    missing, other = programs.differences(locked, programs.installed_versions(list(locked)))
    if missing:
        told = f"{len(missing)} of {len(locked)} are missing: {', '.join(missing[:5])}"
        yield problem("packages", told, "make env")
    elif other:
        told = f"{len(other)} differ from {name}: {', '.join(other[:3])}"
        yield note("packages", told, "make env, so that results are those of the lock")
    else:
        yield ok("packages", f"{len(locked)}, as {name} has them")
    for tool in programs.missing_tools():
        yield note(tool, f"not on PATH; {programs.TOOLS[tool]}", f"install {tool}")


def check_modules(params: Params) -> Iterator[Finding]:
    """Whether what these settings load can be loaded."""
    needed = programs.needed_modules(params)
    failing = programs.failing_imports(list(needed))
    if fine := [name for name in needed if name not in failing]:
        yield ok("engines and tools", ", ".join(fine))
    for name, why in failing.items():
        yield problem(name, f"{needed[name]}: {why}", "make env, or choose settings without it")


def check_device(wanted: str, gpus: Sequence[Gpu]) -> Finding:
    """Whether the device that is asked for is there."""
    told = ", ".join(
        f"{gpu.name} ({gpu.free_mb:,.0f} of {gpu.total_mb:,.0f} MB free)" for gpu in gpus
    )
    cores = len(os.sched_getaffinity(0))
    if wanted == "cuda" and not gpus:
        step = "set run.device: auto, or run on a machine with one"
        return problem("device", "run.device is cuda, and torch can use no CUDA device", step)
    if gpus and wanted == "cpu":
        return note("device", f"the CPU alone ({cores} cores), though there is {told}")
    return ok("device", told or f"the CPU ({cores} cores), no CUDA")


def check_memory(params: Params, shapes: Shapes, gpus: Sequence[Gpu]) -> Iterator[Finding]:
    """Each piece of work against what is free where it runs."""
    on_gpu = bool(gpus) and params.run.device != "cpu"
    available = gpus[0].free_mb if on_gpu else machine.available_mb()
    place = "GPU memory" if on_gpu else "memory"
    for need in needs.training_needs(params, shapes):
        what = f"{place} to {need.what}"
        if need.memory_mb is None:
            yield note(what, "cannot be told", need.step)
        else:
            yield enough(what, need.memory_mb, available, need.step)


def check_sources(params: Params) -> Iterator[Finding]:
    """Raw files, and the key of an endpoint."""
    from stages._sources.fetch import expand

    for path in needs.missing_files(params, expand):
        yield problem("data", f"{path} is not there", "correct prepare.files, or set its variable")
    endpoint = params.teacher.endpoint if params.teacher.source == "endpoint" else None
    if endpoint and endpoint.api_key_env and not os.environ.get(endpoint.api_key_env):
        told = f"{endpoint.api_key_env} is not set"
        yield problem("teacher's key", told, f"export {endpoint.api_key_env}=…")


def check_hub(params: Params, asked: bool) -> Iterator[Finding]:
    """Whether the hub answers, where it may be asked at all."""
    if params.run.offline and not asked:
        yield ok("hub", "not asked: run.offline is true")
        return
    address = os.environ.get("HF_ENDPOINT", machine.HUB)
    why = machine.ask_hub(address)
    if why is None:
        yield ok("hub", f"{address} answers")
    elif params.run.offline:
        yield note("hub", f"{address} does not answer ({why}); run.offline is true anyway")
    else:
        step = "set run.offline: true and name local folders, or mend the way there (HTTPS_PROXY)"
        yield problem("hub", f"{address} does not answer ({why})", step)


def check_ports(taken: Sequence[int]) -> Iterator[Finding]:
    """Ports that the services take by default."""
    for port in taken:
        program = machine.PORTS[port]
        yield note("ports", f"{port} is taken; {program} wants it", f"{program} --port …")
    if not taken:
        yield ok("ports", ", ".join(map(str, machine.PORTS)) + " are free")


def read_config(settings: Pretrained) -> object:
    """A pretrained model's config.json, from its folder or the hub's cache; None without one."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from stages._sources.fetch import expand, home_path

    folder = home_path(expand(settings.model))
    if folder.is_dir():
        return needs.read_config(folder)
    try:
        found = try_to_load_from_cache(settings.model, "config.json", revision=settings.revision)
    except HFValidationError:  # a folder that is not there
        return None
    return needs.read_config(Path(found).parent) if isinstance(found, str) else None


def tell(findings: Sequence[Finding]) -> int:
    """The sum of it; returns the exit code."""
    problems = [one for one in findings if one.state == "problem"]
    notes = sum(one.state == "note" for one in findings)
    print_line("")
    if problems:
        names = ", ".join(one.what for one in problems)
        print_line(f"{len(problems)} in the way ({names}), {notes} to know. Mend these first.")
        return 1
    print_line(f"Nothing is in the way, {notes} to know. Next: make repro")
    return 0


def main() -> None:
    """Examine this machine for the project's own params.yaml."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hub", action="store_true", help="ask the hub, run.offline or not")
    arguments = parser.parse_args()
    findings = []
    try:
        params = load_params(Path("params.yaml"))
        for finding in examine(params, Path.cwd(), arguments.hub):
            findings.append(finding)
            for line in describe(finding):
                print_line(line)
    except StillhouseError as error:
        sys.exit(f"error: doctor: {error}")
    sys.exit(tell(findings))


if __name__ == "__main__":
    main()
