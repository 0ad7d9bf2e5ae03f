"""What challenge, release and rollback tell MLflow's registry, and how they say so."""

from collections.abc import Sequence
from pathlib import Path

from stages._challenges import Challenge, read_challenge
from stages._releases import Record
from stages._roles import image_tags, roles
from stages._stage import print_line
from stages._tracking.registry import Registry, register, set_aliases, set_tags

RELEASES = Path("releases")


def settle(registry: Registry, chain: Sequence[Record], root: Path) -> None:
    """Make the registry say what the records say; `chain` has at least one."""
    pending = read_challenge(root / RELEASES, chain)
    versions = register(registry, chain[-1]["candidates"], root)
    if pending:
        register(registry, pending["candidates"], root)
    set_tags(registry, image_tags(chain, pending))
    aliases = set_aliases(registry, roles(chain, pending))
    _tell(registry, versions, aliases)


def announce(registry: Registry, chain: Sequence[Record], root: Path) -> None:
    """Register what the last record would bring into force, as challenger: it serves nobody yet."""
    register(registry, chain[-1]["candidates"], root)
    _point_challenger(registry, roles(chain))


def introduce(
    registry: Registry, chain: Sequence[Record], challenge: Challenge, root: Path
) -> None:
    """Register what a challenge proposes, as challenger; no other alias moves."""
    versions = register(registry, challenge["candidates"], root)
    set_tags(registry, image_tags(chain, challenge))
    aliases = _point_challenger(registry, roles(chain, challenge))
    _tell(registry, versions, aliases)


def _point_challenger(registry: Registry, wanted: dict[str, str | None]) -> dict[str, int]:
    names = [name for name in wanted if name.startswith("challenger")]
    return set_aliases(registry, {name: wanted[name] for name in names})


def _tell(registry: Registry, versions: dict[str, int], aliases: dict[str, int]) -> None:
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    print_line(f"  MLflow model {registry.model}, versions: {named}")
    told = ", ".join(f"{alias} {version}" for alias, version in aliases.items())
    print_line(f"  aliases: {told}")
