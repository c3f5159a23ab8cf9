"""Access tokens under attack: every way to bend one is refused, and what is remembered of them is bounded.

Attack tokens are put together by hand here (base64, json, cryptography), apart from the code under test.
The order of Ed25519's group, and the vector of RFC 8037 appendix A.4, are from the RFCs.
"""

import base64
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from finflow.identity import jose
from finflow.identity.jose import PublicKey, public_key
from finflow.identity.model import SCOPES, Trust
from finflow.identity.verifier import Issuer, Verifier
from finflow.kernel.errors import FinFlowError

NOW = 1_800_000_000.0
ISSUER = "https://bank.example"
TENANT = "ten_01h455vb4pe008000000000001"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_ORDER = 2**252 + 27742317777372353535851937790883648493

Json = dict[str, Any]


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def claims(**changes: Any) -> Json:
    good = {
        "iss": ISSUER,
        "sub": "cli_teller",
        "aud": ISSUER,
        "iat": int(NOW),
        "nbf": int(NOW),
        "exp": int(NOW) + 900,
        "jti": "1",
        "scope": "accounts:read ledgers:read",
        "tenant": TENANT,
    } | changes
    return {name: value for name, value in good.items() if value is not None}


def header(**changes: Any) -> Json:
    good = {"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"} | changes
    return {name: value for name, value in good.items() if value is not None}


def put_together(head: bytes, body: bytes, key: Ed25519PrivateKey = KEY) -> str:
    content = f"{b64(head)}.{b64(body)}"
    return f"{content}.{b64(key.sign(content.encode()))}"


def token(head: Json | None = None, body: Json | None = None, key: Ed25519PrivateKey = KEY) -> str:
    return put_together(json.dumps(head or header()).encode(), json.dumps(body or claims()).encode(), key)


def verifier(*keys: PublicKey, generation: int = 2048, trust: Trust | None = None) -> Verifier:
    own = public_key({"kty": "OKP", "crv": "Ed25519", "x": b64(raw_public(KEY))}, "k1")
    known = {key.kid: key for key in keys or (own,)}

    async def find(kid: str | None, now_s: float) -> PublicKey | None:
        return known.get(kid or "")

    believed = trust or Trust(issuer=ISSUER, audience=ISSUER, operator=True)
    return Verifier({ISSUER: Issuer(believed, find)}, generation)


async def refused(text: str, **options: Any) -> str:
    with pytest.raises(FinFlowError) as caught:
        await verifier(**options).verify(text, NOW)
    assert caught.value.kind.status == 401
    assert text not in caught.value.detail or not text
    return caught.value.kind.code


async def test_a_good_token_says_who_asks() -> None:
    principal = await verifier().verify(token(), NOW)
    assert principal.subject == "cli_teller"
    assert principal.tenant_id == TENANT
    assert principal.scopes == {"accounts:read", "ledgers:read"}
    assert principal.expires_at_s == NOW + 900
    assert principal.issuer == ISSUER


async def test_without_a_tenant_it_is_the_operator_and_unknown_scopes_mean_nothing() -> None:
    principal = await verifier().verify(token(body=claims(tenant=None, scope="admin everything")), NOW)
    assert (principal.tenant_id, principal.scopes) == (None, {"admin"})


def hs256(secret: bytes) -> str:
    content = f"{b64(json.dumps(header(alg='HS256')).encode())}.{b64(json.dumps(claims()).encode())}"
    return f"{content}.{b64(hmac.digest(secret, content.encode(), 'sha256'))}"


def unsigned(alg: str, signature: str = "") -> str:
    return f"{b64(json.dumps(header(alg=alg)).encode())}.{b64(json.dumps(claims()).encode())}.{signature}"


def malleable() -> str:
    content, _, signature = token().rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    raised = int.from_bytes(raw[32:], "little") + _ORDER
    return f"{content}.{b64(raw[:32] + raised.to_bytes(32, 'little'))}"


