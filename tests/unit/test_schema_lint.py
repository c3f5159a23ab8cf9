"""The linter of schema changes: each rule finds its case and leaves its remedy alone."""

# ruff: noqa: E501 - one case of the table is one line

import json
import subprocess
import sysconfig
from pathlib import Path

import msgspec
import pytest

from finflow.db.lint import report
from finflow.db.lint.rules import RULES, SQUAWK_LEVELS
from finflow.db.lint.service import Report, lint
from finflow.db.migrations import PACKAGED
from finflow.kernel.errors import FinFlowError

_SQUAWK = Path(sysconfig.get_path("scripts")) / "squawk"

# A rule, the phase of the file, what breaks it, and what does not.
_CASES = [
    ("unkeyed-insert", "expand", "insert into t select * from old where a > 1;", "insert into t select * from old where a > 1 on conflict (a) do nothing;"),
    ("unkeyed-insert", "expand", "insert into t select * from old o where a > 1;", "insert into t select * from old o where not exists (select from t where t.a = o.a);"),
    ("unkeyed-insert", "expand", "insert into t select * from old o where not exists (select from z where z.a = o.a);", "insert into t select o.* from old o left join t on t.a = o.a where t.a is null;"),
    ("unkeyed-insert", "expand", "insert into t values (1) on conflict do nothing;", "insert into t values (1) on conflict (a) do nothing;"),
    ("unkeyed-insert", "expand", "create table if not exists n (a int); insert into n values (1);", "create table n (a int); insert into n values (1);"),
    ("unkeyed-insert", "expand", "with x as (insert into t select * from o returning 1) select 1;", "select 1;"),
    ("unkeyed-insert", "expand", "copy t from '/tmp/x';", "copy t to '/tmp/x';"),
    ("unkeyed-update", "expand", "update a set balance = balance + 10 where id = 1;", "update a set balance = 10 where id = 1;"),
    ("unkeyed-update", "expand", "update a set x = y, y = x where id = 1;", "update a set x = y where id = 1;"),
    ("unkeyed-update", "expand", "update a set n = n || 'x' where id = 1;", "update a set n = lower(n) where id = 1;"),
    ("unkeyed-update", "expand", "update a set n = a.n * 2 from b where a.id = b.id;", "update a set n = b.n from b where a.id = b.id;"),
    ("unkeyed-update", "expand", "update a set n = coalesce(n, 0) + 1 where id = 1;", "update a set n = coalesce(n, 0) where id = 1;"),
    ("unkeyed-update", "expand", "insert into t values (1, 2) on conflict (a) do update set b = t.b + 1;", "insert into t values (1, 2) on conflict (a) do update set b = excluded.b;"),
    ("unkeyed-update", "expand", "update a set balance = balance + 10 where id between 1 and 2;", "update a set balance = 2 where id = 1;"),
    ("unkeyed-delete", "contract", "delete from t;", "delete from t where kind = 'old';"),
    ("unkeyed-delete", "contract", "delete from t where ctid in (select ctid from t limit 10);", "delete from t where id < 10;"),
    ("delete-before-contract", "expand", "delete from t where a = 1;", "select 1;"),
    ("bulk-data", "expand", "update t set a = 1;", "update t set a = 1 where a is null;"),
    ("drop-before-contract", "expand", "drop table t;", "create table u (a int); drop table u;"),
    ("drop-before-contract", "backfill", "alter table t drop column c;", "select 1;"),
    ("drop-before-contract", "expand", "drop view v;", "drop trigger g on t;"),
    ("rename-before-contract", "expand", "alter table t rename column a to b;", "alter index i rename to j;"),
    ("rename-before-contract", "expand", "alter table t rename to u;", "alter table t rename constraint a to b;"),
    ("rename-before-contract", "expand", "alter type e rename value 'a' to 'b';", "alter type e add value 'c';"),
    ("type-change", "contract", "alter table t alter column a type bigint;", "alter table t add column b bigint;"),
    ("not-null-before-contract", "expand", "alter table t alter column a set not null;", "alter table t alter column a drop not null;"),
    ("not-null-unproven", "contract", "alter table t alter column a set not null;", "alter table t alter column a drop not null;"),
    ("required-column", "expand", "alter table t add column a int not null;", "alter table t add column a int not null default 1;"),
    ("drop-default-before-contract", "expand", "alter table t alter column a drop default;", "alter table t alter column a set default 1;"),
    ("truncate", "contract", "truncate t;", "select 1;"),
    ("replication-role", "expand", "set local session_replication_role = replica;", "set local work_mem = '1MB';"),
    ("disabled-trigger", "expand", "alter table t disable trigger all;", "alter table t enable trigger g;"),
    ("session-setting", "expand", "set search_path = x;", "set local search_path = x;"),
    ("transaction-control", "expand", "begin; select 1; commit;", "select 1;"),
    ("concurrent-not-alone", "expand", "create index concurrently i on t (a); select 1;", "create index concurrently i on t (a);"),
    ("concurrent-not-alone", "expand", "create index concurrently on t (a);", "create index concurrently i on t (a); drop index concurrently j;"),
    ("volatile-default", "expand", "alter table t add column a float default random();", "alter table t add column a timestamptz default now();"),
    ("volatile-default", "expand", "alter table t add column a uuid default gen_random_uuid();", "alter table t add column a text default 'x';"),
    ("volatile-default", "expand", "alter table t add column a bigserial;", "alter table t add column a bigint;"),
    ("volatile-default", "expand", "alter table t add column a int generated always as (b + 1) stored;", "alter table t add column a int;"),
    ("volatile-default", "expand", "alter table t add column a int default of_ours();", "alter table t add column a int default 1;"),
    ("blocking-index", "expand", "create index i on t (a);", "create table t (a int); create index i on t (a);"),
    ("blocking-drop-index", "contract", "drop index i;", "drop index concurrently i;"),
    ("blocking-reindex", "expand", "reindex table t;", "reindex table concurrently t;"),
    ("blocking-refresh", "expand", "refresh materialized view m;", "refresh materialized view concurrently m;"),
    ("unproven-foreign-key", "expand", "alter table t add constraint f foreign key (a) references b;", "alter table t add constraint f foreign key (a) references b not valid;"),
    ("unproven-check", "expand", "alter table t add constraint c check (a > 0);", "alter table t add constraint c check (a > 0) not valid;"),
    ("validate-with-add", "expand", "alter table t add constraint c check (a > 0) not valid; alter table t validate constraint c;", "alter table t validate constraint c;"),
    ("unique-without-index", "expand", "alter table t add constraint u unique (a);", "alter table t add constraint u unique using index i;"),
    ("many-tables", "expand", "alter table t add column a int; alter table u add column a int;", "alter table t add column a int; alter table t add column b int;"),
    ("explicit-lock", "expand", "lock table t;", "select 1;"),
    ("rewrites-table", "expand", "vacuum full t;", "analyze t;"),
    ("rewrites-table", "expand", "cluster t using i;", "analyze t;"),
    ("drop-cascade", "contract", "drop table t cascade;", "drop table t;"),
    ("unkeyed-insert", "expand", "do $$ begin if true then insert into t select * from o; end if; end $$;", "do $$ begin perform 1; end $$;"),
    ("drop-before-contract", "expand", "do $$ begin drop table t; end $$;", "do $$ begin execute 'x'; end $$;"),
    ("opaque-block", "expand", "do $$ begin null; end $$;", "select 1;"),
    ("backfill-unkeyed", "backfill", "update t set a = 1 where id between 1 and 9;", "-- finflow: table=t key=id\nupdate t set a = 1 where id between $1 and $2;"),
    ("backfill-unkeyed", "backfill", "-- finflow: table=t key=(a, b)\nupdate t set c = 1 where a between $1 and $2;", "-- finflow: table=t key=(a, b)\nupdate t set c = c + 1 where (a, b) >= ($1, $2) and (a, b) <= ($3, $4);"),
    ("backfill-not-data", "backfill", "-- finflow: table=t key=id\ncreate table u (a int);", "-- finflow: table=t key=id\ninsert into u select * from t where id between $1 and $2;"),
    ("verify-writes", "verify", "with x as (delete from t where a = 1 returning 1) select 1 from x;", "select 1 from t where a is null;"),
    ("syntax-error", "expand", "alter tabel t add a int;", "alter table t add a int;"),
    ("waiver-malformed", "expand", "-- finflow: allow truncate\ntruncate t;", "select 1;"),
    ("waiver-malformed", "expand", "-- finflow: allow truncate because no\ntruncate t;", "select 1;"),
    ("waiver-unused", "expand", "-- finflow: allow truncate because the table is empty here\nselect 1;", "select 1;"),
]  # fmt: skip


