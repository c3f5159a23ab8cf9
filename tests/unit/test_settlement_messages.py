"""ISO 20022 messages: nothing is lost on the way through, and what cannot be kept is refused.

Samples: FedNow's; those of the CBPR+ rules package (each kind as small and as full as its usage guideline
allows, in an envelope); and instances drawn from every schema. Two documents are compared by the standard
library's canonical XML, over expat.
"""

import json
from decimal import Decimal
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel import money
from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022 import messages, rules, schemas
from finflow.settlement.iso20022.answers import PaymentReturn, StatusReport
from finflow.settlement.iso20022.part import Amount, amount_of, to_datetime
from finflow.settlement.iso20022.statements import Notifications
from finflow.settlement.iso20022.transfers import CreditTransfers, Initiation
from oracles.iso20022 import NAMES, Maker, canonical

_DATA = Path(__file__).parents[1] / "data" / "iso20022"
_PACS008 = _DATA / "CustomerCreditTransfer_Scenario1_Step1_pacs.008.xml"
_PACS002 = _DATA / "CustomerCreditTransfer_Scenario1_Step6_pacs.002.xml"
_UETR = "8a562c67-ca16-48ba-b074-65581be6f011"
_READ = tuple(messages.KINDS)


def _cbpr() -> dict[str, bytes]:
    found = {}
    for year in ("y2025", "y2026"):
        for file in (resources.files("cbpr_rules") / "examples" / year).iterdir():
            if file.name.startswith(_READ):
                found[f"{year}/{file.name}"] = file.read_bytes()
    return found


_SAMPLES = {path.name: path.read_bytes() for path in (_PACS008, _PACS002)} | _cbpr()


def test_there_are_samples_of_every_kind_but_one() -> None:
    kinds = {messages.read(data).kind for data in _SAMPLES.values()}
    # camt.053 has no published sample here; it is drawn from its schemas below.
    assert kinds == set(_READ) - {"camt.053"}


@pytest.mark.parametrize("name", _SAMPLES)
def test_a_sample_comes_out_as_it_went_in(name: str) -> None:
    data = _SAMPLES[name]
    message = messages.read(data)
    rules.check(message)
    assert canonical(messages.write(message)) == canonical(data)


@pytest.mark.parametrize("fullness", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_a_drawn_message_of_each_schema_comes_out_as_it_went_in(name: str, fullness: float) -> None:
    for seed in range(2):
        text = Maker(name, seed, fullness).document()
        assert canonical(messages.write(messages.read(text.encode()))) == canonical(text)


def test_the_typed_values_are_those_of_the_sample() -> None:
    body = messages.read(_PACS008.read_bytes()).body
    assert isinstance(body, CreditTransfers)
    (transfer,) = body.transfers
    assert body.header.message_id == "20230604011104238Sc01Step1MsgId"
    assert (transfer.amount.value, transfer.amount.currency) == (Decimal("51.74"), "USD")
    assert transfer.amount.minor == 5174
    assert (transfer.id.uetr, transfer.id.end_to_end_id) == (_UETR, "Scenario01EtoEId001")
    assert (transfer.debtor.name, transfer.creditor.name) == ("Individual A", "Corporation B")
    assert transfer.debtor_account is not None
    assert transfer.debtor_account.number == "0031234567"
    assert (transfer.debtor_agent.participant, transfer.creditor_agent.participant) == (
        "011104238",
        "021040078",
    )
    assert transfer.remittance is not None
    assert transfer.remittance.structured[0].documents[0].number == "INV34563"
    answer = messages.read(_PACS002.read_bytes()).body
    assert isinstance(answer, StatusReport)
    assert (answer.transactions[0].uetr, answer.transactions[0].status) == (_UETR, "ACCC")


def test_the_whole_sample_as_json_is_the_golden_file() -> None:
    """Read by a person once, against the XML: every field that is understood, and all that is kept."""
    message = messages.read(_PACS008.read_bytes())
    golden = json.loads((_DATA / "pacs.008.golden.json").read_text())
    assert json.loads(msgspec.json.encode(message)) == golden


def test_fields_are_found_in_the_fullest_samples() -> None:
    back = messages.read(_SAMPLES["y2025/pacs.004.max.xml"]).body
    assert isinstance(back, PaymentReturn)
    assert back.transfers[0].uetr
    assert back.transfers[0].reasons[0].reason
    ordered = messages.read(_SAMPLES["y2025/pain.001.min.xml"]).body
    assert isinstance(ordered, Initiation)
    assert ordered.instructions[0].transfers[0].amount.instructed
    assert ordered.instructions[0].execution_date.day
    told = messages.read(_SAMPLES["y2025/camt.054.max.xml"]).body
    assert isinstance(told, Notifications)
    entry = told.notifications[0].entries[0]
    assert entry.status.word
    assert entry.details[0].transactions[0].references


def test_a_business_application_header_is_kept_around_the_document() -> None:
    envelope = messages.read(_SAMPLES["y2025/pacs.008.min.xml"]).envelope
    assert envelope is not None
    assert ["head.001" in each.xml for each in envelope.around] == [True]


def _changed(old: str, new: str) -> bytes:
    text = _PACS008.read_text()
    assert text.count(old) >= 1
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_changed("pacs.008.001.08", "pacs.009.001.08"), "message_unsupported"),
        (_changed("pacs.008.001.08", "pacs.008.001.99"), "message_unsupported"),
        (_changed("pacs.008.001.08", "pacs.008.001.0٨"), "xml_malformed"),
        (_changed("pacs.008.001.08", "../../../etc/passwd"), "message_unsupported"),
        (b"<Other/>", "message_unsupported"),
        (_changed("<MsgId>", "<Msg>").replace(b"</MsgId>", b"</Msg>", 1), "message_invalid"),
        (_changed("<ChrgBr>SLEV</ChrgBr>", "<ChrgBr>WHAT</ChrgBr>"), "message_invalid"),
        (_changed(_UETR, _UETR.upper()), "message_invalid"),
        (_changed(_UETR, "8a562c67-ca16-18ba-b074-65581be6f011"), "message_invalid"),
        (_changed("2023-06-04</", "2023-02-29</"), "message_invalid"),
        (_changed("<GrpHdr>", "<GrpHdr>stray"), "message_invalid"),
        (_changed('Ccy="USD">51.74', 'Ccy="USD">51.745'), "amount_too_precise"),
        (_changed('Ccy="USD">51.74', 'Ccy="JPY">51.7'), "amount_too_precise"),
        (_changed('Ccy="USD">51.74', 'Ccy="ZZZ">51.74'), "currency_unknown"),
        (_changed('Ccy="USD">51.74', 'Ccy="USD">-51.74'), "message_invalid"),
        (_changed('Ccy="USD">51.74', 'Ccy="USD">5E1'), "message_invalid"),
        (
            _changed("<GrpHdr>", '<GrpHdr xsi:type="GroupHeader93">'),
            "message_not_understood",
        ),
        (_changed("</FIToFICstmrCdtTrf>", "</FIToFICstmrCdtTrf><More/>"), "message_invalid"),
    ],
)
def test_what_is_wrong_is_refused_with_a_code(data: bytes, code: str) -> None:
    with pytest.raises(FinFlowError) as refused:
        messages.read(data)
    assert refused.value.kind.code == code