def rs256() -> str:
    key = rsa.generate_private_key(65537, 2048)
    content = f"{b64(json.dumps(header(alg='RS256')).encode())}.{b64(json.dumps(claims()).encode())}"
    return f"{content}.{b64(key.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def tampered(place: int) -> str:
    parts = token().split(".")
    letters = list(parts[place])
    letters[len(letters) // 2] = "A" if letters[len(letters) // 2] != "A" else "B"
    parts[place] = "".join(letters)
    return ".".join(parts)


def other_spelling() -> str:
    """The last letter of a 64-byte signature carries four bits that decoders throw away."""
    text = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


OTHER = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
_OWN_JWK = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw_public(OTHER))}
_PEM = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": b64(raw_public(KEY))}).as_pem(private=False)
_TWICE = json.dumps(claims()).replace('"sub"', '"sub": "cli_other", "sub"').encode()
_ALG_TWICE = b'{"alg": "none", "typ": "at+jwt", "kid": "k1", "alg": "EdDSA"}'

ATTACKS: dict[str, str] = {
    "nothing": "",
    "no token": "Bearer",
    "one part": "abc",
    "two parts": "abc.def",
    "four parts": token() + ".x",
    "five parts, as if encrypted": "a.b.c.d.e",
    "alg none": unsigned("none"),
    "alg none with a signature": unsigned("none", token().rpartition(".")[2]),
    "alg None": unsigned("None", "AA"),
    "alg empty": token(header(alg="")),
    "alg missing": token(header(alg=None)),
    "alg a list": token(header(alg=["EdDSA"])),
    "HS256 with the public key's bytes": hs256(raw_public(KEY)),
    "HS256 with the public key's PEM": hs256(_PEM),
    "HS256 with the public key's base64": hs256(b64(raw_public(KEY)).encode()),
    "HS256 without a secret": hs256(b""),
    "RS256 with a key of one's own": rs256(),
    "ES256 under the name of our key": token(header(alg="ES256")),
    "Ed448 under the name of our key": token(header(alg="Ed448")),
    "another key": token(key=OTHER),
    "a key in the header": token(header(jwk=_OWN_JWK), key=OTHER),
    "a key by address": token(header(jku="https://evil.example/jwks"), key=OTHER),
    "a certificate by address": token(header(x5u="https://evil.example/x"), key=OTHER),
    "a certificate in the header": token(header(x5c=["MIIB"]), key=OTHER),
    "kid unknown": token(header(kid="k2")),
    "kid missing": token(header(kid=None)),
    "kid a number": token(header(kid=7)),
    "kid a path": token(header(kid="../../../dev/null")),
    "kid with a quote": token(header(kid="k1' or '1'='1")),
    "kid huge": token(header(kid="k" * 2000)),
    "crit": token(header(crit=["exp"])),
    "crit empty": token(header(crit=[])),
    "crit b64": token(header(crit=["b64"], b64=False)),
    "typ missing": token(header(typ=None)),
    "typ JWT": token(header(typ="JWT")),
    "typ of a logout token": token(header(typ="logout+jwt")),
    "typ a number": token(header(typ=7)),
    "header tampered with": tampered(0),
    "payload tampered with": tampered(1),
    "signature tampered with": tampered(2),
    "signature cut": token()[:-2],
    "signature cut to half": token()[:-43],
    "signature too long": token() + "AA",
    "signature empty": token().rpartition(".")[0] + ".",
    "signature of zeros": token().rpartition(".")[0] + "." + b64(bytes(64)),
    "signature in another spelling": other_spelling(),
    "signature with its order added": malleable(),
    "padding": token() + "=",
    "standard base64": token()[:-4] + "+/+/",
    "white space": token()[:60] + "\n" + token()[60:],
    "white space at the end": token() + "\n",
    "not ASCII": token()[:-1] + "é",
    "a NUL": token()[:-1] + "\0",
    "another issuer": token(body=claims(iss="https://evil.example")),
    "issuer missing": token(body=claims(iss=None)),
    "issuer a list": token(body=claims(iss=[ISSUER])),
    "issuer with a slash more": token(body=claims(iss=ISSUER + "/")),
    "another audience": token(body=claims(aud="https://other.example")),
    "audience missing": token(body=claims(aud=None)),
    "audience an empty list": token(body=claims(aud=[])),
    "audience an object": token(body=claims(aud={ISSUER: True})),
    "audience in capitals": token(body=claims(aud=ISSUER.upper())),
    "not valid yet": token(body=claims(nbf=int(NOW) + 60)),
    "issued in the future": token(body=claims(iat=int(NOW) + 60, exp=int(NOW) + 700)),
    "exp missing": token(body=claims(exp=None)),
    "exp text": token(body=claims(exp=str(int(NOW) + 900))),
    "exp true": token(body=claims(exp=True)),
    "exp too far": token(body=claims(exp=int(NOW) + 1000)),
    "exp in a thousand years": token(body=claims(exp=int(NOW) + 31_556_952_000)),
    "exp beyond numbers": put_together(
        json.dumps(header()).encode(), json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1e999').encode()
    ),
    "exp NaN": put_together(
        json.dumps(header()).encode(), json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": NaN').encode()
    ),
    "exp negative": token(body=claims(exp=-1)),
    "iat text": token(body=claims(iat="now")),
    "iat missing and exp too far": token(body=claims(iat=None, nbf=None, exp=int(NOW) + 1000)),
    "nbf a list": token(body=claims(nbf=[int(NOW)])),
    "subject missing": token(body=claims(sub=None)),
    "subject empty": token(body=claims(sub="")),
    "subject a number": token(body=claims(sub=7)),
    "subject with a line break": token(body=claims(sub="a\nb")),
    "subject too long": token(body=claims(sub="s" * 256)),
    "tenant a number": token(body=claims(tenant=7)),
    "tenant empty": token(body=claims(tenant="")),
    "tenant that is none": token(body=claims(tenant="ten_x")),
    "tenant with a wildcard": token(body=claims(tenant="*")),
    "scope a number": token(body=claims(scope=7)),
    "scope an object": token(body=claims(scope={"admin": True})),
    "a claim twice": put_together(json.dumps(header()).encode(), _TWICE),
    "alg twice": put_together(_ALG_TWICE, json.dumps(claims()).encode()),
    "claims that are a list": put_together(json.dumps(header()).encode(), b"[]"),
    "claims that are text": put_together(json.dumps(header()).encode(), b'"x"'),
    "claims that are no JSON": put_together(json.dumps(header()).encode(), b"{"),
    "claims that are not UTF-8": put_together(json.dumps(header()).encode(), b'{"a":"\xff"}'),
    "claims without bottom": put_together(json.dumps(header()).encode(), b"[" * 5000),
    "a number without end": put_together(json.dumps(header()).encode(), b'{"exp":' + b"9" * 5000 + b"}"),
    "a header that is a list": put_together(b"[]", json.dumps(claims()).encode()),
    "huge": token(body=claims(surplus="x" * 100_000)),
}  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
async def test_an_attack_is_refused(text: str) -> None:
    assert await refused(text) == "token_invalid"


