"""What the environment says of the cascade, its caches and its guard. docs/operating.md has all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from serving._settings_reading import (
    ADDRESS,
    FILE,
    FOLDER,
    SWITCH,
    TEXT,
    Reader,
    number,
    one_of,
    read_settings,
    whole,
)

Wanted = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class CascadeSettings:
    """One field per variable: STILLHOUSE_ and the field's name in capitals."""

    cascade: Wanted = "auto"
    """auto: where there is a route; on: a missing route stops the start; off: none."""
    route: Path = Path("models/route.json")
    """The file that the stage route wrote."""
    teacher: Path | None = None
    """Folder of a teacher that is an endpoint (models/teacher)."""
    teacher_url: str | None = None
    """Address of a teacher that is a Stillhouse service of its own."""
    teacher_key: str | None = field(default=None, repr=False)
    """Our key there."""
    teacher_ca: Path | None = None
    """Certificates (PEM) that it is checked with; None: the system's."""
    teacher_insecure: bool = False
    """Whether prompts and key may go to it over http in a network that you trust."""
    teacher_trusted: bool = False
    """Whether prompts with personal data may go to a teacher's service on another machine."""
    guard: str = ""
    """Policy such as personal.out=mask,blocked.in=block; what is not named keeps its default."""
    guard_blocked: Path | None = None
    """List of blocked phrases, one per line."""
    guard_leet: bool = False
    """Whether digits that look like letters count as these in blocked phrases."""
    guard_presidio: bool = False
    """A second opinion on personal data, by the package presidio-analyzer."""
    cache: Literal["on", "off"] = "on"
    """Whether answers of the cascade are kept."""
    cache_entries: int = 10_000
    """Most answers in memory [count]; 0: none."""
    cache_bytes: int = 67_108_864
    """Most that they take [bytes]."""
    cache_redis: str | None = None
    """Redis for answers, shared by replicas."""
    cache_redis_ca: Path | None = None
    """Certificates (PEM) that it is checked with; None: the system's."""
    cache_redis_timeout_s: float = 0.05
    """Longest that a call of it may take [s]."""
    cache_objects: str | None = None
    """Object store for answers: s3://, file:// or memory://."""
    cache_object_timeout_s: float = 1.0
    """Longest that a call of it may take [s]."""
    cache_ttl_s: float = 86_400.0
    """How long an answer may be given again [s]."""
    semantic: Path | None = None
    """Folder of an embedder (python -m stages._embedder): prompts that ask the same share answers;
    None: equal prompts alone."""
    semantic_threshold: float = 0.9
    """Least cosine of such prompts."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "CascadeSettings":
        """Read all variables; an empty one counts as not set.

        Raises:
            StillhouseError: some are wrong; all of them in one line.
        """
        return read_settings(cls, environment, _READERS)


_READERS: Mapping[str, Reader] = {
    "cascade": one_of(get_args(Wanted)),
    "route": FILE,
    "teacher": FOLDER,
    "teacher_url": ADDRESS,
    "teacher_key": TEXT,
    "teacher_ca": FILE,
    "teacher_insecure": SWITCH,
    "teacher_trusted": SWITCH,
    "guard": TEXT,
    "guard_blocked": FILE,
    "guard_leet": SWITCH,
    "guard_presidio": SWITCH,
    "cache": one_of(("on", "off")),
    "cache_entries": whole(0),
    "cache_bytes": whole(1),
    "cache_redis": ADDRESS,
    "cache_redis_ca": FILE,
    "cache_redis_timeout_s": number(0.0),
    "cache_objects": ADDRESS,
    "cache_object_timeout_s": number(0.0),
    "cache_ttl_s": number(0.0),
    "semantic": FOLDER,
    "semantic_threshold": number(0.0, most=1.0),
}
