"""Imports over HTTP into a real ledger: every balance, twice, in halves, with broken lines."""

import dataclasses
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from finflow.app import Config, running
from finflow.cli.connect import LocalTokens
from finflow.client.model import Leg, NewTransaction
from finflow.client.service import Client
from finflow.imports import mapping as mappings
from finflow.imports.report import LineFault, Report
from finflow.imports.service import Importer, ledger_named
from finflow.workload.model import HEADER, generate, to_line

MAPPING = mappings.parse((Path(__file__).parents[2] / "examples" / "generated.toml").read_text())
HISTORY = [HEADER.encode(), *(to_line(row).encode() for row in generate(11, 20, 32))]
ROWS = len(HISTORY) - 1


@dataclasses.dataclass
class Run:
    report: Report
    faults: list[LineFault]


@pytest.fixture(scope="module")
async def api(short_folder: Path) -> AsyncIterator[Client]:
    config = Config.load({"data": str(short_folder / "import"), "workers": 2}, {})
    async with running(config, durable=False, port=0) as stack:
        tokens = LocalTokens(config, stack.url)
        async with Client(stack.url, token=tokens.operator()) as platform:
            tenant_id = (await platform.create_tenant("test")).tenant_id
        async with Client(stack.url, token=tokens.of(tenant_id)) as client:
            yield client


@pytest.fixture
async def ledger_id(api: Client) -> str:
    return (await api.create_ledger("test")).ledger_id


async def run(
    api: Client,
    ledger_id: str,
    lines: Iterable[bytes],
    *,
    batch_size: int = 97,
    max_rows: int | None = None,
    mapping: mappings.Mapping = MAPPING,
) -> Run:
    faults: list[LineFault] = []
    importer = Importer(
        api, ledger_id, mapping, batch_size=batch_size, verify=True, max_rows=max_rows, on_fault=faults.append
    )
    return Run(await importer.run(lines), faults)


def edited(number: int, old: bytes, new: bytes) -> list[bytes]:
    """The history with something replaced in the line of that number, from 1."""
    lines = list(HISTORY)
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    return lines


async def test_every_row_is_posted_and_every_balance_is_the_file_s(api: Client, ledger_id: str) -> None:
    done = await run(api, ledger_id, HISTORY)
    report = done.report
    assert (report.rows, report.posted, report.refused, report.replayed) == (ROWS, ROWS, 0, 0)
    assert (report.balances_checked, report.balances_equal) == (ROWS, ROWS)
    assert done.faults == []
    assert report.clean()
    last = {line.split(b",")[2]: line.split(b",") for line in HISTORY[1:]}
    for columns in last.values():
        reference = f"generated:customer:{columns[2].decode()}:{columns[5].decode()}"
        account = await api.find_account(ledger_id, reference)
        assert account is not None
        assert (await api.balance(account.account_id)).balance == columns[7].decode()
    assert (await api.trial_balance(ledger_id)).balanced


async def test_a_second_run_posts_nothing_and_finds_the_same_balances(api: Client, ledger_id: str) -> None:
    await run(api, ledger_id, HISTORY)
    before = (await api.trial_balance(ledger_id)).seq
    again = (await run(api, ledger_id, HISTORY, batch_size=1000)).report
    assert (again.posted, again.replayed, again.balances_equal) == (0, ROWS, ROWS)
    assert again.clean()
    # Not even a refusal is journaled: accounts and transactions answer from what is there.
    assert (await api.trial_balance(ledger_id)).seq == before


async def test_a_run_that_stopped_half_way_is_finished_by_the_next(api: Client, ledger_id: str) -> None:
    first = (await run(api, ledger_id, HISTORY, max_rows=500)).report
    assert (first.posted, first.balances_equal) == (500, 500)
    rest = (await run(api, ledger_id, HISTORY)).report
    assert (rest.replayed, rest.posted, rest.balances_equal) == (500, ROWS - 500, ROWS)


async def test_a_run_whose_file_breaks_off_can_be_finished(api: Client, ledger_id: str) -> None:
    def torn() -> Iterable[bytes]:
        yield from HISTORY[:600]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        await run(api, ledger_id, torn())
    rest = (await run(api, ledger_id, HISTORY)).report
    assert rest.replayed > 0
    assert rest.posted + rest.replayed == ROWS == rest.balances_equal


async def test_two_halves_share_a_ledger(api: Client, ledger_id: str) -> None:
    accounts = sorted({line.split(b",")[2] for line in HISTORY[1:]})
    halves = [
        [HISTORY[0], *(line for line in HISTORY[1:] if accounts.index(line.split(b",")[2]) % 2 == half)]
        for half in (0, 1)
    ]
    reports = [(await run(api, ledger_id, half)).report for half in halves]
    assert [report.balances_equal for report in reports] == [len(half) - 1 for half in halves]
    assert all(report.clean() for report in reports)
    assert (await api.trial_balance(ledger_id)).balanced