@pytest.mark.parametrize("ago_s", [0, 1, 3600])
async def test_an_expired_token_is_refused_to_the_second(ago_s: int) -> None:
    at = int(NOW) - ago_s
    assert await refused(token(body=claims(iat=at - 900, nbf=at - 900, exp=at))) == "token_expired"


async def test_what_clocks_may_differ_by_is_forgiven_at_the_beginning_only() -> None:
    early = claims(iat=int(NOW) + 29, nbf=int(NOW) + 29, exp=int(NOW) + 800)
    assert (await verifier().verify(token(body=early), NOW)).subject == "cli_teller"


async def test_headers_that_bring_keys_along_are_not_looked_at() -> None:
    head = header(jwk=_OWN_JWK, jku="https://evil.example/jwks", x5u="https://evil.example/x")
    assert (await verifier().verify(token(head), NOW)).subject == "cli_teller"


async def test_a_key_is_used_with_its_own_algorithm_whatever_the_header_says() -> None:
    private = rsa.generate_private_key(65537, 2048)
    numbers = private.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": b64(numbers.n.to_bytes(256, "big")), "e": "AQAB", "alg": "PS256"}
    content = f"{b64(json.dumps(header(alg='RS256')).encode())}.{b64(json.dumps(claims()).encode())}"
    text = f"{content}.{b64(private.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
    assert (
        await verifier(public_key({**jwk, "alg": "RS256"}, "k1")).verify(text, NOW)
    ).subject == "cli_teller"
    with pytest.raises(FinFlowError, match="signature"):
        await verifier(public_key(jwk, "k1")).verify(text, NOW)


