"""A market on a live ledger: rates that move, quotes of both sides, conversions of some of them."""

from random import Random

from finflow.fx.service import Exchange, FxService, QuoteDraft, RateDraft
from finflow.kernel.clock import to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from oracles.service import Desk

RATES = {
    ("EUR", "USD"): "1.083517",
    ("EUR", "JPY"): "169.31",
    ("USD", "KWD"): "0.307",
    ("EUR", "CLF"): "0.0281",
}
CURRENCIES = ("EUR", "USD", "JPY", "KWD", "CLF")


class Market:
    """A desk, its exchange, and an account without a floor in each currency."""

    def __init__(self, one: Desk) -> None:
        self.one = one
        self.fx: Exchange = FxService(one.pool, one.clock).of(one.service)
        self.accounts: dict[str, str] = {}

    async def quote(
        self, sell: str, buy: str, amount: str, fixed: str = "sell", spread: str = "0.005"
    ) -> str:
        draft = QuoteDraft(sell, buy, fixed, amount, spread, 60)  # type: ignore[arg-type] # drawn from both
        return (await self.fx.quote(self.one.ledger_id, draft, None, "test"))[0].quote_id

    async def convert(self, quote_id: str, sell: str, buy: str) -> Record:
        ledger_id, command = await self.fx.conversion(quote_id, self.accounts[sell], self.accounts[buy])
        [record] = await self.one.service.submit(ledger_id, [self.one.request(command)])
        return record

    async def push(self, scale: str = "") -> None:
        at = to_datetime(self.one.clock.at)
        drafts = [RateDraft(*pair, rate + scale, "test", at) for pair, rate in RATES.items()]
        await self.fx.add_rates(self.one.ledger_id, drafts)


async def market_of(one: Desk) -> Market:
    market = Market(one)
    await market.push()
    for currency in CURRENCIES:
        [market.accounts[currency]] = await one.open(currency=currency, kind="liability")
    return market


async def trade(market: Market, dice: Random, count: int) -> None:
    """Quotes of random pairs, most of them used, some twice, some too late."""
    for number in range(count):
        market.one.clock.at += dice.randrange(1, 2_000_000)
        if number % 10 == 5:
            await market.push(str(dice.randrange(1, 9)))
        sell, buy = dice.sample(CURRENCIES, 2)
        try:
            quote_id = await market.quote(
                sell, buy, str(dice.randrange(1, 5000)), dice.choice(["sell", "buy"])
            )
        except FinFlowError as error:
            if error.kind.code not in ("converts_to_zero", "pair_unknown"):
                raise
            continue
        if dice.randrange(5):
            market.one.clock.at += 61_000_000 * (dice.randrange(12) == 0)
            await market.convert(quote_id, sell, buy)
            if dice.randrange(6) == 0:
                await market.convert(quote_id, sell, buy)
