"""Ids against Python's uuid module, RFC 9562 and the TypeID specification's own examples."""

# ruff: noqa: E501 - the lists of wrong texts read as lists

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel import ids

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
MOMENTS = st.integers(0, (1 << 48) * 1000 - 1)
LEDGERS = st.integers(0, ids.MAX_LEDGER_NO)
NUMBERS = st.integers(0, ids.MAX_NUMBER)


def uuid_of(text: str) -> uuid.UUID:
    """Decodes a TypeID's suffix by division, as its specification describes: 26 digits of base 32."""
    value = 0
    for letter in text.rpartition("_")[2]:
        value = value * 32 + ALPHABET.index(letter)
    return uuid.UUID(int=value)


def typeid_of(prefix: str, value: uuid.UUID) -> str:
    number, letters = value.int, ""
    for _ in range(26):
        number, digit = divmod(number, 32)
        letters = ALPHABET[digit] + letters
    return f"{prefix}_{letters}"


@given(MOMENTS, LEDGERS, NUMBERS)
def test_an_id_is_a_uuid_of_version_7(micros: int, ledger_no: int, number: int) -> None:
    text = ids.mint("txn", micros, ledger_no, number)
    value = uuid_of(text)
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    # RFC 9562 section 5.7: 48 bits of Unix milliseconds stand first.
    assert int.from_bytes(value.bytes[:6], "big") == micros // 1000
    # Section 6.2, method 3: the next 12 bits are the fraction of the millisecond.
    assert (value.int >> 64) & 0xFFF == (micros % 1000) * 4096 // 1000
    assert text == typeid_of("txn", value)
    assert len(text) == 30


@given(MOMENTS, LEDGERS, NUMBERS)
def test_an_id_leads_back_to_its_row(micros: int, ledger_no: int, number: int) -> None:
    assert ids.parse("txn", ids.mint("txn", micros, ledger_no, number)) == (ledger_no, number)


@given(MOMENTS, LEDGERS, st.integers(0, (1 << 31) + 5))
def test_accounts_and_tenants_have_numbers_of_32_bits(micros: int, ledger_no: int, number: int) -> None:
    expected = (ledger_no, number) if number < 1 << 31 else None
    for prefix in ("acc", "ten"):
        assert ids.parse(prefix, ids.mint(prefix, micros, ledger_no, number)) == expected


@given(st.tuples(MOMENTS, LEDGERS, NUMBERS), st.tuples(MOMENTS, LEDGERS, NUMBERS))
def test_no_two_rows_share_an_id(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (ids.mint("acc", *one) == ids.mint("acc", *other)) == (one == other)


@given(MOMENTS, MOMENTS)
def test_ids_sort_by_their_time(early: int, late: int) -> None:
    early, late = sorted((early, late))
    first, second = ids.mint("txn", early, 1, 1), ids.mint("txn", late, 1, 1)
    assert first <= second
    assert uuid_of(first) <= uuid_of(second)


def test_the_text_is_the_specification_s() -> None:
    # typeid specification 0.3.0, spec/valid.yml: "uuidv7".
    value = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert typeid_of("prefix", value) == "prefix_01h455vb4pex5vsknk084sn02q"
    assert ids.parse("prefix", "prefix_01h455vb4pex5vsknk084sn02q") is not None


GOOD = ids.mint("acc", 1_767_225_600_000_000, 5, 9)


@pytest.mark.parametrize(
    "text",
    [
        "", "acc", "acc_", "_", GOOD[4:], GOOD.upper(), GOOD[:-1], GOOD + "0", " " + GOOD, GOOD + "\n",
        GOOD.replace("acc_", "txn_"), GOOD.replace("acc_", "acc-"), GOOD.replace("acc_", "acc__"), "acc_" + GOOD,
        GOOD[:10] + "i" + GOOD[11:], GOOD[:10] + "l" + GOOD[11:], GOOD[:10] + "o" + GOOD[11:], GOOD[:10] + "u" + GOOD[11:],
        GOOD[:10] + "-" + GOOD[11:], GOOD[:10] + "\0" + GOOD[11:], GOOD[:10] + "０" + GOOD[11:],
        "acc_8" + GOOD[5:], "acc_z" + GOOD[5:],  # spec/invalid.yml: over 128 bits
    ],
)  # fmt: skip
def test_what_is_no_id_is_none(text: str) -> None:
    assert ids.parse("acc", text) is None


@given(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 9, 15]))
def test_another_version_is_none(version: int) -> None:
    value = uuid_of(GOOD).int & ~(0xF << 76) | version << 76
    assert ids.parse("acc", typeid_of("acc", uuid.UUID(int=value))) is None


@given(st.sampled_from([0b00, 0b01, 0b11]))
def test_another_variant_is_none(variant: int) -> None:
    value = uuid_of(GOOD).int & ~(0b11 << 62) | variant << 62
    assert ids.parse("acc", typeid_of("acc", uuid.UUID(int=value))) is None


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert ids.parse("acc", text) is None
    ids.parse("acc", "acc_" + text)