def _rules(folder: Path, files: dict[str, str], squawk: bool = False) -> set[str]:
    for name, text in files.items():
        (folder / name).write_text(text)
    report = lint([folder])
    for name in files:
        (folder / name).unlink()
    return {each.rule for each in report.findings if each.because is None and (squawk or each.rule in RULES)}


@pytest.mark.parametrize(("rule", "phase", "bad", "good"), _CASES, ids=lambda text: str(text)[:40])
def test_a_rule_finds_its_case_and_leaves_its_remedy_alone(
    rule: str, phase: str, bad: str, good: str, tmp_path: Path
) -> None:
    name = f"0001_x.{phase}.sql"
    assert rule in _rules(tmp_path, {name: bad})
    assert rule not in _rules(tmp_path, {name: good})


def test_rules_of_names_and_of_the_folder_find_their_cases(tmp_path: Path) -> None:
    one = "select 1;"
    assert "file-name" in _rules(tmp_path, {"add email.sql": one})
    assert "missing-phase" in _rules(tmp_path, {"0001_a.sql": one})
    assert "number-taken" in _rules(tmp_path, {"0001_a.expand.sql": one, "0001_b.expand.sql": one})
    backfill = {
        "0001_a.backfill.sql": "-- finflow: table=t key=id\nupdate t set a = 1 where id between $1 and $2;"
    }
    contract = {"0001_a.contract.sql": "alter table t drop column b;"}
    assert "missing-verify" in _rules(tmp_path, backfill | contract)
    whole = backfill | contract | {"0001_a.expand.sql": one, "0001_a.verify.sql": one}
    assert _rules(tmp_path, whole) == set()


