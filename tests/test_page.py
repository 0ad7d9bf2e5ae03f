"""The page in a real browser: what a person sees, and what never happens."""

import itertools

import pytest
from browser import browsing
from page_server import PAGE, PROMPT, SAID, rung, serving_page, slots, span
from prometheus_client import CollectorRegistry, Counter, Histogram

CARDS = "document.querySelectorAll('.rung .facts').length"
FAULT = "!fault.hidden && fault.textContent"
LINE = "document.querySelector('[data-line={}]')?.getAttribute('d')"
NOW = "window.clock = Date.now(); Date.now = () => clock"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def server():
    with serving_page() as stub:
        yield stub


@pytest.fixture
def stub(server):
    server.page, server.answer, server.status, server.headers = PAGE, None, 200, {}
    server.registry = CollectorRegistry()
    for seen in (server.asked, server.keys, server.paths):
        seen.clear()
    return server


@pytest.fixture
def page(tab, stub):
    """The page, open and told what is served; nothing to complain of, nothing from elsewhere."""
    tab.resize(1280, 900)
    tab.open(f"{stub.url}/")
    tab.wait("!models.hidden")
    yield tab
    tab.send("Runtime.evaluate", expression="1")
    stranger = [url for url in tab.requested if not url.startswith((f"{stub.url}/", "data:"))]
    assert (tab.complaints, stranger) == ([], [])
    assert stub.paths <= {"/", "/page.json", "/metrics", "/compare"}


def ask(page, prompt=PROMPT):
    page.type("#prompt", prompt)
    page.press("Enter", 13, modifiers=2)


def answers(*rungs, **changes):
    return {"rungs": list(rungs), "chosen": "student", "similarity": 0.5} | changes


def test_every_rungs_answer_stands_beside_the_others(page, stub):
    stub.answer = answers(
        rung("baseline", SAID, score=0.41, threshold=0.62, accepted=False),
        rung("student", "fine", latency_ms=46.2, cost_usd=3e-6),
        rung("teacher", None, error={"code": "overloaded", "message": "full"}, latency_ms=1),
    )
    ask(page)
    page.wait(f"{CARDS} === 3")
    assert stub.asked == [{"prompt": PROMPT}]
    assert page.look("document.querySelector('.chosen').dataset.rung") == "student"
    assert "46.2\u202fms" in page.look("document.querySelector('.chosen').textContent")
    assert "$3" in page.look("document.querySelector('.chosen').textContent")
    assert "0.41 where 0.62 is needed" in page.look("verdict.textContent")
    assert "its queue is full" in page.look(
        "document.querySelector('[data-rung=teacher]').innerText"
    )


def test_marks_stand_where_the_server_counted_code_points(page, stub):
    said = f"\N{HEAVY CHECK MARK}\N{PARTY POPPER} {SAID}"
    found = [span(said, "fare-backend", "right", "service"), span(said, "13:50", "wrong", "start")]
    stub.answer = answers(rung("student", said, checks=slots(*found, missing=["customers"])))
    ask(page)
    page.wait(f"{CARDS} === 1")
    marks = "[...document.querySelectorAll('mark')].map(m => [m.className, m.firstChild.data])"
    assert page.look(marks) == [["wrong", "13:50"], ["right", "fare-backend"]]
    assert "missing: customers" in page.look("document.querySelector('.checks').textContent")


def test_the_worst_of_marks_that_overlap_shows(page, stub):
    checks = slots(span(SAID, "refunds were paid", "right", "action"))
    checks["grounding"]["marks"] = [span(SAID, "refunds", "added", "")]
    stub.answer = answers(rung("student", SAID, checks=checks))
    ask(page)
    page.wait(f"{CARDS} === 1")
    marks = "[...document.querySelectorAll('mark')].map(m => [m.className, m.firstChild.data])"
    assert page.look(marks) == [["added", "refunds"], ["right", " were paid"]]


def test_markup_in_an_answer_or_an_example_stays_text(tab, stub):
    evil = "<img src=x onerror='document.title=1'><script>document.title=1</script>"
    stub.page = PAGE | {"examples": [evil], "service": evil, "keys": True}
    stub.answer = answers(rung(evil, evil, error=None), chosen=evil, cache=evil)
    tab.open(f"{stub.url}/")
    tab.wait("!models.hidden")
    ask(tab, evil)
    tab.wait(f"{CARDS} === 1")
    assert tab.look("document.querySelector('.answer').textContent") == evil
    assert tab.look("document.querySelectorAll('img, main script').length") == 0
    assert (tab.look("document.title"), tab.complaints) == (evil, [])


