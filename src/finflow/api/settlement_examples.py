"""An example of everything about settlement that travels, for the OpenAPI document."""

from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec

from finflow.api.settlement_schemas import (
    CutOffDraft,
    CycleEnd,
    CyclePage,
    CycleStep,
    Mirrors,
    NewOrder,
    NewOrders,
    NostroDraft,
    Nostros,
    OrderMember,
    OrderPage,
    OrderResult,
    OrderResults,
    OrderReturn,
    ParticipantDraft,
    Participants,
)
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.settlement.audits import (
    AuditCycle,
    AuditEntry,
    AuditTransaction,
    AuditView,
)
from finflow.settlement.inbox import MessageView
from finflow.settlement.reconciliation_reads import (
    BreakView,
    NostroReport,
    NostroView,
    ReconciliationView,
    RuleCount,
)
from finflow.settlement.views import (
    CycleView,
    MirrorView,
    NetPositionView,
    OrderView,
    ParticipantAccounts,
    ParticipantView,
    ReportView,
    StepView,
)

_AT: Final = datetime(2026, 11, 23, 1, 0, 0, 123456, UTC)
_CUT_OFF: Final = datetime(2026, 11, 23, 9, 0, 0, 0, UTC)
_MICROS: Final = to_micros(_AT)
_LEDGER: Final = ids.mint("led", to_micros(datetime(2026, 11, 22, 19, 0, 0, 123456, UTC)), 1, 0)
_ORDER: Final = ids.mint("ord", _MICROS, 1, 1)
_CYCLE: Final = ids.mint("cyc", _MICROS, 1, 1)
_POSITION: Final = ids.mint("acc", _MICROS, 1, 8)
_SETTLEMENT: Final = ids.mint("acc", _MICROS, 1, 9)
_PAYEE: Final = ids.mint("acc", _MICROS, 1, 10)
_DIGEST: Final = "6a1c3f3cf4f1c5d0b8c9d2c5a1f3b9e6d7f8a9b0c1d2e3f4a5b6c7d8e9f0a1b2"

_PARTICIPANT: Final = ParticipantView(
    ids.mint("par", _MICROS, 1, 1), _LEDGER, "ALFA", "member",
    [ParticipantAccounts("SGD", _POSITION, _SETTLEMENT)],
)  # fmt: skip
_ORDER_VIEW: Final = OrderView(
    _ORDER, _LEDGER, _CYCLE, "held", None, "ALFA", "BETA", _POSITION, _PAYEE, "SGD", "12.50",
    "INV-2026-0001", None, _AT, ids.mint("txn", _MICROS, 1, 11), None, None,
)  # fmt: skip
_CYCLE_VIEW: Final = CycleView(
    _CYCLE, _LEDGER, "SGD", date(2026, 11, 23), _CUT_OFF, _AT, "netted",
    [StepView("close", _CUT_OFF, "1 orders", 0), StepView("net", _CUT_OFF, _DIGEST, 0)], [], None,
)  # fmt: skip
_NEW: Final[Any] = {
    "payer": "ALFA", "payee": "BETA", "currency": "SGD", "amount": "12.50",
    "end_to_end_id": "INV-2026-0001",
}  # fmt: skip

