"""What release and rollback tell MLflow's registry, and how they say so."""

from collections.abc import Sequence
from pathlib import Path

from stages._releases import Record, roles
from stages._stage import print_line
from stages._tracking.registry import Registry, register, set_aliases


def settle(registry: Registry, chain: Sequence[Record], root: Path) -> None:
    """Make the registry say what the records say; `chain` has at least one."""
    versions = register(registry, chain[-1]["candidates"], root)
    aliases = set_aliases(registry, roles(chain))
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    print_line(f"  MLflow model {registry.model}, versions: {named}")
    print_line(
        f"  aliases: {', '.join(f'{alias} {version}' for alias, version in aliases.items())}"
    )


def challenge(registry: Registry, chain: Sequence[Record], root: Path) -> None:
    """Register what the last record would bring into force, as challenger: it serves nobody yet."""
    register(registry, chain[-1]["candidates"], root)
    names = roles(chain)
    set_aliases(registry, {name: names[name] for name in names if name.startswith("challenger")})
