"""The served service with a cascade: over HTTP, with a teacher, a Redis that dies, live records."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from cascade_service import TEACHER_USD, ask, teaching, write_route
from response_cache_cases import RedisProcess
from service_models import service_environment
from service_process import served

from serving.contract import digest
from serving.keys import add_key, set_budget

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow
LOAD = 60
RECORD = {"prompt": "name[The Eagle], food[fish]"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return service_environment(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of keys, and the keys by their tenants; "poor" has money for two answers."""
    file = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    made = {name: add_key(file, name, {})[0] for name in ("acme", "blue", "poor")}
    set_budget(file, "poor", 2.5 * TEACHER_USD, "month")
    return file, made


@pytest.fixture(scope="module")
def redis():
    server = RedisProcess()
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def teacher():
    with teaching() as found:
        yield found


@pytest.fixture(scope="module")
def service(models, keys, redis, live, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    environment = models | {
        "STILLHOUSE_KEYS": str(keys[0]),
        "STILLHOUSE_ROUTE": str(write_route(folder / "route.json", models)),
        "STILLHOUSE_TEACHER_URL": teacher.url,
        "STILLHOUSE_CACHE_ENTRIES": "0",
        "STILLHOUSE_CACHE_REDIS": redis.url,
        "STILLHOUSE_CACHE_REDIS_TIMEOUT_S": "1",
        "STILLHOUSE_LIVE_FOLDER": str(live),
        "STILLHOUSE_LIVE_ROLL_S": "1",
    }
    with served("serving.service:Stillhouse", folder, environment) as running:
        yield running


@pytest.fixture
def client(service, keys):
    base = f"{service.url}/v1"
    with openai.OpenAI(api_key=keys[1]["acme"], base_url=base, max_retries=0) as found:
        yield found


def chat(prompt):
    return {"model": "cascade", "messages": [{"role": "user", "content": prompt}]}


def test_the_official_client_gets_the_sure_answer_and_how_it_came(client):
    answer = client.chat.completions.create(**chat("fish"))
    assert answer.choices[0].message.content == "a fish"
    routing = answer.model_extra["routing"]
    assert (routing["rung"], routing["sure"]) == ("teacher", True)
    assert [one["rung"] for one in routing["tried"]] == ["baseline", "student", "teacher"]
    assert answer.usage.model_extra["cost_by_rung"]["teacher"] == TEACHER_USD
    assert 0.0 <= answer.choices[0].model_extra["uncertainty"]["score"] <= 1.0


def test_a_second_equal_request_is_answered_by_redis_for_nothing(client, teacher):
    first = client.chat.completions.create(**chat("curry"))
    deadline = time.monotonic() + 20  # it is written beside the answer
    while (again := client.chat.completions.create(**chat("curry"))).routing["source"] == "miss":
        assert time.monotonic() < deadline
    assert again.routing["source"] == "redis"
    assert again.usage.cost_usd == 0.0 < first.usage.cost_usd
    assert again.choices[0].message.content == first.choices[0].message.content


def test_a_stream_ends_with_usage_and_routing(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**chat("pasta"), **options))
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    (end,) = [one for one in chunks if one.choices and one.choices[0].finish_reason]
    assert (text, end.routing["rung"]) == ("a fish", "teacher")
    assert end.choices[0].uncertainty["basis"] == "tokens"
    assert chunks[-1].usage.cost_usd == TEACHER_USD


def test_it_is_listed_beside_the_student(client):
    assert [one.id for one in client.models.list()] == ["student", "cascade"]


def test_a_prompt_with_an_e_mail_address_never_reaches_the_teacher(service, keys, teacher):
    body = {"prompt": "write to ann@example.com"}
    for _ in range(2):
        status, _, told = ask(service, keys[1]["acme"], "/cascade", body)
        assert (status, told["routing"]["rung"], told["routing"]["sure"]) == (200, "student", False)
        assert told["routing"]["tried"][-1]["outcome"] == "remote_forbidden"
        assert told["routing"]["source"] == "off"
    assert ask(service, keys[1]["acme"], "/compare", body)[0] == 200
    assert not any("ann@example.com" in one for one in teacher.prompts())


