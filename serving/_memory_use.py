"""Memory of the service's processes and of its GPUs, without a library for it.

Of several processes the resident sets count shared pages (libraries, mapped weights) once for each;
the proportional set size divides a page among those that map it, so that the tree's sum is true.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PROC = Path("/proc")
WORKER = "_bentoml_impl.worker.service"
NAME_OPTION = "--service-name"


class Memory(NamedTuple):
    """Of one process or of several [bytes]."""

    resident_bytes: int
    proportional_bytes: int
    """0 where the system does not tell, as of processes of another user."""

    @classmethod
    def sum(cls, several: Iterable["Memory"]) -> "Memory":
        """All of them together; the resident sum counts shared pages more than once."""
        pairs = list(several)
        return cls(sum(m.resident_bytes for m in pairs), sum(m.proportional_bytes for m in pairs))


class GpuMemory(NamedTuple):
    """Of one device [bytes], whichever processes use it."""

    device: int
    used_bytes: int
    total_bytes: int


def memory_of(pid: int) -> Memory | None:
    """Memory of one process; None when it is gone."""
    try:
        resident = _kib(PROC / str(pid) / "status", "VmRSS:")
    except (FileNotFoundError, ProcessLookupError):
        return None
    proportional = 0
    with suppress(OSError):
        proportional = _kib(PROC / str(pid) / "smaps_rollup", "Pss:")
    return Memory(resident, proportional)


def process_tree(root: int) -> list[int]:
    """`root` and all its descendants; those that end meanwhile may be in it or not."""
    children = defaultdict(list)
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            children[_parent(folder)].append(int(folder.name))
    tree = [root]
    for pid in tree:  # grows while it is read
        tree += children[pid]
    return tree


def service_root(pid: int) -> int:
    """The supervisor of the service that `pid` is a worker of, or `pid` itself."""
    return _parent(PROC / str(pid)) if WORKER in _command(pid) else pid


def tree_memory(root: int) -> Mapping[str, Memory]:
    """Memory by part: "supervisor" (`root`), the name of each service, "other" for helpers.

    Processes of one part are added up.
    """
    parts = defaultdict(list)
    for pid in process_tree(root):
        memory = memory_of(pid)
        if memory is not None:
            parts["supervisor" if pid == root else _service(pid)].append(memory)
    return {part: Memory.sum(several) for part, several in parts.items()}


def gpu_memory() -> list[GpuMemory]:
    """Memory of every NVIDIA device; none without a driver or its Python binding."""
    if not (PROC / "driver" / "nvidia").is_dir():
        return []  # not even the import, which costs time and memory
    try:
        pynvml = import_module("pynvml")
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [_device_memory(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _device_memory(pynvml: ModuleType, index: int) -> GpuMemory:
    found = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
    return GpuMemory(index, int(found.used), int(found.total))


def _service(pid: int) -> str:
    """Name of the service whose worker this is."""
    words = _command(pid)
    if WORKER not in words or NAME_OPTION not in words:
        return "other"
    return words[words.index(NAME_OPTION) + 1]


def _command(pid: int) -> list[str]:
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")


def _parent(folder: Path) -> int:
    """The name of a program, in parentheses, may hold anything; what follows does not."""
    return int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])


def _kib(path: Path, label: str) -> int:
    """A line such as `Pss:  512 kB` [bytes]; 0 where there is none (a zombie has no memory)."""
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith(label):
            return 1024 * int(line.split()[1])
    return 0
