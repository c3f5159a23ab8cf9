"""Signed tokens on the wire (JWS compact, RFC 7515) and public keys as JSON (JWK), read strictly.

Keys and signature algorithms are joserfc's and cryptography's. The envelope is read here, because for money
it must have one reading only: base64url in its one canonical form, no member twice, no `crit`, bounded.
Which algorithm a token is checked with is the key's to say; `alg` in the header can only agree. Headers that
would bring a key along (`jwk`, `jku`, `x5u`, `x5c`) are never looked at.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry

from finflow.identity.model import invalid

MAX_TOKEN_BYTES: Final = 8192
MAX_KID: Final = 256
_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 4096

EDDSA: Final = frozenset(("EdDSA", "Ed25519"))
ALGORITHMS: Final = EDDSA | {"ES256", "RS256", "PS256"}
_ALGORITHM: Final = {name: JWSRegistry.algorithms[name] for name in ALGORITHMS}

# The points of small order, in every encoding that a lenient decoder takes, without the sign bit: whoever
# brings one as a public key can make signatures that fit any message.
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


class Signed(NamedTuple):
    """A token taken apart; nothing in it is to be believed before `verify`."""

    algorithm: str
    kind: str
    kid: str | None
    claims: dict[str, Any]
    content: bytes
    signature: bytes


class PublicKey(NamedTuple):
    """A key to check signatures with, and the algorithms that it may be used with."""

    kid: str
    algorithms: frozenset[str]
    jwk: dict[str, str]
    key: Any


def read(token: str) -> Signed:
    """A token taken apart. Raises token_invalid for what is not one."""
    if len(token) > MAX_TOKEN_BYTES:
        raise invalid("it is too large")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise invalid("it is not a signed token")
    header, claims = _object(parts[1]), _object(parts[2])
    algorithm, kind, kid = header.get("alg"), header.get("typ", ""), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(kind, str) or not isinstance(kid, str | None):
        raise invalid("its header is not well-formed")
    if "crit" in header or len(kid or "") > MAX_KID:
        raise invalid("its header asks for what is not supported")
    content = token[: parts.end(2)].encode()
    return Signed(algorithm, kind.lower(), kid, claims, content, _bytes(parts[3]))


def verify(signed: Signed, key: PublicKey) -> bool:
    """Whether the key's holder signed it."""
    if signed.algorithm not in key.algorithms:
        return False
    return bool(_ALGORITHM[signed.algorithm].verify(signed.content, signed.signature, key.key))


def sign(header: Mapping[str, str], claims: Mapping[str, object], key: Any) -> str:
    """A token in compact form. `header` has `alg`; `key` is joserfc's private key for it."""
    content = f"{_text(header)}.{_text(claims)}"
    signature = _ALGORITHM[header["alg"]].sign(content.encode(), key)
    return f"{content}.{_encode(signature)}"


def public_key(jwk: Mapping[str, Any], kid: str | None = None) -> PublicKey:
    """The key that a JWK describes, under `kid`, its own `kid` or else its thumbprint (RFC 7638).

    Raises ValueError with a sentence for kinds, sizes and uses that are not taken, and for private keys.
    """
    if any(name in jwk for name in ("d", "p", "q", "k")):
        raise ValueError("it holds a private key, which nobody else may see")
    if jwk.get("use", "sig") != "sig" or "verify" not in (jwk.get("key_ops") or ["verify"]):
        raise ValueError("it is not for signatures")
    try:
        key = import_key({name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk})
        thumbprint = key.thumbprint()
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise ValueError("it is not a public key") from error
    algorithms = _algorithms(key)
    if (declared := jwk.get("alg")) is not None:
        algorithms &= EDDSA if declared in EDDSA else {declared}
    if not algorithms:
        raise ValueError("its algorithm is none of EdDSA, ES256, RS256, PS256, or does not fit the key")
    name = kid or jwk.get("kid") or thumbprint
    if not isinstance(name, str) or len(name) > MAX_KID or not name.isprintable():
        raise ValueError("its `kid` is not a short text")
    shown = {each: str(value) for each, value in key.as_dict(private=False).items() if each != "kid"}
    return PublicKey(name, algorithms, shown, key)


def preferred(key: PublicKey) -> str:
    """The algorithm of a key where one has to be named: what it declares, or the common one of its kind."""
    return next(name for name in ("EdDSA", "ES256", "RS256", "PS256") if name in key.algorithms)


def _algorithms(key: Any) -> frozenset[str]:
    if isinstance(key, OKPKey) and key.curve_name == "Ed25519":
        point = _bytes(str(key.as_dict(private=False)["x"]))
        if bytes((*point[:31], point[31] & 0x7F)) in _SMALL_ORDER:
            raise ValueError("it is a point of small order, which keeps no secret")
        return EDDSA
    if isinstance(key, ECKey) and key.curve_name == "P-256":
        return frozenset(("ES256",))
    if isinstance(key, RSAKey):
        if not _MIN_RSA_BITS <= key.raw_value.key_size <= _MAX_RSA_BITS:
            raise ValueError(f"RSA keys have {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits")
        return frozenset(("RS256", "PS256"))
    return frozenset()


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(part), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise invalid("it is not well-formed") from error
    if not isinstance(value, dict):
        raise invalid("it is not well-formed")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers must not see two values: a member that stands twice ends it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member stands twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _bytes(part: str) -> bytes:
    try:
        value = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError) as error:
        raise invalid("it is not well-formed") from error
    # Bits that decoders throw away would give one signature several spellings.
    if _encode(value) != part:
        raise invalid("it is not well-formed")
    return value


def _text(value: Mapping[str, object]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
