"""What may not stand in a log, in the forms in which it comes, and what looks like it and must stay readable.

IBANs are the examples of the SWIFT registry, card numbers the test numbers that payment networks publish,
the token is RFC 7515's example; the negatives are taken from our own logs, ids and messages.
"""

import base64
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel import ids
from finflow.telemetry import numbers
from finflow.telemetry.logs import JsonLines
from finflow.telemetry.numbers import iban, luhn
from finflow.telemetry.redaction import MASK, scrub, scrub_field

IBANS = [
    "GB82WEST12345698765432", "GB82 WEST 1234 5698 7654 32", "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00", "FR1420041010050500013M02606", "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S", "CH9300762011623852957", "AE070331234567890123456",
]  # fmt: skip
CARDS = [
    "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "5555555555554444", "378282246310005",
    "3782 822463 10005", "6011111111111117", "30569309025904", "3530111333300000", "2223003122003222",
    "4222222222222", "6304000000000000",
]  # fmt: skip
SECRETS = [
    ("postgresql://me:s@c/r:e@t@host:5432/db", ["s@c", "e@t"]),
    ("connect postgresql://a:b1b1@h/x?password=hush1 failed", ["b1b1", "hush1"]),
    ("Authorization: Bearer abcdefgh12345678", ["abcdefgh12345678"]),
    ("sent header 'authorization': 'Basic dXNlcjpwYXNz'", ["dXNlcjpwYXNz"]),
    ("token eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r", ["eyJ", "dBjftJeZ"]),
    ("client_assertion=eyJhbGciOiJFUzI1NiJ9.e30.c2ln&grant_type=x", ["eyJ", "c2ln"]),
    ('{"api_key": "k-123 456", "limit": 5}', ["k-123", "456"]),
    ("password='two words' user=me", ["two words"]),
    ("db_password: hunter2", ["hunter2"]),
    ("X-Api-Key=abc123, next", ["abc123"]),
    ("refresh_token=r1.r2.r3;", ["r1.r2"]),
    ("Set-Cookie: session=deadbeef; Path=/", ["deadbeef"]),
    ("Cookie: a=deadbeef; sid=hunter2, x\nHost: h", ["deadbeef", "hunter2"]),
    ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY----- after", ["MHcCAQEE"]),
    ("-----BEGIN PRIVATE KEY-----\nMIIEv cut off", ["MIIEv"]),
    ("aws AKIAIOSFODNN7EXAMPLE used", ["AKIAIOSFODNN7EXAMPLE"]),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", ["ghp_16C7"]),
    ("DETAIL:  Key (external_reference)=(Tan Ah Kow) already exists.", ["Tan Ah Kow"]),
    ("DETAIL:  Failing row contains (7, 12, SGD, Tan Ah Kow, {\"a\": \"b\"}).", ["Tan Ah Kow"]),
    ("DETAIL:  Failing row contains (1, line\nsmithy).", ["smithy"]),
    ("DETAIL:  Failing row contains (1, john ((x)), smithy).", ["john", "smithy"]),
    ("DETAIL:  Failing row contains (1, a).\nsmithy).\nNext line", ["smithy"]),
    ("Failing row contains (1, john\nsmithy, cut", ["john", "smithy"]),
    ("Key (lower((name)::text))=(Tan (Ah) Kow) already exists.", ["Tan", "Kow"]),
    ("Key (a, b)=(1, Tan\nKow) is not present in table \"t\".", ["Tan", "Kow"]),
    ("conflicting key: Key (a)=(Tan) conflicts with existing key (a)=(Kow).", ["Tan", "Kow"]),
    ("Partition key of the failing row contains (name) = (smithy).", ["smithy"]),
    ("PGPASSWORD=hunter2 psql", ["hunter2"]),
    ("DBPASSWORD=hunter2", ["hunter2"]),
    ("dbPassword=hunter2, userToken: t0k", ["hunter2", "t0k"]),
    ("clientPin=1234", ["1234"]),
    (r'body {\"password\": \"hun, ter2\", \"n\": 1}', ["hun", "ter2"]),
    (r'body {\\\"password\\\": \\\"hun\\\\\\\"ter2\\\"}', ["hun", "ter2"]),
    ("[('cookie','sid=deadbeef')]", ["deadbeef"]),
    ("headers=[(b'host', b'h'), (b'x-api-key', b'k-123')]", ["k-123"]),
    ('headers=[("authorization","s3cr3t"), ["cookie", "s1d"]]', ["s3cr3t", "s1d"]),
    ("{b'authorization': b's3cr3t'}", ["s3cr3t"]),
    (r"password='a\'secret' then", ["secret"]),
    (r'{"password": "a\"secret", "n": 1}', ["secret"]),
    ("password=*hunter2", ["hunter2"]),
]  # fmt: skip
PEOPLE = [
    ("mail to jane.doe+bank@example.co.uk now", "jane.doe"),
    ("<jane@example.com>", "jane@"),
    ("call +65 9123 4567 today", "9123"),
    ("call +4915112345678", "15112345678"),
    ("call +1 (415) 555-2671", "555-2671"),
    ("call (415) 555-2671", "555-2671"),
    ("call 415-555-2671", "555-2671"),
]
# Ids, amounts, times, paths and texts of ours; everything here must come out as it went in.
HARMLESS = [
    ids.mint("txn", 1_767_225_600_000_000, 7, 123_456),
    ids.mint("acc", 1_767_225_600_000_000, 7, 12),
    "req_0123456789abcdef00000001",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "0192f3a4-5b6c-7d8e-9f01-234567890123",
    "1767225600000000", "1767225600000", "1767225600", "2026-11-22T21:54:00.123456+08:00",
    "9223372036854775807", "-9223372036854775808", "12345678901234567890", "amount 1234567890123.45 SGD",
    "GB82WEST12345698765431", "DE8937040044053201300", "4111111111111112", "1234567812345670",
    "postgresql://me@host:5432/db", "http://127.0.0.1:8400/v1/accounts?limit=50", "SQLSTATE 08006",
    "update heads set seq = $2, account_no = $3 where ledger_no = $1", "batch is tried again",
    "idempotency key k-1-2 of ledger 7", "Unexpected keyword argument 'foo'", "mapping = berka, ping: 5",
    "10.0.0.1:5432", "version 1.2.3-rc4", "lsn 0/16B3748", "2026-11-22 21:54:00", "17:54 to 18:30",
    "9.1e15", "mapping file examples/berka.toml", "spin=3 shipping: 7", "@app.get", "a@b",
    "TypeError: expected str @ line 5", "keyboard monkey", "secretary of the bank", "0.000001",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "4000 rows in 120 ms, 51 left", "0.4111111111111111",
    "acc_4111111111111111x", "x4111111111111111", "x" + "de89370400440532013000" * 2, "AD12 no number",
    "pk36 some word were with them", "at 2026-11-22 21:54:00.123456 4 of 5", "-4111111111111112",
    "1764460800123456789", "Key (see below) was rotated", "key (1) is not (2)", "4.11e15", "python 3.11.2",
    "['pinned', 'x'], compass: north, tokens_used=5, mapPing=1", "@app.get(4, 5)",
    "req-123-456-789012345", "SHA256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
]  # fmt: skip


