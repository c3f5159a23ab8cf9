"""From a bank's report to matched payments: an answer to the sample pacs.008, batches, old versions."""

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.settlement.iso20022 import messages, streams
from finflow.settlement.iso20022.transfers import CreditTransfers
from finflow.settlement.matching import Expected, Line, reconcile
from finflow.settlement.reported import lines_of
from oracles.iso20022 import Maker

_DATA = Path(__file__).parents[1] / "data" / "iso20022"
_PACS008 = _DATA / "CustomerCreditTransfer_Scenario1_Step1_pacs.008.xml"
_NOW = dt.datetime(2023, 6, 4, 14, 58, tzinfo=dt.UTC)
_REFERENCES = """<Refs><MsgId>20230604011104238Sc01Step1MsgId</MsgId><InstrId>Scenario01InstrId001</InstrId>
<EndToEndId>Scenario01EtoEId001</EndToEndId><UETR>8a562c67-ca16-48ba-b074-65581be6f011</UETR></Refs>"""
_ENTRY = """<Ntry><Amt Ccy="USD">{amount}</Amt><CdtDbtInd>DBIT</CdtDbtInd><Sts><Cd>{status}</Cd></Sts>
<BkTxCd><Prtry><Cd>DBIT</Cd></Prtry></BkTxCd><NtryDtls>{payments}</NtryDtls></Ntry>"""


def _report(*entries: str) -> bytes:
    return f"""<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"><BkToCstmrDbtCdtNtfctn>
<GrpHdr><MsgId>N1</MsgId><CreDtTm>2023-06-04T10:57:39-04:00</CreDtTm></GrpHdr>
<Ntfctn><Id>R1</Id><Acct><Id><Othr><Id>011104238</Id></Othr></Id></Acct>{"".join(entries)}</Ntfctn>
</BkToCstmrDbtCdtNtfctn></Document>""".encode()


def _lines(data: bytes) -> list[Line]:
    return list(lines_of(streams.events_of(messages.read(data)), _NOW))


def _payment(amount: str = "", references: str = _REFERENCES, more: str = "") -> str:
    amount_part = f'<Amt Ccy="USD">{amount}</Amt><CdtDbtInd>DBIT</CdtDbtInd>' if amount else ""
    return f"<TxDtls>{references}{amount_part}{more}</TxDtls>"


def test_a_notification_settles_the_transfer_that_it_answers() -> None:
    body = messages.read(_PACS008.read_bytes()).body
    assert isinstance(body, CreditTransfers)
    (sent,) = body.transfers
    assert sent.settlement_date is not None
    owed = Expected(
        "e1",
        sent.debtor_agent.participant or "",
        sent.amount.currency,
        -sent.amount.minor,
        sent.settlement_date,
        _NOW - dt.timedelta(seconds=90),
        uetr=sent.id.uetr,
    )
    dates = "<RltdDts><IntrBkSttlmDt>2023-06-04</IntrBkSttlmDt></RltdDts>"
    entry = _ENTRY.format(amount="51.74", status="BOOK", payments=_payment(more=dates))
    (line,) = _lines(_report(entry))
    assert (line.id, line.amount_minor, line.value_date) == ("011104238/R1/1.1", -5174, dt.date(2023, 6, 4))
    found = reconcile([owed], [line], _NOW)
    assert [each.rule for each in found.matches] == ["uetr"]
    assert found.share_within_promise == 1.0


def test_only_what_is_booked_counts_and_places_stay() -> None:
    entries = [
        _ENTRY.format(amount="1.00", status=status, payments=_payment())
        for status in ("PDNG", "BOOK", "INFO")
    ]
    assert [each.id for each in _lines(_report(*entries))] == ["011104238/R1/2.1"]


@pytest.mark.parametrize(
    ("payments", "expected"),
    [
        (_payment("1.00") + _payment("2.50"), [-100, -250]),
        (_payment("1.00") + _payment("2.49"), [-350]),  # they do not make up the entry
        (_payment("1.00") + _payment(), [-350]),  # one is not known
        (_payment(), [-350]),
        ("", [-350]),
    ],
)
def test_an_entry_is_taken_apart_only_if_its_payments_make_it_up(payments: str, expected: list[int]) -> None:
    lines = _lines(_report(_ENTRY.format(amount="3.50", status="BOOK", payments=payments)))
    assert [each.amount_minor for each in lines] == expected


def test_a_batch_keeps_only_the_references_that_its_payments_share() -> None:
    one = "<Refs><PmtInfId>BATCH-7</PmtInfId><EndToEndId>E-1</EndToEndId></Refs>"
    two = "<Refs><PmtInfId>BATCH-7</PmtInfId><EndToEndId>E-2</EndToEndId></Refs>"
    payments = _payment(references=one) + _payment(references=two)
    (line,) = _lines(_report(_ENTRY.format(amount="3.50", status="BOOK", payments=payments)))
    assert (line.batch, line.end_to_end_id, line.uetr) == ("BATCH-7", None, None)


def test_the_words_of_a_payment_are_found() -> None:
    words = "<RmtInf><Ustrd>for INV-1</Ustrd><Strd><CdtrRefInf><Ref>RF18</Ref></CdtrRefInf></Strd></RmtInf>"
    (line,) = _lines(_report(_ENTRY.format(amount="1.00", status="BOOK", payments=_payment(more=words))))
    assert line.text == "for INV-1 RF18"


@given(
    st.sampled_from(["camt.053.001.02", "camt.053.001.08", "camt.053.001.14", "camt.054.001.04"]),
    st.integers(0, 10**6),
)
def test_the_lines_of_any_report_are_its_booked_entries(name: str, seed: int) -> None:
    """Their sum is that of the entries in the XML, counted by its text, and no id comes twice."""
    text = Maker(name, seed, 0.35).document()
    lines = list(lines_of(streams.events_of(messages.read(text.encode())), _NOW))
    booked = 0
    for entry in text.split("<Ntry>")[1:]:
        head = entry.partition("</Ntry>")[0]
        status = head.partition("<Sts>")[2].partition("</Sts>")[0]
        if status in ("BOOK", "<Cd>BOOK</Cd>"):
            amount = head.partition("<Amt ")[2].partition(">")[2].partition("<")[0].replace(".", "")
            direction = head.partition("<CdtDbtInd>")[2][:4]
            booked += int(amount) if direction == "CRDT" else -int(amount)
    assert sum(each.amount_minor for each in lines) == booked
