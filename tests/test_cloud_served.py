"""Each cloud's paths on a real service: health from its start, and answers as /generate's."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from service_models import service_environment
from service_process import served
from toy import example

from serving._cloud.paths import HEALTH, PREDICT
from serving.keys import add_key

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow
PROMPTS = [example(name, "pies", "no")["prompt"] for name in ("Zizzi", "Aromi", "Fitzbillies")]
CHAT = {"model": "student", "messages": [{"role": "user", "content": "fish"}]}
MEASURED = {"id", "queue_s", "compute_s", "cost_usd", "batch_rows"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return service_environment(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=tuple(PREDICT))
def cloud(request):
    return request.param


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    return file, add_key(file, "acme", {})[0]


@pytest.fixture(scope="module")
def service(cloud, key, environment, tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("service"), {"STILLHOUSE_CLOUD": cloud}
    told |= {"STILLHOUSE_KEYS": str(key[0]), **environment}
    with served("serving.service:Stillhouse", folder, told, wait=False) as running:
        running.before = statuses_until_ready(running, HEALTH[cloud])
        yield running


def statuses_until_ready(running, path):
    """What a health check sees from the start on; 0: nobody listens."""
    seen = []
    while not seen or seen[-1] != 200:
        assert running.process.poll() is None, running.log
        try:
            seen.append(running.get(path)[0])
        except OSError:
            seen.append(0)
    return seen


def plain(answer):
    """An answer without what differs from request to request."""
    return {name: value for name, value in answer.items() if name not in MEASURED}


def test_health_is_bad_until_the_models_are_ready(service, cloud):
    assert set(service.before[:-1]) <= {0, 503}
    assert service.get(HEALTH[cloud])[0] == 200


def test_predict_answers_as_generate_does_and_needs_the_key(service, cloud, key):
    headers = {"authorization": f"Bearer {key[1]}"}
    expected = plain(service.post("/generate", {"prompt": PROMPTS[0]}, headers)[1])
    body = {"prompt": PROMPTS[0]}
    if cloud == "vertex":
        body = {"instances": [body]}
    assert service.post(PREDICT[cloud], body)[0] == 401
    status, found = service.post(PREDICT[cloud], body, headers)
    answer = found["predictions"][0] if cloud == "vertex" else found
    assert (status, plain(answer)) == (200, expected)
    assert service.post(PREDICT[cloud], b"x" * 1_100_000, headers)[0] == 413


@pytest.mark.parametrize("cloud", ["vertex"], indirect=True, scope="module")
def test_several_instances_keep_their_order_and_a_bad_one_is_named(service, key):
    headers = {"authorization": f"Bearer {key[1]}"}
    instances = [{"prompt": prompt} for prompt in PROMPTS]
    alone = [service.post("/generate", one, headers)[1]["text"] for one in instances]
    status, found = service.post("/predict", {"instances": instances}, headers)
    assert (status, [one["text"] for one in found["predictions"]]) == (200, alone)
    bad = {"instances": [*instances, {"prompt": "x" * 3000}]}
    status, refused = service.post("/predict", bad, headers)
    assert (status, refused["error"]["code"]) == (422, "context_length_exceeded")
    assert refused["error"]["message"].startswith("instances.3: ")


@pytest.mark.parametrize("cloud", ["sagemaker", "azureml"], indirect=True, scope="module")
def test_a_chat_is_answered_whole_and_as_a_stream(service, cloud, key):
    headers = {"authorization": f"Bearer {key[1]}"}
    whole = service.post(PREDICT[cloud], CHAT, headers)[1]["choices"][0]["message"]["content"]
    status, text = service.post(PREDICT[cloud], CHAT | {"stream": True}, headers)
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    deltas = [one["delta"] for line in lines for one in json.loads(line)["choices"]]
    assert (status, "".join(delta.get("content", "") for delta in deltas)) == (200, whole)


def test_the_paths_do_what_the_document_says(service, cloud, key):
    url, headers = f"{service.url}/openapi.json", {"authorization": f"Bearer {key[1]}"}
    document = schemathesis.openapi.from_url(url)
    for method, path in (("POST", PREDICT[cloud]), ("GET", HEALTH[cloud])):
        operation = document[path][method]

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keeps_its_word(case):
            case.call_and_validate(excluded_checks=[positive_data_acceptance], headers=headers)

        keeps_its_word()
