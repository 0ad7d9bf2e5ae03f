"""The page in a browser, at the width of a phone and of a desk: nothing beside the frame."""

import pytest
from browser import browsing
from report_cases import project, run

BESIDE = """[...document.querySelectorAll('main *, header *, footer *')].filter(
  e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide')).length"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A browser, and the page of a project with every report."""
    root = project(tmp_path_factory.mktemp("report"))
    run(root)
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened, (root / "reports/report/index.html").as_uri()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_breaks_no_rule_of_its_own(tab, width, scheme):
    opened, address = tab
    opened.resize(width, 900, scheme)
    opened.open(address)
    assert opened.look("document.documentElement.scrollWidth") <= width
    assert opened.look(BESIDE) == 0
    assert opened.complaints == []
    assert opened.requested == [address]


@pytest.mark.slow
def test_letters_of_charts_keep_their_size_on_a_phone(tab):
    opened, address = tab
    sizes = []
    for width in (390, 1280):
        opened.resize(width, 900)
        opened.open(address)
        text = "document.querySelector('.plot svg text')"
        sizes.append(opened.look(f"{text}.getBoundingClientRect().height"))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert sizes[0] >= 11
