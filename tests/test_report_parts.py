"""The report's parts: marks, choice of examples, losses, fronts, axes, labels, numbers, charts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from select_cases import PARSED
from toy import example

from stages._report import telling
from stages._report.charts import Bar, Line, Point, intervals, lines, scatter
from stages._report.curves import thin
from stages._report.examples import choose
from stages._report.labels import place_labels
from stages._report.losses import Hop, share_losses
from stages._report.marks import Span, clip, cut, mark
from stages._report.models import colours
from stages._report.quality import find_front
from stages._report.scales import linear, logarithmic
from stages._report.verdicts import tell_gate

PUB = example("The Mill", "fish", "yes")


def line(output, **more):
    """A line of reports/evaluate/<candidate>.jsonl."""
    return {"output": output, "slots": PUB["slots"], **more}


def kinds(marked):
    return [(piece.text, piece.kind) for piece in marked.pieces if piece.kind]


def test_right_wrong_and_missing_values_are_marked():
    marked = mark(line("The Mill serves pasta."), PARSED)
    assert kinds(marked) == [("The Mill", "right"), ("pasta", "wrong")]
    assert marked.missing == ("dogs: yes",)
    assert marked.errors == 2
    assert [p.told for p in marked.pieces if p.kind == "wrong"] == ["wrong food: asked was fish"]


def test_what_was_not_asked_is_marked_as_added():
    asked = {"name": "The Mill", "food": "fish"}
    marked = mark(line("The Mill serves fish; dogs are welcome.") | {"slots": asked}, PARSED)
    assert ("dogs are welcome", "added") in kinds(marked)
    assert marked.missing == ()


def test_without_a_schema_only_unsupported_claims_are_marked():
    found = [{"kind": "number", "found": "7"}, {"kind": "name", "found": "not in it"}]
    marked = mark(line("It costs 7.", unsupported=found), None)
    assert kinds(marked) == [("7", "unsupported")]
    assert marked.errors is None


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(-3, 33), st.integers(-3, 33))))
def test_pieces_are_the_text_whatever_the_spans(text, places):
    pieces = cut(text, [Span(start, end, "wrong", "") for start, end in places])
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text for piece in pieces)


def test_long_answers_are_cut_and_say_by_how_much():
    pieces, left_out = clip(cut("a" * 10, [Span(2, 6, "wrong", "")]), most=4)
    assert [piece.text for piece in pieces] == ["aa", "aa"]
    assert left_out == 6
    assert clip(cut("abc", []), most=3)[1] == 0


def test_worst_answers_come_first_and_the_others_are_drawn_by_the_seed():
    faults = {1: ["x"], 4: ["x", "y"]}
    found = [
        {"slot_findings": {"missing": faults.get(n, [])}, "scores": {"chrf": 90 - n}}
        for n in range(8)
    ]
    worst, drawn = choose(found, worst=3, drawn=2, seed=1)
    assert worst == [4, 1, 7]  # most faults, then least like the references
    assert not set(worst) & set(drawn)
    assert drawn == sorted(drawn) == choose(found, 3, 2, seed=1)[1]
    assert choose(found[:2], worst=5, drawn=5, seed=1) == ([1, 0], [])


def test_losses_are_shared_in_the_first_model_s_units():
    # 0.9 of 1 is left, then 0.8 of that: 0.10 and 0.18 of 0.28
    assert share_losses([0.9, 0.8]) == pytest.approx([0.10 / 0.28, 0.18 / 0.28])
    assert share_losses([0.9, 1.0]) == pytest.approx([1.0, 0.0])
    assert share_losses([0.9, 1.02]) is None  # a gain: nothing to divide
    assert share_losses([1.0, 1.0]) is None


def test_a_loss_has_the_ratio_s_interval_turned_round():
    hop = Hop("teacher", "student", {"score": 0.9, "low": 0.8, "high": 1.1}, None, None)
    assert hop.lost == pytest.approx({"score": 0.1, "low": -0.1, "high": 0.2})


@pytest.mark.parametrize(
    ("gate", "value", "limit", "told"),
    [
        ("slot_error_rate_rise", 0.0125, 0.01, ("1.25 %", "limit 1.00")),
        ("disk_mb", 0.31, 0.4, ("0.310", "limit 0.400")),
        ("wrong_rise", None, 0.005, ("–", "limit 0.50")),
    ],
)
def test_gates_on_shares_are_told_in_per_cent(gate, value, limit, told):
    found = {"gate": gate, "value": value, "low": None, "high": None, "threshold": limit}
    cell = tell_gate(found | {"verdict": "pass"})
    assert (cell["value"], cell["limit"]) == told


def test_the_front_is_what_no_other_point_beats():
    points = [(1.0, 50.0), (2.0, 60.0), (3.0, 55.0), (2.0, 60.0)]
    assert find_front(points, more_is_better=True) == [True, True, False, True]
    assert find_front(points, more_is_better=False) == [True, False, False, False]


def test_one_model_has_one_colour_and_the_winner_the_first():
    found = colours(["baseline", "teacher", "student", "int8", "nf4", "ct2"], "ct2")
    assert found["ct2"] == 0
    assert len(set(found.values())) == 6


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_a_linear_axis_holds_all_values_and_few_labels(values):
    axis = linear("", values)
    rounding = 1e-6 * (axis.high - axis.low)
    assert axis.low - rounding <= min(values)
    assert axis.high + rounding >= max(values)
    assert 2 <= len(axis.ticks) <= 8
    assert all(0 <= axis.share(value) <= 1 for value in values)


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=9))
def test_a_logarithmic_axis_holds_all_values_and_few_labels(values):
    axis = logarithmic("", values)
    assert axis.low < min(values)
    assert axis.high > max(values)
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert len(axis.ticks) <= 6


def test_equal_ratios_take_equal_room_on_a_logarithmic_axis():
    axis = logarithmic("", [1.0, 1000.0])
    room = [axis.share(10.0 ** (n + 1)) - axis.share(10.0**n) for n in range(3)]
    assert room == pytest.approx([room[0]] * 3)


def test_names_of_close_points_do_not_lie_on_each_other():
    spots = [(50.0, 100.0), (51.0, 102.0), (52.0, 99.0), (50.5, 101.0)]
    names = ["student", "ct2_int8", "nf4", "control"]
    placed = place_labels(names, spots, [()] * 4, 240)
    boxes = []
    for name, (left, top), one in zip(names, spots, placed, strict=True):
        x, y = left * 2.8 + one.dx, top + one.dy
        start = x if one.anchor == "start" else x - 6.6 * len(name)
        boxes.append((start, y - 7, start + 6.6 * len(name), y + 7))
    for n, a in enumerate(boxes):
        for b in boxes[:n]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_chart_says_in_words_what_it_draws():
    points = [Point("<b>", 1.0, 5.0, 4.0, 6.0, front=True), Point("two", 9.0, 8.0)]
    drawn = scatter("n", "T", "About it.", points, logarithmic("x", [1, 9]), linear("y", [4, 8]))
    assert '<desc id="n-d">About it.</desc>' in drawn
    assert "<title>&lt;b&gt;: 1.00, 5.00 [4.00, 6.00]</title>" in drawn
    assert drawn.count('class="whisker"') == 1
    assert "<b>" not in drawn.replace("<b>T</b>", "")


def test_few_points_of_a_curve_are_shown_each_and_many_are_thinned():
    few = [(float(n), float(n)) for n in range(3)]
    many = [(float(n), float(n)) for n in range(1000)]
    drawn = lines(
        "n", "T", "D", [Line("a", few), Line("b", thin(many))], *[linear("", [0, 999])] * 2
    )
    assert len(re.findall("<circle", drawn)) == 3
    kept = thin(many)
    assert len(kept) <= 201
    assert (kept[0], kept[-1]) == (many[0], many[-1])


def test_a_row_without_a_figure_is_a_row_of_words():
    rows = [Bar("a", 1.0, 0.5, 1.5, "1"), Bar("b", None, None, None, "–")]
    drawn = intervals("n", "told", rows, linear("x", [0, 2]))
    assert drawn.count("<circle") == 1
    assert drawn.count('class="row') == 3  # two and the axis


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (telling.short(0.000125341), "0.000125"),
        (telling.short(1241.1), "1,241"),
        (telling.short(-0.00455), "−0.00455"),
        (telling.short(0), "0"),
        (telling.short(None), "–"),
        (telling.tick(50.0), "50"),
        (telling.tick(0.05), "0.05"),
        (telling.tick(1000.0), "1,000"),
        (telling.plain(-0.04), "0.0"),
        (telling.percent(0.0425), "4.2 %"),
        (telling.millions(369_696), "370 k"),
        (telling.millions(1_518_880), "1.52 M"),
        (telling.seconds(290.8), "4.8 min"),
        (telling.seconds(79.9), "79.9 s"),
        (telling.scored({"score": 0.5, "low": -0.25, "high": 1.0}, 100), "50.0 [−25.0, 100.0]"),
        (telling.scored({"score": None}), "–"),
    ],
)
def test_numbers_are_as_people_read_them(told, text):
    assert told == text
