"""Identity in a worker: whom it believes, kept up to date."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import time
from typing import TYPE_CHECKING, Final

from finflow.identity.keys import KeyFolder, Keyring
from finflow.identity.model import Trust
from finflow.identity.verifier import Issuer, Verifier
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    import asyncpg

    from finflow.identity.jose import PublicKey

log = logging.getLogger(__name__)

REFRESH_AGAIN_S: Final = 1.0


class IdentityService:
    """Tokens checked and, for clients, made. `issuer` is the URL that our tokens are from and for."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        folder: KeyFolder,
        issuer: str,
        clock: Callable[[], float] = time,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self.issuer = issuer
        self.keyring = Keyring(folder)
        self.keyring.signing(clock())
        trust = Trust(issuer=issuer, audience=issuer, operator=True)
        self.verifier = Verifier({issuer: Issuer(trust, self._find)})

    async def _find(self, kid: str | None, now_s: float) -> "PublicKey | None":
        return None if kid is None else self.keyring.find(kid, now_s)

    async def refresh(self) -> None:
        """Notice the keys that came and went. Raises data_unusable."""
        if self.keyring.refresh(self._clock()):
            self.verifier.forget()

    async def keep_fresh(self) -> None:
        """Refresh until cancelled, whatever a single time runs into."""
        while True:
            await asyncio.sleep(REFRESH_AGAIN_S)
            try:
                await self.refresh()
            except FinFlowError as error:
                log.warning("identity is not up to date", extra={"reason": str(error)})


@asynccontextmanager
async def open_identity(
    pool: "asyncpg.Pool[asyncpg.Record]", folder: KeyFolder, issuer: str
) -> AsyncIterator[IdentityService]:
    """The service over these keys. Raises signing_key_unknown for a folder without any."""
    service = IdentityService(pool, folder, issuer)
    keeper = asyncio.create_task(service.keep_fresh(), name="keep-identity-fresh")
    try:
        yield service
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
