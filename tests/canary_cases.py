"""Two services that tell real series, counted up at every look as a traffic says."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from serving._metrics import CONTENT_TYPE, Metrics
from stages._params.canary import Canary

CHAMPION, CHALLENGER = "a" * 64, "b" * 64
QUICK = Canary(look_s=0.001, minutes=0.5, warm_up_requests=300, min_requests=100)


def clock():
    """A second goes by between two looks, however long they take."""
    return count(0.0).__next__


@dataclass
class Traffic:
    """Requests between two looks; of a hundred so many are bad."""

    requests: int
    failed: int = 0
    refused: int = 0
    slow: int = 10
    slot_errors: int = 2
    checked: bool = True


@dataclass
class Told:
    """What stands behind an address."""

    traffic: Traffic
    digest: str
    failing: int = 0
    """Looks that get a 503 from now on [count]."""
    key: str | None = None
    url: str = ""
    at: dict[int, Any] = field(default_factory=dict)
    """What happens at a look."""
    looks: int = 0
    asked: int = 0

    def __post_init__(self):
        self.restart()

    def restart(self):
        """All counters begin anew."""
        self.metrics = Metrics()
        self.metrics.set_model("student", "ctranslate2", self.digest)

    def forget_model(self):
        """As an entry whose models run apart."""
        self.metrics = Metrics()

    def answer(self, path):
        """The body of an answer."""
        if path == "/page.json":
            return json.dumps(
                {"models": [{"rung": "student", "digest": self.digest[:12]}]}
            ).encode()
        return self.series()

    def series(self):
        """The series, after some more requests."""
        self.looks += 1
        self.at.get(self.looks, lambda _: None)(self)
        for _ in range(self.traffic.requests):
            self._request(self.asked * 37 % 100)  # each hundred has every place once
            self.asked += 1
        return self.metrics.exposition()

    def status_now(self):
        """The status of this look."""
        self.failing -= 1
        return 503 if self.failing >= 0 else 200

    def _request(self, place):
        traffic, outcome = self.traffic, "answered"
        if place < traffic.failed:
            outcome = "failed"
        elif place < traffic.failed + traffic.refused:
            outcome = "refused"
        self.metrics.count_request("/cascade", outcome, 0.2 if 99 - place < traffic.slow else 0.004)
        if outcome == "answered" and traffic.checked:
            state = "found" if place * 7 % 100 < traffic.slot_errors else "ok"
            self.metrics.add("live_checks_total", 1, "student", "slots", state)


@contextmanager
def telling(traffic, digest, **more):
    """A service on a free port of loopback that answers /metrics."""
    told = Told(traffic, digest, **more)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = f"Bearer {told.key}" if told.key else None
            right = self.headers["authorization"] == wanted
            content = told.answer(self.path) if right else b""
            status = told.status_now() if right else 403
            self.send_response(status)
            self.send_header("content-type", CONTENT_TYPE)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
