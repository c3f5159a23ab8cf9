"""What a SPEC may say about fleets, and what of it is refused with words."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from finflow.app import Config, fleets
from finflow.demo.stage import Stage
from finflow.kernel.errors import FinFlowError
from finflow.rollout.fleet_spec import CommandFleet, EndpointsFleet, FleetSpec, split_endpoint
from finflow.stack.fleets.watching import read_environment_file


def _read(**fields: Any) -> FleetSpec:
    return msgspec.convert(fields, FleetSpec, strict=True)


def test_either_kind_is_known_by_its_tag() -> None:
    command = _read(kind="command", command=["gunicorn", "app"], ready_path="/ready", memory_limit_mb=512)
    assert isinstance(command, CommandFleet)
    assert (command.command, command.processes, command.port_variable) == (("gunicorn", "app"), 1, "PORT")
    legacy = _read(kind="endpoints", endpoints=["127.0.0.1:8080", "[::1]:8081"])
    assert isinstance(legacy, EndpointsFleet)
    assert [split_endpoint(each) for each in legacy.endpoints] == [("127.0.0.1", 8080), ("::1", 8081)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "docker"}, "kind"),
        ({"kind": "command"}, "command"),
        ({"kind": "command", "command": []}, "command"),
        ({"kind": "command", "command": "gunicorn"}, "command"),
        ({"kind": "command", "command": ["x"], "typo": 1}, "typo"),
        ({"kind": "command", "command": ["x"], "processes": 0}, "processes"),
        ({"kind": "command", "command": ["x"], "processes": 257}, "processes"),
        ({"kind": "command", "command": ["x"], "drain_s": 0}, "drain_s"),
        ({"kind": "command", "command": ["x"], "port_variable": "A-B"}, "A-B"),
        ({"kind": "command", "command": ["x"], "environment": {"1A": ""}}, "1A"),
        ({"kind": "command", "command": ["x"], "ready_path": "readyz"}, "ready_path"),
        ({"kind": "command", "command": ["x"], "ready_path": "/a b\r\nX: y"}, "ready_path"),
        ({"kind": "command", "command": ["x", "a\0b"]}, "NUL"),
        ({"kind": "command", "command": ["x", "postgresql://u:hunter2@h/d"]}, "secret"),
        ({"kind": "command", "command": ["x"], "environment": {"DB_PASSWORD": "hunter2"}}, "secret"),
        ({"kind": "command", "command": ["x"], "environment": {"STRIPE_API_KEY": "hunter2"}}, "secret"),
        ({"kind": "command", "command": ["x", "ghp_" + 36 * "a"]}, "secret"),
        (
            {"kind": "command", "command": ["x"], "environment": {"DB": "postgresql://u:hunter2@h/d"}},
            "secret",
        ),
        ({"kind": "endpoints", "endpoints": []}, "endpoints"),
        ({"kind": "endpoints", "endpoints": ["localhost"]}, "HOST:PORT"),
        ({"kind": "endpoints", "endpoints": ["h:0"]}, "port"),
        ({"kind": "endpoints", "endpoints": ["h:65536"]}, "port"),
        ({"kind": "endpoints", "endpoints": ["h:1"], "stop_command": ["x", "https://u:hunter2@h"]}, "secret"),
    ],
)
def test_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words) as caught:
        _read(**fields)
    assert "hunter2" not in str(caught.value)


def test_paths_begin_at_the_spec_and_the_release_is_in_the_environment(tmp_path: Path) -> None:
    spec = CommandFleet(command=("./run", "{port}"), working_folder="app", environment_file="secrets")
    plan = fleets.plan(spec, data=tmp_path, release="1.2", base=Path("/specs"))
    assert (plan.working_folder, plan.environment_file) == ("/specs/app", "/specs/secrets")
    assert plan.environment == {"FINFLOW_RELEASE": "1.2"}
    assert plan.command == ("./run", "{port}"), "ports are the supervisor's to fill in"


@pytest.mark.parametrize(
    "spec", [CommandFleet(command=("{python}", "x")), CommandFleet(command=("{python}", "x"), release="none")]
)
def test_a_release_that_there_is_not_is_refused(spec: CommandFleet, tmp_path: Path) -> None:
    with pytest.raises(FinFlowError) as caught:
        fleets.plan(spec, data=tmp_path, release="1", base=tmp_path)
    assert caught.value.kind.code == "release_unknown"


def test_the_paths_of_secrets_are_none() -> None:
    named = {
        "TLS_PRIVATE_KEY": "/run/secrets/key",
        "API_TOKEN": "",
        "FINFLOW_KEYS": "/keys",
        "KEYBOARD": "de",
    }
    assert CommandFleet(command=("x",), environment=named).environment == named


def test_the_demonstration_keeps_its_databases_password_out_of_every_spec(tmp_path: Path) -> None:
    url = "postgresql://bank:hunter2@db.example/bank"
    stage = Stage(Config.load({"data": str(tmp_path)}), tmp_path, url, "http://h", "h", 1, lambda: None)
    release = stage.release("1.0")
    assert b"hunter2" not in msgspec.json.encode(release)
    assert (
        "FINFLOW_DATABASE_URL"
        in msgspec.json.decode(msgspec.json.encode(release))["fleet"]["environment_from"]
    )


def test_environment_files(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("# comment\n\nA=1\n  B = two words = 2 \n")
    path.chmod(0o600)
    assert read_environment_file(path) == {"A": "1", "B": "two words = 2"}
    path.write_text("A=1\nhunter2\n")
    with pytest.raises(FinFlowError, match="assignment 2") as caught:
        read_environment_file(path)
    assert "hunter2" not in str(caught.value)
    path.chmod(0o640)
    with pytest.raises(FinFlowError, match="chmod 600"):
        read_environment_file(path)
    with pytest.raises(FinFlowError, match="cannot be read"):
        read_environment_file(tmp_path / "missing")
