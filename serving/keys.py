"""Make API keys, and take them away: what stays here is a hash, the key is shown once.

    python -m serving.keys add --tenant acme --requests-per-minute 60 --expires-days 90
    python -m serving.keys disable --id 3f9a1c20b7de
    python -m serving.keys budget --tenant acme --usd 20 --period month

STILLHOUSE_KEYS names the file, or --file does. It is replaced as a whole, so a service that reads
it meanwhile sees the keys of before or of after, and takes the change over without a restart.
"""

import argparse
import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from serving._keys import FILE_VARIABLE, OTHERS, Key, hash_key, parse_keys, read_file
from serving._spending.periods import PeriodName
from serving.errors import StillhouseError

KEY_BYTES = 32


def add_key(file: Path, tenant: str, limits: Mapping[str, Any]) -> tuple[str, Key]:
    """Make a key, store its hash; returns the key, which is nowhere else, and what is known of it.

    Args:
        file: Made with mode 600 when missing.
        tenant: Whose key it is.
        limits: Other fields of `Key`.

    Raises:
        StillhouseError: a field is wrong; the file is broken, open to others or not writable.
    """
    identity = secrets.token_hex(6)
    presented = f"sh_{identity}_{secrets.token_urlsafe(KEY_BYTES)}"
    key = _checked({"id": identity, "tenant": tenant, "sha256": hash_key(presented), **limits})
    with _locked(file):
        keys = read_file(file)[1] if file.exists() and file.stat().st_size else {}
        _write(file, [*keys.values(), key])
    return presented, key


def disable_key(file: Path, identity: str) -> None:
    """Refuse a key from now on; its line stays, so that logs can be read later.

    Raises:
        StillhouseError: no such id; the file is broken, open to others or not writable.
    """
    with _locked(file):
        keys = read_file(file)[1]
        if identity not in keys:
            raise StillhouseError(
                f"{file} has no key {identity!r} (found: {', '.join(keys)}). Choose one of these."
            )
        keys[identity] = keys[identity].model_copy(update={"enabled": False})
        _write(file, list(keys.values()))


def set_budget(file: Path, tenant: str, usd: float | None, period: PeriodName) -> None:
    """Say what all keys of a tenant may spend together; None takes the budget away.

    What was spent in a period counts against its new budget, too, unless days become months or
    months days.

    Raises:
        StillhouseError: no such tenant, or no such budget; the file is broken, open to others or
            not writable.
    """
    with _locked(file):
        keys = read_file(file)[1]
        mine = [key.id for key in keys.values() if key.tenant == tenant]
        if not mine:
            found = ", ".join(sorted({key.tenant for key in keys.values()}))
            raise StillhouseError(
                f"{file} has no key of tenant {tenant!r} (found: {found}). Choose one of these."
            )
        period = "month" if usd is None else period
        update = {"budget_usd": usd, "budget_period": period}
        changed = {one: _checked(keys[one].model_dump() | update) for one in mine}
        _write(file, list((keys | changed).values()))


def _checked(fields: Mapping[str, Any]) -> Key:
    try:
        return Key(**fields)
    except ValidationError as error:
        wrong = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise StillhouseError(f"nothing was written. Mend {wrong}.") from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One writer at a time; the folder is locked, because the file itself is replaced."""
    try:
        folder = os.open(file.resolve().parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StillhouseError(
            f"{file} cannot be written: {error.strerror}. Name a file in a folder of yours."
        ) from None


def _write(file: Path, keys: Sequence[Key]) -> None:
    target = file.resolve()  # behind a link, it is the file that is replaced and not the link
    text = "".join(key.model_dump_json(exclude_defaults=True) + "\n" for key in keys)
    parse_keys(text, str(file))
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            if target.exists():
                _keep_owner(opened.fileno(), target.stat())
            os.fsync(opened.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _keep_owner(handle: int, before: os.stat_result) -> None:
    """The service reads as another user than the one who adds keys, perhaps."""
    os.fchmod(handle, before.st_mode & 0o777 & ~OTHERS)
    after = os.fstat(handle)
    if (after.st_uid, after.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(handle, before.st_uid, before.st_gid)


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--file", type=Path, default=os.environ.get(FILE_VARIABLE))
    parser = argparse.ArgumentParser(prog="python -m serving.keys", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", parents=[shared], help="make a key and show it, once")
    add.add_argument("--tenant", required=True)
    add.add_argument("--requests-per-minute", type=int)
    add.add_argument("--tokens-per-minute", type=int, help="prompt and answer together")
    add.add_argument("--budget-usd", type=float, help="of its tenant, all its keys together")
    add.add_argument("--budget-period", choices=get_args(PeriodName), default="month")
    add.add_argument("--expires-days", type=int, choices=range(1, 3651), metavar="1..3650")
    add.add_argument("--path", action="append", help="may ask this alone; /v1/ is all below it")
    disable = commands.add_parser("disable", parents=[shared], help="refuse a key from now on")
    disable.add_argument("--id", required=True)
    budget = commands.add_parser("budget", parents=[shared], help="say what a tenant may spend")
    budget.add_argument("--tenant", required=True)
    amount = budget.add_mutually_exclusive_group(required=True)
    amount.add_argument("--usd", type=float)
    amount.add_argument("--none", action="store_true", help="take its budget away")
    budget.add_argument("--period", choices=get_args(PeriodName), default="month")
    return parser


def run(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says; the key alone goes to standard output.

    Raises:
        StillhouseError: no file is named; what the command's function finds wrong.
    """
    asked = _parser().parse_args(arguments)
    if asked.file is None:
        raise StillhouseError(f"no file of keys is named. Set {FILE_VARIABLE} or give --file.")
    file = Path(asked.file)
    if asked.command == "disable":
        disable_key(file, asked.id)
        sys.stderr.write(f"key {asked.id} is refused from now on\n")
        return
    if asked.command == "budget":
        set_budget(file, asked.tenant, asked.usd, asked.period)
        told = "no budget" if asked.none else f"{asked.usd:g} USD a {asked.period}"
        sys.stderr.write(f"tenant {asked.tenant} has {told} from now on\n")
        return
    presented, key = add_key(file, asked.tenant, _limits(asked))
    sys.stderr.write(f"key {key.id} of tenant {key.tenant}, shown this once; {file} has its hash\n")
    sys.stdout.write(presented + "\n")


def _limits(asked: argparse.Namespace) -> dict[str, Any]:
    days = asked.expires_days
    return {
        "requests_per_minute": asked.requests_per_minute,
        "tokens_per_minute": asked.tokens_per_minute,
        "expires": None if days is None else datetime.now(UTC) + timedelta(days=days),
        "paths": tuple(asked.path) if asked.path else None,
        "budget_usd": asked.budget_usd,
        "budget_period": asked.budget_period,
    }


def main() -> None:
    """A person's mistake is one line and exit code 1."""
    try:
        run()
    except StillhouseError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
