"""SQL as text, headers of backfills, folders of a change, and how fast a backfill may go."""

from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from finflow.app.schema_check import full_since
from finflow.db.phases import Phase, is_concurrent, keyed, load, wants_equal
from finflow.db.sql_text import statements
from finflow.db.throttle import Lag, Pace, Throttle
from finflow.kernel.errors import FinFlowError


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a; b;", ["a", "b"]),
        ("select ';' ; b", ["select ';'", "b"]),
        ("select 'it''s; fine'; b", ["select 'it''s; fine'", "b"]),
        (r"select e'\';'; b", [r"select e'\';'", "b"]),
        ('select "a;b"; c', ['select "a;b"', "c"]),
        ("-- a;b\nc; d", ["c", "d"]),
        ("/* a; /* b; */ c; */ d; e", ["d", "e"]),
        ("do $$ begin; end $$; b", ["do $$ begin; end $$", "b"]),
        ("do $x$ $$;$$ $x$; b", ["do $x$ $$;$$ $x$", "b"]),
        ("select a$b$c; d", ["select a$b$c", "d"]),
        ("select $1; b", ["select $1", "b"]),
        (";;  ;", []),
        ("select 'open; b", ["select 'open; b"]),
    ],
)
def test_statements_end_at_semicolons_that_nothing_hides(sql: str, expected: list[str]) -> None:
    found = statements(sql)
    assert [each.text for each in found] == expected
    assert all(sql[each.offset :].startswith(each.text) for each in found)


def test_statements_are_told_by_their_first_words_and_the_comments_before() -> None:
    concurrent = [
        "create unique index concurrently i on t (a)",
        "DROP INDEX\nCONCURRENTLY i",
        "reindex table concurrently t",
    ]
    assert all(is_concurrent(statements(each)[0]) for each in concurrent)
    plain = [
        "create index i on concurrently (a)",
        "drop table concurrently",
        "select 'create index concurrently'",
    ]
    assert not any(is_concurrent(statements(each)[0]) for each in plain)
    one, two = statements("select 1;\n-- finflow: equal\nselect 2, 2;")
    assert (wants_equal(one), wants_equal(two)) == (False, True)


@pytest.mark.parametrize(
    ("header", "table", "key", "rows"),
    [
        ("table=people key=no", "people", ("no",), 1000),
        ("table=app.people, key=(a, b), batch=50", "app.people", ("a", "b"), 50),
        ("table = t key = ( a ,b ) batch = 7", "t", ("a", "b"), 7),
    ],
)
def test_headers_of_backfills(header: str, table: str, key: tuple[str, ...], rows: int) -> None:
    found = keyed("x", f"-- why\n-- finflow: {header}\nupdate t set a = 1")
    assert (found.table, found.key, found.batch_rows) == (table, key, rows)


@pytest.mark.parametrize(
    "header",
    ["", "key=a", "table=t", "table=t key=()", "table=t key=(a, a)", "table=t key=(a;b)",
     "table=t key=a batch=0", "table=t; key=a", "table=t key=a batch=999999"],
)  # fmt: skip
def test_headers_that_say_too_little_are_refused(header: str) -> None:
    with pytest.raises(FinFlowError, match="backfill_malformed"):
        keyed("x", f"-- finflow: {header}\nupdate t set a = 1")


def test_a_folder_is_in_the_order_of_changes_and_their_phases(tmp_path: Path) -> None:
    names = [
        "0002_b.contract",
        "0002_b.verify",
        "0002_b.expand",
        "0002_b.backfill",
        "0001_a",
        "0010_c.expand",
    ]
    for name in names:
        (tmp_path / f"{name}.sql").write_text("select 1;")
    (tmp_path / "0003_X.expand.sql").write_text("not by this name")
    found = load(tmp_path)
    assert [step.name for step in found] == [
        "0001_a", "0002_b.expand", "0002_b.backfill", "0002_b.verify", "0002_b.contract", "0010_c.expand",
    ]  # fmt: skip
    assert found[0].phase is Phase.EXPAND
    with pytest.raises(FinFlowError, match="file_unreadable"):
        load(tmp_path / "nowhere")


# --- how fast ---------------------------------------------------------------------------------------------


def test_the_work_takes_its_share_of_the_time() -> None:
    throttle = Throttle(Pace(share=0.25, batch_ms=20), 1000)
    assert throttle.after(0.02, throttle.rows) == pytest.approx(0.06)
    assert Throttle(Pace(share=1), 1000).after(0.02, 10) == 0


