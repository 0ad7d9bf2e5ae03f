"""`make canary`: verdict, restarts, models, exit codes, against services that tell real series."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from canary_cases import CHALLENGER, CHAMPION, QUICK, Traffic, clock, telling

from serving._metrics import Metrics
from serving.errors import StillhouseError
from stages._canary.arms import Arm, Expected, check_urls, read_key
from stages._canary.evidence import Counts
from stages._canary.expected import expected_challenger, expected_champion
from stages._canary.series import Meter, UnreadableError, choose_limit, counts_of, read_series
from stages._canary.verdict import Arms, Stretches, judge
from stages._canary.watching import MOST_UNREAD
from stages._params.canary import Canary, Margins
from stages.canary import canary, main

ROOT = Path(__file__).parent.parent
SAME = Traffic(1600)


def replaced(**values):
    return QUICK.model_copy(update=values)


def sides(one, other):
    """Both arms at the addresses of their services."""
    return Arm("champion", [one.url], Expected(CHAMPION)), Arm(
        "challenger", [other.url], Expected(CHALLENGER, "image@sha256:1")
    )


def look(tmp_path, traffic, rules=QUICK, champion=SAME, key=None, **told):
    """Verdict and report of a challenger; the champion has 1,600 requests between two looks."""
    with telling(champion, CHAMPION) as one, telling(traffic, CHALLENGER, **told) as other:
        report = tmp_path / "canary.json"
        verdict = canary(*sides(one, other), rules, report, key, clock=clock())
        return verdict, json.loads(report.read_text())


def test_a_challenger_like_the_champion_is_promoted(tmp_path):
    verdict, report = look(tmp_path, Traffic(400))
    assert (verdict.kind, report["verdict"]) == ("promote", "promote")
    assert report["challenger"] == {
        "model_sha256": CHALLENGER,
        "image": "image@sha256:1",
        "replicas": 1,
        "restarts": 0,
    }
    assert report["champion"]["model_sha256"] == CHAMPION
    assert {test["name"]: test["verdict"] for test in report["tests"]} == dict.fromkeys(
        ("errors", "refusals", "slow", "slot_errors"), "within"
    )
    for test in report["tests"]:
        assert test["low"] < 0.0 < test["high"] < test["margin"]
    assert report["slow_limit_s"] == 0.005
    assert report["started"] <= report["ended"]
    assert len(report["looks"]) >= 2


@pytest.mark.parametrize(
    ("worse", "metric"),
    [
        ({"failed": 15}, "errors"),
        ({"refused": 15}, "refusals"),
        ({"slow": 50}, "slow"),
        ({"slot_errors": 20}, "slot_errors"),
    ],
)
def test_a_worse_challenger_is_rolled_back(tmp_path, worse, metric):
    verdict, report = look(tmp_path, Traffic(400, **worse))
    assert verdict.kind == "roll_back"
    assert metric in verdict.reason
    [test] = [one for one in report["tests"] if one["verdict"] == "worse"]
    assert test["name"] == metric
    assert test["low"] > test["margin"]


def test_a_challenger_without_requests_is_held(tmp_path):
    verdict, report = look(tmp_path, Traffic(0), replaced(minutes=0.1))
    assert verdict.kind == report["verdict"] == "hold"
    assert "0 requests of the challenger, expected 100" in verdict.reason
    assert "errors: nothing was counted of the challenger" in verdict.reason
    assert {test["verdict"] for test in report["tests"]} == {"open"}


def test_a_warm_up_that_never_ends_is_held(tmp_path):
    verdict, report = look(tmp_path, Traffic(0), replaced(minutes=0.02), Traffic(0))
    assert verdict.kind == "hold"
    assert "0 requests of the champion, expected 300" in verdict.reason
    assert report["slow_limit_s"] is None


def test_a_split_that_is_not_the_stated_one_decides_nothing(tmp_path):
    verdict, _ = look(tmp_path, Traffic(1600, slow=50), replaced(minutes=0.1))
    assert verdict.kind == "hold"
    assert "slow: 50.0% went to the challenger, expected 20.0%" in verdict.reason


def test_requests_that_a_slow_challenger_has_not_ended_are_no_doubt_of_the_split():
    """Of 1,000 requests each had a half, and the challenger has ended a fifth of its own."""
    rules = Canary(share=0.5, margins=Margins(errors=None, refusals=None, slot_errors=None))
    counts = Counts(100, 500), Counts(100, 100)
    for sent, kind in (((500, 500), "roll_back"), (None, "open")):
        assert judge({"slow": Arms(*counts, sent=sent)}, {"slow": 0.2}, rules).kind == kind


def slow_stretches(waits):
    """Counts after stretches of 100 requests of each arm; in some all of the challenger's wait."""
    ours = theirs = Counts(0, 0)
    stretches = Stretches(margin=0.2)
    for waiting in waits:
        ours, theirs = ours + Counts(5, 100), theirs + Counts(100 if waiting else 5, 100)
        stretches.add(Arms(ours, theirs))
    return Arms(ours, theirs, stretches=stretches.counts)


