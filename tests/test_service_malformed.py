"""The served service under requests that are wrong in every way: refused, and never a fault."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from malformed_requests import BODIES, MARK, malformed_requests, send_all
from metric_samples import samples
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from service_models import service_environment
from service_process import served
from toy import example

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow
PROMPT = example("Zizzi", "pies", "no")["prompt"]
COUNT, AT_ONCE, PATIENCE_S = 10_000, 24, 60.0


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    environment = service_environment(tmp_path_factory.mktemp("models"))
    with served("serving.service:Stillhouse", tmp_path_factory.mktemp("s"), environment) as running:
        yield running


# Without the check that all valid bodies are taken: a schema cannot say that a prompt must be one
# that the template takes.
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_service_does_what_its_document_says(service, mode):
    document = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    checked = 0
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps_its_word(case):
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        with suppress(Unsatisfiable):  # nothing to send, so nothing that is wrong
            keeps_its_word()
            checked += 1
    assert checked >= len(BODIES)


def test_ten_thousand_malformed_requests_are_no_fault_of_ours(service):
    asked = list(malformed_requests(COUNT, seed=5))
    port = urlsplit(service.url).port
    replies = asyncio.run(send_all(port, asked, AT_ONCE, PATIENCE_S))
    pairs = list(zip(asked, replies, strict=True))
    told = Counter((what.kind, reply.status) for what, reply in pairs)
    print("kind of request, status, count:", *sorted(told.items()), sep="\n")
    faults = [
        (what.kind, what.content[:400], reply)
        for what, reply in pairs
        if (reply.status >= 500 and not is_deliberate(reply)) or (not reply.status and not what.cut)
    ]
    assert not faults, (told, faults[:5])
    assert len({kind for kind, _ in told}) == 11
    assert sum(told.values()) == COUNT
    assert sum(count for (_, status), count in told.items() if 400 <= status < 500) > COUNT / 2


def is_deliberate(reply):
    """A 503 in the protocol's form, with the time to wait."""
    return reply.status == 503 and "retry-after" in reply.headers and json.loads(reply.body)


def test_the_same_seed_makes_the_same_requests():
    first, second = (list(malformed_requests(200, seed=7)) for _ in range(2))
    assert first == second != list(malformed_requests(200, seed=8))


def test_it_still_answers_afterwards(service):
    assert service.get("/readyz")[0] == 200
    for path, body in BODIES.items():
        whole = body | ({"prompt": PROMPT} if "prompt" in body else {})
        assert service.post(path, whole)[0] == 200, path
    counted = samples(service.get("/metrics")[1])
    faults = {k: v for k, v in counted.items() if ("outcome", "failed") in k[1:] and v}
    assert not faults
    assert counted["stillhouse_requests_under_way",] == 0
    assert "Traceback" not in service.log and MARK not in service.log
