"""Whose request it is: API keys of several tenants, and who may do without one.

A key is 256 random bits, so a plain SHA-256 of it is stored: there is no dictionary that a slow
hash would defend against, and a slow hash would be work that strangers can order. Keys are found by
the id that they carry and compared in constant time. The key itself stands in no file, log or
error.

Keys are JSON lines (`python -m serving.keys add` writes them), in the file that STILLHOUSE_KEYS
names or in STILLHOUSE_KEY_LINES itself. The file is read again when it changes; one that is broken,
missing or empty then leaves the keys as they were, is logged and stands in `Keyring.fault`. To take
a key away, disable it: an empty file counts as an accident.

With no key configured, this machine alone is served: peers beyond loopback, on a Unix socket or
behind a proxy get 403. X-Forwarded-For is never trusted to say who is near, because whoever sends a
request can write it; a request that bears such a header has come from elsewhere. A proxy on this
machine that adds no such header cannot be told from this machine: configure keys behind one.
"""

import hashlib
import hmac
import ipaddress
import logging
import os
import re
from collections.abc import Iterable, Mapping, Set
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from serving._items import Record, ServiceError
from serving._spending.periods import Budget, PeriodName
from serving._spending.prices import MOST_USD
from serving.errors import StillhouseError

FILE_VARIABLE = "STILLHOUSE_KEYS"
LINES_VARIABLE = "STILLHOUSE_KEY_LINES"
KEY = re.compile(r"sh_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
OTHERS = 0o027  # what a file of keys may not allow: writing to its group, anything to the rest
FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})
ADD = 'Add a key with "python -m serving.keys add --tenant NAME".'
UNUSED_HASH = "0" * 64

_log = logging.getLogger(__name__)
Headers = Iterable[tuple[bytes, bytes]]
Signature = tuple[int, int, int]


class Key(Record):
    """What is known of a key: all but the key."""

    id: str = Field(pattern=r"^[0-9a-f]{12}\z")
    """Public part of the key; stands in logs."""
    tenant: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}\z")
    """Hash of the whole key."""
    enabled: bool = True
    expires: AwareDatetime | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    """Prompt and answer together."""
    paths: tuple[str, ...] | None = None
    """Paths it may ask; one that ends in / stands for all below it. None: all."""
    budget_usd: float | None = Field(None, ge=0, le=MOST_USD, allow_inf_nan=False)
    """What its tenant may spend in a period, all of its keys together."""
    budget_period: PeriodName = "month"
    """Of that budget, in UTC."""

    @property
    def budget(self) -> Budget | None:
        """As this line has it; the tenant's may stand in another one."""
        if self.budget_usd is None:
            return None
        return Budget(self.budget_usd, self.budget_period)

    def may_ask(self, path: str) -> bool:
        """Whether this key is good for `path`."""
        allowed = self.paths
        return allowed is None or any(_covers(entry, path) for entry in allowed)


class Keyring:
    """The keys that are accepted now."""

    def __init__(self, file: Path | None = None, lines: str | None = None) -> None:
        """Keys of a file that is read again when it changes, or of `lines`; neither: no keys.

        Raises:
            StillhouseError: a line is no key; the file is missing, empty or open to others.
        """
        self.fault: str | None = None
        """What is wrong with the file as it is now, while the keys before that change hold."""
        self._file = file
        self._seen: Signature | None = None
        self._keys: Mapping[str, Key] = {}
        if file is not None:
            self._seen, self._keys = read_file(file)
        elif lines is not None:
            self._keys = parse_keys(lines, LINES_VARIABLE)

    @property
    def configured(self) -> bool:
        """Whether callers must show a key."""
        return bool(self._keys)

    @property
    def tenants(self) -> Set[str]:
        """Whose keys they are."""
        return {key.tenant for key in self._keys.values()}

    def budget_of(self, tenant: str) -> Budget | None:
        """What a tenant may spend, whichever of its keys says it, be that one disabled or not.

        A key that is taken away so takes no limit with it.
        """
        found = (key.budget for key in self._keys.values() if key.tenant == tenant)
        return next((budget for budget in found if budget), None)

    def find(self, presented: str) -> Key:
        """The key that a caller presents.

        Raises:
            ServiceError: invalid_key, whether unknown, disabled or expired.
        """
        self._refresh()
        match = KEY.fullmatch(presented)
        key = self._keys.get(match[1]) if match else None
        same = hmac.compare_digest(hash_key(presented), key.sha256 if key else UNUSED_HASH)
        if key is None or not same:
            raise ServiceError("invalid_key", "this API key is not known here. Check its spelling.")
        if not key.enabled or (key.expires and key.expires <= datetime.now(UTC)):
            state = "has expired" if key.enabled else "is disabled"
            raise ServiceError("invalid_key", f"API key {key.id} {state}. Ask for a new one.")
        return key

    def _refresh(self) -> None:
        """Take a changed file over whole, or not at all."""
        if self._file is None or (now := _signature(self._file)) == self._seen:
            return
        try:
            self._seen, self._keys = read_file(self._file)
        except StillhouseError as error:
            self._seen, self.fault = now, str(error)
            _log.error("the keys stay as they were: %s", error)
        else:
            self.fault = None
            _log.info("read %d keys from %s", len(self._keys), self._file)


