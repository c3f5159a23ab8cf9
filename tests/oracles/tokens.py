"""Access tokens for tests, under a key of their own; `FLAGS` makes a configuration that believes them."""

import atexit
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from finflow.identity.jose import PublicKey
from finflow.identity.keys import KeyFolder, Keyring, SigningKey
from finflow.identity.model import SCOPES, Trust
from finflow.identity.tokens import mint
from finflow.identity.verifier import Issuer, Verifier

ISSUER: Final = "http://test"
FOLDER: Final = Path(tempfile.mkdtemp(prefix="ff-keys-"))
FLAGS: Final[dict[str, Any]] = {"keys": str(FOLDER), "issuer": ISSUER}
_HOUR_S: Final = 3600
_KEY: Final[SigningKey] = KeyFolder(FOLDER).ensure(time.time() - _HOUR_S)
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def token(tenant_id: str | None, *scopes: str, subject: str = "test", now_s: float | None = None) -> str:
    """A token of these scopes, fresh unless it was minted at another time."""
    at_s = time.time() if now_s is None else now_s
    return mint(_KEY, issuer=ISSUER, subject=subject, tenant_id=tenant_id, scopes=scopes, now_s=at_s)


def verifier() -> Verifier:
    """What believes these tokens, without any database."""
    ring = Keyring(KeyFolder(FOLDER))

    async def find(kid: str | None, now_s: float) -> PublicKey | None:
        return None if kid is None else ring.find(kid, now_s)

    return Verifier({ISSUER: Issuer(Trust(issuer=ISSUER, audience=ISSUER, operator=True), find)})


def tenant_token(tenant_id: str, *scopes: str, subject: str = "test") -> str:
    """A token of a tenant's client that may do everything but administer, or just what is named."""
    return token(tenant_id, *(scopes or SCOPES[:-1]), subject=subject)


def operator_token() -> str:
    """A token of the platform's operator."""
    return token(None, "admin")


def expired_token(tenant_id: str) -> str:
    """A token whose hour is over."""
    return token(tenant_id, *SCOPES, now_s=time.time() - _HOUR_S)