def test_a_process_that_once_waits_long_is_not_rolled_back_and_a_slow_one_is():
    rules = Canary(share=0.5, margins=Margins(errors=None, refusals=None, slot_errors=None))
    once = slow_stretches([False, True, True, True, False, False])
    always = slow_stretches([True] * 8)
    assert (once.stretches, always.stretches) == ((3, 3), (8, 0))
    assert judge({"slow": once}, {"slow": 0.05}, rules).kind == "open"
    assert judge({"slow": replace(once, stretches=None)}, {"slow": 0.05}, rules).kind == "roll_back"
    assert judge({"slow": always}, {"slow": 0.05}, rules).kind == "roll_back"


def test_a_stretch_is_as_long_as_it_takes_both_arms_to_end_some_requests():
    stretches = Stretches(margin=0.2)
    for number in range(1, 6):
        stretches.add(Arms(Counts(0, 100 * number), Counts(5 * number, 5 * number)))
    assert stretches.counts == (1, 0)  # the challenger has had 25


def test_answers_that_are_checked_by_another_rule_are_not_compared(tmp_path):
    """The challenger checks a fifth of the champion's requests, which checks half of them."""
    champion = Traffic(1600, refused=50, slot_errors=5)
    verdict, report = look(tmp_path, Traffic(400, slot_errors=50), replaced(minutes=0.1), champion)
    states = {test["name"]: test["verdict"] for test in report["tests"]}
    assert states["slot_errors"] == "open"
    assert verdict.kind == "hold"
    assert "slot_errors: 33" in verdict.reason


def test_a_metric_that_nobody_counts_holds_until_its_margin_is_null(tmp_path):
    champion, traffic = Traffic(1600, checked=False), Traffic(400, checked=False)
    verdict, _ = look(tmp_path, traffic, replaced(minutes=0.1), champion)
    assert verdict.kind == "hold"
    assert verdict.reason == "slot_errors: nothing was counted of the champion"
    rules = replaced(margins=Margins(slot_errors=None))
    verdict, report = look(tmp_path, traffic, rules, champion)
    assert verdict.kind == "promote"
    assert len(report["tests"]) == 3


def tally(**counts):
    """Of requests by outcome."""
    return {("requests", outcome): count for outcome, count in counts.items()}


def test_counts_go_on_over_a_restart_and_the_restart_is_told():
    meter = Meter(tally(answered=100, failed=3))
    meter.read(tally(answered=150, failed=3))
    meter.read(tally(answered=20, failed=1))  # began anew
    meter.read(tally(answered=30, failed=4))
    assert meter.counted == tally(answered=80, failed=4)
    assert meter.restarts == 1


def test_a_challenger_that_was_restarted_is_not_promoted(tmp_path):
    restarts = {3: lambda told: told.restart()}
    verdict, report = look(tmp_path, Traffic(400), replaced(minutes=0.1), at=restarts)
    assert verdict.kind == "hold"
    assert "the challenger was restarted (1)" in verdict.reason
    assert report["challenger"]["restarts"] == 1


def test_replicas_of_an_arm_are_added_up(tmp_path):
    with (
        telling(Traffic(800), CHAMPION) as one,
        telling(Traffic(800), CHAMPION) as two,
        telling(Traffic(400), CHALLENGER) as other,
    ):
        champion = Arm("champion", [one.url, two.url], Expected(CHAMPION))
        challenger = Arm("challenger", [other.url], Expected(CHALLENGER))
        report = tmp_path / "canary.json"
        assert canary(champion, challenger, QUICK, report).kind == "promote"
    test = json.loads(report.read_text())["tests"][0]
    assert test["champion"]["total"] == pytest.approx(4 * test["challenger"]["total"], abs=1600)