def test_the_vector_of_rfc_8037_verifies() -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    key = public_key(jwk)
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    content = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = base64.urlsafe_b64decode(
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg=="
    )
    assert jose.verify(jose.Signed("EdDSA", "", None, {}, content, signature), key)
    assert not jose.verify(jose.Signed("EdDSA", "", None, {}, content + b"x", signature), key)


async def test_a_token_is_checked_once_and_again_when_it_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0
    check = jose.verify

    def counted(*given: Any) -> bool:
        nonlocal checks
        checks += 1
        return check(*given)

    monkeypatch.setattr(jose, "verify", counted)
    one, text = verifier(), token()
    for _ in range(5):
        await one.verify(text, NOW)
    assert checks == 1
    one.forget()
    await one.verify(text, NOW)
    assert checks == 2
    with pytest.raises(FinFlowError, match="token_expired"):
        await one.verify(text, NOW + 900)
    for _ in range(5):
        with pytest.raises(FinFlowError, match="signature"):
            await one.verify(tampered(2), NOW)
    assert checks == 4, "a forgery is checked once too"


async def test_what_is_remembered_is_bounded_and_what_is_used_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    one = verifier(generation=10)
    often = token(body=claims(sub="often"))
    for number in range(200):
        await one.verify(token(body=claims(sub=f"s{number}")), NOW)
        await one.verify(often, NOW)
        assert len(one._young) + len(one._old) <= 20
    for number in range(50):
        with pytest.raises(FinFlowError):
            await one.verify(token(body=claims(sub=f"s{number}"), key=OTHER), NOW)
        assert len(one._forged) <= 10
    monkeypatch.setattr(jose, "verify", lambda *_: pytest.fail("it was known"))
    assert (await one.verify(often, NOW)).subject == "often"


async def test_a_revoked_subject_is_refused_also_if_it_was_remembered() -> None:
    one = verifier()
    await one.verify(token(), NOW)
    one.revoke(["cli_teller"])
    for _ in range(2):
        with pytest.raises(FinFlowError, match="revoked"):
            await one.verify(token(), NOW)
    assert (await one.verify(token(body=claims(sub="cli_other")), NOW)).subject == "cli_other"


async def test_a_stranger_s_scopes_are_cut_to_what_the_configuration_grants() -> None:
    trust = Trust(
        issuer=ISSUER, audience=ISSUER, name="corp:", scopes=frozenset(("accounts:read",)),
        scope_claim="roles", tenant_claim=None, tenant_id=TENANT,
    )  # fmt: skip
    text = token(body=claims(roles=list(SCOPES), tenant="ten_01h455vb4pe008000000000002"))
    principal = await verifier(trust=trust).verify(text, NOW)
    assert principal.scopes == {"accounts:read"}
    assert principal.tenant_id == TENANT, "what the token says of tenants is not asked"
    assert principal.subject == "corp:cli_teller"


async def test_no_tenant_is_no_operator_unless_the_configuration_says_so() -> None:
    trust = Trust(issuer=ISSUER, audience=ISSUER, name="corp:")
    assert await refused(token(body=claims(tenant=None, scope="admin")), trust=trust) == "token_invalid"