_ANSWER = _PACS002.read_text()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("<TxSts>ACCC</TxSts>", "<TxSts>ACCEPTED</TxSts>", "message_invalid"),
        ("<TxSts>ACCC</TxSts>", "<TxSts></TxSts>", "message_invalid"),
        ("<TxSts>ACCC</TxSts>", "<TxSts><Cd>ACCC</Cd></TxSts>", "message_not_understood"),
        ("<TxSts>ACCC</TxSts>", "<TxSts>ACCC</TxSts><TxSts>RJCT</TxSts>", "message_invalid"),
        ("<TxSts>ACCC</TxSts>", "<TxSts>ACCC</TxSts><OrgnlUETR>" + _UETR + "</OrgnlUETR>", "message_invalid"),
        ("<TxSts>ACCC</TxSts>", "stray<TxSts>ACCC</TxSts>", "message_invalid"),
        ("<TxSts>ACCC</TxSts>", '<TxSts own="1">ACCC</TxSts>', "message_not_understood"),
        ("<GrpHdr>", '<GrpHdr own="1">', "message_not_understood"),
        (_UETR, "not-a-uetr", "message_invalid"),
        ("<MsgId>20230604021150706Sc01Step6MsgId</MsgId>", "", "message_invalid"),
        ("20230604021150706Sc01Step6MsgId", "x" * 36, "message_invalid"),
        ("2023-06-04T10:55:35-04:00", "yesterday", "message_invalid"),
    ],
)
def test_without_a_schema_the_declared_rules_hold(old: str, new: str, code: str) -> None:
    assert old in _ANSWER
    assert schemas.schema_of("pacs.002.001.10") is None
    with pytest.raises(FinFlowError) as refused:
        messages.read(_ANSWER.replace(old, new, 1).encode())
    assert refused.value.kind.code == code
    assert refused.value.param


def test_without_a_schema_text_between_elements_is_refused_wherever_it_stands() -> None:
    for place in ("</MsgId>", "</GrpHdr>", "</OrgnlGrpInf>", "</TxInfAndSts>", "</FIToFIPmtStsRpt>"):
        with pytest.raises(FinFlowError, match="message_invalid"):
            messages.read(_ANSWER.replace(place, place + "stray", 1).encode())


def test_unknown_elements_are_kept_where_they_stood_even_without_a_schema() -> None:
    own = '<Own a="1"><Deep>x &amp; y</Deep></Own>'
    text = _ANSWER
    for place in ("<MsgId>", "</GrpHdr>", "<OrgnlUETR>", "</FinInstnId>", "</TxInfAndSts>"):
        text = text.replace(place, own + place, 1)
    assert canonical(messages.write(messages.read(text.encode()))) == canonical(text)


