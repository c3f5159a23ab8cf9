"""Identity in a worker: whom it believes, kept up to date."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final

from finflow.db.pool import acquired
from finflow.identity import store
from finflow.identity.assertions import TokenDesk
from finflow.identity.clients import ClientService
from finflow.identity.issuers import issuer_of, read_file
from finflow.identity.keys import KeyFolder, Keyring
from finflow.identity.model import Trust
from finflow.identity.verifier import Issuer, Verifier
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    import asyncpg

    from finflow.identity.jose import PublicKey

log = logging.getLogger(__name__)

# A revoked client's tokens die within this, and the time of one query.
REFRESH_AGAIN_S: Final = 1.0
SWEEP_EVERY: Final = 60
# Longer than a token lives, however much the clocks of hosts differ.
REVOKED_FOR_S: Final = 3600


class IdentityService:
    """Tokens checked and, for clients, made. `issuer` is the URL that our tokens are from and for."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        folder: KeyFolder,
        issuer: str,
        others: Iterable[Issuer] = (),
        clock: Callable[[], float] = time,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self.issuer = issuer
        self.keyring = Keyring(folder)
        self.keyring.signing(clock())
        self.clients = ClientService(pool, lambda: int(clock() * 1_000_000))
        self.desk = TokenDesk(pool, self.keyring, issuer, clock)
        trust = Trust(issuer=issuer, audience=issuer, operator=True)
        believed = {each.trust.issuer: each for each in others}
        self.verifier = Verifier(believed | {issuer: Issuer(trust, self._find)})

    async def _find(self, kid: str | None, now_s: float) -> "PublicKey | None":
        return None if kid is None else self.keyring.find(kid, now_s)

    def published(self) -> "list[PublicKey]":
        """Every key that our tokens may be signed with."""
        return self.keyring.published(self._clock())

    async def refresh(self) -> None:
        """Notice the keys that came and went, and who was revoked.

        Raises data_unusable, database_unreachable.
        """
        if self.keyring.refresh(self._clock()):
            self.verifier.forget()
        since = int((self._clock() - REVOKED_FOR_S) * 1_000_000)
        async with acquired(self._pool) as connection:
            self.verifier.revoke(await store.revoked_since(connection, since))

    async def keep_fresh(self) -> None:
        """Refresh until cancelled, whatever a single time runs into."""
        told = ""
        for count in itertools.count(1):
            await asyncio.sleep(REFRESH_AGAIN_S)
            try:
                await self.refresh()
                if count % SWEEP_EVERY == 0:
                    await self.desk.sweep()
                told = ""
            except FinFlowError as error:
                # Once, not once a second, for as long as it stays the same.
                if told != (told := str(error)):
                    log.warning("identity is not up to date", extra={"reason": told})
            except Exception:
                log.exception("identity is not up to date")


@asynccontextmanager
async def open_identity(
    pool: "asyncpg.Pool[asyncpg.Record]", folder: KeyFolder, issuer: str, others: Path | None = None
) -> AsyncIterator[IdentityService]:
    """The service over these keys; `others` is the file of other issuers.

    Raises signing_key_unknown for a folder without any, setting_malformed for a file that cannot be read.
    """
    trusted = [] if others is None else [issuer_of(described) for described in read_file(others)]
    if issuer in (each.trust.issuer for each in trusted):
        raise FinFlowError("setting_malformed", f"{others}: {issuer} is this API itself.", "FINFLOW_ISSUERS")
    service = IdentityService(pool, folder, issuer, trusted)
    await service.refresh()
    keeper = asyncio.create_task(service.keep_fresh(), name="keep-identity-fresh")
    try:
        yield service
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