def test_another_model_than_expected_ends_it_without_a_report(tmp_path):
    (tmp_path / "canary.json").write_text("{}")  # of a canary before
    with (
        telling(SAME, CHAMPION) as one,
        telling(Traffic(400), "c" * 64) as other,
        pytest.raises(StillhouseError, match="serves the model cccccccccccc, expected bbbbbbbb"),
    ):
        canary(*sides(one, other), QUICK, tmp_path / "canary.json")
    assert not (tmp_path / "canary.json").exists()


def test_the_page_names_the_model_where_the_series_do_not(tmp_path):
    forgets = {1: lambda told: told.forget_model()}
    assert look(tmp_path, Traffic(400), at=forgets)[0].kind == "promote"


def test_a_service_that_cannot_be_read_any_more_is_held(tmp_path):
    ends = {3: lambda told: setattr(told, "failing", 10_000)}
    verdict, report = look(tmp_path, Traffic(400), replaced(minutes=60.0), at=ends)
    assert verdict.kind == "hold"
    assert "answered 503, expected 200" in verdict.reason
    assert len(report["looks"]) == 2 + MOST_UNREAD  # an hour of traffic would go nowhere


def test_one_look_that_fails_is_made_up_for_by_the_next(tmp_path):
    fails = {3: lambda told: setattr(told, "failing", 1)}
    verdict, _ = look(tmp_path, Traffic(400), at=fails)
    assert verdict.kind == "promote"


def test_the_series_are_those_of_the_service():
    metrics = Metrics()
    metrics.set_model("student", "ctranslate2", CHAMPION)
    metrics.set_model("baseline", "baseline", CHALLENGER)
    for route, outcome, seconds in (
        ("/cascade", "answered", 0.02),
        ("/v1/chat/completions", "failed", 0.3),
        ("/generate", "refused", 0.001),
        ("/v1/models", "answered", 9.0),  # asks for no answer
        ("other", "refused", 9.0),
    ):
        metrics.count_request(route, outcome, seconds)
    metrics.add("live_checks_total", 2, "student", "slots", "ok")
    metrics.add("live_checks_total", 1, "baseline", "slots", "found")
    metrics.add("live_checks_total", 5, "baseline", "slots", "not_run")
    metrics.add("live_checks_total", 9, "baseline", "grounding", "found")
    seen = read_series(metrics.exposition().decode())
    tally = seen.tally
    assert seen.model == CHAMPION[:12]
    assert counts_of("errors", tally, 0.1) == Counts(1, 3)
    assert counts_of("refusals", tally, 0.1) == Counts(1, 3)
    assert counts_of("slow", tally, 0.1) == Counts(1, 3)
    assert counts_of("slot_errors", tally, 0.1) == Counts(1, 3)


def test_the_limit_is_the_bucket_nearest_to_the_share_that_shall_be_slow():
    metrics = Metrics()
    metrics.set_model("student", "ctranslate2", CHAMPION)
    for seconds, count in ((0.004, 60), (0.02, 30), (0.3, 10)):
        for _ in range(count):
            metrics.count_request("/cascade", "answered", seconds)
    tally = read_series(metrics.exposition().decode()).tally
    assert choose_limit(tally, 0.3) == 0.005  # 40 % are slower, than 0.025 s only 10 %
    assert choose_limit(tally, 0.2) == 0.025


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a{b 1\n", "no text of Prometheus"),
        ("up 1\n", "has no stillhouse_live_checks_total, stillhouse_request"),
    ],
)
def test_what_is_no_service_is_told(text, message):
    with pytest.raises(UnreadableError, match=message):
        read_series(text)


def test_alpha_is_split_over_the_metrics_to_roll_back_and_whole_to_promote():
    """What is enough evidence where errors are all that is looked at is not where two are."""
    rules = Canary(share=0.5, min_requests=1, margins=Margins(refusals=None, slow=None))
    clean = Arms(Counts(0, 500), Counts(0, 500))
    centres = {"errors": 0.01, "slot_errors": 0.01}
    fine = judge({"errors": clean, "slot_errors": clean}, centres, rules)
    assert fine.kind == "promote"
    harmed = Arms(Counts(0, 100), Counts(10, 100))
    one = rules.model_copy(update={"margins": Margins(refusals=None, slow=None, slot_errors=None)})
    assert judge({"errors": harmed}, centres, one).kind == "roll_back"
    both = judge({"errors": harmed, "slot_errors": clean}, centres, rules)
    assert both.kind == "open"


