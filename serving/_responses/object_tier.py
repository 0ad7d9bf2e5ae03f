"""The tier in an object store, through fsspec: large, slow, and alive when all else was restarted.

fsspec's calls block, so they run in threads of their own. Objects are spread over 256 prefixes,
<root>/<first two characters of the key>/<key>. A store forgets nothing by itself: an object that is
too old is deleted when it is asked for, and the rest is for a lifecycle rule of the bucket.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

from serving._responses.tiers import TierName
from serving.errors import StillhouseError

SCHEMES = ("s3", "file", "memory")
THREADS = 8
T = TypeVar("T")


class ObjectTier:
    """Values as objects below an address: s3://bucket/folder, file:///folder, memory://folder."""

    name: TierName = "object"

    def __init__(self, url: str, *, largest_bytes: int = 1_048_576, timeout_s: float = 1.0) -> None:
        """Nothing connects yet.

        Args:
            url: Where; for S3 the region, address and credentials are botocore's own settings
                (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …, or the machine's role).
            largest_bytes: Longest value.
            timeout_s: Longest that a call may take [s].

        Raises:
            StillhouseError: another kind of address, or s3fs is not installed.
        """
        self._scheme, self._root = _place(url)
        self.largest_bytes = largest_bytes
        self._timeout_s = timeout_s
        self._files = _open(self._scheme, timeout_s)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cache-objects")

    async def get(self, key: str) -> bytes | None:
        """The value; of one that is too long only so much that this can be seen."""
        return await self._in_thread(lambda: self._get(self._path(key)))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:  # noqa: ARG002
        """Keep a value, whole or not at all; how long is in the value itself."""
        await self._in_thread(lambda: self._put(self._path(key), value))

    async def delete(self, key: str) -> None:
        """Forget a value."""
        await self._in_thread(lambda: self._delete(self._path(key)))

    async def close(self) -> None:
        """Let the threads go; one that hangs ends by its own limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key[:2]}/{key}"

    def _get(self, path: str) -> bytes | None:
        try:
            found: bytes = self._files.cat_file(path, start=0, end=self.largest_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            if _error_code(error) != "InvalidRange":  # S3 gives no part of an empty object
                raise
            return b""
        return found

    def _put(self, path: str, value: bytes) -> None:
        """S3 and memory show an object when it is whole; a file gets its name then."""
        if self._scheme != "file":
            self._files.pipe_file(path, value)
            return
        folder, _, key = path.rpartition("/")
        self._files.makedirs(folder, exist_ok=True)
        part = f"{folder}/.{key}.{secrets.token_hex(8)}.part"
        try:
            self._files.pipe_file(part, value)
            self._files.mv(part, path)
        except BaseException:
            self._delete(part)
            raise

    def _delete(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return

    async def _in_thread(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout_s):
            return await loop.run_in_executor(self._threads, call)


def _place(url: str) -> tuple[str, str]:
    """Scheme and path of an address."""
    address = urlsplit(url)
    path = f"{address.netloc}{address.path}".rstrip("/")
    if address.scheme not in SCHEMES or not path or "::" in url:
        raise StillhouseError(
            "the cache's objects are kept in s3://bucket/folder, file:///folder or "
            f"memory://folder, found {address.scheme or 'nothing'}://. Change their address."
        )
    secret = "@" in address.netloc or address.query or address.fragment
    if secret or (address.scheme == "file" and not path.startswith("/")):
        raise StillhouseError(
            "the address of the cache's objects is a bucket or folder and nothing else: no "
            "credentials, no options, and a whole path for file://. Set AWS_… variables instead."
        )
    return address.scheme, path


def _open(scheme: str, timeout_s: float) -> Any:
    """A file system that keeps no listings and gives up by itself."""
    import fsspec  # type: ignore[import-untyped]

    if scheme != "s3":
        return fsspec.filesystem(scheme)
    limits = {
        "connect_timeout": timeout_s,
        "read_timeout": timeout_s,
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": THREADS,
    }
    try:
        files = fsspec.filesystem(
            "s3", config_kwargs=limits, use_listings_cache=False, skip_instance_cache=True
        )
    except ImportError:
        raise StillhouseError(
            's3:// needs the package s3fs, which is not installed. Run pip install "stillhouse[s3]"'
            ", or keep the cache's objects in file:///folder."
        ) from None
    files.retries = 1  # its own, above botocore's: a fault is a miss, and misses are quick
    return files


def _error_code(error: OSError) -> str | None:
    """What S3 calls a fault, where it is one of S3's."""
    response = getattr(error.__cause__, "response", None) or {}
    code: str | None = response.get("Error", {}).get("Code")
    return code
