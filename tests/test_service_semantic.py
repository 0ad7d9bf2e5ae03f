"""The served service with its semantic tier on: what asks the same is answered for nothing.

The embedder is the real one, at the threshold that the settings have by default.
"""

import pytest
from cascade_service import ask, teaching, write_route
from service_models import service_environment
from service_process import served

from serving.keys import add_key
from stages._embedder import export
from stages._sentences import PACKAGE

pytest.importorskip("ctranslate2")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

SAME = {
    "order of a route": ("How do I walk from Leeds to York?", "How do I walk to York from Leeds?"),
    "order of slots": ("name[Aromi], area[centre]", "area[centre],  name[Aromi]"),
    "politeness": ("What is the tax on 250 books?", "Please tell me what the tax on 250 books is"),
}
DIFFERENT = {
    "number": ("How much is it to add 250 euros?", "How much is it to add 205 euros?"),
    "negation": ("Does the plan cover damage by water?", "Doesn't the plan cover damage by water?"),
    "slot value": ("name[Bibimbap], food[fish]", "name[Bibimbap], food[pies]"),
    "reversal": ("How do I fly from Oslo to Rome?", "How do I fly from Rome to Oslo?"),
}


@pytest.fixture(scope="module")
def teacher():
    with teaching() as found:
        yield found


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of keys, and the keys by their tenants."""
    file = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    return file, {name: add_key(file, name, {})[0] for name in ("acme", "blue")}


@pytest.fixture(scope="module")
def service(keys, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    models = service_environment(folder / "models")
    export(PACKAGE, folder / "embedder")
    environment = models | {
        "STILLHOUSE_KEYS": str(keys[0]),
        "STILLHOUSE_ROUTE": str(write_route(folder / "route.json", models)),
        "STILLHOUSE_TEACHER_URL": teacher.url,
        "STILLHOUSE_SEMANTIC": str(folder / "embedder"),
    }
    with served("serving.service:Stillhouse", folder / "service", environment) as running:
        yield running


@pytest.fixture
def cascade(service, keys):
    """Asks the cascade; gives the answer's body."""

    def answered(prompt, tenant="acme"):
        status, _, told = ask(service, keys[1][tenant], "/cascade", {"prompt": prompt})
        assert status == 200, told
        return told

    return answered


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_a_paraphrase_with_the_same_values_gets_the_kept_answer_for_nothing(
    cascade, teacher, one, other
):
    first, again = cascade(one), cascade(other)
    assert (first["routing"]["source"], again["routing"]["source"]) == ("miss", "semantic")
    assert again["text"] == first["text"] == "a fish"
    assert again["usage"]["cost_usd"] == 0.0 < first["usage"]["cost_usd"]
    assert other not in teacher.prompts()


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_near_miss_is_answered_anew(cascade, teacher, one, other):
    assert [cascade(prompt)["routing"]["source"] for prompt in (one, other)] == ["miss", "miss"]
    assert {one, other} <= set(teacher.prompts())


def test_another_tenant_never_gets_the_kept_answer(cascade):
    assert cascade("Is the pool open on Sunday?")["routing"]["source"] == "miss"
    told = cascade("On Sunday, is the pool open?", "blue")
    assert told["routing"]["source"] == "miss"
    assert cascade("On Sunday, is the pool open?")["routing"]["source"] == "semantic"


def test_an_equal_prompt_is_the_exact_tiers(cascade):
    assert cascade("Where is the exit?")["routing"]["source"] == "miss"
    assert cascade("Where is the exit?")["routing"]["source"] == "memory"
