"""Other issuers whose access tokens are trusted: what a TOML file says of them, and their keys by HTTP.

    [[issuer]]
    name = "corporate"                          # stands before their subjects in the journal
    issuer = "https://login.example"            # `iss`, exactly
    audience = "https://bank.example"           # one of `aud`, exactly
    jwks_uri = "https://login.example/jwks"     # https, but for loopback
    tenant_claim = "finflow_tenant"             # or tenant = "ten_...", or operator = true
    scope_claim = "scope"                       # a text of words, or a list
    scopes = ["accounts:read"]                  # what tokens of theirs may do at most [all but admin]
    algorithms = ["RS256"]                      # EdDSA, Ed25519, ES256, RS256, PS256
    max_lifetime_s = 3600

Keys are fetched when they are first needed and again when they are old or a token names one that is not
there, never more often than every REFETCH_S. While their server is away the keys it gave last are used, for
a day; keys that it takes out are believed for ten minutes more at most.
"""

import asyncio
import logging
import tomllib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from finflow.identity.jose import ALGORITHMS, EDDSA, PublicKey, public_key
from finflow.identity.model import ADMIN, SCOPES, Trust
from finflow.identity.verifier import Issuer
from finflow.kernel import ids
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import outbound, tracing

log = logging.getLogger(__name__)

REFETCH_S: Final = 10.0
OLD_AFTER_S: Final = 300.0
USELESS_AFTER_S: Final = 86_400.0
TIMEOUT_S: Final = 5.0
MAX_JWKS_BYTES: Final = 262_144
MAX_KEYS: Final = 100
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_TYPES: Final = frozenset(("at+jwt", "application/at+jwt", "jwt", ""))

Fetch = Callable[[str], Awaitable[bytes]]


