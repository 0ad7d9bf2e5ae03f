"""A route and a teacher for a started service: its student is never sure, its teacher always."""

import http.client
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cascade_cases import DIGEST, RUNGS, completion

from serving._cascade.route import Price, Route, route_content
from serving.contract import digest

TEACHER_USD = 0.001


def write_route(file, environment, **changes):
    """Thresholds that neither baseline nor student meets; the teacher's answers are accepted."""
    baseline, student, teacher = RUNGS
    folders = {n: Path(environment[f"STILLHOUSE_{n.upper()}"]) for n in ("baseline", "student")}
    rungs = (
        replace(baseline, threshold=2.0, model_sha256=digest(folders["baseline"])),
        replace(student, threshold=1.0, model_sha256=digest(folders["student"])),
        teacher,
    )
    prices = {"teacher": Price(usd_per_request=TEACHER_USD)}
    made = Route(rungs, "answer", 0.1, 0.05, "slots", prices, "")
    file.write_text(json.dumps(route_content(replace(made, **changes))), encoding="utf-8")
    return file


class Teacher:
    """What was sent to it."""

    def __init__(self):
        self.bodies, self.url = [], ""

    def prompts(self):
        return [one["prompt"] for one in self.bodies]


@contextmanager
def teaching():
    """A teacher's service on a free port of loopback, which says the same to all."""
    teacher = Teacher()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            sent = self.rfile.read(int(self.headers["content-length"]))
            teacher.bodies.append(json.loads(sent))
            content = json.dumps(completion("a fish", DIGEST[:12])).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    teacher.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield teacher
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def ask(service, key, path, body=None):
    """Status, headers in small letters, and body of an answer; without a body it is a GET."""
    line = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=60)
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body)
    line.request("GET" if body is None else "POST", path, content, headers)
    response = line.getresponse()
    told, text = {k.lower(): v for k, v in response.getheaders()}, response.read().decode()
    line.close()
    is_json = told.get("content-type", "").startswith("application/json")
    return response.status, told, json.loads(text) if is_json else text
