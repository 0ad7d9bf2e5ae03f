"""This machine: memory, disk, CUDA devices, ports, and whether the hub answers."""

import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from serving._free_memory import free_memory
from stages._doctor.memory import MB

NVIDIA_SMI_S = 20.0
HUB_S = 5.0
HUB = "https://huggingface.co"
PORTS = {3000: "bentoml serve", 5000: "mlflow ui"}
LOOPBACK = "127.0.0.1"


class Gpu(NamedTuple):
    """A CUDA device."""

    name: str
    total_mb: float
    free_mb: float


def available_mb() -> float:
    """Memory that a new process may take, limits of its container included."""
    return free_memory().free_bytes / MB


def free_disk_mb(folder: Path) -> float:
    """Of the file system that holds the folder."""
    return shutil.disk_usage(folder).free / MB


def list_gpus() -> list[Gpu]:
    """CUDA devices that the driver shows; none without its nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - found on PATH, fixed words
            [program, *asked], capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return read_gpus(done.stdout) if done.returncode == 0 else []


def read_gpus(told: str) -> list[Gpu]:
    """Devices from nvidia-smi's lines (MiB); a line of another form is passed over."""
    found = []
    for line in told.splitlines():
        name, _, sizes = line.partition(",")
        total, _, free = sizes.partition(",")
        if total.strip().isdigit() and free.strip().isdigit():
            found.append(Gpu(name.strip(), int(total) * 2**20 / MB, int(free) * 2**20 / MB))
    return found


def taken_ports(ports: Sequence[int]) -> list[int]:
    """Those on which something listens already."""
    return [port for port in ports if _is_taken(port)]


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def ask_hub(address: str) -> str | None:
    """Why the hub does not answer; None where it does."""
    import httpx

    try:
        answer = httpx.head(address, timeout=HUB_S, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__}: {error}"
    return None if answer.status_code < 500 else f"it says {answer.status_code}"