class Described(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One issuer as the file has it."""

    name: str
    issuer: str
    audience: str
    jwks_uri: str
    algorithms: list[str]
    tenant_claim: str | None = None
    tenant: str | None = None
    operator: bool = False
    scope_claim: str = "scope"
    scopes: tuple[str, ...] = tuple(scope for scope in SCOPES if scope != ADMIN)
    max_lifetime_s: int = 3600


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    issuer: list[Described]


def read_file(path: Path) -> list[Described]:
    """The issuers of a file. Raises setting_malformed with the place."""
    try:
        described = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File).issuer
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise FinFlowError("setting_malformed", f"{path}: {error}.", "FINFLOW_ISSUERS") from error
    for each in described:
        if wrong := _fault(each):
            raise FinFlowError("setting_malformed", f"{path}: {each.name!r}: {wrong}.", "FINFLOW_ISSUERS")
    for names in ([each.name for each in described], [each.issuer for each in described]):
        if len(set(names)) < len(names):
            raise FinFlowError("setting_malformed", f"{path}: an issuer stands twice.", "FINFLOW_ISSUERS")
    return described


def _fault(each: Described) -> str | None:
    """What is wrong with it, or None."""
    where = urlsplit(each.jwks_uri)
    chosen = (each.tenant_claim is not None) + (each.tenant is not None) + each.operator
    if not each.name.isidentifier() or len(each.name) > 40:
        return "a name is letters, digits and _"
    if not each.issuer or not each.audience:
        return "it needs an issuer and an audience"
    if where.scheme != "https" and not (where.scheme == "http" and where.hostname in _LOOPBACK):
        return "jwks_uri is not https"
    if chosen != 1:
        return "it needs one of tenant_claim, tenant and operator"
    if each.tenant is not None and ids.parse("ten", each.tenant) is None:
        return "tenant is no tenant's id"
    if not each.algorithms or not set(each.algorithms) <= ALGORITHMS:
        return f"algorithms are of {' '.join(sorted(ALGORITHMS))}"
    if not each.scopes or not set(each.scopes) <= set(SCOPES):
        return f"scopes are of {' '.join(SCOPES)}"
    if not 1 <= each.max_lifetime_s <= 86_400:
        return "max_lifetime_s is 1 to 86400"
    return None


def issuer_of(described: Described, fetch: Fetch | None = None) -> Issuer:
    """Whom a verifier is to believe."""
    trust = Trust(
        issuer=described.issuer,
        audience=described.audience,
        tenant_claim=described.tenant_claim,
        tenant_id=described.tenant,
        scope_claim=described.scope_claim,
        scopes=frozenset(described.scopes),
        operator=described.operator,
        max_lifetime_s=described.max_lifetime_s,
        types=_TYPES,
        name=f"{described.name}:",
    )
    keys = RemoteKeys(described.jwks_uri, frozenset(described.algorithms), fetch or _get)
    return Issuer(trust, keys.find, OLD_AFTER_S)


class RemoteKeys:
    """The keys of one issuer, fetched, kept, fetched again."""

    def __init__(self, uri: str, algorithms: frozenset[str], fetch: Fetch) -> None:
        self._uri = uri
        # One name or the other: the algorithm is the same.
        self._algorithms = algorithms | EDDSA if algorithms & EDDSA else algorithms
        self._fetch = fetch
        self._keys: dict[str, PublicKey] = {}
        self._fetched_at_s = self._tried_at_s = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, now_s: float) -> PublicKey | None:
        """The key of this name; without a name the only one there is."""
        if now_s - self._fetched_at_s > USELESS_AFTER_S:
            self._keys = {}
        key = self._pick(kid)
        if key is None:
            await self._refetch(now_s)
            return self._pick(kid)
        if now_s - self._fetched_at_s > OLD_AFTER_S and self._due(now_s):
            # The old ones do until the new ones are there: nobody waits.
            self._start(now_s, tracing.detached(self._load(now_s)))
        return key

    def _pick(self, kid: str | None) -> PublicKey | None:
        if kid is not None:
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    async def _refetch(self, now_s: float) -> None:
        if self._fetching is None and not self._due(now_s):
            return
        # Everybody who waits for the keys has it in their trace, whoever asked for them first.
        with tracing.span("identity.issuer_keys"):
            fetching = self._fetching or self._start(now_s, self._load(now_s))
            # Whoever asks may be cancelled; the others still want the keys.
            await asyncio.shield(fetching)

    def _due(self, now_s: float) -> bool:
        return self._fetching is None and not self._tried_at_s <= now_s < self._tried_at_s + REFETCH_S

    def _start(self, now_s: float, loading: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._tried_at_s = now_s
        self._fetching = asyncio.create_task(loading, name="fetch-jwks")
        return self._fetching

    async def _load(self, now_s: float) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._keys = self._read(await self._fetch(self._uri))
            self._fetched_at_s = now_s
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            reason = str(error) or type(error).__name__
            log.warning("an issuer's keys are not to be had", extra={"uri": self._uri, "reason": reason})
        finally:
            self._fetching = None

    def _read(self, content: bytes) -> dict[str, PublicKey]:
        """The keys that may be used, by name; those of other kinds are left aside."""
        found: dict[str, PublicKey] = {}
        jwks = msgspec.json.decode(content, type=dict[str, Any]).get("keys")
        if not isinstance(jwks, list):
            raise ValueError("it is no JWK set")
        for jwk in jwks[:MAX_KEYS]:
            try:
                key = public_key(jwk) if isinstance(jwk, dict) else None
            except (ValueError, FinFlowError):
                continue
            if key is not None and key.algorithms & self._algorithms:
                found[key.kid] = key._replace(algorithms=key.algorithms & self._algorithms)
        return found


async def _get(uri: str) -> bytes:
    async with (
        outbound.session(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
        session.get(uri, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}")
        content = bytearray()
        async for chunk in response.content.iter_chunked(65_536):
            content += chunk
            if len(content) > MAX_JWKS_BYTES:
                raise ValueError("it is too large")
        return bytes(content)