_NOSTRO: Final = NostroView(_LEDGER, "BETA", "SGD", "0011042388", "treasury", _AT)
XML_EXAMPLE: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pacs.008.001.08"><FIToFICstmrCdtTrf>
<GrpHdr><MsgId>ALFA-2026-0001</MsgId><CreDtTm>2026-11-23T01:00:00Z</CreDtTm><NbOfTxs>1</NbOfTxs>
<IntrBkSttlmDt>2026-11-23</IntrBkSttlmDt><SttlmInf><SttlmMtd>CLRG</SttlmMtd></SttlmInf></GrpHdr>
<CdtTrfTxInf><PmtId><EndToEndId>INV-2026-0001</EndToEndId>
<UETR>8a562c67-ca16-48ba-b074-65581be6f011</UETR></PmtId>
<IntrBkSttlmAmt Ccy="SGD">12.50</IntrBkSttlmAmt><ChrgBr>SLEV</ChrgBr>
<Dbtr><Nm>Alice</Nm></Dbtr><DbtrAgt><FinInstnId><Nm>ALFA</Nm></FinInstnId></DbtrAgt>
<CdtrAgt><FinInstnId><Nm>BETA</Nm></FinInstnId></CdtrAgt><Cdtr><Nm>Bob</Nm></Cdtr>
</CdtTrfTxInf></FIToFICstmrCdtTrf></Document>
"""

SETTLEMENT_PARAMETERS: Final[dict[str, Any]] = {"order_id": _ORDER, "cycle_id": _CYCLE, "sender": "ALFA"}

SETTLEMENT_VALUES: Final[tuple[msgspec.Struct, ...]] = (
    ParticipantDraft(_LEDGER, "ALFA", "member", ["SGD"], settlement_limit="50000"),
    _PARTICIPANT,
    Participants([_PARTICIPANT]),
    NewOrder(ledger_id=_LEDGER, **_NEW),
    NewOrders(_LEDGER, [OrderMember(**_NEW)]),
    OrderResults(1, 0, [OrderResult("INV-2026-0001", _ORDER, _CYCLE, None, None)]),
    _ORDER_VIEW,
    OrderPage([_ORDER_VIEW], None),
    AuditView(
        _ORDER_VIEW, "Invoice 1", None,
        [
            AuditTransaction(
                ids.mint("txn", _MICROS, 1, 11), _LEDGER, 11, "hold", _AT, None,
                [
                    AuditEntry(_POSITION, "debit", "0.00", "12.50", 4, "100.00"),
                    AuditEntry(_PAYEE, "credit", "0.00", "12.50", 2, "7.00"),
                ],
            )
        ],
        AuditCycle(
            _CYCLE, "netted", date(2026, 11, 23), _CUT_OFF, tuple(_CYCLE_VIEW.steps),
            [NetPositionView("ALFA", "12.50", "0.00", "-12.50", 1)], (), None,
        ),
        [],
        None,
        [],
    ),
    MessageView(_LEDGER, "pacs.008", "ALFA", "ALFA-2026-0001", _DIGEST, 1, 1, 0, 0, 0, []),
    NostroDraft(_LEDGER, "BETA", "SGD", "0011042388", "treasury"),
    _NOSTRO,
    Nostros([_NOSTRO]),
    ReconciliationView(
        _LEDGER, _CUT_OFF, 3, 3, 1, 0.75, 28_800.0, 1,
        [
            NostroReport(
                "BETA", "SGD", "0011042388", "treasury", 3, 3, 1, 0.75, 28_800.0, 1, [RuleCount("uetr", 3)]
            )
        ],
        [
            BreakView(
                "missing", "BETA", "SGD", "0011042388", "treasury", "12.50", _AT, 28_800.0,
                date(2026, 11, 23), _ORDER, None, "INV-2026-0001", None,
            )
        ],
        None,
    ),
    OrderReturn("AC04 the account is closed"),
    CycleEnd("the rail does not answer"),
    CutOffDraft(_LEDGER, "SGD", "16:30:00", "Asia/Singapore", "SG", 0),
    Mirrors(
        [MirrorView(_LEDGER, ids.mint("led", _MICROS, 2, 0), "SGD", "-12.50", "12.50", "0.00", True)]
    ),
    _CYCLE_VIEW,
    CyclePage([_CYCLE_VIEW], None),
    CycleStep(),
    ReportView(
        _CYCLE, "SGD", _DIGEST, 1, "12.50", "12.50", "0.00", 0.0,
        [
            NetPositionView("ALFA", "12.50", "0.00", "-12.50", 1),
            NetPositionView("BETA", "0.00", "12.50", "12.50", 1),
        ],
        [],
    ),
)  # fmt: skip
