"""Where the entry reaches its models, and what it tells those on other machines."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import web

from serving._items import Answer, Item, ServiceError
from serving._model_address import STUDENT_URL, address_of, check_addresses, runs_elsewhere
from serving._model_client import ModelClient
from serving._service_settings import ServiceSettings
from serving._starting import ends_in_one_line
from serving.errors import StillhouseError

KEY = f"sh_{'0' * 12}_{'a' * 43}"
STARTED = SimpleNamespace(url="file:///tmp/student.sock")


def test_an_address_comes_before_what_was_started_here():
    assert address_of(STARTED, None) == STARTED.url
    assert address_of(STARTED, "http://student:3000/") == "http://student:3000"
    with pytest.raises(SystemExit, match="bentoml serve"):
        address_of(SimpleNamespace(url=None), None)


@pytest.mark.parametrize(("told", "elsewhere"), [({}, False), ({STUDENT_URL: " "}, False)])
def test_without_an_address_the_model_is_started_here(told, elsewhere):
    assert runs_elsewhere(STUDENT_URL, told) is elsewhere
    assert runs_elsewhere(STUDENT_URL, {STUDENT_URL: "http://student:3000"})


@pytest.mark.parametrize(
    "url",
    ["student:3000", "ftp://student", "http://", "http://x:port", "http://me:key@x", "http://x/a"],
)
def test_what_is_no_address_is_refused_and_not_repeated(url):
    with pytest.raises(StillhouseError, match="STILLHOUSE_BASELINE_URL must be http") as caught:
        check_addresses(ServiceSettings(baseline_url=url, models_insecure=True))
    assert "key" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://student:3000", "http://10.0.0.7:3000"])
def test_prompts_go_to_another_machine_over_https_unless_told_otherwise(url):
    with pytest.raises(StillhouseError, match="STILLHOUSE_MODELS_INSECURE=1"):
        check_addresses(ServiceSettings(student_url=url))
    check_addresses(ServiceSettings(student_url=url, models_insecure=True))
    check_addresses(ServiceSettings(student_url=url.replace("http:", "https:")))
    check_addresses(ServiceSettings(student_url="http://127.0.0.1:3001"))


def test_a_key_that_is_none_is_refused_and_not_shown():
    told = {"STILLHOUSE_MODELS_KEY": "sh_hunter2\nhost: evil"}
    with pytest.raises(StillhouseError, match="STILLHOUSE_MODELS_KEY must be a key") as caught:
        ServiceSettings.from_environment(told)
    assert "hunter2" not in str(caught.value)
    assert KEY not in repr(ServiceSettings.from_environment({"STILLHOUSE_MODELS_KEY": KEY}))


def test_a_mistake_ends_a_process_with_its_line():
    with pytest.raises(SystemExit, match="fish is no model"), ends_in_one_line():
        raise StillhouseError("fish is no model")


class Asked:
    """A model at a port, which notes the connections and keys that it sees."""

    def __init__(self, status=200):
        self.status, self.keys, self.connections = status, [], set()

    async def answer(self, request):
        self.keys.append(request.headers.get("authorization"))
        self.connections.add(request.transport.get_extra_info("peername"))
        items = (await request.json())["items"]
        answers = [Answer(id=item["id"]).model_dump() for item in items]
        elsewhere = {"location": "/answer"} if self.status == 307 else {}
        return web.json_response(answers, status=self.status, headers=elsewhere)


def ask(model, times, key):
    async def run():
        app = web.Application()
        app.add_routes([web.post("/answer", model.answer)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        client = ModelClient(f"http://127.0.0.1:{port}", "/answer", key=key)
        try:
            for number in range(times):
                await client.answer(Item(id=str(number), prompt="fish"))
        finally:
            await client.close()
            await runner.cleanup()

    asyncio.run(run())


def test_the_key_goes_along_on_a_connection_per_call():
    model = Asked()
    ask(model, 3, KEY)
    assert model.keys == [f"Bearer {KEY}"] * 3
    assert len(model.connections) == 3, "a balancer may choose another student for each"


def test_nobody_leads_prompts_and_key_elsewhere():
    model = Asked(307)
    with pytest.raises(ServiceError, match="answered with status 307"):
        ask(model, 1, KEY)
    assert len(model.keys) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_model_that_refuses_our_key_is_told_so(status):
    with pytest.raises(ServiceError, match="refuses our key"):
        ask(Asked(status), 1, None)