def test_all_rungs_are_compared_and_one_is_chosen(service, keys):
    status, _, told = ask(service, keys[1]["acme"], "/compare", RECORD)
    assert (status, told["chosen"]) == (200, "teacher")
    assert [one["rung"] for one in told["rungs"]] == ["baseline", "student", "teacher"]
    assert told["rungs"][2]["text"] == "a fish"


def test_a_tenant_whose_budget_is_spent_is_refused_and_no_other(service, keys, teacher):
    told = [ask(service, keys[1]["poor"], "/v1/chat/completions", chat(f"pie {n}")) for n in "abc"]
    assert [status for status, _, _ in told] == [200, 200, 429]
    assert told[-1][2]["error"]["code"] == "insufficient_quota"
    assert "pie c" not in teacher.prompts()
    assert ask(service, keys[1]["blue"], "/v1/chat/completions", chat("pie c"))[0] == 200


def test_the_page_is_there_with_its_policy_and_its_facts(service, keys, models):
    status, headers, html = ask(service, None, "/")
    assert status == 200 and html.lower().startswith("<!doctype html>")
    assert "default-src 'none'" in headers["content-security-policy"]
    status, _, facts = ask(service, keys[1]["acme"], "/page.json")
    assert (status, facts["cascade"], facts["keys"]) == (200, True, True)
    found = {one["rung"]: one["threshold"] for one in facts["models"]}
    assert found == {"baseline": 2.0, "student": 1.0, "teacher": None}
    sha256 = digest(Path(models["STILLHOUSE_STUDENT"]))
    assert facts["models"][1]["digest"] == sha256[:12]


def test_what_was_spent_stands_in_the_metrics_by_tenant(service, keys):
    ask(service, keys[1]["blue"], "/cascade", {"prompt": "stew"})
    text = ask(service, keys[1]["blue"], "/metrics")[2]
    lines = [one for one in text.splitlines() if "tenant_cost_usd_total{" in one]
    assert any('tenant="blue"' in one and 'rung="teacher"' in one for one in lines)
    assert "ann@example.com" not in text


def test_a_redis_that_is_killed_fails_no_request(service, keys, redis):
    def one(number):
        if number == LOAD // 3:
            redis.kill()
        return ask(service, keys[1]["acme"], "/cascade", {"prompt": f"fish {number % 20}"})

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(one, range(LOAD)))
    assert {status for status, _, _ in told} == {200}
    assert {body["text"] for _, _, body in told} == {"a fish"}


def test_live_records_become_parquet_without_any_text(service, live):
    table = pytest.importorskip("pyarrow.parquet")
    deadline = time.monotonic() + 90
    while not (files := sorted(live.glob("date=*/*.parquet"))):
        assert time.monotonic() < deadline, service.log
        time.sleep(0.1)
    rows = [row for file in files for row in table.read_table(file).to_pylist()]
    assert {row["rung"] for row in rows} <= {"student", "teacher"} and rows
    assert "ann@example.com" not in str(rows)
    assert not any(b"ann@example.com" in one.read_bytes() for one in live.rglob("*.parquet"))


def test_a_route_for_another_model_stops_the_start_with_one_line(models, tmp_path):
    other = write_route(
        tmp_path / "route.json", models | {"STILLHOUSE_STUDENT": models["STILLHOUSE_BASELINE"]}
    )
    environment = models | {"STILLHOUSE_ROUTE": str(other)}
    with served("serving.service:Stillhouse", tmp_path / "s", environment, wait=False) as stopped:
        assert stopped.process.wait(60) != 0
        assert stopped.log.count("thresholds are not for these models") == 1
        assert "Traceback" not in stopped.log
