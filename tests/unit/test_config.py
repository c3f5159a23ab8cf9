"""Configuration: flags over environment over defaults, each with its source, no secret shown."""

import os
from pathlib import Path

import pytest

from finflow.app import Config
from finflow.kernel.errors import FinFlowError
from finflow.settings import SETTINGS


def test_defaults_say_that_they_are_defaults() -> None:
    config = Config.load({}, {"HOME": "/home/somebody"})
    assert set(config.sources) == {setting.name for setting in SETTINGS}
    assert set(config.sources.values()) == {"default"}
    assert config.port is None
    assert config.database_url is None
    assert config.workers == os.cpu_count()
    assert config.data.name == "finflow"


def test_a_flag_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"FINFLOW_PORT": "9000", "FINFLOW_WORKERS": "3", "FINFLOW_LOG_LEVEL": ""}
    config = Config.load({"port": 9001, "workers": None}, environ)
    assert (config.port, config.sources["port"]) == (9001, "flag")
    assert (config.workers, config.sources["workers"]) == (3, "environment")
    assert (config.log_level, config.sources["log_level"]) == ("info", "default"), "empty means unset"


def test_an_address_may_be_of_either_protocol() -> None:
    for text, address in (("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:9464", ("::1", 9464))):
        config = Config.load({}, {"FINFLOW_METRICS_ADDRESS": text})
        assert config.metrics_address == address
        assert {"metrics_address": ":".join(map(str, address))}.items() <= {
            each["name"]: each["value"] for each in config.rendered()
        }.items()


def test_a_relative_data_folder_is_made_absolute() -> None:
    assert Config.load({"data": "here"}, {}).data == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        ({"port": 0}, {}, "--port=0"),
        ({"port": 65536}, {}, "--port=65536"),
        ({}, {"FINFLOW_WORKERS": "many"}, "FINFLOW_WORKERS=many"),
        ({}, {"FINFLOW_WORKERS": "-1"}, "FINFLOW_WORKERS=-1"),
        ({}, {"FINFLOW_WORKERS": "٣"}, "FINFLOW_WORKERS"),
        ({"database_url": "mysql://x"}, {}, "--database-url=mysql://x"),
        ({}, {"FINFLOW_LOG_LEVEL": "loud"}, "FINFLOW_LOG_LEVEL=loud"),
        ({}, {"FINFLOW_LOG_TO": "syslog"}, "FINFLOW_LOG_TO=syslog"),
        ({}, {"FINFLOW_TARGET": "no-colon"}, "FINFLOW_TARGET"),
        ({}, {"FINFLOW_METRICS_ADDRESS": "9464"}, "FINFLOW_METRICS_ADDRESS=9464"),
        ({}, {"FINFLOW_METRICS_ADDRESS": "localhost:0"}, "FINFLOW_METRICS_ADDRESS=localhost:0"),
    ],
)
def test_a_malformed_setting_names_where_it_stands(
    flags: dict[str, object], environ: dict[str, str], named: str
) -> None:
    with pytest.raises(FinFlowError) as caught:
        Config.load(flags, environ)
    assert caught.value.kind.code == "setting_malformed"
    assert caught.value.kind.exit_code == 2
    assert caught.value.detail.startswith(named)


def test_what_is_shown_masks_passwords() -> None:
    config = Config.load(
        {}, {"FINFLOW_DATABASE_URL": "postgresql://me:hunter2@db.example/bank?password=hunter3"}
    )
    assert config.database_url is not None
    assert "hunter2" in config.database_url
    shown = {row["name"]: row for row in config.rendered()}
    assert shown["database_url"]["value"] == "postgresql://me:***@db.example/bank?password=***"
    assert shown["database_url"]["source"] == "environment"


def test_a_refused_setting_masks_passwords_too() -> None:
    with pytest.raises(FinFlowError) as caught:
        Config.load({"database_url": "mysql://me:hunter2@db/x"}, {})
    assert "hunter2" not in caught.value.detail