def test_every_rule_has_a_case() -> None:
    named = {"file-name", "missing-phase", "number-taken", "missing-verify"}
    assert {case[0] for case in _CASES} | named == set(RULES)


def test_not_null_is_proven_by_a_check_that_was_validated_before(tmp_path: Path) -> None:
    files = {
        "0001_a.expand.sql": "alter table t add constraint c check (a is not null) not valid;",
        "0002_a.expand.sql": "alter table t validate constraint c;",
        "0003_a.contract.sql": "alter table t alter column a set not null;",
    }
    assert "not-null-unproven" not in _rules(tmp_path, files)
    del files["0002_a.expand.sql"]
    assert "not-null-unproven" in _rules(tmp_path, files)


def test_a_waiver_is_for_its_statement_and_shows_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "0001_x.contract.sql"
    path.write_text(
        "-- finflow: allow truncate because the table holds nothing but a cache\n"
        "truncate a;\n\n"
        "truncate b; -- finflow: allow truncate because it is a cache as well\n"
        "truncate c;\n"
    )
    found = [(each.line, each.because) for each in lint([path]).findings if each.rule == "truncate"]
    assert found == [
        (2, "the table holds nothing but a cache"),
        (4, "it is a cache as well"),
        (5, None),
    ]


def test_lines_and_columns_are_right_behind_wide_characters(tmp_path: Path) -> None:
    path = tmp_path / "0001_x.expand.sql"
    first = "select 'Größe 🙂';  truncate t;"
    path.write_text(f"{first}\n-- ä\n  truncate u;\n")
    found = [(each.line, each.column) for each in lint([path]).findings if each.rule == "truncate"]
    assert found == [(1, first.index("truncate") + 1), (3, 3)]


def test_a_baseline_accepts_a_file_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "0001_x.expand.sql"
    path.write_text("truncate t;")
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    entry = f'[[accepted]]\nfile = "{path.name}"\nsha256 = "{digest}"\nbecause = "released before"\n'
    (tmp_path / "lint-baseline.toml").write_text(entry)
    assert not lint([tmp_path]).refused
    path.write_text("truncate t; ")
    assert lint([tmp_path]).refused
    (tmp_path / "lint-baseline.toml").write_text("accepted = 3")
    with pytest.raises(FinFlowError, match="file_unreadable"):
        lint([tmp_path])


