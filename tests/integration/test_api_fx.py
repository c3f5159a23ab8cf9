"""Foreign exchange over HTTP: rates, quotes, conversions, and every refusal with its place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import httpx
import pytest

from oracles.http import Bank, Json, bank, code, refusal, serving

NOW = datetime.now(UTC)


class Desk(Bank):
    """A bank that trades: rates, quotes and conversions in a word each."""

    async def push(self, base: str, quote: str, rate: str, **fields: Any) -> httpx.Response:
        given = {"base": base, "quote": quote, "rate": rate, "source": "test"}
        given |= {"observed_at": NOW.isoformat()} | fields
        return await self.client.post("/v1/fx/rates", json={"ledger_id": self.ledger_id, "rates": [given]})

    async def ask(self, sell: str, buy: str, key: str | None = None, **fields: Any) -> httpx.Response:
        body = {"ledger_id": self.ledger_id, "sell_currency": sell, "buy_currency": buy} | fields
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.client.post("/v1/fx/quotes", json=body, headers=headers)

    async def quote(self, sell: str, buy: str, **fields: Any) -> Json:
        answer = await self.ask(sell, buy, **fields)
        assert answer.status_code == 201, answer.text
        quote: Json = answer.json()
        return quote

    async def convert(self, quote_id: str, source: str, to: str, key: str | None = None) -> httpx.Response:
        body = {"quote_id": quote_id, "from_account_id": source, "to_account_id": to}
        return await self.send("/v1/fx/conversions", body, key)

    async def read(self, path: str, **query: str) -> Any:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def rate(self, base: str, quote: str, **query: str) -> httpx.Response:
        params = {"ledger_id": self.ledger_id, "base": base, "quote": quote} | query
        return await self.client.get("/v1/fx/rate", params=params)

    async def balanced(self) -> None:
        """Debits equal credits in every currency, as PostgreSQL adds them up."""
        books = await self.read(f"/v1/ledgers/{self.ledger_id}/trial-balance")
        assert books["balanced"]


@asynccontextmanager
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with bank(database_url) as one:
        yield Desk(one.client, one.ledger_id, one.tenant_id)


async def test_a_conversion_is_one_transaction_through_the_positions(database_url: str) -> None:
    async with desk(database_url) as one:
        euro, dollar = await one.open("EUR"), await one.open("USD")
        assert (await one.push("EUR", "USD", "1.0835")).status_code == 201
        quote = await one.quote("EUR", "USD", sell_amount="100", spread="0.005")
        assert (quote["status"], quote["transaction_id"]) == ("open", None)
        assert (quote["sell_amount"], quote["buy_amount"], quote["method"]) == ("100.00", "107.80", "direct")
        assert (quote["rate"], quote["customer_rate"], quote["spread"]) == ("1.0835", "1.0780825", "0.005")
        answer = await one.convert(quote["quote_id"], euro, dollar)
        assert answer.status_code == 201, answer.text
        booked = answer.json()
        positions = await one.read("/v1/fx/positions", ledger_id=one.ledger_id)
        by_currency = {each["currency"]: each for each in positions["positions"]}
        lines = [(e["account_id"], e["direction"], e["amount"], e["currency"]) for e in booked["entries"]]
        assert lines == [
            (euro, "debit", "100.00", "EUR"),
            (by_currency["EUR"]["position_account_id"], "credit", "100.00", "EUR"),
            (by_currency["USD"]["position_account_id"], "debit", "108.35", "USD"),
            (dollar, "credit", "107.80", "USD"),
            (by_currency["USD"]["spread_account_id"], "credit", "0.54", "USD"),
            (by_currency["USD"]["rounding_account_id"], "credit", "0.01", "USD"),
        ]
        assert (by_currency["EUR"]["position"], by_currency["USD"]["position"]) == ("100.00", "-108.35")
        assert (by_currency["USD"]["spread_income"], by_currency["USD"]["rounding_income"]) == (
            "0.54",
            "0.01",
        )
        assert booked["reference"] == quote["quote_id"]
        assert booked["metadata"] == {"fx_rate": "1.0835", "fx_spread": "0.005"}
        used = await one.read(f"/v1/fx/quotes/{quote['quote_id']}")
        assert (used["status"], used["transaction_id"]) == ("used", booked["transaction_id"])
        assert await one.read(f"/v1/transactions/{booked['transaction_id']}") == booked
        listed = await one.read("/v1/transactions", ledger_id=one.ledger_id, reference=quote["quote_id"])
        assert listed["items"] == [booked]
        await one.balanced()


@pytest.mark.parametrize(
    ("sell", "buy", "rate", "fields", "amounts"),
    [
        ("USD", "JPY", "157.25", {"sell_amount": "1.00"}, ("1.00", "157")),
        ("KWD", "USD", "3.25", {"sell_amount": "1.500"}, ("1.500", "4.87")),
        ("USD", "CLF", "0.028", {"sell_amount": "0.01"}, ("0.01", "0.0002")),
        ("USD", "CLF", "0.00028", {"buy_amount": "1"}, ("3571.43", "1.0000")),
        ("JPY", "KWD", "0.002", {"sell_amount": "1"}, ("1", "0.002")),
        ("PTS", "EUR", "0.01", {"sell_amount": "150.5"}, ("150.500000", "1.50")),
    ],
)
async def test_currencies_of_any_exponent(
    database_url: str, sell: str, buy: str, rate: str, fields: Json, amounts: tuple[str, str]
) -> None:
    async with desk(database_url) as one:
        await one.make("/v1/assets", {"ledger_id": one.ledger_id, "code": "PTS", "exponent": 6})
        source, to = await one.open(sell), await one.open(buy)
        await one.push(sell, buy, rate)
        quote = await one.quote(sell, buy, **fields)
        assert (quote["sell_amount"], quote["buy_amount"]) == amounts
        assert (await one.convert(quote["quote_id"], source, to)).status_code == 201
        assert (await one.balance(source), await one.balance(to)) == (f"-{amounts[0]}", amounts[1])
        await one.balanced()


async def test_the_parts_of_a_quote_add_up_to_what_it_is_worth(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1.083517")
        for amount in ("0.03", "12.34", "99999.99"):
            quote = await one.quote("EUR", "USD", sell_amount=amount, spread="0.00125")
            parts = [Decimal(quote[f"{name}_amount"]) for name in ("buy", "spread", "rounding")]
            assert sum(parts) == Decimal(quote["fair_amount"])
            exact = Decimal(amount) * Decimal("1.083517")
            assert Decimal(quote["residue"]) == exact - Decimal(quote["fair_amount"])
            assert (await one.read(f"/v1/fx/quotes/{quote['quote_id']}")) == quote
            assert abs(Decimal(quote["residue"])) <= Decimal("0.005")


async def test_a_computed_rate_is_exact(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1.0835")
        sold = await one.quote("USD", "EUR", sell_amount="108.35")
        bought = await one.quote("USD", "EUR", buy_amount="100")
        assert (sold["buy_amount"], bought["sell_amount"], sold["residue"]) == ("100.00", "108.35", "0")
        assert sold["rate"] == "0.922934933087217351"
        third = await one.quote("USD", "EUR", sell_amount="1")
        assert await one.read(f"/v1/fx/quotes/{third['quote_id']}") == third
        assert third["residue"] == "0.00293493308721"


async def test_a_key_makes_one_quote(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1.08")
        first = await one.ask("EUR", "USD", "k", sell_amount="10")
        await one.push("EUR", "USD", "1.09", observed_at=datetime.now(UTC).isoformat())
        again = await one.ask("EUR", "USD", "k", sell_amount="10.00")
        assert (first.json(), again.headers["idempotency-replayed"]) == (again.json(), "true")
        assert refusal(await one.ask("EUR", "USD", "k", sell_amount="11")) == (
            422, "idempotency_conflict", "Idempotency-Key",
        )  # fmt: skip
        at_once = await asyncio.gather(*(one.ask("EUR", "USD", "many", sell_amount="1") for _ in range(8)))
        assert len({answer.json()["quote_id"] for answer in at_once}) == 1
        assert sum("idempotency-replayed" not in answer.headers for answer in at_once) == 1


# --- rates -----------------------------------------------------------------------------------------


async def test_rates_are_found_directly_inversely_and_across(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "SGD", "1.45")
        await one.push("EUR", "JPY", "160")
        found = [(await one.rate(*pair)).json() for pair in (("EUR", "SGD"), ("SGD", "EUR"), ("SGD", "JPY"))]
        assert [each["method"] for each in found] == ["direct", "inverse", "cross"]
        assert [each["rate"] for each in found] == ["1.45", "0.689655172413793103", "110.344827586206896"]
        assert [[via["quote"] for via in each["via"]] for each in found] == [["SGD"], ["SGD"], ["SGD", "JPY"]]


async def test_a_rate_holds_from_its_moment_until_it_is_stale(database_url: str) -> None:
    async with desk(database_url) as one:
        old, newer = NOW - timedelta(days=3), NOW - timedelta(days=1)
        await one.push("EUR", "USD", "1.1", observed_at=old.isoformat())
        await one.push("USD", "EUR", "0.8", observed_at=newer.isoformat(), valid_until=NOW.isoformat())
        asked = {
            "before": old - timedelta(seconds=1),
            "first": old,
            "stale": old + timedelta(days=1),
            "second": newer,
            "now": NOW,
        }
        answers = {name: await one.rate("EUR", "USD", at=at.isoformat()) for name, at in asked.items()}
        assert [code(answers[name]) for name in ("before", "stale", "now")] == [
            "pair_unknown", "rate_stale", "rate_stale",
        ]  # fmt: skip
        assert answers["first"].json()["rate"] == "1.1"
        assert (answers["second"].json()["rate"], answers["second"].json()["method"]) == ("1.25", "inverse")
        assert code(await one.ask("EUR", "USD", sell_amount="1")) == "rate_stale"


async def test_rates_are_history(database_url: str) -> None:
    async with desk(database_url) as one:
        first = (await one.push("EUR", "USD", "1.10")).json()["rates"]
        assert (await one.push("EUR", "USD", "1.1")).json()["rates"] == first
        assert refusal(await one.push("EUR", "USD", "1.2")) == (409, "rate_conflict", "rates[0]")
        moments = [(NOW + timedelta(seconds=number)).isoformat() for number in range(1, 8)]
        for number, moment in enumerate(moments):
            await one.push("USD", "EUR", f"0.{number + 1}", observed_at=moment)
        seen: list[str] = []
        query = {"ledger_id": one.ledger_id, "base": "EUR", "quote": "USD", "limit": "3"}
        page: Json = {"next": None}
        while page["next"] or not seen:
            page = await one.read("/v1/fx/rates", **query, **({"cursor": page["next"]} if seen else {}))
            seen += [each["rate"] for each in page["items"]]
        assert seen == [*(f"0.{number}" for number in range(7, 0, -1)), "1.1"]
        async with asyncio.timeout(20):
            connection = await asyncpg.connect(database_url)
            for statement in ("update fx_rates set rate = 2", "delete from fx_quotes", "truncate fx_rates"):
                with pytest.raises(asyncpg.RestrictViolationError):
                    await connection.execute(statement)
            await connection.close()


async def test_rates_are_kept_together_or_not_at_all(database_url: str) -> None:
    async with desk(database_url) as one:
        good = {"base": "EUR", "quote": "USD", "rate": "1.1", "source": "s", "observed_at": NOW.isoformat()}
        for change, answer in (
            ({"rate": "0"}, (422, "rate_malformed", "rates[1].rate")),
            ({"base": "EURO"}, (422, "currency_unknown", "rates[1].base")),
            ({"base": "USD"}, (422, "same_currency", "rates[1].quote")),
            ({"valid_until": NOW.isoformat()}, (422, "validity_malformed", "rates[1].valid_until")),
            ({"rate": 1.1}, (400, "request_malformed", "rates[1].rate")),
            ({"observed_at": "2026-01-01T00:00:00"}, (400, "request_malformed", "rates[1].observed_at")),
            (
                {"observed_at": "0001-01-01T00:00:00+14:00"},
                (400, "request_malformed", "rates[1].observed_at"),
            ),
            ({"rate": "1.2"}, (409, "rate_conflict", "rates[1]")),
        ):
            body = {"ledger_id": one.ledger_id, "rates": [good, good | change]}
            assert refusal(await one.client.post("/v1/fx/rates", json=body)) == answer
        page = await one.read("/v1/fx/rates", ledger_id=one.ledger_id, base="EUR", quote="USD")
        assert page["items"] == []


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"sell_currency": "XXX"}, (422, "currency_unknown", "sell_currency")),
        ({"buy_currency": "EUR"}, (422, "same_currency", "buy_currency")),
        ({"buy_currency": "SGD"}, (422, "pair_unknown", None)),
        ({"sell_amount": "0.001"}, (422, "amount_too_precise", "sell_amount")),
        ({"sell_amount": "0"}, (422, "amount_not_positive", "sell_amount")),
        ({"sell_amount": "1e3"}, (422, "amount_malformed", "sell_amount")),
        ({"sell_amount": "92233720368547758.08"}, (422, "amount_out_of_range", "sell_amount")),
        ({"sell_amount": "92233720368547758.07"}, (422, "amount_out_of_range", "sell_amount")),
        ({"sell_amount": "0.01", "spread": "0.5"}, (422, "converts_to_zero", "sell_amount")),
        ({"spread": "1"}, (422, "spread_malformed", "spread")),
        ({"buy_amount": "1"}, (400, "request_malformed", "sell_amount")),
        ({"sell_amount": None}, (400, "request_malformed", "sell_amount")),
        ({"sell_amount": 1}, (400, "request_malformed", "sell_amount")),
        ({"valid_for_s": 0}, (400, "request_malformed", "valid_for_s")),
        ({"ledger_id": "led_x"}, (404, "ledger_unknown", None)),
    ],
)
async def test_a_quote_that_cannot_be_made(
    database_url: str, fields: Json, answer: tuple[int, str, str | None]
) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1.1")
        body = {"ledger_id": one.ledger_id, "sell_currency": "EUR", "buy_currency": "USD", "sell_amount": "1"}
        assert refusal(await one.client.post("/v1/fx/quotes", json=body | fields)) == answer


async def test_conversions_that_are_refused(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1.1")
        euro, dollar = await one.open("EUR", overdraft_limit="0"), await one.open("USD")
        cash = await one.open("EUR", kind="asset")
        quote = (await one.quote("EUR", "USD", sell_amount="1"))["quote_id"]
        assert refusal(await one.convert(quote, dollar, dollar)) == (
            422, "currency_mismatch", "from_account_id",
        )  # fmt: skip
        assert refusal(await one.convert(quote, euro, "acc_x")) == (422, "account_unknown", "to_account_id")
        assert refusal(await one.convert(quote, euro, dollar, "poor")) == (
            422, "exceeds_available", "from_account_id",
        )  # fmt: skip
        assert (await one.post(one.transfer(cash, euro, "5", "EUR"))).status_code == 201
        # The refused keys keep their answer, and the quote is still good under another.
        assert code(await one.convert(quote, euro, dollar, "poor")) == "exceeds_available"
        assert (await one.convert(quote, euro, dollar, "rich")).status_code == 201
        assert refusal(await one.convert(quote, euro, dollar, "more")) == (409, "quote_used", "quote_id")
        again = await one.convert(quote, euro, dollar, "rich")
        assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
        assert await one.balance(euro) == "4.00"
        other = (await one.quote("EUR", "USD", sell_amount="1"))["quote_id"]
        # A key that is sent again with another quote is another request: it must not convert twice.
        assert code(await one.convert(other, euro, dollar, "rich")) == "idempotency_conflict"
        assert refusal(await one.convert("fxq_x", euro, dollar)) == (404, "quote_unknown", "quote_id")
        forged = other[:-1] + ("0" if other[-1] != "0" else "1")
        assert code(await one.convert(forged, euro, dollar)) == "quote_unknown"
        assert code(await one.client.get(f"/v1/fx/quotes/{forged}")) == "quote_unknown"
        await one.balanced()


async def test_a_quote_expires_by_the_ledger_s_clock(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1.1")
        euro, dollar = await one.open("EUR"), await one.open("USD")
        short = await one.quote("EUR", "USD", sell_amount="1", valid_for_s=1)
        good = await one.quote("EUR", "USD", sell_amount="1", valid_for_s=3600)
        assert (await one.convert(good["quote_id"], euro, dollar, "good")).status_code == 201
        while datetime.now(UTC) < datetime.fromisoformat(short["expires_at"]):
            await asyncio.sleep(0.05)
        assert refusal(await one.convert(short["quote_id"], euro, dollar)) == (
            422, "quote_expired", "quote_id",
        )  # fmt: skip
        assert (await one.read(f"/v1/fx/quotes/{short['quote_id']}"))["status"] == "expired"
        assert await one.balance(euro) == "-1.00"


async def test_one_quote_and_two_interfaces(database_url: str) -> None:
    """Each with a book of its own: whoever is second finds the quote used, and then always."""
    async with desk(database_url) as one, serving(database_url) as client:
        other = Desk(client, one.ledger_id, one.tenant_id)
        other.enter()
        await one.push("EUR", "USD", "1.1")
        euro, dollar = await one.open("EUR"), await one.open("USD")
        for number in range(12):
            quote = await one.quote("EUR", "USD", sell_amount="1")
            answers = await asyncio.gather(
                *(
                    who.convert(quote["quote_id"], euro, dollar, f"{number}-{name}")
                    for name, who in enumerate((one, other, one, other, other))
                )
            )
            assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
        assert await one.balance(euro) == "-12.00"
        await one.balanced()


async def test_a_reversed_conversion_does_not_free_its_quote(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1.0835")
        euro, dollar = await one.open("EUR"), await one.open("USD")
        quote = await one.quote("EUR", "USD", sell_amount="100", spread="0.005")
        booked = (await one.convert(quote["quote_id"], euro, dollar)).json()
        back = await one.send(f"/v1/transactions/{booked['transaction_id']}/reverse", {})
        assert back.status_code == 201
        assert code(await one.convert(quote["quote_id"], euro, dollar)) == "quote_used"
        assert (await one.balance(euro), await one.balance(dollar)) == ("0.00", "0.00")
        assert (await one.read(f"/v1/fx/quotes/{quote['quote_id']}"))["status"] == "used"
        positions = await one.read("/v1/fx/positions", ledger_id=one.ledger_id)
        amounts = [(e["position"], e["spread_income"], e["rounding_income"]) for e in positions["positions"]]
        assert amounts == [("0.00", "0.00", "0.00")] * 2


async def test_a_limit_on_the_position_bounds_what_is_converted(database_url: str) -> None:
    async with desk(database_url) as one:
        await one.push("EUR", "USD", "1")
        euro, dollar = await one.open("EUR"), await one.open("USD")
        await one.open("EUR", kind="equity", external_reference="fx:position:EUR", upper_limit="150")
        codes = []
        for key in ("a", "b"):
            quote = await one.quote("EUR", "USD", sell_amount="100")
            answer = await one.convert(quote["quote_id"], euro, dollar, key)
            codes.append(answer.status_code if answer.status_code == 201 else code(answer))
        assert codes == [201, "exceeds_limit"]
