"""The embedded server's settings: sized to the machine, rendered as PostgreSQL reads them."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from finflow.stack.settings import DURABLE, render, settings_for, shared_buffers

_MB, _GB = 1 << 20, 1 << 30


def _values(folder: Path, *, durable: bool = True) -> dict[str, str]:
    return {each.name: each.value for each in settings_for(folder, folder, durable=durable)}


def test_shared_buffers_stay_between_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {256 * _MB: 128 * _MB, 2 * _GB: 512 * _MB, 64 * _GB: _GB}
    for memory, expected in sizes.items():
        pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": memory // 4096}
        monkeypatch.setattr("os.sysconf", pages.__getitem__)
        assert shared_buffers() == expected


@pytest.mark.parametrize(
    ("free", "most", "least"),
    [
        (1 << 40, "8192MB", "1024MB"),
        (16 * _GB, "2048MB", "1024MB"),
        (4 * _GB, "512MB", "256MB"),
        (0, "128MB", "64MB"),
    ],
)
def test_the_log_fits_the_disk(
    free: int, most: str, least: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    values = _values(tmp_path)
    assert (values["max_wal_size"], values["min_wal_size"]) == (most, least)


def test_durable_unless_a_test_says_otherwise(tmp_path: Path) -> None:
    assert {name: _values(tmp_path)[name] for name in (each.name for each in DURABLE)} == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
    }
    assert _values(tmp_path, durable=False)["fsync"] == "off"


def test_every_setting_stands_once_with_a_reason(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, tmp_path)
    assert Counter(each.name for each in settings).most_common(1)[0][1] == 1
    assert [each.name for each in settings if not each.reason] == []
    lines = render(settings).splitlines()
    assert lines[1] == "include 'postgresql.conf'"
    assert "fsync = on  # a commit that is not on the disk is not a commit" in lines
