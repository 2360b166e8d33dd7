"""Prometheus sees every replica, its alerts fire and clear, and every query of the dashboard has an answer."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

PROMETHEUS = "http://127.0.0.1:19090"  # as conftest.py publishes it
REPLICAS = ("replica-1", "replica-2", "replica-3")
ROOT = Path(__file__).parents[2]


def _ask(path: str) -> Any:
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/{path}", timeout=10) as answer:
        return json.load(answer)["data"]


def _query(expression: str) -> list[dict[str, Any]]:
    return _ask(f"query?query={urllib.parse.quote(expression)}")["result"]  # type: ignore[no-any-return]


def _until(what: str, true: Callable[[], Any], seconds: float) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(0.5)
    return time.monotonic() - began


def _firing(alert: str) -> list[str]:
    return [
        a["labels"].get("replica", "")
        for a in _ask("alerts")["alerts"]
        if a["state"] == "firing" and a["labels"]["alertname"] == alert
    ]


def test_every_replica_is_scraped(stack: Any) -> None:
    def up() -> bool:
        targets = _ask("targets?state=active")["activeTargets"]
        return {
            t["labels"]["replica"] for t in targets if t["health"] == "up" and t["labels"]["job"] == "crossmodal"
        } == set(REPLICAS)

    _until("three replicas up", up, 30)


def test_every_panel_of_the_dashboard_has_data(stack: Any, traffic: Callable[..., Any]) -> None:
    with traffic():
        time.sleep(25)  # a rate needs two scrapes and a rule two evaluations
    dashboard = json.loads((ROOT / "deploy/observability/grafana/dashboards/crossmodal.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m")
            _until(f"{panel['title']}: {expression}", lambda e=expression: _query(e), 20)  # type: ignore[misc]
    for share in ("crossmodal:errors:ratio5m", "crossmodal:errors:ratio30d", "crossmodal:slow:ratio5m"):
        [found] = _query(share)  # of tests that broke replicas too
        assert 0 <= float(found["value"][1]) <= 1


def test_what_is_asked_for_is_what_the_service_exports(stack: Any) -> None:
    """Every metric and label of rules, dashboard and autoscaler: an alert on a name that nothing has stays silent."""
    exported: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(stack.ask("replica-1", "/metrics")):
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    deploy = ROOT / "deploy"
    rules = [
        rule
        for name in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((deploy / "observability/prometheus" / name).read_text())["groups"]
        for rule in group["rules"]
    ]
    board = json.loads((deploy / "observability/grafana/dashboards/crossmodal.json").read_text())
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    scaling = yaml.safe_load((deploy / "kubernetes/crossmodal/values.yaml").read_text())["autoscaling"]
    [adapter] = yaml.safe_load((deploy / "kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    metric = scaling["queuedSeconds"]["metric"]
    assert adapter["seriesQuery"].startswith(metric + "{")
    asked += [metric, adapter["seriesQuery"]]
    by_scraping = {"job", "instance", "replica", "colour", "namespace", "pod"}
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for expression in asked:
        bare = re.sub(r'"[^"]*"', '""', expression)
        for name, matchers in re.findall(r"\b((?:crossmodal|process)[\w:]*)(?:\{([^}]*)\})?", bare):
            if ":" in name:
                assert name in recorded, expression
            else:
                labels = set(re.findall(r"(\w+)\s*[=!]", matchers))
                assert name in exported, expression
                assert labels <= exported[name] | by_scraping, expression
    # What the adapter asks for each pod, asked for each replica.
    asks = adapter["metricsQuery"].replace("<<.Series>>", metric).replace("<<.LabelMatchers>>", 'job="crossmodal"')
    assert len(_query(asks.replace("<<.GroupBy>>", "replica"))) == 3


def test_an_alert_fires_and_clears(stack: Any) -> None:
    _until("quiet at first", lambda: not _firing("CrossmodalReplicaDown"), 60)
    subprocess.check_call([stack.docker, "kill", stack.container("replica-3")], stdout=subprocess.DEVNULL)
    try:
        fired = _until("the alert fires", lambda: _firing("CrossmodalReplicaDown") == ["replica-3"], 60)
    finally:
        stack.compose("start", "replica-3")
    cleared = _until("the alert clears", lambda: not _firing("CrossmodalReplicaDown"), 60)
    print(f"\n  fired {fired:.0f} s after the kill, cleared {cleared:.0f} s after the start")
    assert not _firing("CrossmodalDown")


def test_the_balancer(stack: Any) -> None:
    """Request ids, gzip, the cache, the limit of a body, and what is not passed on."""

    def get(path: str, **headers: str) -> Any:
        request = urllib.request.Request(
            stack.front + path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        try:
            return urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            return error

    for _ in range(5):  # a machine that stops for two seconds has lost what was kept
        path = f"/v1/search/images?text=cached+{time.monotonic_ns()}&k=50"
        first = get(path, X_Request_ID="mine-1", Accept_Encoding="gzip")
        assert first.headers["X-Request-ID"] == "mine-1"
        assert first.headers["X-Cache-Status"] == "MISS"
        assert first.headers["Content-Encoding"] == "gzip"
        second = get(path, X_Request_ID="mine-2")
        assert second.headers["X-Request-ID"] == "mine-2"  # not the one that was kept
        if second.headers["X-Cache-Status"] == "HIT":
            break
    assert second.headers["X-Cache-Status"] == "HIT"
    assert get(path, Authorization="Bearer x").headers["X-Cache-Status"] == "BYPASS"
    said = {"HIT"}

    def asked_again() -> bool:
        said.add(get(path).headers["X-Cache-Status"])
        return said != {"HIT"}

    _until("asked again whether it still holds", asked_again, 10)
    assert said == {"HIT", "REVALIDATED"}
    assert len(get("/v1/index", X_Request_ID="no id!").headers["X-Request-ID"]) == 32
    for private in ("/metrics", "/v1/index/reload"):
        assert get(private).status == 404
    assert json.load(get("/healthz")) == {"status": "alive"}

    def post(size: int) -> int:
        body = json.dumps({"query": {"text": "a star"}, "pad": "x" * size}).encode()
        request = urllib.request.Request(f"{stack.front}/v1/search/images", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert post(20 * 2**20 + 1) == 413
    assert post(10) in {200, 422}
