"""A client of the token endpoint for tests: its key, its assertions, and every way to get them wrong."""

import json
import secrets
import time
from typing import Any, Final

import httpx
from joserfc import jws
from joserfc.jwk import OKPKey

from oracles.tokens import ISSUER

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
Json = dict[str, Any]


def key() -> Any:
    return OKPKey.generate_key("Ed25519")


def public(private: Any) -> Json:
    return {name: value for name, value in private.as_dict(private=False).items() if name != "kid"}


def signed(header: Json, claims: Json, private: Any) -> str:
    """A token made by joserfc, whatever header and claims say."""
    registry = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
    return jws.serialize_compact(header, json.dumps(claims).encode(), private, registry=registry)


def assertion_claims(client_id: str, **changes: Any) -> Json:
    now_s = int(time.time())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": ISSUER,
        "iat": now_s,
        "exp": now_s + 60,
        "jti": secrets.token_hex(8),
    } | changes
    return {name: value for name, value in claims.items() if value is not None}


def assertion(client_id: str, private: Any, header: Json | None = None, **changes: Any) -> str:
    return signed({"alg": "Ed25519"} | (header or {}), assertion_claims(client_id, **changes), private)


def form(proof: str, **changes: Any) -> Json:
    fields = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": proof,
    } | changes
    return {name: value for name, value in fields.items() if value is not None}


async def ask(client: httpx.AsyncClient, proof: str, **changes: Any) -> httpx.Response:
    """Ask the token endpoint without any Authorization header."""
    request = client.build_request("POST", "/oauth/token", data=form(proof, **changes))
    request.headers.pop("authorization", None)
    return await client.send(request)
