"""docs/monitoring.md, the dashboard and the alerts name what the code measures and tells."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from audit.metrics_port import process_registry
from audit.process_events import Catalogue
from client.event_kinds import EVENTS as CLIENT_EVENTS
from client.metrics import SiteMetrics
from client.site import Site
from compliance.event_kinds import EVENTS as COMPLIANCE_EVENTS
from compliance.service.folder import NewService, create_folder, open_registry
from compliance.service.metrics import ServiceMetrics
from server.absences import MEANINGS
from server.event_kinds import EVENTS as SERVER_EVENTS
from server.metrics import CoordinatorMetrics
from tests.compliance.running import Clock

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/monitoring.md").read_text("utf-8")
DEPLOY = ROOT / "deploy/monitoring"

CATALOGUES: dict[str, Catalogue] = {
    "server": SERVER_EVENTS,
    "client": CLIENT_EVENTS,
    "compliance": COMPLIANCE_EVENTS,
}


def section(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, as cells without code marks."""
    text = PAGE.split(f"### {heading}", 1)[1].split("\n#", 1)[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("`", "") for cell in row.split("|")[1:-1]] for row in rows]


def measured(registry: CollectorRegistry) -> dict[str, str]:
    """Names, as samples have them, and types of all metrics."""
    endings = {"counter": "_total", "info": "_info"}
    return {
        family.name + endings.get(family.type, ""): family.type for family in registry.collect()
    }


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, CollectorRegistry]]:
    folder = tmp_path_factory.mktemp("monitoring")
    coordinator = CoordinatorMetrics()
    with Site.create(folder / "site", name="north", federation="demo") as site:
        site_metrics = SiteMetrics(site.paths.root)
    clock = Clock()
    new = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log")
    service = ServiceMetrics()
    with closing(open_registry(create_folder(folder / "c", new, clock), clock)) as office:
        service.watch(office)
        yield {
            "Coordinator": coordinator.registry,
            "Site": site_metrics.registry,
            "Compliance service": service.registry,
        }


@pytest.mark.parametrize("process", ["Coordinator", "Site", "Compliance service"])
def test_the_page_lists_every_metric(
    process: str, registries: dict[str, CollectorRegistry]
) -> None:
    everywhere = measured(process_registry("server"))
    assert {row[0]: row[1] for row in section("Every process")} == everywhere
    own = {k: v for k, v in measured(registries[process]).items() if k not in everywhere}
    assert {row[0]: row[1] for row in section(f"{process} (`")} == own


@pytest.mark.parametrize("process", ["Coordinator", "Site", "Compliance service"])
def test_names_and_labels_follow_the_conventions(
    process: str, registries: dict[str, CollectorRegistry]
) -> None:
    for name, kind in measured(registries[process]).items():
        assert re.fullmatch(r"(fiduciary|process)_[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter")
        if kind == "histogram":
            assert name.endswith("_seconds")


@pytest.mark.parametrize(
    ("process", "heading"),
    [("server", "the coordinator"), ("client", "a site"), ("compliance", "the compliance service")],
)
def test_the_page_lists_every_event(process: str, heading: str) -> None:
    rows = section(f"Events of {heading}")
    events = [row for row in rows if len(row) == 4]
    assert [(name, level, fields) for name, level, fields, _ in events] == [
        (name, kind.level, ", ".join(kind.fields)) for name, kind in CATALOGUES[process].items()
    ]
    codes = {row[0]: row[1] for row in rows if len(row) == 2}
    assert codes == (MEANINGS if process == "server" else {})


def told_in(folder: str) -> Iterator[tuple[str, set[str]]]:
    """Name and fields of every event that the sources tell."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            first = node.args[0]
            if name == "Recurring":  # it tells the failure that it is given the name of
                [failed] = [one.value for one in node.keywords if one.arg == "failed"]
                assert isinstance(failed, ast.Constant)
                yield str(failed.value), {"code"}
            if name == "event" and isinstance(first, ast.Constant):
                yield str(first.value), {str(keyword.arg) for keyword in node.keywords}


@pytest.mark.parametrize("process", list(CATALOGUES))
def test_every_event_that_is_told_is_in_the_catalogue_and_the_other_way_round(
    process: str,
) -> None:
    catalogue, told = CATALOGUES[process], dict[str, set[str]]()
    for name, fields in told_in(process):
        told.setdefault(name, set()).update(fields)
    # The handler of `compliance.service.process_log` tells this one itself.
    told |= {"library-message": {"logger", "error"}} if process == "compliance" else {}
    assert set(told) == set(catalogue)
    for name, fields in told.items():
        assert fields == set(catalogue[name].fields), name


def test_events_have_no_field_for_words_or_people() -> None:
    for catalogue in CATALOGUES.values():
        for name, kind in catalogue.items():
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
            forbidden = {"message", "reason", "detail", "text", "subject", "principal", "token"}
            assert not forbidden & set(kind.fields)


def samples_of(registry: CollectorRegistry) -> set[str]:
    endings = {"counter": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        name + ending
        for name, kind in measured(registry).items()
        for ending in endings.get(kind, [""])
    }


def named_in(expressions: Iterable[str]) -> set[str]:
    return set(re.findall(r"\b(?:fiduciary|process)_[a-z_]+", " ".join(expressions)))


def expressions_of_the_dashboard() -> list[str]:
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text("utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def expressions_of_the_alerts() -> list[str]:
    yaml = importlib.import_module("yaml")
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("named", [expressions_of_the_dashboard, expressions_of_the_alerts])
def test_dashboard_and_alerts_name_metrics_that_exist(
    named: Any, registries: dict[str, CollectorRegistry]
) -> None:
    known = set().union(*map(samples_of, registries.values()))
    found = named_in(named())
    assert len(found) > 5
    assert found <= known


def test_the_scrape_example_uses_the_ports_and_rules_of_the_page() -> None:
    yaml = importlib.import_module("yaml")
    example = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))
    targets = [
        target
        for job in example["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    ports = re.findall(r"--metrics-port (\d+)", PAGE)
    assert targets == [f"127.0.0.1:{port}" for port in ports]
    assert all((DEPLOY / name).is_file() for name in example["rule_files"])


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text("utf-8"))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