def test_batches_grow_and_shrink_towards_the_time_that_is_wanted() -> None:
    throttle = Throttle(Pace(batch_ms=20), 1000)
    for _ in range(40):
        throttle.after(throttle.rows * 0.0001, throttle.rows)
    assert 150 <= throttle.rows <= 250, "a row takes 0.1 ms, so 200 of them take 20 ms"
    for _ in range(40):
        throttle.after(throttle.rows * 0.001, throttle.rows)
    assert throttle.rows == 50, "never below the least"
    for _ in range(60):
        throttle.after(throttle.rows * 0.000001, throttle.rows)
    assert throttle.rows == 1000, "never above what the file says"


def test_what_a_batch_takes_whatever_its_size_makes_none_smaller() -> None:
    throttle = Throttle(Pace(share=0.5, batch_ms=20), 1000)
    for _ in range(40):
        rows_s = throttle.rows * 0.0001
        pause_s = throttle.after(rows_s + 0.05, throttle.rows, rows_s)
    assert 150 <= throttle.rows <= 250, "a distant server's commit takes 50 ms for any number of rows"
    assert pause_s == pytest.approx(rows_s + 0.05), "but counts as work"


def test_pauses_grow_while_rows_take_longer_than_before_and_shrink_again() -> None:
    throttle = Throttle(Pace(share=0.5, batch_ms=100), 100)
    calm = [throttle.after(0.01, 100) for _ in range(20)][-1]
    loaded = [throttle.after(0.03, 100) for _ in range(5)][-1]
    assert loaded > 3 * calm * 1.5, "longer than the longer batch alone explains"
    relaxed = [throttle.after(0.01, 100) for _ in range(20)][-1]
    assert relaxed == pytest.approx(calm)


def test_a_replica_is_behind_by_time_only_when_there_is_something_to_replay() -> None:
    throttle = Throttle(Pace(max_lag_s=5, max_lag_bytes=1000), 100)
    assert not throttle.behind(Lag(seconds=60, bytes=0))
    assert throttle.behind(Lag(seconds=6, bytes=1))
    assert throttle.behind(Lag(seconds=0, bytes=1001))
    assert not throttle.behind(Lag(seconds=4, bytes=1000))


# --- since when a rollout has all traffic -------------------------------------------------------------------


def _line(at: str, **told: object) -> bytes:
    return (
        msgspec.json.encode({"hash": "0", "seq": 1, "prev": "0", "at": at, "who": "c", "told": told}) + b"\n"
    )


def _weight(at: str, weight_bp: int, ok: bool = True) -> bytes:
    intent = {"do": "set_weight", "step": 1, "weight_bp": weight_bp}
    return _line(at, event="done", intent=intent, ok=ok)


_T1, _T2 = "2026-01-01T10:00:00.000000Z", "2026-01-01T11:00:00.000000Z"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([_weight(_T1, 500)], None),
        ([_weight(_T1, 10_000)], _T1),
        ([_weight(_T1, 10_000), _weight(_T2, 10_000)], _T1),
        ([_weight(_T1, 10_000, ok=False)], None),
        ([_weight(_T1, 10_000), _weight(_T2, 5_000)], None),
        ([_weight(_T1, 10_000), _line(_T2, event="decided", decision="aborting")], None),
        ([_weight(_T1, 10_000), _line(_T2, event="done", intent={"do": "take_back"}, ok=True)], None),
        ([_weight(_T1, 10_000), _line(_T2, event="finished", outcome="promoted")], _T1),
        ([_weight(_T1, 10_000), b'{"half'], _T1),
    ],
)
def test_full_since_is_read_from_the_decision_log(
    lines: list[bytes], expected: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "rollouts" / "bank"
    folder.mkdir(parents=True)
    (folder / "000001.jsonl").write_bytes(_weight(_T1, 10_000))
    (folder / "000002.jsonl").write_bytes(b"".join(lines))
    found = full_since(tmp_path, "bank")
    assert found == (datetime.fromisoformat(expected) if expected else None)


@pytest.mark.parametrize("service", ["nobody", "../bank", ".hidden"])
def test_a_service_without_a_log_is_refused(service: str, tmp_path: Path) -> None:
    with pytest.raises(FinFlowError, match="rollout_unknown"):
        full_since(tmp_path, service)