async def test_broken_lines_are_named_and_the_rest_is_imported(api: Client, ledger_id: str) -> None:
    lines = list(HISTORY)
    # One account each, so that the accounts of all other lines stay whole.
    lines[1] = lines[1].replace(b"2026-01-01", b"2026-13-01")
    lines[2] = lines[2].replace(b",credit,", b",received,")
    lines[3] = lines[3].replace(b",branch", b",branch,one,more")
    lines[4] = b'"\n'
    harmed = {line.split(b",")[2] for line in HISTORY[1:5]}
    done = await run(api, ledger_id, lines)
    broken = [fault for fault in done.faults if fault.code == "broken"]
    assert [fault.line for fault in broken] == [2, 3, 4, 5]
    # The next row of each harmed account does not follow; it is named once and posted all the same.
    unchained = [fault for fault in done.faults if fault.code == "unchained"]
    assert {HISTORY[fault.line - 1].split(b",")[2] for fault in unchained} == harmed
    assert len(unchained) == len(harmed)
    report = done.report
    assert (report.rows, report.posted, report.broken, report.refused) == (ROWS, ROWS - 4, 4, 0)
    whole = sum(line.split(b",")[2] not in harmed for line in HISTORY[1:])
    assert (report.balances_checked, report.balances_equal) == (ROWS - 4, whole)
    assert not report.clean()


async def test_a_row_that_changed_since_the_last_run_is_refused_and_named(
    api: Client, ledger_id: str
) -> None:
    await run(api, ledger_id, HISTORY)
    done = await run(api, ledger_id, edited(2, b",branch", b",office"))
    (fault,) = done.faults
    assert (fault.line, fault.code) == (2, "idempotency_conflict")
    assert (done.report.refused, done.report.posted, done.report.replayed) == (1, 0, ROWS - 1)


async def test_verification_sees_a_balance_that_is_not_the_file_s(api: Client, ledger_id: str) -> None:
    """A payment that the file does not know moves one account: all its later balances are unequal."""
    half = HISTORY[: ROWS // 2]
    await run(api, ledger_id, half)
    columns = [text.decode() for text in half[-1].split(b",")]
    account = await api.find_account(ledger_id, f"generated:customer:{columns[2]}:{columns[5]}")
    other = await api.find_account(ledger_id, f"generated:cash:{columns[5]}")
    assert account is not None
    assert other is not None
    legs = (
        Leg(account.account_id, "credit", "1", columns[5]),
        Leg(other.account_id, "debit", "1", columns[5]),
    )
    await api.post(ledger_id, NewTransaction("a stranger's", legs))
    report = (await run(api, ledger_id, HISTORY)).report
    moved = sum(line.split(b",")[2].decode() == columns[2] for line in HISTORY[ROWS // 2 :])
    assert moved > 0
    assert report.balances_checked - report.balances_equal == moved


async def test_rounding_legs_and_order_within_a_day(api: Client, ledger_id: str) -> None:
    mapping = mappings.parse((Path(__file__).parents[2] / "examples" / "berka.toml").read_text())
    lines = [
        b'"trans_id";"account_id";"date";"type";"operation";"amount";"balance";"k_symbol";"bank";"account"\n',
        b'1;7;930101;"PRIJEM";"VKLAD";100.00;100.00;"";;\n',
        b'2;7;930102;"VYBER";"VYBER";30.00;70.40;"";;\n',
        b'3;7;930102;"PRIJEM";"";0.30;100.40;"UROK";;\n',
        b'4;7;930103;"VYDAJ";"PREVOD NA UCET";200.00;-129.60;"SIPO";"AB";"42"\n',
    ]
    done = await run(api, ledger_id, lines, mapping=mapping)
    assert done.faults == []
    assert (done.report.posted, done.report.rounding_legs, done.report.balances_equal) == (4, 1, 4)
    rounding = await api.find_account(ledger_id, "berka:rounding:CZK")
    assert rounding is not None
    assert (await api.balance(rounding.account_id)).balance == "0.10"


async def test_a_ledger_is_opened_once_by_its_name(api: Client) -> None:
    assert await ledger_named(api, "named once") is None
    first = await api.create_ledger("named once")
    await api.create_ledger("named once")
    assert await ledger_named(api, "named once") == first


def test_the_history_is_long_enough_for_these_tests() -> None:
    assert ROWS > 700
