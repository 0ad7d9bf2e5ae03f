"""Memory that a process may still take, from what Linux itself says.

A container sees the whole machine in /proc/meminfo while its cgroup allows it far less, and the
kernel kills what takes more. So every bound that applies is read and the least counts: the limits
of the process's cgroup and of all above it, in version 2 and version 1, and MemAvailable. A model
on CUDA keeps its keys and values there, and only the device's free memory bounds them.

Page cache of files that were read (such as a model's weights) is no use here: the kernel gives it
back before it refuses memory. Kubernetes counts a working set the same way.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from serving.errors import StillhouseError

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # version 1 writes "no limit" as the largest page count [bytes]


@dataclass(frozen=True)
class FreeMemory:
    """What may still be taken, and every bound that was read."""

    free_bytes: int
    source: str
    """Name of the bound that is the least."""
    bounds_bytes: Mapping[str, int]
    """Free memory by bound: cgroup_v2, cgroup_v1, mem_available; or cuda alone."""


@dataclass(frozen=True)
class _Version:
    """Where a version of cgroups says what."""

    name: str
    root: str
    limits: tuple[str, ...]
    use: str
    reclaimable: str
    """Key in memory.stat: page cache that nobody has used lately."""


_V2 = _Version("cgroup_v2", "", ("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1 = _Version(
    "cgroup_v1",
    "memory",
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    "total_inactive_file",
)


def free_memory(
    cuda_free_bytes: int | None = None, proc: Path = PROC, cgroups: Path = CGROUPS
) -> FreeMemory:
    """The least of the bounds that apply to this process now.

    Args:
        cuda_free_bytes: what the device says is free; None for a model on the CPU.

    Raises:
        StillhouseError: nothing says how much memory there is.
    """
    if cuda_free_bytes is not None:
        bounds = {"cuda": cuda_free_bytes}
    else:
        bounds = _cgroup_bounds(proc, cgroups) | _available(proc)
    if not bounds:
        raise StillhouseError(
            f"expected MemAvailable in {proc / 'meminfo'} or a memory limit under {cgroups}, found "
            f"neither, so nothing says how many requests fit. Serve on Linux with both mounted."
        )
    source = min(bounds, key=bounds.__getitem__)
    return FreeMemory(max(0, bounds[source]), source, bounds)


def _available(proc: Path) -> dict[str, int]:
    for line in _read(proc / "meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return {"mem_available": int(value.split()[0]) * 1024}
    return {}


def _cgroup_bounds(proc: Path, cgroups: Path) -> dict[str, int]:
    """Free memory by version: the least of the process's own cgroup and those above it."""
    bounds: dict[str, int] = {}
    for line in _read(proc / "self" / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            version = _V2
        elif "memory" in controllers.split(","):
            version = _V1
        else:
            continue
        levels = _levels(cgroups / version.root, path)
        found = [free for level in levels if (free := _free_below(level, version)) is not None]
        if found:
            bounds[version.name] = min(found)
    return bounds


def _levels(root: Path, path: str) -> Iterator[Path]:
    """The folder of a cgroup and those above it, up to `root`.

    In a container the path may be the host's, or begin with "..": then only `root`, which is the
    container's own cgroup there, holds files.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for count in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:count])


def _free_below(folder: Path, version: _Version) -> int | None:
    """Bytes below the lowest limit of one cgroup; None where it has no limit."""
    written = [_read(folder / name).strip() for name in version.limits]
    limits = [int(text) for text in written if text.isdigit() and int(text) < UNLIMITED]
    use = _read(folder / version.use).strip()
    if not limits or not use.isdigit():
        return None
    pairs = [line.split() for line in _read(folder / "memory.stat").splitlines()]
    cached = sum(int(pair[1]) for pair in pairs if pair[:1] == [version.reclaimable])
    return min(limits) - max(0, int(use) - cached)


def _read(path: Path) -> str:
    """A file's text; empty where there is none to read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
