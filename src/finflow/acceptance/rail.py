"""A rail over files that answers by itself: it accepts all but payments to an account it does not know."""

import os
from decimal import Decimal
from pathlib import Path
from typing import Final

from lxml import etree

from finflow.acceptance.model import UNKNOWN_ACCOUNT
from finflow.settlement.rails import FileRail

_ANSWER: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pacs.002.001.10"><FIToFIPmtStsRpt>
<GrpHdr><MsgId>A{original}</MsgId><CreDtTm>2026-01-01T00:00:00Z</CreDtTm></GrpHdr>
<OrgnlGrpInfAndSts><OrgnlMsgId>{original}</OrgnlMsgId><OrgnlMsgNmId>pacs.008.001.08</OrgnlMsgNmId>
<GrpSts>{status}</GrpSts></OrgnlGrpInfAndSts>{refused}</FIToFIPmtStsRpt></Document>"""
_REFUSED: Final = """<TxInfAndSts><OrgnlUETR>{uetr}</OrgnlUETR><TxSts>RJCT</TxSts>
<StsRsnInf><Rsn><Cd>AC04</Cd></Rsn></StsRsnInf></TxInfAndSts>"""


class AnsweringRail(FileRail):
    """A file rail whose other end answers each message at once, as a message of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._in = folder / "in"
        self.accepted: dict[str, int] = {}

    async def send(self, message_id: str, data: bytes) -> None:
        await super().send(message_id, data)
        part = self._in / f"{message_id}.part"
        part.write_bytes(self._answer(message_id, data))
        os.replace(part, self._in / f"{message_id}.xml")  # noqa: PTH105 - the same as rails.py does

    def _answer(self, message_id: str, data: bytes) -> bytes:
        """The pacs.002 to a pacs.008; keeps by end-to-end id what was accepted, in minor units."""
        refused = ""
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        for payment in etree.fromstring(data, parser).iter("{*}CdtTrfTxInf"):
            account = payment.findtext(".//{*}CdtrAcct//{*}Othr/{*}Id")
            if account == UNKNOWN_ACCOUNT:
                refused += _REFUSED.format(uetr=payment.findtext(".//{*}UETR"))
            else:
                amount = payment.findtext(".//{*}IntrBkSttlmAmt") or "0"
                self.accepted[payment.findtext(".//{*}EndToEndId") or ""] = int(Decimal(amount) * 100)
        status = "PART" if refused else "ACSC"
        return _ANSWER.format(original=message_id, status=status, refused=refused).encode()