def test_a_value_that_is_changed_is_written_and_all_else_stays() -> None:
    message = messages.read(_PACS008.read_bytes())
    body = message.body
    assert isinstance(body, CreditTransfers)
    cheaper = msgspec.structs.replace(body.transfers[0], amount=amount_of(4242, "USD"))
    changed = msgspec.structs.replace(message, body=msgspec.structs.replace(body, transfers=(cheaper,)))
    expected = _PACS008.read_text().replace('Ccy="USD">51.74', 'Ccy="USD">42.42')
    assert canonical(messages.write(changed)) == canonical(expected)


def test_nothing_invalid_is_written() -> None:
    message = messages.read(_PACS008.read_bytes())
    body = message.body
    assert isinstance(body, CreditTransfers)
    for header, code in (
        (msgspec.structs.replace(body.header, message_id="x" * 36), "message_invalid"),
        (msgspec.structs.replace(body.header, message_id="a\x00b"), "text_malformed"),
        (msgspec.structs.replace(body.header, message_id="a\x08b"), "text_malformed"),
    ):
        with pytest.raises(FinFlowError) as refused:
            messages.write(
                msgspec.structs.replace(message, body=msgspec.structs.replace(body, header=header))
            )
        assert refused.value.kind.code == code


@given(st.sampled_from(["JPY", "USD", "KWD", "CLF"]), st.integers(0, 10**18 - 1))
def test_an_amount_counts_the_same_minor_units_both_ways(currency: str, minor: int) -> None:
    amount = amount_of(minor, currency)
    assert amount.minor == minor
    exponent = money.exponent_of(currency)
    assert exponent is not None
    assert amount.value * 10**exponent == minor


@pytest.mark.parametrize(
    ("currency", "value", "code"),
    [
        ("USD", "NaN", "amount_malformed"),
        ("USD", "Infinity", "amount_malformed"),
        ("USD", "-0", "amount_malformed"),
        ("USD", "-1", "amount_malformed"),
        ("USD", "1E+30", "amount_out_of_range"),
        ("JPY", "1.0", "amount_too_precise"),
        ("usd", "1", "currency_unknown"),
    ],
)
def test_no_amount_exists_that_is_not_one(currency: str, value: str, code: str) -> None:
    with pytest.raises(FinFlowError) as refused:
        Amount(currency=currency, value=Decimal(value))
    assert refused.value.kind.code == code


def test_eighteen_digits_that_do_not_fit_are_refused_when_counted() -> None:
    huge = Amount(currency="CLF", value=Decimal("9" * 18))
    with pytest.raises(FinFlowError, match="amount_out_of_range"):
        _ = huge.minor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-06-04T10:55:26-04:00", "2023-06-04T14:55:26+00:00"),
        ("2023-06-04T10:55:26Z", "2023-06-04T10:55:26+00:00"),
        ("2023-06-04T10:55:26", "2023-06-04T10:55:26+00:00"),
        ("2023-06-04T10:55:26.123456789+08:00", "2023-06-04T02:55:26.123456+00:00"),
        ("2023-06-04T10:55:26.5", "2023-06-04T10:55:26.500000+00:00"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    assert to_datetime(text).timestamp() == to_datetime(expected).timestamp()
    assert to_datetime(text).isoformat()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("<NbOfTxs>1<", "<NbOfTxs>2<", "message_inconsistent"),
        ("<NbOfTxs>1</NbOfTxs>", "<NbOfTxs>1</NbOfTxs><CtrlSum>51.75</CtrlSum>", "message_inconsistent"),
        (
            "<NbOfTxs>1</NbOfTxs>",
            '<NbOfTxs>1</NbOfTxs><TtlIntrBkSttlmAmt Ccy="USD">51.73</TtlIntrBkSttlmAmt>',
            "message_inconsistent",
        ),
        (
            "<NbOfTxs>1</NbOfTxs>",
            '<NbOfTxs>1</NbOfTxs><TtlIntrBkSttlmAmt Ccy="CAD">51.74</TtlIntrBkSttlmAmt>',
            "message_inconsistent",
        ),
        ("<IntrBkSttlmDt>2023-06-04</IntrBkSttlmDt>", "", "message_inconsistent"),
        ('Ccy="USD">51.74', 'Ccy="USD">0.00', "amount_not_positive"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(old: str, new: str, code: str) -> None:
    message = messages.read(_changed(old, new))
    with pytest.raises(FinFlowError) as refused:
        rules.check(message)
    assert refused.value.kind.code == code


def test_sums_that_agree_are_taken() -> None:
    header = (
        '<NbOfTxs>1</NbOfTxs><CtrlSum>51.740</CtrlSum><TtlIntrBkSttlmAmt Ccy="USD">51.74</TtlIntrBkSttlmAmt>'
    )
    rules.check(messages.read(_changed("<NbOfTxs>1</NbOfTxs>", header)))