def test_a_service_without_a_cascade_shows_its_two_sides(page, stub):
    side = {"text": "fish", "confidence": 0.5, "completion_tokens": 1, "latency_ms": 2.0}
    stub.answer = {"student": side, "baseline": side, "similarity": None}
    ask(page)
    page.wait(f"{CARDS} === 2")
    assert page.look("document.querySelectorAll('.chosen').length") == 0


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "invalid_api_key", "wants an API key"),
        (429, "rate_limit_exceeded", "Try again in 7 s"),
        (503, "shutting_down", "shutting down"),
        (422, "invalid_value", "prompt: too short"),
    ],
)
def test_a_refusal_is_told_in_plain_words(page, stub, status, code, words):
    stub.status, stub.headers = status, {"retry-after": "7"}
    stub.answer = {"error": {"code": code, "message": "prompt: too short"}}
    ask(page)
    assert words in page.wait(FAULT)
    page.complaints.clear()  # the browser itself notes every 4xx and 5xx


def test_a_key_is_sent_and_kept_nowhere(tab, stub):
    stub.page = PAGE | {"keys": True}
    stub.answer = answers(rung("student", "fine"))
    tab.open(f"{stub.url}/")
    tab.wait("!document.getElementById('key-form').hidden")
    tab.type("#key", "sh_secret")
    tab.press("Enter", 13)
    tab.look("document.getElementById('key-form').requestSubmit()")
    ask(tab)
    tab.wait(f"{CARDS} === 1")
    assert stub.keys == ["Bearer sh_secret"]
    assert tab.look("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    tab.open(f"{stub.url}/")
    assert tab.look("document.getElementById('key').value") == ""


def test_an_example_fills_the_prompt(page, stub):
    page.look("document.querySelector('#examples button').click()")
    assert page.look("document.getElementById('prompt').value") == PROMPT


def read(page, count=1):
    """Have the page read its metrics, two seconds later each time."""
    for _ in range(count):
        page.look("clock += 2000, polling = false, poll().then(() => 1)")


def test_a_line_moves_when_its_metric_moves(page, stub):
    counter = Counter("stillhouse_requests_total", "", ["route", "outcome"], registry=stub.registry)
    counter.labels("/generate", "answered")
    page.look(NOW)
    read(page, 3)
    flat = page.look(LINE.format("answered"))
    counter.labels("/generate", "answered").inc(50)
    read(page)
    assert page.look(LINE.format("answered")) not in (None, flat)
    assert page.look("points.at(-1).charts[0].get('answered')") == pytest.approx(50 / 6, rel=0.5)
    assert "answered" in page.look("document.querySelector('figure').innerText")


def test_quantiles_are_prometheus_own(page, stub):
    buckets = (0.1, 0.2, 0.4)
    times = Histogram(
        "stillhouse_request_seconds", "", ["route"], registry=stub.registry, buckets=buckets
    )
    times.labels("/generate")
    page.look(NOW)
    read(page, 2)
    for seconds in (0.05, 0.15, 0.15, 0.3):
        times.labels("/generate").observe(seconds)
    read(page)
    latest = page.look("Object.fromEntries(points.at(-1).charts[1])")
    # rank 2 of 4 is halfway in (0.1, 0.2]; rank 3.8 is 0.8 of the way in (0.2, 0.4]
    assert latest == {"p50": pytest.approx(0.15), "p95": pytest.approx(0.36)}


def test_a_counter_that_began_again_gives_no_negative_rate(page, stub):
    for value in (100, 5):
        stub.registry = CollectorRegistry()
        Counter("stillhouse_requests_total", "", ["outcome"], registry=stub.registry).labels(
            "answered"
        ).inc(value)
        if value == 100:
            page.look(NOW)
        page.look("snapshots.splice(0, snapshots.length - 1)")
        read(page)
    assert page.look("points.at(-1).charts[0].get('answered')") == pytest.approx(2.5)


def test_labels_with_quotes_braces_and_line_ends_are_read(page):
    written = r"""a{x="q\"u,}\\o\nte",y="2"} 1e3 1700000000"""
    sample = page.look(f"[...parse(String.raw`{written}`).get('a').values()][0]")
    assert sample == {"labels": {"x": 'q"u,}\\o\nte', "y": "2"}, "value": 1000}


def test_without_metrics_no_chart_stands_empty(page):
    page.wait("snapshots.length > 0")
    assert page.look("[...document.querySelectorAll('figure')].every(f => f.hidden)") is True


def test_dark_is_dark_and_light_is_light(page):
    brightness = "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g)[0] * 1"
    page.resize(1280, 900, "dark")
    assert page.look(brightness) < 40
    page.resize(1280, 900, "light")
    assert page.look(brightness) > 220


def test_a_narrow_screen_scrolls_in_one_direction_alone(page, stub):
    stub.answer = answers(*(rung(name, f"{SAID} {'x' * 90}") for name in ("baseline", "student")))
    page.resize(390, 844)
    ask(page)
    page.wait(f"{CARDS} === 2")
    assert page.look("document.documentElement.scrollWidth") == 390


def test_every_control_has_a_name_and_headings_do_not_skip(page):
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    controls = [
        node["name"]["value"]
        for node in tree
        if node.get("role", {}).get("value") in ("button", "textbox", "link", "region")
    ]
    assert len(controls) >= 8
    assert all(controls)
    levels = page.look("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName[1] * 1)")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