def records(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.with_suffix(".json").parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))


def winners(model):
    return {"winners": {"cpu": {"model_sha256": model}, "cuda": None}}


def test_the_release_s_records_say_which_models_are_compared(tmp_path):
    records(
        tmp_path,
        releases__current=winners(CHAMPION) | {"images": {"cpu": {"image": "one@sha256:1"}}},
        models__winner={"cpu": {"model_sha256": "c" * 64}},
    )
    assert expected_champion(tmp_path, "cpu", None, None) == Expected(CHAMPION, "one@sha256:1")
    assert expected_challenger(tmp_path, "cpu", None, None) == Expected("c" * 64)
    records(tmp_path, releases__challenger=winners(CHALLENGER))
    assert expected_challenger(tmp_path, "cpu", None, None) == Expected(CHALLENGER)
    assert expected_challenger(tmp_path, "cpu", "d" * 64, None) == Expected("d" * 64)
    with pytest.raises(StillhouseError, match="no model in force on cuda"):
        expected_champion(tmp_path, "cuda", None, None)
    with pytest.raises(StillhouseError, match="no digest"):
        expected_champion(tmp_path, "cpu", "abc", None)


def test_a_key_goes_nowhere_unencrypted_unless_that_is_allowed(tmp_path, monkeypatch):
    far = ["http://10.0.0.7:3000/"]
    with pytest.raises(StillhouseError, match="unencrypted"):
        check_urls(far, "sh_key", insecure=False)
    assert check_urls(far, "sh_key", insecure=True) == ["http://10.0.0.7:3000"]
    assert check_urls(far, None, insecure=False) == ["http://10.0.0.7:3000"]
    with pytest.raises(StillhouseError, match="twice"):
        check_urls(["http://localhost:1", "http://localhost:1/"], None, insecure=False)
    with pytest.raises(StillhouseError, match="must be http"):
        check_urls(["localhost:3000"], None, insecure=False)
    (tmp_path / "key").write_text("sh_one\n")
    monkeypatch.setenv("STILLHOUSE_CANARY_KEY", "sh_two")
    assert (read_key(tmp_path / "key"), read_key(None)) == ("sh_one", "sh_two")


def test_the_key_is_sent(tmp_path):
    with (
        telling(SAME, CHAMPION, key="sh_key") as one,
        telling(Traffic(400), CHALLENGER, key="sh_key") as other,
    ):
        verdict = canary(*sides(one, other), QUICK, tmp_path / "canary.json", "sh_key")
        assert verdict.kind == "promote"
        with pytest.raises(StillhouseError, match=r"answered 403.*STILLHOUSE_CANARY_KEY"):
            canary(*sides(one, other), QUICK, tmp_path / "canary.json", "sh_other")


@pytest.mark.parametrize(
    ("traffic", "minutes", "code", "said"),
    [
        (Traffic(400), "0.2", 0, "promote: the challenger is within all margins"),
        (Traffic(0), "0.04", 3, "hold: "),
        (Traffic(400, slot_errors=20), "0.2", 4, "roll_back: the challenger is worse"),
    ],
)
def test_the_exit_code_says_the_verdict(
    tmp_path, monkeypatch, capsys, traffic, minutes, code, said
):
    (tmp_path / "params.yaml").write_text("canary: {look_s: 0.001, warm_up_requests: 300}\n")
    records(tmp_path, releases__current=winners(CHAMPION), releases__challenger=winners(CHALLENGER))
    monkeypatch.chdir(tmp_path)
    with telling(SAME, CHAMPION) as one, telling(traffic, CHALLENGER) as other:
        words = ["--champion", one.url, "--challenger", other.url, "--minutes", minutes]
        monkeypatch.setattr(sys, "argv", ["canary", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == code
    assert said in capsys.readouterr().out
    assert (tmp_path / "reports/canary/canary.json").is_file()


def test_a_service_that_is_not_there_is_a_mistake_of_one_line(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    models = ["--champion-model", CHAMPION, "--challenger-model", CHALLENGER]
    urls = ["--champion", "http://127.0.0.1:9", "--challenger", "http://127.0.0.1:10"]
    ended = subprocess.run(
        [sys.executable, "-m", "stages.canary", *urls, *models],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: canary: http://127.0.0.1:9/metrics cannot be read")
    assert len(ended.stderr.splitlines()) == 1
