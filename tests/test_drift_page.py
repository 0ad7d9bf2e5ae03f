"""The report as a page: one file, nothing from elsewhere, every text escaped."""

import re
from html.parser import HTMLParser

import pytest
from drift_cases import Case, live_row, pubs

from stages.drift import drift

ATTACK = "<script>alert(1)</script>"
VOID = {"meta", "br"}


class Checked(HTMLParser):
    """Notes tags that are not closed in order, and what is shown."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.seen, self.shown = [], [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.shown += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of a window with new foods and markup in its texts."""
    case = Case(tmp_path_factory.mktemp("drift"), prompts=120)
    rows = [live_row(pub, n) for n, pub in enumerate(pubs(40, "new", foods=[f"soup {ATTACK}"]))]
    case.freeze(rows + [live_row(pub, n + 40) for n, pub in enumerate(pubs(40, "window"))])
    drift(case.params(), *case.paths())
    return (case.root / "reports/drift/index.html").read_text(encoding="utf-8")


def test_the_page_is_whole_html(made):
    page = Checked(made)
    assert (page.open, page.wrong) == ([], [])
    assert made.startswith("<!doctype html>")
    assert '<html lang="en">' in made


def test_texts_of_prompts_are_shown_and_never_run(made):
    page = Checked(made)
    assert ATTACK in page.shown
    assert "script" not in page.seen
    assert "default-src 'none'" in made


def test_nothing_is_loaded_from_elsewhere(made):
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?:", made)


def test_it_fits_a_phone(made):
    assert 'content="width=device-width, initial-scale=1"' in made
    tables = made.count("<table>")
    assert tables == made.count('<div class="wide"><table>') >= 2  # wide ones scroll by themselves


def test_it_says_the_verdict_of_each_kind_and_what_it_rests_on(made):
    shown = Checked(made).shown
    for text in ("Drift", "input: what is asked", "quality: how much of it is wrong"):
        assert text in shown
    assert "window w: 80 rows, 80 different prompts" in shown
    assert "values of the slot food" in shown
    assert "The detectors were not tried on the reference: drift.calibration.repeats is 0" in shown
    assert "prompt_vectors (input): drift.embeddings is false" in shown