def test_our_own_migrations_pass() -> None:
    found = lint([PACKAGED])
    assert [each for each in found.findings if each.because is None and each.level == "error"] == []
    assert found.files >= 7


# Cases of squawk's own documentation: what squawk says of them, ours says too.
_SQUAWK_CASES = [
    "alter table t add column a int default 10;",
    "alter table t add column a integer not null;",
    "alter table t add constraint c check (a > 0);",
    "alter table t add constraint f foreign key (a) references b (id);",
    "alter table t add primary key (id);",
    "alter table t add constraint u unique (a);",
    "alter table t alter column a type bigint;",
    "alter table t alter column a set not null;",
    "alter table t drop column a;",
    "drop database d;",
    "drop table t;",
    "alter table t alter column a drop not null;",
    "create index i on t (a);",
    "drop index i;",
    "alter table t rename column a to b;",
    "alter table t rename to u;",
    "create table t (a serial, b varchar(20), c timestamp, d char(3), e int);",
    "begin; create index concurrently i on t (a); commit;",
    "truncate t cascade;",
    "create domain d as text check (value <> '');",
    "vacuum full t;",
]


@pytest.mark.parametrize("sql", _SQUAWK_CASES, ids=lambda text: text[:40])
def test_what_squawk_says_we_say(sql: str, tmp_path: Path) -> None:
    path = tmp_path / "0001_x.expand.sql"
    path.write_text(sql)
    command = [_SQUAWK, "--reporter", "json", "--assume-in-transaction", path]
    said = json.loads(subprocess.run(command, capture_output=True).stdout)
    found = {(each.rule, each.line, each.column) for each in lint([path]).findings}
    assert {(each["rule_name"], each["line"] + 1, each["column"] + 1) for each in said} <= found


def test_dangerous_rules_of_squawk_refuse(tmp_path: Path) -> None:
    (tmp_path / "0001_x.expand.sql").write_text("alter table t add column a int default 10, drop column b;")
    found = lint([tmp_path])
    assert found.refused
    assert all(level in ("note", "warning") for level in SQUAWK_LEVELS.values())


# --- reports --------------------------------------------------------------------------------------------


@pytest.fixture
def reported(tmp_path: Path) -> Report:
    path = tmp_path / "0001 x.sql"
    path.write_text("truncate a;\n-- finflow: allow truncate because it is only a cache\ntruncate b;\n")
    return lint([path])


def test_text_names_file_line_and_column_and_keeps_waived_ones_back(reported: Report) -> None:
    text = report.shown(reported)
    assert "0001 x.sql:1:1: error: truncate: TRUNCATE takes an exclusive lock" in text
    assert "x.sql:3:1" not in text
    assert "x.sql:3:1: waived: truncate" in report.shown(reported, with_waived=True)
    assert text.splitlines()[-1].startswith("1 files: ")


def test_sarif_has_the_structure_of_2_1_0(reported: Report) -> None:
    log = json.loads(msgspec.json.encode(report.sarif(reported)))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    [run] = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    assert len(run["results"]) == len(reported.findings)
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        [location] = result["locations"]
        place = location["physicalLocation"]
        assert " " not in place["artifactLocation"]["uri"], "a URI is quoted"
        assert place["region"]["startLine"] >= 1
        assert place["region"]["startColumn"] >= 1
    suppressed = [each["suppressions"] for each in run["results"] if "suppressions" in each]
    assert suppressed == [[{"kind": "inSource", "justification": "it is only a cache"}]]


def test_a_missing_extra_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0001_x.expand.sql").write_text("select 1;")
    monkeypatch.setitem(__import__("sys").modules, "pglast", None)
    with pytest.raises(FinFlowError, match="extra_missing"):
        lint([tmp_path])
    monkeypatch.undo()
    monkeypatch.setattr("finflow.db.lint.squawk.sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FinFlowError, match="extra_missing"):
        lint([tmp_path])
