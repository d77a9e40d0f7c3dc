"""deploy/grafana-dashboard.json and deploy/prometheus-alerts.yaml: each query is one, of metrics and labels that are
really exposed."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("promql_parser")
pytest.importorskip("prometheus_client")
pytest.importorskip("yaml")

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pgonly_django import exposition
from pgonly_django.monitoring.prometheus import exposition as exposition_of_site
from pgonly_django.worker.health.health import METRICS
from tests.guards import ROOT, refuse
from tests.monitoring.test_prometheus import fill
from tests.worker.health.statuses import seen, status

ALERTS = ROOT / "deploy" / "prometheus-alerts.yaml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"instance", "job"}  # labels that it adds


def rules():
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def wrong_in(cases, check_one):
    """A line for each of the cases, which have names, that `check_one` refuses."""
    for name, case in cases.items():
        try:
            check_one(case)
        except (AssertionError, ValueError) as error:
            yield f"{name}: {str(error).splitlines()[0]}"


NAMES = (
    "Correct the query there. What is exposed is in docs/reference/metrics.md: METRICS in "
    "pgonly_django/monitoring/metrics.py, and METRICS in pgonly_django/worker/health/health.py."
)


@pytest.fixture
def exposed(db, settings):
    """By the name of each series, its labels with their values, of both endpoints."""
    bounded = {"LOCATION": "bounded", "OPTIONS": {"MAX_BYTES": 10_000_000, "MAX_ENTRIES": 1000}}
    settings.CACHES = {**settings.CACHES, "bounded": {**settings.CACHES["answers"], **bounded}}
    fill()
    of_worker = exposition.exposition(METRICS, seen(status(pid=1), memory={1: 1}))
    found = {}
    for text in (exposition_of_site("")[0].decode(), of_worker):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
    return found


def expression(query):
    """Parsed, with what Grafana puts in the place of its variables."""
    for name, value in {"$__rate_interval": "5m", "$database": ".*", "$queue": ".*"}.items():
        query = query.replace(name, value)
    return promql.parse(query)


def nodes(expr):
    found = []
    promql.walk(expr, found.append)
    return found


def check(query, exposed):
    """The labels that its result may have. Fails for a name, a label or a value of an enumeration that there is not."""
    expr = expression(query)
    known = set()
    for node in nodes(expr):
        if not isinstance(node, promql.VectorSelector):
            continue
        assert node.name in exposed, f"{node.name} is not exposed"
        known |= set(exposed[node.name])
        for matcher in node.matchers.matchers:
            assert matcher.name in exposed[node.name], f"{node.name} has no label {matcher.name}"
            if matcher.name in ("outcome", "state", "part"):
                values = set(matcher.value.split("|")) - exposed[node.name][matcher.name]
                assert not values, f"{node.name} has no {matcher.name} {', '.join(values)}"
    for node in nodes(expr):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            labels = set(node.modifier.labels) - known - OF_PROMETHEUS
            assert not labels, f"the series that are summed have no label {', '.join(labels)}"
    return known | OF_PROMETHEUS


def result_labels(query, exposed):
    """Of the outermost aggregation, where there is one."""
    aggregates = [node for node in nodes(expression(query)) if isinstance(node, promql.AggregateExpr)]
    by = [set(node.modifier.labels) for node in aggregates if node.modifier is not None]
    return by[0] if by else check(query, exposed)


def test_each_query_of_the_dashboard_is_of_what_is_exposed(exposed):
    def check_target(target):
        check(target["expr"], exposed)
        labels = result_labels(target["expr"], exposed)
        unknown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - labels
        assert not unknown, f"its legend has the label {', '.join(unknown)}, which its result has not"

    targets = {
        f"deploy/grafana-dashboard.json: {panel['title']}, {target['refId']}": target
        for panel in PANELS
        for target in panel["targets"]
    }
    refuse(wrong_in(targets, check_target), NAMES)


def test_each_alert_is_of_what_is_exposed(exposed):
    def check_rule(rule):
        check(rule["expr"], exposed)
        labels = result_labels(rule["expr"], exposed)
        texts = rule["annotations"]
        assert set(texts) == {"summary", "description"}, "its annotations are a summary and a description"
        unknown = set(re.findall(r"\$labels\.(\w+)", " ".join(texts.values()))) - labels
        assert not unknown, f"its texts have the label {', '.join(unknown)}, which its result has not"
        severity = rule["labels"]["severity"]
        assert severity in ("critical", "warning", "info"), f"it has the severity {severity!r}"
        assert promql.parse_duration(rule["for"]), "its `for` is 0"

    refuse(wrong_in({f"deploy/{ALERTS.name}: {rule['alert']}": rule for rule in rules()}, check_rule), NAMES)


def test_a_wrong_name_a_wrong_label_and_a_wrong_value_are_found(exposed):
    for query in (
        "pgonly_workers_alive == 0",
        'pgonly_jobs{queue="a"}',
        'pgonly_jobs{state="done"}',
        "sum by (queue) (pgonly_jobs)",
    ):
        with pytest.raises(AssertionError):
            check(query, exposed)
    with pytest.raises(ValueError):
        check("sum(pgonly_jobs", exposed)


def test_the_how_to_lists_every_alert_and_no_other():
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
    listed, known = (
        re.findall(r"^\| `(Pgonly\w+)` \|", page, re.MULTILINE),
        [rule["alert"] for rule in rules()],
    )
    refuse(
        sorted(set(listed) ^ set(known)),
        f"docs/how-to/monitoring.md has a row for each alert of deploy/{ALERTS.name}, and for no other.",
    )
    assert sorted(listed) == sorted(known)


def test_the_dashboard_is_for_any_data_source_and_knows_its_variables(exposed):
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert DASHBOARD["id"] is None
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}
    for name in ("database", "queue"):
        query, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variables[name]["definition"]).groups()
        assert label in check(query, exposed)
