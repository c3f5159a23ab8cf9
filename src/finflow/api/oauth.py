"""OAuth 2: the token endpoint for clients, its metadata (RFC 8414), and the keys that tokens are signed with.

The token endpoint speaks as RFC 6749 says, errors included; everything else speaks problem details.
"""

from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec
from litestar import get, post

from finflow.api.answers import JSON, Answer, Header, encode, ok
from finflow.api.decoding import HttpRequest, media_type_of, read_body
from finflow.api.identity import OPEN
from finflow.api.state import services_of
from finflow.identity.assertions import ENDPOINT
from finflow.identity.jose import preferred
from finflow.identity.model import SCOPES
from finflow.identity.views import TokenView
from finflow.kernel.errors import FinFlowError

BODY_LIMIT: Final = 16_384
MAX_FIELDS: Final = 20
FORM: Final = b"application/x-www-form-urlencoded"
GRANT: Final = "client_credentials"
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_PUBLIC: Final = (b"cache-control", b"public, max-age=60")
# What HTTP wants of a 401; the client's proof travels in the body.
_CHALLENGE: Final = (b"www-authenticate", b'Bearer realm="finflow"')
Word = Literal["invalid_request", "invalid_client", "invalid_scope", "unsupported_grant_type"]
_ERRORS: Final[dict[str, Word]] = {
    "client_unauthenticated": "invalid_client",
    "scope_not_granted": "invalid_scope",
    "grant_unsupported": "unsupported_grant_type",
    "request_malformed": "invalid_request",
}


class TokenRequest(msgspec.Struct, frozen=True):
    """The form that a client sends. Fields that are not known are left aside, as RFC 6749 wants it."""

    grant_type: Literal["client_credentials"]
    client_assertion_type: Literal["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
    client_assertion: str
    scope: str | None = None
    client_id: str | None = None


class TokenRefusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the token endpoint refuses with (RFC 6749, section 5.2)."""

    error: Word
    error_description: str | None = None


class Jwk(msgspec.Struct, frozen=True):
    """A public key (RFC 7517, RFC 8037)."""

    kid: str
    kty: str
    crv: str
    x: str
    alg: str
    use: str = "sig"


class Jwks(msgspec.Struct, frozen=True):
    """Every key that an access token may be signed with."""

    keys: list[Jwk]


class Metadata(msgspec.Struct, frozen=True):
    """What this authorization server can do (RFC 8414)."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    token_endpoint_auth_signing_alg_values_supported: list[str]


@post(
    ENDPOINT,
    opt={"scope": OPEN, "form": TokenRequest, "gives": TokenView, "refuses_form": TokenRefusal},
    summary="Get an access token for a client",
    status_code=200,
)
async def get_token(request: HttpRequest) -> Answer:
    try:
        fields = _form(request, await read_body(request, BODY_LIMIT))
        if fields.get("grant_type") != GRANT:
            raise FinFlowError("grant_unsupported" if "grant_type" in fields else "request_malformed")
        if fields.get("client_assertion_type") != ASSERTION_TYPE or "client_assertion" not in fields:
            raise FinFlowError("client_unauthenticated", "There is no client assertion of type jwt-bearer.")
        token = await services_of(request).identity.desk.token(
            fields["client_assertion"], fields.get("scope"), fields.get("client_id")
        )
    except FinFlowError as error:
        if error.kind.code not in _ERRORS:
            raise
        return _refusal(error)
    return ok(token)


@get("/.well-known/jwks.json", opt={"scope": OPEN, "gives": Jwks}, summary="Read the keys that sign tokens")
async def read_jwks(request: HttpRequest) -> Answer:
    identity = services_of(request).identity
    keys = [Jwk(key.kid, **_public(key.jwk), alg=preferred(key)) for key in identity.published()]
    return _cached(Jwks(keys))


@get(
    "/.well-known/oauth-authorization-server",
    opt={"scope": OPEN, "gives": Metadata},
    summary="Read what the authorization server can do",
)
async def read_metadata(request: HttpRequest) -> Answer:
    issuer = services_of(request).identity.issuer
    return _cached(
        Metadata(
            issuer=issuer,
            token_endpoint=issuer + ENDPOINT,
            jwks_uri=f"{issuer}/.well-known/jwks.json",
            scopes_supported=list(SCOPES),
            response_types_supported=[],
            grant_types_supported=[GRANT],
            token_endpoint_auth_methods_supported=["private_key_jwt"],
            token_endpoint_auth_signing_alg_values_supported=["EdDSA", "Ed25519", "ES256", "PS256", "RS256"],
        )
    )


def _form(request: HttpRequest, body: bytes) -> dict[str, str]:
    if media_type_of(request) != FORM:
        raise FinFlowError("request_malformed", "The body is a form: application/x-www-form-urlencoded.")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise FinFlowError("request_malformed", "The form cannot be read.") from error
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise FinFlowError("request_malformed", "A field of the form is given twice.")
    return fields


def _refusal(error: FinFlowError) -> Answer:
    # RFC 6749 allows descriptions a part of ASCII only.
    words = "".join(letter for letter in error.detail if " " <= letter <= "~" and letter not in '"\\')
    status = 401 if error.kind.code == "client_unauthenticated" else 400
    headers: list[Header] = [JSON, _CHALLENGE] if status == 401 else [JSON]
    return Answer(status, encode(TokenRefusal(_ERRORS[error.kind.code], words)), headers)


def _public(jwk: dict[str, Any]) -> dict[str, str]:
    return {name: jwk[name] for name in ("kty", "crv", "x")}


def _cached(value: object) -> Answer:
    answer = ok(value)
    answer.cache = _PUBLIC
    return answer
