"""Serves the page: one file, read once, under the strictest policy that it can live with.

The page's own style and script are let in by their hashes, so that nothing else can run, wherever
it may come from: no other origin, no inline handler, no frame around it, and (Trusted Types) no
string that turns into markup. What it shows of others is text. It asks its own origin alone.
Sources: https://www.w3.org/TR/CSP3/ (hashes: section 2.3.1), https://www.w3.org/TR/trusted-types/.
"""

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILE = Path(__file__).parent / "page.html"


def page_route(path: str = "/") -> Route:
    """The route of the page; its file is read now, so that a missing one stops the start."""
    content = FILE.read_bytes()
    headers = page_headers(content)

    async def page(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type="text/html")

    return Route(path, page, methods=["GET"])


def page_headers(content: bytes) -> dict[str, str]:
    """The security headers of a page, its policy made from its inline style and script."""
    digest = hashlib.sha256(content).hexdigest()[:32]
    return {
        "content-security-policy": content_policy(content.decode()),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "cache-control": "no-cache",  # may be kept, but is asked for again: it goes with the API
        "etag": f'"{digest}"',
    }


def content_policy(html: str) -> str:
    """Nothing but the file's own style and script, its icon, and requests to its own origin."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(html, 'script')}",
            f"style-src {_hashes(html, 'style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hashes(html: str, tag: str) -> str:
    """CSP sources of the inline elements; those with attributes are none of ours."""
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
    digests = [hashlib.sha256(text.encode()).digest() for text in inside]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
