"""What a rail answers, written as text, not by the code under test."""

import re
from collections.abc import Sequence

_REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pacs.002.001.10"><FIToFIPmtStsRpt>
<GrpHdr><MsgId>{own}</MsgId><CreDtTm>2026-06-01T10:00:00Z</CreDtTm></GrpHdr>
<OrgnlGrpInfAndSts><OrgnlMsgId>{original}</OrgnlMsgId><OrgnlMsgNmId>pacs.008.001.08</OrgnlMsgNmId>{status}
</OrgnlGrpInfAndSts>{payments}</FIToFIPmtStsRpt></Document>"""
_REFUSED = """<TxInfAndSts><OrgnlUETR>{uetr}</OrgnlUETR><TxSts>RJCT</TxSts>
<StsRsnInf><Rsn><Cd>AC04</Cd></Rsn></StsRsnInf></TxInfAndSts>"""
_RETURN = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pacs.004.001.09"><PmtRtr>
<GrpHdr><MsgId>{own}</MsgId><CreDtTm>2026-06-02T10:00:00Z</CreDtTm><NbOfTxs>1</NbOfTxs>
<SttlmInf><SttlmMtd>CLRG</SttlmMtd></SttlmInf></GrpHdr>
<TxInf><OrgnlGrpInf><OrgnlMsgId>{original}</OrgnlMsgId><OrgnlMsgNmId>pacs.008.001.08</OrgnlMsgNmId>
</OrgnlGrpInf><OrgnlUETR>{uetr}</OrgnlUETR><RtrdIntrBkSttlmAmt Ccy="SGD">{amount}</RtrdIntrBkSttlmAmt>
<IntrBkSttlmDt>2026-06-02</IntrBkSttlmDt><RtrRsnInf><Rsn><Cd>AC04</Cd></Rsn></RtrRsnInf></TxInf>
</PmtRtr></Document>"""


def uetrs_of(message: bytes) -> list[str]:
    """The UETRs in a pacs.008, in order."""
    return re.findall(r"<(?:\w+:)?UETR[^>]*>([^<]+)<", message.decode())


def report(own: str, original: str, status: str | None = "ACSC", refused: Sequence[str] = ()) -> bytes:
    """A pacs.002 on a message of ours: its status, and payments of it that are refused."""
    group = "" if status is None else f"<GrpSts>{status}</GrpSts>"
    payments = "".join(_REFUSED.format(uetr=each) for each in refused)
    return _REPORT.format(own=own, original=original, status=group, payments=payments).encode()


def payment_return(own: str, original: str, uetr: str, amount: str) -> bytes:
    """A pacs.004 that brings one payment back."""
    return _RETURN.format(own=own, original=original, uetr=uetr, amount=amount).encode()
