"""What the page's route sends: one file, and a policy that lets in nothing but that file."""

import base64
import hashlib
import re

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving._page.route import FILE, page_route


@pytest.fixture(scope="module")
def client():
    return TestClient(Starlette(routes=[page_route()]))


@pytest.fixture(scope="module")
def policy(client):
    parts = client.get("/").headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (part.partition(" ") for part in parts)}


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_policy_lets_in_the_files_own_text_alone(client, policy, tag):
    found = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", client.get("/").text, re.S)
    digest = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
    assert (len(found), policy[f"{tag}-src"]) == (1, f"'sha256-{digest}'")


def test_everything_else_is_forbidden(client, policy):
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert policy[name] == "'none'", name
    assert "unsafe" not in " ".join(policy.values())
    headers = client.get("/").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_file_names_no_other_place_and_no_sink_for_markup():
    text = FILE.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^'\"\s)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches
    sinks = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(")
    stores = ("localStorage", "sessionStorage", "document.cookie", "indexedDB")
    assert not [word for word in (*sinks, *stores) if word in text]
    assert not re.findall(r"<[^>]* (?:style|on\w+)=", text.partition("<script>")[0])


def test_the_page_stays_small():
    assert FILE.stat().st_size < 60_000


def test_an_unchanged_page_is_not_sent_again(client):
    first = client.get("/")
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (first.headers["content-type"], again.status_code) == ("text/html; charset=utf-8", 304)
    assert (again.content, client.post("/").status_code) == (b"", 405)
