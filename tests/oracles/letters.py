"""Messages as customers and banks write them, as text, not by the code under test."""

from collections.abc import Sequence
from typing import Any

_PACS008 = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pacs.008.001.08"><FIToFICstmrCdtTrf>
<GrpHdr><MsgId>{own}</MsgId><CreDtTm>2026-06-08T01:00:00Z</CreDtTm><NbOfTxs>{count}</NbOfTxs>
<IntrBkSttlmDt>{day}</IntrBkSttlmDt><SttlmInf><SttlmMtd>CLRG</SttlmMtd></SttlmInf></GrpHdr>{payments}
</FIToFICstmrCdtTrf></Document>"""
_PAYMENT = """<CdtTrfTxInf><PmtId><EndToEndId>{name}</EndToEndId>{uetr}</PmtId>
<IntrBkSttlmAmt Ccy="{currency}">{amount}</IntrBkSttlmAmt><ChrgBr>SLEV</ChrgBr>
{before}<Dbtr><Nm>Alice</Nm></Dbtr>{debtor_account}<DbtrAgt><FinInstnId><Nm>ALFA</Nm></FinInstnId></DbtrAgt>
<CdtrAgt><FinInstnId>{bank}</FinInstnId></CdtrAgt><Cdtr><Nm>Budi Santoso</Nm></Cdtr>{account}{after}
</CdtTrfTxInf>"""
_PAIN001 = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09"><CstmrCdtTrfInitn>
<GrpHdr><MsgId>{own}</MsgId><CreDtTm>2026-06-08T01:00:00Z</CreDtTm><NbOfTxs>{count}</NbOfTxs>
<InitgPty><Nm>Alice</Nm></InitgPty></GrpHdr>
<PmtInf><PmtInfId>{own}-1</PmtInfId><PmtMtd>{method}</PmtMtd><ReqdExctnDt><Dt>{day}</Dt></ReqdExctnDt>
<Dbtr><Nm>Alice</Nm></Dbtr><DbtrAcct><Id><Othr><Id>{debtor}</Id></Othr></Id></DbtrAcct>
<DbtrAgt><FinInstnId><Nm>ALFA</Nm></FinInstnId></DbtrAgt>{payments}</PmtInf></CstmrCdtTrfInitn></Document>"""
_ORDERED = """<CdtTrfTxInf><PmtId><EndToEndId>{name}</EndToEndId></PmtId>
<Amt><InstdAmt Ccy="SGD">{amount}</InstdAmt></Amt>
<CdtrAgt><FinInstnId><Nm>{bank}</Nm></FinInstnId></CdtrAgt><Cdtr><Nm>Bob</Nm></Cdtr></CdtTrfTxInf>"""
_CAMT054 = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"><BkToCstmrDbtCdtNtfctn>
<GrpHdr><MsgId>{own}</MsgId><CreDtTm>2026-06-08T12:00:00Z</CreDtTm></GrpHdr>
<Ntfctn><Id>{own}</Id><Acct><Id><Othr><Id>{account}</Id></Othr></Id></Acct>{entries}</Ntfctn>
</BkToCstmrDbtCdtNtfctn></Document>"""
_CAMT053 = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>
<GrpHdr><MsgId>{own}</MsgId><CreDtTm>2026-06-08T22:00:00Z</CreDtTm></GrpHdr>
<Stmt><Id>{own}</Id><Acct><Id><Othr><Id>{account}</Id></Othr></Id></Acct>
<Bal><Tp><CdOrPrtry><Cd>OPBD</Cd></CdOrPrtry></Tp><Amt Ccy="SGD">0</Amt><CdtDbtInd>CRDT</CdtDbtInd>
<Dt><Dt>2026-06-08</Dt></Dt></Bal>{entries}</Stmt></BkToCstmrStmt></Document>"""
_ENTRY = """<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{sign}</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>
<ValDt><Dt>2026-06-08</Dt></ValDt>{booking}<BkTxCd><Prtry><Cd>X</Cd></Prtry></BkTxCd>
<NtryDtls><TxDtls>{references}</TxDtls></NtryDtls></Ntry>"""


def payment(name: str, amount: str, bank: str = "<Nm>BETA</Nm>", **rest: Any) -> str:
    """A transfer of a pacs.008; `before` and `after` are what its optional places hold."""
    uetr, account, debtor = rest.get("uetr"), rest.get("account"), rest.get("debtor")
    return _PAYMENT.format(
        name=name, amount=amount, bank=bank, currency=rest.get("currency", "SGD"),
        before=rest.get("before", ""), after=rest.get("after", ""),
        uetr=f"<UETR>{uetr}</UETR>" if uetr else "",
        account=f"<CdtrAcct><Id><Othr><Id>{account}</Id></Othr></Id></CdtrAcct>" if account else "",
        debtor_account=f"<DbtrAcct><Id><Othr><Id>{debtor}</Id></Othr></Id></DbtrAcct>" if debtor else "",
    )  # fmt: skip


def transfers(own: str, payments: Sequence[str], day: str = "2026-06-08") -> bytes:
    """A pacs.008."""
    return _PACS008.format(own=own, count=len(payments), payments="".join(payments), day=day).encode()


def initiation(
    own: str, orders: Sequence[tuple[str, str, str]], debtor: str = "1", day: str = "2026-06-08",
    method: str = "TRF",
) -> bytes:  # fmt: skip
    """A pain.001: end-to-end id, amount and the creditor's bank of each order."""
    payments = "".join(_ORDERED.format(name=name, amount=amount, bank=bank) for name, amount, bank in orders)
    return _PAIN001.format(
        own=own, count=len(orders), payments=payments, day=day, debtor=debtor, method=method
    ).encode()


def entry(amount: str, sign: str = "DBIT", booking: str | None = None, **references: str) -> str:
    """A booked entry of one payment; references by the element's name."""
    order = ("MsgId", "InstrId", "EndToEndId", "UETR")
    told = "".join(f"<{each}>{references[each]}</{each}>" for each in order if each in references)
    return _ENTRY.format(
        amount=amount, sign=sign, currency=references.get("currency", "SGD"),
        booking=f"<AcctSvcrRef>{booking}</AcctSvcrRef>" if booking else "",
        references=f"<Refs>{told}</Refs>" if told else "",
    )  # fmt: skip


def notification(own: str, entries: Sequence[str], account: str = "N-1") -> bytes:
    """A camt.054."""
    return _CAMT054.format(own=own, entries="".join(entries), account=account).encode()


def statement(own: str, entries: Sequence[str], account: str = "N-1") -> bytes:
    """A camt.053."""
    return _CAMT053.format(own=own, entries="".join(entries), account=account).encode()
