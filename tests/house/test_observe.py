"""deploy/observe: its files fit FinFlow and each other. No container is started."""

import ast
import datetime
import json
import logging
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from finflow import cli
from finflow.telemetry.logs import JsonLines

_ROOT = Path(__file__).parents[2]
_OBSERVE = _ROOT / "deploy" / "observe"
_SOURCE = _ROOT / "src" / "finflow"
_LEVELS = {"debug", "info", "warning", "error", "exception"}


def _yaml(name: str) -> Any:
    return yaml.safe_load((_OBSERVE / name).read_text())


# --- what alerts tell people to look at ---


@cache
def _trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted(_SOURCE.rglob("*.py"))]


def _texts(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _logged(tree: ast.Module) -> set[str]:
    """The messages of the log calls in a file."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    return _texts(
        call.args[0]
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in _LEVELS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in ("log", "_log")
    )


@cache
def _log_lines() -> dict[str, set[str]]:
    """Each log message, with every text of the file that says it: the names of its fields are among them."""
    return {message: _texts(ast.walk(tree)) for tree in _trees() for message in _logged(tree)}


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in _yaml("prometheus/rules.yml")["groups"] for rule in group["rules"]]


def _is_command(words: list[str]) -> bool:
    found: click.Command | None = cli.finflow
    for word in words:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    return found is not None


@pytest.mark.parametrize("alert", _alerts(), ids=lambda alert: alert["alert"])
def test_what_an_alert_names_is_there(alert: dict[str, Any]) -> None:
    lines = _log_lines()
    said = " ".join(alert["annotations"].values())
    quoted = re.findall("`([^`]+)`", said)
    fields = set().union(*(lines.get(each, set()) for each in quoted))
    files = {path.rpartition("/")[2] for path in quoted if path.endswith(".log")}
    assert files - _texts(node for tree in _trees() for node in ast.walk(tree)) == set()
    for each in quoted:
        if each.startswith("finflow "):
            assert _is_command(each.split()[1:]), each
        elif not each.endswith(".log"):
            assert each in lines or each in fields, f"no log line says {each!r}"
    for page in re.findall(r"docs/[\w/-]+\.md", said):
        assert (_ROOT / page).exists(), page


def test_the_alert_about_failed_writes_names_their_log_line() -> None:
    [alert] = [each for each in _alerts() if each["alert"] == "FinFlowWritesFail"]
    assert "`write transaction failed`" in alert["annotations"]["action"]
    assert "`write transaction failed`" in (_ROOT / "docs" / "howto" / "logs.md").read_text()


# --- how Fluent Bit reads our lines ---


def _parser() -> dict[str, str]:
    lines = (_OBSERVE / "fluent-bit-parsers.conf").read_text().splitlines()[1:]
    return dict(line.split(maxsplit=1) for line in lines)


def test_fluent_bit_takes_a_line_s_time_from_the_line() -> None:
    record = logging.makeLogRecord({"msg": "a line", "created": 1_762_000_000.000123})
    line = json.loads(JsonLines().format(record))
    parser = _parser()
    assert parser["Format"] == "json"
    # Fluent Bit's %L takes up to nine digits behind the point, and its %z takes Z; strptime's %f is our six.
    time_format = parser["Time_Format"].replace("%L", "%f")
    read = datetime.datetime.strptime(line[parser["Time_Key"]], time_format)
    assert read == datetime.datetime(2025, 11, 1, 12, 26, 40, 123, datetime.UTC)


def test_fluent_bit_follows_our_lines_and_not_what_postgresql_says() -> None:
    [follow] = _yaml("fluent-bit.yml")["pipeline"]["inputs"]
    assert follow["parser"] == _parser()["Name"]
    # A fleet of processes has a folder of its own; the rest is what lies in a data folder's logs.
    paths = [path for path in _SOURCE.rglob("*.py") if "fleets" not in path.parts]
    written = {name for path in paths for name in re.findall(r'\blogs / "([\w.]+\.log)"', path.read_text())}
    assert written == {"api.log", "up.log", "postgres.log"}
    followed = {Path(each) for each in follow["path"].split(",")}
    assert followed == {Path("/var/log/finflow") / name for name in written - {"postgres.log"}}


# --- the services: their files fit together ---


def test_every_file_is_yaml() -> None:
    files = [*_OBSERVE.rglob("*.yml"), *_OBSERVE.rglob("*.yaml")]
    assert len(files) >= 14
    for path in files:
        assert [document for document in yaml.safe_load_all(path.read_text()) if document], path


def test_services_call_each_other_by_names_and_ports_that_exist() -> None:
    services = _yaml("compose.yml")["services"]
    listening = {
        ("prometheus", 9090), ("thanos-sidecar", 10901), ("thanos-query", 10904), ("alertmanager", 9093),
        ("otel-collector", 4317), ("otel-collector", 4318), ("otel-collector", 8888), ("jaeger", 4317),
        ("jaeger", 16686), ("loki", 3100),
    }  # fmt: skip
    ours = "|".join(services)
    named = set()
    for path in _OBSERVE.rglob("*.yml"):
        named |= {
            (name, int(port)) for name, port in re.findall(rf"\b({ours}):(\d{{4,5}})\b", path.read_text())
        }
    named.add((_yaml("fluent-bit.yml")["pipeline"]["outputs"][0]["host"], 3100))
    assert named - listening == set()
    assert {name for name, _ in named} >= {"prometheus", "thanos-query", "jaeger", "loki", "alertmanager"}


def test_every_port_is_published_to_this_machine_alone_and_every_image_is_pinned() -> None:
    for name, service in _yaml("compose.yml")["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_every_file_that_compose_mounts_is_there() -> None:
    for service in _yaml("compose.yml")["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith("./") or (_OBSERVE / source).exists(), mount


def test_nobody_is_in_grafana_without_a_password_because_the_jumps_need_more_than_a_viewer() -> None:
    environment = _yaml("compose.yml")["services"]["grafana"]["environment"]
    assert not any(name.startswith(("GF_AUTH_", "GF_USERS_")) for name in environment)
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
