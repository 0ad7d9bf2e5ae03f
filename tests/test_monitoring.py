"""Alerts, dashboard and page name series that exist, in PromQL that parses; alerts fire."""

import json
import os
import re
import shutil
import subprocess

import pytest
from structure import ROOT, read_yaml

from serving._cascade.series import CASCADE_SERIES
from serving._live.series import LIVE_SERIES
from serving._metric_series import SCRAPED, SERIES
from serving._page.route import FILE

FOLDER = ROOT / "deploy" / "monitoring"
RUNGS = {"rung": ("baseline", "student", "teacher")}
OUTCOMES = ("accepted", "unsure", "remote_forbidden", "unavailable", "refused", "over_budget")
EVENTS = ("hit", "miss", "put", "fault", "skipped", "dropped", "corrupt", "shared")
KNOWN = {s.name: s for s in (*SERIES, *SCRAPED, *CASCADE_SERIES, *LIVE_SERIES)}
TESTS = ("rules_test.yml", "rules_day_test.yml")
OF_PROMETHEUS = {"job", "instance", "le"}
OF_HISTOGRAMS = r"_(?:bucket|sum|count)$"


def promtool(*arguments, folder=FOLDER):
    """What promtool prints; a skip where it is missing, a failure where services are required."""
    if shutil.which("promtool") is None:
        why = "promtool is not installed. Run .ci/packages."
        (pytest.fail if os.environ.get("STILLHOUSE_REQUIRE_SERVICES") else pytest.skip)(why)
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts():
    return [rule for group in read_yaml(FOLDER / "rules.yml")["groups"] for rule in group["rules"]]


def panels():
    found = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries():
    """PromQL of the dashboard, as Grafana would fill it in."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [re.sub(r"\$(job|instance)", ".*", e).replace("$__rate_interval", "5m") for e in found]


def series_of(name):
    """The series behind a name in PromQL; None where there is none."""
    bare = re.sub(OF_HISTOGRAMS, "", name)
    histogram = KNOWN.get(bare)
    return KNOWN.get(name) or (histogram if histogram and histogram.kind == "histogram" else None)


def selectors(text):
    """Name and matchers of each series: ("requests_total", [("outcome", "=", "failed")])."""
    for name, inside in re.findall(r"stillhouse_(\w+)(?:\{([^}]*)\})?", text):
        yield name, re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', inside or "")


def texts():
    return {"rules": " ".join(r["expr"] for r in alerts()), "dashboard": " ".join(queries())}


@pytest.mark.parametrize("where", ["rules", "dashboard"])
def test_every_series_label_and_value_exists(where):
    checked = 0
    for name, matchers in selectors(texts()[where]):
        series = series_of(name)
        assert series, f"{where}: stillhouse_{name} is not measured"
        for label, _, wanted in matchers:
            assert label in {*series.labels, *OF_PROMETHEUS}, f"{where}: {name} has no {label}"
            known = series.labels.get(label)
            values = {value for value in wanted.split("|") if known and value != ".*"}
            assert values <= set(known or ()), f"{where}: {name} has no {label}={wanted}"
        checked += 1
    assert checked >= 40


def test_every_series_of_the_page_exists():
    named = set(re.findall(r'"stillhouse_(\w+)"', FILE.read_text(encoding="utf-8")))
    assert {name for name in named if not series_of(name)} == set()
    assert len(named) >= 14


def test_the_dashboard_shows_every_series():
    shown = {series_of(name).name for name, _ in selectors(" ".join(queries()))}
    tuning = {"token_budget"}  # set at the start; operators have it in the log
    assert set(KNOWN) - shown == tuning


def test_rules_and_configuration_are_prometheus_own():
    assert f"SUCCESS: {len(alerts())} rules found" in promtool("check", "rules", "rules.yml")
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("name", TESTS)
def test_alerts_fire_when_they_should_and_only_then(name):
    promtool("test", "rules", name)


def test_every_alert_is_tested_silent_and_firing():
    tested = {}
    for case in (case for name in TESTS for case in read_yaml(FOLDER / name)["tests"]):
        quiet, loud = case["promql_expr_test"]
        assert all(f'alertname="{case["name"]}"' in part["expr"] for part in (quiet, loud))
        tested[case["name"]] = (len(quiet["exp_samples"]), len(loud["exp_samples"]))
    assert tested == {rule["alert"]: (0, 1) for rule in alerts()}
    assert len(tested) >= 20


def test_every_alert_says_what_it_means_and_what_to_do():
    guide = (FOLDER / "README.md").read_text(encoding="utf-8")
    runbook = re.findall(r"^### (\w+)\n(.{20,})", guide.partition("## Runbook")[2], re.M)
    assert [name for name, _ in runbook] == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        told = rule["annotations"]
        assert len(told["summary"]) > 15 and len(told["description"]) > 40, rule["alert"]
        assert told["runbook"] == f"deploy/monitoring/README.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
    assert f"{len(alerts())} alerts" in guide


def test_numbers_of_the_rules_that_repeat_settings_are_their_defaults():
    settings = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    default = dict(re.findall(r"^\| `(\w+)` \| `?([\d.]+)`? \|", settings, re.M))
    by_name = {rule["alert"]: rule["expr"] for rule in alerts()}
    assert f"* {default['STILLHOUSE_MAX_QUEUE_ITEMS']}" in by_name["StillhouseQueueFull"]
    assert float(by_name["StillhouseSlow"].split("> ")[-1]) == (
        float(default["STILLHOUSE_DEADLINE_S"]) / 2
    )


def test_the_dashboards_promql_parses(tmp_path):
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries())]
    written = {"groups": [{"name": "dashboard", "rules": rules}]}
    (tmp_path / "rules.yml").write_text(json.dumps(written), encoding="utf-8")
    assert f"SUCCESS: {len(rules)} rules" in promtool(
        "check", "rules", "rules.yml", folder=tmp_path
    )
    assert len(rules) >= 50


def test_panels_have_places_of_their_own_and_one_data_source():
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in panels()]
    for number, (x, y, w, h) in enumerate(places):
        assert x + w <= 24
        for ox, oy, ow, oh in places[:number]:
            assert x >= ox + ow or ox >= x + w or y >= oy + oh or oy >= y + h, (x, y)
    sources = {panel["datasource"]["uid"] for panel in panels()}
    assert sources == {"${datasource}"}
    assert len({panel["id"] for panel in panels()}) == len(places) >= 40