@pytest.mark.parametrize("number", IBANS + CARDS)
def test_numbers_with_check_digits_are_masked_wherever_they_stand(number: str) -> None:
    for text in (number, f"paid to {number}.", f"[{number}]", f"{number}, then", f'"{number}"'):
        assert number not in scrub(text)
        assert MASK in scrub(text)
        # Nothing of it is left but what stood around it.
        assert not any(character.isdigit() for character in scrub(text))


@pytest.mark.parametrize("number", IBANS + CARDS)
def test_any_one_digit_changed_and_it_is_only_a_number(number: str) -> None:
    at = next(place for place in range(len(number) - 1, 0, -1) if number[place].isdigit())
    wrong = number[:at] + str((int(number[at]) + 1) % 10) + number[at + 1 :]
    assert scrub(wrong) == wrong


def test_check_digits_as_published() -> None:
    assert luhn("79927398713")
    assert [n for n in range(10) if luhn(f"7992739871{n}")] == [3]
    assert iban("GB82 WEST 1234 5698 7654 32")
    assert not iban("GB82 WEST 1234 5698 7654 33")


@pytest.mark.parametrize("number", IBANS + CARDS)
@pytest.mark.parametrize(
    "around",
    ["EU12 {}", "GB82 {}", "order 12 {}", "status 200 {}", "{} 12/29", "{} 123", "{}.00", "{} {}", "{},{}",
     "n_{}", "/v1/x/{}", "id-{}-x", "{{'n':'{}'}}", "DE89 3704 {}"],
)  # fmt: skip
def test_numbers_are_masked_beside_others(number: str, around: str) -> None:
    assert scrub(around.format(number, number)) == around.format(MASK, MASK)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("GET /v1/x/de89370400440532013000", "GET /v1/x/***"),
        ("DE89-3704-0044-0532-0130-00", MASK),
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", MASK),
        ("4111\u00a01111\u202f1111\u00a01111", MASK),
        ("iban_DE89370400440532013000", "iban_***"),
        ("DE89370400440532013000EUR", "***EUR"),
        ("NL91 ABNA 0417 1643 00 DE89 3704 0044 0532 0130 00", "*** ***"),
        ("41 11 11 11 11 11 11 11", MASK),
        ("pay 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 now", "pay *** now"),
    ],
)
def test_numbers_are_masked_however_they_are_written(text: str, safe: str) -> None:
    assert scrub(text) == safe


