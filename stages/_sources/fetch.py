"""Fetch a file by path or URL and check it against its SHA-256."""

import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any

from serving.errors import StillhouseError
from stages._io import sha256_file
from stages._sources.rows import SHOWN, shown


def expand(source: str) -> str:
    """`source` with $NAME and ${NAME} replaced by environment variables."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise StillhouseError(
                f"{source} uses the environment variable {name}, which is not set. "
                f"Set it: export {name}=..."
            )
        return os.environ[name]

    return re.sub(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", value, source)


def fetch(
    source: str, sha256: str | None, cache_dir: Path, root: Path, *, max_bytes: int = 20 << 30
) -> Path:
    """A local file for a path or URL, checked against its SHA-256 where one is given.

    Args:
        source: a path (absolute or from `root`; ~, $NAME and ${NAME} are replaced) or a file://,
            http:// or https:// URL. URLs need `sha256`.
        sha256: 64 hexadecimal digits.
        cache_dir: where downloads are kept; what lies there is verified before it is used.
        root: where relative paths start.
        max_bytes: largest download.

    Raises:
        StillhouseError: an unset variable, no such file, another hash than expected (a download is
            deleted then, a file of yours is left alone), or a download that failed.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise StillhouseError(
            f"The sha256 of {source} is {shown(sha256)}: expected 64 hexadecimal digits."
        )
    expanded, digest = expand(source), sha256.lower() if sha256 else None
    if "://" not in expanded:
        return _local(root / home_path(expanded), digest, source)
    if digest is None:
        raise StillhouseError(
            f"{source} is a URL and needs a sha256, so that its content cannot change unnoticed. "
            f"Set sha256 beside its path in params.yaml (sha256sum prints it)."
        )
    parts = urllib.parse.urlsplit(expanded)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return _local(Path(urllib.request.url2pathname(parts.path)), digest, source)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise StillhouseError(f"{source}: expected a path or a file://, http:// or https:// URL.")
    return _cached(expanded, digest, cache_dir, source, max_bytes)


def home_path(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise StillhouseError(f"{path}: there is no such home folder. Write it out.") from None


def _local(path: Path, digest: str | None, source: str) -> Path:
    try:
        if path.is_dir():
            raise StillhouseError(f"{source} is a folder, expected a file. Name the file in it.")
        if not path.is_file():
            raise StillhouseError(f"{source} is missing. Check the path in params.yaml.")
        found = sha256_file(path) if digest else None
    except (OSError, ValueError) as error:
        raise StillhouseError(f"{source} cannot be read ({error}). Check the path.") from None
    if found != digest:
        raise StillhouseError(_mismatch(source, digest, found))
    return path


def _mismatch(source: str, expected: str | None, found: str | None) -> str:
    return (
        f"{source} has the SHA-256 {found}, expected {expected}. "
        f"Get the right file, or set sha256 in params.yaml if the change is meant."
    )


def _cached(url: str, digest: str, cache_dir: Path, source: str, max_bytes: int) -> Path:
    """The verified copy of a URL; a damaged one is downloaded again."""
    name = re.sub(r"[^\w.-]", "_", urllib.parse.unquote(Path(urllib.parse.urlsplit(url).path).name))
    target = cache_dir / f"{digest[:16]}-{name[-80:] or 'download'}"
    try:
        if target.is_file() and sha256_file(target) == digest:
            return target
        cache_dir.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=cache_dir, prefix=".download.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                found = _download(url, stream, max_bytes, source)
            if found != digest:
                raise StillhouseError(_mismatch(source, digest, found))
            Path(temporary).replace(target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(error).split())[:SHOWN] or type(error).__name__
        raise StillhouseError(
            f"{source} cannot be downloaded ({reason}). Try again, or get the file by hand and "
            f"name its path."
        ) from None
    return target


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https (as the base class does), but not from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in ("https", req.type):
            raise ValueError(f"redirect from {req.type} to {newurl[:SHOWN]} refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else; build_opener() would add file:, ftp: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SafeRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _download(url: str, stream: IO[bytes], max_bytes: int, source: str) -> str:
    """Copy a URL into `stream` piece by piece; returns the SHA-256 of what came."""
    digest, size = hashlib.sha256(), 0
    with _opener().open(url, timeout=60) as response:
        announced = int(response.headers.get("Content-Length") or -1)
        while chunk := response.read(1 << 20):
            size += len(chunk)
            if max(size, announced) > max_bytes:
                raise StillhouseError(
                    f"{source} is larger than {max_bytes:,} bytes. Get the file by hand and name "
                    f"its path."
                )
            digest.update(chunk)
            stream.write(chunk)
    if announced not in (-1, size):
        raise ValueError(f"{size:,} of {announced:,} bytes came")
    return digest.hexdigest()