def open_keyring(environment: Mapping[str, str] = os.environ) -> Keyring:
    """The keys that the environment names; none is none.

    Raises:
        StillhouseError: two sources at once; what `Keyring` finds wrong.
    """
    file, lines = environment.get(FILE_VARIABLE), environment.get(LINES_VARIABLE)
    if file and lines:
        raise StillhouseError(
            f"expected one source of keys, found both {FILE_VARIABLE} and {LINES_VARIABLE}. "
            f"Unset one of them."
        )
    return Keyring(Path(file) if file else None, lines or None)


def read_file(file: Path) -> tuple[Signature, dict[str, Key]]:
    """State of a file and its keys by id.

    Raises:
        StillhouseError: missing or unreadable, open to others, empty, or a line is no key.
    """
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())  # of what is read, not of what replaces it meanwhile
            text = opened.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise StillhouseError(f"{file} holds no keys that can be read: {reason}. {ADD}") from None
    if status.st_mode & OTHERS:
        raise StillhouseError(
            f"{file} must be closed to others, found mode {status.st_mode & 0o777:o}. "
            f'Run "chmod 640 {file}", or 600.'
        )
    return _signed(status), parse_keys(text, str(file))


def parse_keys(text: str, source: str) -> dict[str, Key]:
    """Keys by id, from a line each; empty lines are skipped.

    Raises:
        StillhouseError: a line is no key, an id is there twice, there is none, or a tenant has two
            budgets. Never holds what stands in the line: it may be a key in the wrong place.
    """
    keys: dict[str, Key] = {}
    budgets: dict[str, Budget] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            key = _parse_key(line, f"{source}, line {number}")
            if key.id in keys:
                raise StillhouseError(f"{source}, line {number}: id {key.id} is there twice.")
            if key.budget and budgets.setdefault(key.tenant, key.budget) != key.budget:
                raise StillhouseError(
                    f"{source}, line {number}: tenant {key.tenant} has two budgets. Write the same "
                    f"budget_usd and budget_period into all of its lines that have one."
                )
            keys[key.id] = key
    if not keys:
        raise StillhouseError(f"{source} holds no key. {ADD}")
    return keys


def _parse_key(line: str, where: str) -> Key:
    try:
        return Key.model_validate_json(line, strict=True)
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False, include_url=False)
        wrong = "; ".join(f"{_field(one['loc'])}: {one['msg']}" for one in found)
        raise StillhouseError(f"{where} is no key of this service. Mend {wrong}.") from None


def _field(location: tuple[int | str, ...]) -> str:
    """Name of a field that a key has; of any other, only that it is unknown."""
    name = str(location[0]) if location else "the line"
    return name if not location or name in Key.model_fields else "an unknown field"


def hash_key(key: str) -> str:
    """SHA-256 of a key, as it is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def identify(scope: Mapping[str, Any], keyring: Keyring, local: Key) -> Key:
    """Whose request an ASGI scope is: `local` for this machine where no key is configured.

    Raises:
        ServiceError: invalid_key (401); forbidden (403) for a peer that needs a key where there
            is none, or a key that is not for this path.
    """
    if not keyring.configured:
        if not is_local(scope):
            raise ServiceError("forbidden", "this service has no keys and serves its machine only.")
        return local
    key = keyring.find(bearer(scope["headers"]))
    if not key.may_ask(scope["path"]):
        raise ServiceError("forbidden", f"API key {key.id} is not for this path.")
    return key


def bearer(headers: Headers) -> str:
    """The key in `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110, 11.1).

    Raises:
        ServiceError: invalid_key, for none, several, or another scheme.
    """
    found = [value for name, value in headers if name == b"authorization"]
    scheme, _, presented = (found[0] if found else b"").decode("latin-1").partition(" ")
    if len(found) != 1 or scheme.lower() != "bearer":
        raise ServiceError(
            "invalid_key",
            f'expected one header "Authorization: Bearer KEY", found {len(found)} of that name'
            f"{' with another scheme' if len(found) == 1 else ''}.",
        )
    return presented.strip(" ")


def is_local(scope: Mapping[str, Any]) -> bool:
    """Whether the peer is this machine itself, and speaks for nobody else."""
    client = scope.get("client")
    if not client or any(name in FORWARDED for name, _ in scope["headers"]):
        return False
    return _is_loopback(client[0])


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1, on a socket of both families
    return (mapped or address).is_loopback


def _covers(entry: str, path: str) -> bool:
    return path.startswith(entry) if entry.endswith("/") else path == entry


def _signature(file: Path) -> Signature | None:
    try:
        return _signed(file.stat())
    except OSError:
        return None


def _signed(status: os.stat_result) -> Signature:
    return status.st_ctime_ns, status.st_size, status.st_ino  # ctime: a mended mode counts, too
