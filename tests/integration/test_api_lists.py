"""Lists: every row once while others arrive, filters against a reading of everything, cursors kept apart."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from finflow.ledger import lists
from oracles.http import Bank, Json, bank, refusal, serving

Keep = Callable[[Json], bool]


async def pages(one: Bank, path: str, **query: Any) -> list[list[Json]]:
    """Every page of a list, the cursor of each from the one before."""
    found: list[list[Json]] = []
    while True:
        answer = await one.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["items"])
        if answer.json()["next"] is None:
            return found
        query["cursor"] = answer.json()["next"]


async def whole(one: Bank, path: str, **query: Any) -> list[Json]:
    return [item for page in await pages(one, path, **query) for item in page]


async def history(one: Bank) -> tuple[str, str, str]:
    """Three accounts, and transactions of every kind and status among them, some dated back, some refused."""
    a, b, c = await one.open(), await one.open(), await one.open(overdraft_limit="0")

    async def made(body: Json) -> str:
        answer = await one.post(body)
        assert answer.status_code == 201, answer.text
        made_id: str = answer.json()["transaction_id"]
        return made_id

    for n in range(12):
        dated = {} if n % 3 else {"effective_at": f"2026-01-{n + 1:02}T00:00:00Z"}
        first = await made(one.transfer(a, b, "1", reference=f"r{n % 2}", **dated))
        hold = await made(one.transfer(b, a, "2", pending=True, reference=f"r{n % 2}"))
        if n % 4 == 0:
            await one.send(f"/v1/transactions/{first}/reverse", {})
        verb = {0: "post", 1: "void"}.get(n % 3)
        if verb is not None:
            assert (await one.send(f"/v1/transactions/{hold}/{verb}", {})).status_code == 201
        assert (await one.post(one.transfer(c, a, "1"))).status_code == 422
        assert (await one.client.post(f"/v1/accounts/{c}/freeze")).status_code == 200
        assert (await one.client.post(f"/v1/accounts/{c}/unfreeze")).status_code == 200
    both = one.transfer(a, b, "1")
    both["entries"] += one.transfer(b, a, "3")["entries"]
    await made(both)
    return a, b, c


def _of(field: str, value: object) -> Keep:
    return lambda item: item.get(field) == value


async def test_filters_select_what_a_reading_of_everything_selects(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "WINDOW", 7)
    async with bank(database_url) as one:
        _, b, c = await history(one)
        everything = await whole(one, "/v1/transactions", ledger_id=one.ledger_id, limit=1000)
        assert len(everything) == 12 * 2 + 3 + 8 + 1
        middle = everything[len(everything) // 2]["recorded_at"]
        dated = "2026-01-07T00:00:00Z"
        filters: list[tuple[Json, Keep]] = [
            *(
                ({"status": s}, _of("status", s))
                for s in ("posted", "pending", "voided", "expired", "reversed")
            ),
            *(
                ({"kind": k}, _of("kind", k))
                for k in ("post", "hold", "capture", "void", "expire", "reverse")
            ),
            *(({"reference": r}, _of("reference", r)) for r in ("r0", "r1", "r2")),
            ({"account_id": b}, lambda t: any(line["account_id"] == b for line in t["entries"])),
            ({"account_id": c}, lambda _: False),
            ({"recorded_from": middle}, lambda t: t["recorded_at"] >= middle),
            ({"recorded_before": middle}, lambda t: t["recorded_at"] < middle),
            ({"effective_from": dated}, lambda t: _at(t) >= datetime.fromisoformat(dated)),
            ({"effective_before": dated}, lambda t: _at(t) < datetime.fromisoformat(dated)),
            ({"after_seq": 20}, lambda t: t["seq"] > 20),
        ]
        pairs = [
            (x | y, f, g) for (x, f), (y, g) in itertools.combinations(filters, 2) if not x.keys() & y.keys()
        ]
        for query, first, second in [*((q, f, f) for q, f in filters), *pairs]:
            expected = [t["transaction_id"] for t in everything if first(t) and second(t)]
            for order, limit in (("oldest", 3), ("newest", 5)):
                asked = {"ledger_id": one.ledger_id, "order": order, "limit": limit} | query
                shown = [t["transaction_id"] for t in await whole(one, "/v1/transactions", **asked)]
                assert shown == (expected if order == "oldest" else expected[::-1]), asked


def _at(transaction: Json) -> datetime:
    return datetime.fromisoformat(transaction["effective_at"])


async def test_holds_add_up_to_what_is_held(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "WINDOW", 3)
    async with bank(database_url) as one:
        a, b, _ = await history(one)
        for account, side in ((a, "credit"), (b, "debit")):
            held = await whole(one, f"/v1/accounts/{account}/holds", limit=2)
            assert {hold["direction"] for hold in held} == {side}
            balance = (await one.client.get(f"/v1/accounts/{account}/balance")).json()
            assert sum(float(hold["amount"]) for hold in held) == float(balance[f"pending_{side}s"])
            pending = await whole(
                one, "/v1/transactions", ledger_id=one.ledger_id, account_id=account, status="pending"
            )
            assert [hold["transaction_id"] for hold in held] == [t["transaction_id"] for t in pending]


async def test_changes_say_who_asked_for_what(database_url: str) -> None:
    async with bank(database_url) as one:
        account = await one.open(external_reference="x")
        assert (await one.client.post(f"/v1/accounts/{account}/freeze")).status_code == 200
        asset = {"ledger_id": one.ledger_id, "code": "POINTS", "exponent": 0}
        assert (
            await one.client.post("/v1/assets", json=asset, headers={"Idempotency-Key": "p"})
        ).status_code == 201
        taken = {"ledger_id": one.ledger_id, "currency": "SGD", "kind": "asset", "external_reference": "x"}
        assert (await one.client.post("/v1/accounts", json=taken)).status_code == 409
        changes = await whole(one, f"/v1/ledgers/{one.ledger_id}/changes", order="oldest", limit=2)
        assert [(c["kind"], c["account_id"], c["outcome"], c["code"], c["caller"]) for c in changes] == [
            ("open_account", account, "done", None, "test"),
            ("change_account", account, "done", None, "test"),
            ("declare_asset", None, "done", None, "test"),
            ("open_account", None, "refused", "external_reference_taken", "test"),
        ]
        assert changes[1]["requested"] == {"account_id": account, "status": "frozen"}
        assert (changes[2]["idempotency_key"], changes[2]["requested"]) == (
            "p",
            {"code": "POINTS", "exponent": 0},
        )
        newest = await whole(one, f"/v1/ledgers/{one.ledger_id}/changes")
        assert newest == changes[::-1]


async def test_tenants_and_ledgers_in_pages(database_url: str) -> None:
    async with bank(database_url) as one:
        made = [await one.make("/v1/ledgers", {"name": "L"}) for _ in range(3)]
        assert (await whole(one, "/v1/ledgers", limit=1))[1:] == made
        [own] = await whole(one, "/v1/tenants", limit=1)
        async with serving(database_url) as client:
            operator = Bank(client)
            tenants = [await operator.make("/v1/tenants", {"name": f"T{n}"}) for n in range(4)]
            assert await whole(operator, "/v1/tenants", limit=2) == [own, *tenants]
            read = await client.get(f"/v1/tenants/{tenants[0]['tenant_id']}")
            assert read.json() == tenants[0]
            assert refusal(await client.get("/v1/tenants/ten_x")) == (404, "tenant_unknown", None)
            assert [each["name"] for each in await whole(operator, "/v1/ledgers", limit=2)] == [
                "Ledger",
                *"LLL",
            ]
            assert (await client.get(f"/v1/ledgers/{one.ledger_id}")).json()["tenant_id"] == one.tenant_id
        assert await whole(one, "/v1/tenants") == [own]


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_no_row_is_missed_or_shown_twice_while_others_arrive(database_url: str, order: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        before = [(await one.post(one.transfer(a, b, "1"))).json()["transaction_id"] for _ in range(40)]
        ended = asyncio.Event()
        arrived: list[str] = []

        async def arrive() -> None:
            while not ended.is_set():
                arrived.append((await one.post(one.transfer(a, b, "1"))).json()["transaction_id"])

        writers = [asyncio.create_task(arrive()) for _ in range(3)]
        account, ledger = {"account_id": b}, {"ledger_id": one.ledger_id, "order": order, "limit": 3}
        for query in (ledger, ledger | account):
            seen = await _until(one, "/v1/transactions", set(before), query)
            assert len(seen) == len(set(seen))
            # What was there at first comes whole and in order, whatever arrives around it.
            assert [i for i in seen if i in set(before)] == (before if order == "oldest" else before[::-1])
        ended.set()
        await asyncio.gather(*writers)
        assert arrived


async def _until(one: Bank, path: str, wanted: set[str], query: Json) -> list[str]:
    """Pages until all that is wanted has been seen: writers may make the list longer for ever."""
    seen: list[str] = []
    while not wanted <= set(seen):
        page = (await one.client.get(path, params=query)).json()
        seen += [item["transaction_id"] for item in page["items"]]
        if page["next"] is None:
            break
        query = query | {"cursor": page["next"]}
    return seen


async def test_a_cursor_belongs_to_its_list(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        for _ in range(4):
            await one.post(one.transfer(a, b, "1", reference="r"))
        base = {"ledger_id": one.ledger_id, "limit": "1", "reference": "r"}
        path = "/v1/transactions"
        cursor = (await one.client.get(path, params=base)).json()["next"]
        assert (await one.client.get(path, params=base | {"cursor": cursor, "limit": "3"})).status_code == 200
        mismatch = (400, "cursor_mismatch", "cursor")
        for change in ({"reference": "s"}, {"order": "newest"}, {"status": "posted"}, {"account_id": a}):
            assert refusal(await one.client.get(path, params=base | change | {"cursor": cursor})) == mismatch
        entries = await one.client.get(f"/v1/accounts/{a}/entries?limit=1")
        other = {"cursor": entries.json()["next"]}
        assert refusal(await one.client.get(f"/v1/accounts/{b}/entries", params=other)) == mismatch
        assert refusal(await one.client.get(f"/v1/accounts/{a}/holds", params=other)) == mismatch
        for text in ("", "x", cursor[:-1], cursor + "A", "é" * 20, "A" * 20, "!" * 20, "9" * 500, "a=" * 10):
            answer = await one.client.get(path, params=base | {"cursor": text})
            assert refusal(answer) == (400, "cursor_malformed", "cursor"), text


async def test_an_account_of_another_ledger_is_not_here(database_url: str) -> None:
    async with bank(database_url) as one:
        a = await one.open()
        other = await Bank(one.client).found()
        query = {"ledger_id": other.ledger_id, "account_id": a}
        assert refusal(await one.client.get("/v1/transactions", params=query)) == (
            404,
            "resource_unknown",
            None,
        )
        malformed = await one.client.get("/v1/transactions", params=query | {"account_id": "acc_x"})
        assert refusal(malformed) == (400, "id_malformed", "account_id")


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (lists.TransactionFilter(), "journal_pkey"),
        (lists.TransactionFilter(account_no=1), "entries_pkey"),
        (lists.TransactionFilter(reference="r0"), "journal_by_reference"),
        (lists.TransactionFilter(kind="hold"), "journal_by_kind"),
        (lists.TransactionFilter(status="pending"), "journal_by_kind"),
        (lists.TransactionFilter(status="voided"), "journal_by_kind"),
        (lists.TransactionFilter(status="reversed"), "journal_by_target"),
    ],
)
async def test_each_filter_walks_its_index_in_order(
    database_url: str, wanted: lists.TransactionFilter, index: str
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        # The plan of a large ledger, whatever the empty tables' statistics say.
        await connection.execute("set enable_seqscan = off; set enable_bitmapscan = off")
        for span in (lists.Span(), lists.Span(newest=True)):
            plans = Plans(connection)
            await lists.read_transactions(plans, 1, wanted, span)
            [walk] = [line for line in plans.seen[0].splitlines() if f"using {index}" in line][:1]
            assert ("Backward" in walk) == span.newest
            assert "Seq Scan" not in plans.seen[0], plans.seen[0]
            # One walk comes in order by itself; those along several kinds are merged by a sort.
            assert ("Sort" in plans.seen[0]) == (index == "journal_by_kind"), plans.seen[0]
    finally:
        await connection.close()


class Plans:
    """A connection that explains what it is asked instead of doing it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.seen: list[str] = []

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        rows = await self._connection.fetch(f"explain {sql}", *values)
        self.seen.append("\n".join(row[0] for row in rows))
        return []

    async def fetchval(self, sql: str, *values: Any) -> None:
        await self.fetch(sql, *values)


@pytest.mark.parametrize("asset", ["points", "1A", "A", "P" * 21, "", "Ä"])
async def test_a_refused_asset_can_be_read_and_repeated(database_url: str, asset: str) -> None:
    async with bank(database_url) as one:
        body = {"ledger_id": one.ledger_id, "code": asset, "exponent": 0}
        headers = {"Idempotency-Key": "k"}
        first = await one.client.post("/v1/assets", json=body, headers=headers)
        again = await one.client.post("/v1/assets", json=body, headers=headers)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (first.status_code, "true")
        [change] = await whole(one, f"/v1/ledgers/{one.ledger_id}/changes")
        assert (change["kind"], change["requested"]["code"]) == ("declare_asset", asset)
