"""Where backups are kept: a folder or an S3 bucket, through fsspec."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.errors import StillhouseError
from stages._progress import report_progress
from stages._recorder import one_line

SCHEMES = ("file", "s3")
THREADS = 8  # small objects wait for the network, not for this machine


class Place:
    """An address that holds backups."""

    def __init__(self, address: str) -> None:
        """Nothing is written yet.

        Args:
            address: a folder, or s3://bucket/folder; for S3 the credentials and the endpoint are
                botocore's own settings (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …, or a role).

        Raises:
            StillhouseError: it is neither, or s3fs is not installed.
        """
        scheme, self._root = _parse(address)
        self.shown = address
        self._local = scheme == "file"
        self._files = _open(scheme)

    def sizes(self, folder: str) -> dict[str, int]:
        """Sizes [bytes] of the files below a folder, by their names from the root."""
        with self._reaching():
            found = self._files.find(f"{self._root}/{folder}", detail=True)
        cut = len(self._root) + 1
        return {path[cut:]: facts["size"] for path, facts in found.items()}

    def read(self, name: str) -> bytes:
        """A small file."""
        with self._reaching():
            found: bytes = self._files.cat_file(f"{self._root}/{name}")
        return found

    def write(self, name: str, content: bytes) -> None:
        """A small file, whole or not at all."""
        self._put(name, lambda path: self._files.pipe_file(path, content))

    def send(self, files: Mapping[str, Path]) -> None:
        """Files by the names that they get, several at a time."""
        _each("send", files.items(), lambda one: self._send(*one))

    def fetch(self, files: Mapping[str, Path]) -> None:
        """Files by their names to where they go, several at a time; not checked."""
        _each("fetch", files.items(), lambda one: self._fetch(*one))

    def _send(self, name: str, path: Path) -> None:
        self._put(name, lambda target: self._files.put_file(str(path), target))

    def _fetch(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._reaching():
            self._files.get_file(f"{self._root}/{name}", str(path))

    def _put(self, name: str, put: Callable[[str], None]) -> None:
        """S3 shows an object when it is whole; a file gets its name then."""
        path = f"{self._root}/{name}"
        with self._reaching():
            if not self._local:
                put(path)
                return
            part = Path(f"{path}.{secrets.token_hex(4)}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                put(str(part))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Whatever goes wrong with the address, in one line."""
        try:
            yield
        except StillhouseError:
            raise
        except Exception as error:  # botocore has errors of its own, beside those of the system
            raise StillhouseError(
                f"{self.shown} cannot be used: {one_line(error)}. Mend that and run the same "
                f"command again; it goes on where it stopped."
            ) from None


def _parse(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    scheme = parts.scheme or "file"
    named = f"{parts.netloc}{parts.path}".strip("/")
    if scheme not in SCHEMES or not named or parts.query or parts.fragment or "@" in parts.netloc:
        raise StillhouseError(
            f'"{address}" is no place for backups. Name a folder or s3://bucket/folder: '
            f"make backup REMOTE=s3://bucket/folder (credentials go into AWS_… variables)."
        )
    if scheme == "file":
        return scheme, str(Path(parts.path).expanduser().resolve())
    return scheme, named


def _open(scheme: str) -> Any:
    import fsspec  # type: ignore[import-untyped]

    if scheme == "file":
        return fsspec.filesystem("file")
    try:
        return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    except ImportError:
        raise StillhouseError(
            's3:// needs the package s3fs, which is not installed. Run pip install "stillhouse[s3]"'
            ", or name a folder."
        ) from None


def _each(label: str, pieces: Iterable[Any], do: Callable[[Any], None]) -> None:
    """Do all, several at a time; the first error ends it."""
    waiting = list(pieces)
    report = report_progress(label, len(waiting))
    with ThreadPoolExecutor(THREADS) as pool:
        for done, _ in enumerate(pool.map(do, waiting), start=1):
            report(done)