def test_words_after_an_iban_stay() -> None:
    assert scrub("from DE89370400440532013000 SGD REF 12") == f"from {MASK} SGD REF 12"


@pytest.mark.parametrize(("text", "secrets"), SECRETS)
def test_secrets_are_masked(text: str, secrets: list[str]) -> None:
    safe = scrub(text)
    assert MASK in safe
    assert [secret for secret in secrets if secret in safe] == []


@pytest.mark.parametrize(("text", "person"), PEOPLE)
def test_people_are_masked(text: str, person: str) -> None:
    assert person not in scrub(text)
    assert MASK in scrub(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.parametrize("text", [text for text, _ in SECRETS] + [text for text, _ in PEOPLE])
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize(
    "name",
    ["password", "db_password", "client_secret", "Authorization", "access_token", "api_key", "apikey",
     "cookie", "client_assertion", "private_key", "full_name", "customer_name", "email", "customer_email",
     "phone", "iban", "card_number", "date_of_birth", "holder", "remote_addr"],
)  # fmt: skip
def test_a_field_s_name_says_that_its_value_is_private(name: str) -> None:
    assert scrub_field(name, "Tan") == MASK
    assert scrub_field(name, 12) == MASK
    assert scrub_field("outer", {name: "Tan"}) == {name: MASK}


@pytest.mark.parametrize(
    "name", ["worker", "status", "ledger_no", "key", "path", "name", "server.address", "keys", "tokens_used"]
)
def test_other_fields_are_read_by_their_form(name: str) -> None:
    assert scrub_field(name, "plain") == "plain"
    assert scrub_field(name, 12) == 12
    assert scrub_field(name, "jane@example.com") == MASK


def test_of_metadata_the_names_stay_and_no_value_does() -> None:
    assert scrub_field("metadata", {"name": "Tan Ah Kow", "branch": "7"}) == {"name": MASK, "branch": MASK}
    nested = {"command": {"metadata": {"x": "Tan"}, "amount": "5.00"}, "list": [{"email": "a"}, "a@bank.com"]}
    assert scrub_field("facts", nested) == {
        "command": {"metadata": {"x": MASK}, "amount": "5.00"},
        "list": [{"email": MASK}, MASK],
    }


def test_headers_and_bytes_are_fields_like_others() -> None:
    headers = [(b"host", b"h"), (b"authorization", b"s3cr3t"), ["cookie", "s1d"], ("x-api-key", ["k"])]
    assert scrub_field("headers", headers) == [
        ["host", "h"], ["authorization", MASK], ["cookie", MASK], ["x-api-key", MASK],
    ]  # fmt: skip
    assert scrub_field("scope", {b"authorization": b"s3cr3t"}) == {"authorization": MASK}
    assert scrub_field("x", b"to jane@example.com") == f"to {MASK}"
    assert scrub_field("dbPassword", "x") == scrub_field("PGPASSWORD", "x") == MASK


@pytest.mark.parametrize("number", [4111111111111111, 4111111111111111.0, -4111111111111111])
def test_a_card_number_is_one_as_a_number_too(number: float) -> None:
    assert scrub_field("x", number) == MASK


@pytest.mark.parametrize("number", [0.4111111111111111, 1767225600123456.5, 1e300, 5, 4111111111111112.0])
def test_other_numbers_stay_numbers(number: float) -> None:
    assert scrub_field("x", number) == number


def test_what_is_nested_too_deep_or_too_long_goes() -> None:
    deep: object = "4111111111111111"
    for _ in range(50):
        deep = [deep]
    assert "4111" not in json.dumps(scrub_field("x", deep))
    assert len(scrub("x" * 1_000_000)) < 20_000
    assert len(scrub_field("x", list(range(10_000)))) == 100
    assert scrub_field("x", 4111111111111111) == MASK


@pytest.mark.parametrize(
    "hostile",
    ["a" * 20_000, "1 " * 10_000, "a://" * 5_000, "+1" * 10_000, "@." * 10_000, "password" * 2_000,
     "eyJ" * 5_000, "(" * 20_000, "Key (" * 4_000, "a-" * 10_000, "A1" * 10_000,
     "-----BEGIN PRIVATE KEY-----" * 700],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_no_text_keeps_the_process_busy(hostile: str) -> None:
    # A pattern that backtracks without bound would not come back within the test's life.
    assert len(scrub(hostile)) <= 20_000


HOSTILE = [
    "4" * 100_000, "4 " * 50_000, "4111 " * 20_000, "4111111111111112 " * 6_000, "DE89 " * 20_000,
    "DE89370400440532013001 " * 4_000, "AD" + "12" * 50_000, "_LC12" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:8])
@pytest.mark.parametrize("without", [numbers.without_ibans, numbers.without_cards])
def test_a_long_text_takes_steps_in_proportion_to_its_length(
    hostile: str, without: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def counted(check: Callable[..., Any]) -> Callable[..., Any]:
        def checked(text: str, *place: int) -> Any:
            nonlocal steps
            steps += 1 if place else len(text)
            return check(text, *place)

        return checked

    for name in ("iban", "card", "_iban_end", "_card_end"):
        monkeypatch.setattr(numbers, name, counted(getattr(numbers, name)))
    without(hostile, MASK)
    assert steps <= 50 * len(hostile)


# --- whatever the number --------------------------------------------------------------------------------

KINDS = {"n": "0123456789", "a": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "c": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
NETWORKS = [
    ("4", 13), ("4", 16), ("4", 19), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15),
    ("37", 15), ("36", 14), ("6011", 16), ("62", 19), ("35", 16), ("50", 13),
]  # fmt: skip
GAPS = st.sampled_from(["", " ", "-", "\u00a0"])
BEFORE = st.sampled_from(["", "to ", "EU12 ", "12 ", "x=", "card_", "[", "/", '"', "DE89 "])
BEHIND = st.sampled_from(["", " now", " 12/29", ".", "]", "/x", '"', ", 5"])


@st.composite
def ibans(draw: st.DrawFn) -> str:
    country = draw(st.sampled_from(sorted(numbers._FORMS)))
    parts = re.findall(r"(\d+)([nac])", numbers._FORMS[country])
    body = "".join(draw(st.text(KINDS[kind], min_size=int(n), max_size=int(n))) for n, kind in parts)
    remainder = int("".join(str(int(c, 36)) for c in f"{body}{country}00")) % 97
    return f"{country}{98 - remainder:02d}{body}"


@st.composite
def cards(draw: st.DrawFn) -> str:
    head, length = draw(st.sampled_from(NETWORKS))
    rest = length - len(head) - 1
    most = head + draw(st.text("0123456789", min_size=rest, max_size=rest))
    return next(most + str(digit) for digit in range(10) if luhn(most + str(digit)))


def in_groups(number: str, gap: str) -> str:
    return gap.join(number[at : at + 4] for at in range(0, len(number), 4))


@given(number=ibans(), gap=GAPS, small=st.booleans(), before=BEFORE, behind=BEHIND)
def test_every_iban_is_masked(number: str, gap: str, small: bool, before: str, behind: str) -> None:
    # Words in groups of letters, with next to no digit, are taken for words.
    written = in_groups(number, gap if sum(map(str.isdigit, number)) >= 8 else "")
    text = before + (written.lower() if small else written) + behind
    assert scrub(text) == before + MASK + behind


@given(number=cards(), gap=GAPS, before=BEFORE, behind=BEHIND)
def test_every_card_number_is_masked(number: str, gap: str, before: str, behind: str) -> None:
    assert scrub(before + in_groups(number, gap) + behind) == before + MASK + behind


@given(
    st.uuids().map(str) | st.integers(0, 2**128 - 1).map("{:032x}".format)
    | st.integers(0, 10**12 - 1).map(str) | st.integers(10**18, 2 * 10**18 - 1).map(str)
    | st.decimals(0, 10**12, places=2).map(str) | st.datetimes().map(str)
    | st.builds(ids.mint, st.just("acc"), st.integers(10**15, 2 * 10**15), st.integers(0, 2**24 - 1),
                st.integers(0, 2**31 - 1))
)  # fmt: skip
def test_ids_amounts_and_times_stay_readable(text: str) -> None:
    assert scrub(text) == text
    assert scrub(f"at {text}: 5") == f"at {text}: 5"


def test_a_line_is_scrubbed_in_message_arguments_extras_and_traceback() -> None:
    logger, lines = logging.Logger("finflow.test"), []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonLines("r1").format(record))

    logger.addHandler(Keep())
    token = base64.b64encode(b"secret-secret").decode()
    try:
        raise ValueError("card 4111 1111 1111 1111 of jane@example.com")
    except ValueError:
        logger.exception(
            "for %s", "GB82WEST12345698765432",
            extra={"metadata": {"name": "Tan"}, "header": f"Bearer {token}", "tenant": "ten_1", "n": 5},
        )  # fmt: skip
    [line] = lines
    for secret in ("4111", "jane@", "GB82", "Tan", token):
        assert secret not in line
    decoded = json.loads(line)
    assert (decoded["n"], decoded["release"], decoded["metadata"]) == (5, "r1", {"name": MASK})
    assert "ValueError: card" in decoded["error"]
