# SPDX-License-Identifier: Apache-2.0
"""Alert rules, dashboard and pages: sound, and about what is there.

That a real scrape has what the catalogues declare is held by tests/e2e/test_metrics_served.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control.metrics import catalogue as relay
from docs.generate_metrics import page
from telemetry.declared import Declared, Kind
from transceiver import catalogue as transceiver

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "earshot.rules.yml"
RULE_TESTS = DEPLOY / "prometheus" / "earshot.rules.test.yml"
DASHBOARD = DEPLOY / "grafana" / "earshot.json"
OPERATIONS = ROOT / "docs" / "operations.md"
PROMTOOL = ROOT / "build" / "promtool"  # scripts/promtool fetches it

METRICS: tuple[Declared, ...] = (*relay.ALL, *transceiver.ALL)
LABELS = {
    name: {*metric.labels, *(("le",) if metric.bounds else ())}
    for metric in METRICS
    for name in metric.sample_names
}
# What Prometheus itself, and a transceiver with workers, adds.
ADDED = {"instance", "job", "worker"}
_NAME = re.compile(r"\bearshot_[a-z0-9_]+\b")
_SELECTOR = re.compile(r"\b(earshot_[a-z0-9_]+)\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def promtool(*arguments: str, cwd: Path = ROOT) -> str:
    assert PROMTOOL.exists(), "run scripts/promtool"
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def panels() -> Iterator[dict[str, Any]]:
    for one in json.loads(DASHBOARD.read_text())["panels"]:
        if one["type"] != "row":
            yield one


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def anchors(markdown: str) -> set[str]:
    """Of headings, as they are linked to."""
    titles = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def rules_of(text: str) -> list[str]:
    """The text of each alert."""
    return re.split(r"^ +- alert: ", text, flags=re.MULTILINE)[1:]


def test_promtool_takes_the_rules() -> None:
    assert f"SUCCESS: {len(rules_of(RULES.read_text()))} rules found" in promtool(
        "check", "rules", str(RULES)
    )


def test_every_alert_fires_and_none_does_when_all_is_well() -> None:
    promtool("test", "rules", RULE_TESTS.name, cwd=RULE_TESTS.parent)
    names = {rule.split()[0] for rule in rules_of(RULES.read_text())}
    tried = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", RULE_TESTS.read_text())
    assert {name for name, nothing in tried if nothing} == names
    assert {name for name, nothing in tried if not nothing} == names


def test_every_alert_says_what_to_do() -> None:
    known = anchors(OPERATIONS.read_text())
    for rule in rules_of(RULES.read_text()):
        runbook = re.search(r"^ +runbook: docs/operations\.md#(\S+)$", rule, re.MULTILINE)
        assert runbook, rule
        assert runbook[1] in known, runbook[0]
        assert re.search(r"labels: \{severity: (critical|warning|info)\}", rule), rule
        assert "summary: " in rule
        assert "description: " in rule


def test_prometheus_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": _filled_in(expression)}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # YAML, too
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", str(file))


def _filled_in(expression: str) -> str:
    """As Grafana asks for it."""
    return expression.replace("$__rate_interval", "5m").replace("$relay", ".*").replace("$transceiver", ".*")


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))
    variables = {one["name"] for one in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__rate_interval", "__all"} <= variables
    for panel in panels():
        assert panel["title"]
        assert panel["targets"]
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24, panel["title"]


@pytest.mark.parametrize("file", [RULES, RULE_TESTS, DASHBOARD, OPERATIONS], ids=lambda file: file.name)
def test_every_metric_that_is_named_exists(file: Path) -> None:
    text = file.read_text()
    named = {name for name in _NAME.findall(text) if not name.endswith("_")}
    assert named
    assert named <= LABELS.keys() | {metric.name for metric in METRICS}
    for name, matchers in _SELECTOR.findall(text.replace('\\"', '"')):
        assert {*_MATCHER.findall(matchers)} <= LABELS[name] | ADDED, (name, matchers)


def test_what_is_alerted_on_and_shown_is_most_of_what_there_is() -> None:
    """A metric that neither an alert nor a panel has is one that nobody looks at."""
    asked = (*expressions(), *rules_of(RULES.read_text()))
    shown = {name for expression in asked for name in _NAME.findall(expression)}
    unseen = [metric.name for metric in METRICS if not shown & {*metric.sample_names}]
    assert unseen == ["earshot_ufrags"]  # beside earshot_table_entries


def test_groupings_are_by_labels_that_exist() -> None:
    everything = set().union(*LABELS.values()) | ADDED
    for text in (*expressions(), *rules_of(RULES.read_text())):
        for group in re.findall(r"\b(?:by|without|ignoring|on) \(([^)]*)\)", text):
            assert {*re.split(r",\s*", group)} <= everything, group


def test_the_page_of_metrics_is_made_of_the_code() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page()


def test_declarations_are_sound() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert metric.text.endswith("."), metric.name
        assert bool(metric.bounds) == (metric.kind in (Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM)), metric.name
        assert list(metric.bounds) == sorted(metric.bounds), metric.name


def _links(files: Iterable[Path]) -> Iterator[tuple[Path, str, str]]:
    for file in files:
        for path, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", file.read_text()):
            yield file, path, anchor


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for file, path, anchor in _links(pages):
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{file.name}: {path}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{file.name}: {path}#{anchor}"
