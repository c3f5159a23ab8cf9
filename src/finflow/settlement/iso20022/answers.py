"""pacs.002 and pacs.004: what became of a payment, and money that comes back."""

import datetime as dt
from decimal import Decimal

from finflow.settlement.iso20022.part import (
    Amount,
    Code,
    Count,
    Flag,
    Moment,
    Part,
    Text35,
    Uetr,
    optional,
    repeated,
    required,
)
from finflow.settlement.iso20022.parties import (
    Agent,
    Charges,
    OriginalGroup,
    PaymentType,
    Settlement,
    StatusReason,
)


class StatusHeader(Part, frozen=True, kw_only=True):
    """The header of a pacs.002."""

    message_id: Text35 = required("MsgId")
    created_at: Moment = required("CreDtTm")
    instructing_agent: Agent | None = optional("InstgAgt")
    instructed_agent: Agent | None = optional("InstdAgt")


class GroupStatus(Part, frozen=True, kw_only=True):
    """What became of a whole message."""

    message_id: Text35 = required("OrgnlMsgId")
    message_name: Text35 = required("OrgnlMsgNmId")
    created_at: Moment | None = optional("OrgnlCreDtTm")
    count: Count | None = optional("OrgnlNbOfTxs")
    control_sum: Decimal | None = optional("OrgnlCtrlSum")
    status: Code | None = optional("GrpSts")
    reasons: tuple[StatusReason, ...] = repeated("StsRsnInf")


class TransactionStatus(Part, frozen=True, kw_only=True):
    """What became of one payment, named by its references."""

    id: Text35 | None = optional("StsId")
    original_group: OriginalGroup | None = optional("OrgnlGrpInf")
    instruction_id: Text35 | None = optional("OrgnlInstrId")
    end_to_end_id: Text35 | None = optional("OrgnlEndToEndId")
    transaction_id: Text35 | None = optional("OrgnlTxId")
    uetr: Uetr | None = optional("OrgnlUETR")
    status: Code | None = optional("TxSts")
    reasons: tuple[StatusReason, ...] = repeated("StsRsnInf")
    charges: tuple[Charges, ...] = repeated("ChrgsInf")
    accepted_at: Moment | None = optional("AccptncDtTm")
    servicer_reference: Text35 | None = optional("AcctSvcrRef")
    clearing_reference: Text35 | None = optional("ClrSysRef")
    instructing_agent: Agent | None = optional("InstgAgt")
    instructed_agent: Agent | None = optional("InstdAgt")


class StatusReport(Part, frozen=True, kw_only=True):
    """The body of a pacs.002: FIToFIPaymentStatusReport."""

    header: StatusHeader = required("GrpHdr")
    groups: tuple[GroupStatus, ...] = repeated("OrgnlGrpInfAndSts")
    transactions: tuple[TransactionStatus, ...] = repeated("TxInfAndSts")


class ReturnHeader(Part, frozen=True, kw_only=True):
    """The header of a pacs.004."""

    message_id: Text35 = required("MsgId")
    created_at: Moment = required("CreDtTm")
    count: Count = required("NbOfTxs")
    control_sum: Decimal | None = optional("CtrlSum")
    whole_group: Flag | None = optional("GrpRtr")
    total: Amount | None = optional("TtlRtrdIntrBkSttlmAmt")
    settlement_date: dt.date | None = optional("IntrBkSttlmDt")
    settlement: Settlement = required("SttlmInf")
    payment_type: PaymentType | None = optional("PmtTpInf")
    instructing_agent: Agent | None = optional("InstgAgt")
    instructed_agent: Agent | None = optional("InstdAgt")


class ReturnedTransfer(Part, frozen=True, kw_only=True):
    """One payment that comes back: what was sent, what is returned, and why."""

    id: Text35 | None = optional("RtrId")
    original_group: OriginalGroup | None = optional("OrgnlGrpInf")
    instruction_id: Text35 | None = optional("OrgnlInstrId")
    end_to_end_id: Text35 | None = optional("OrgnlEndToEndId")
    transaction_id: Text35 | None = optional("OrgnlTxId")
    uetr: Uetr | None = optional("OrgnlUETR")
    clearing_reference: Text35 | None = optional("OrgnlClrSysRef")
    original_amount: Amount | None = optional("OrgnlIntrBkSttlmAmt")
    original_date: dt.date | None = optional("OrgnlIntrBkSttlmDt")
    amount: Amount = required("RtrdIntrBkSttlmAmt")
    settlement_date: dt.date | None = optional("IntrBkSttlmDt")
    instructed_amount: Amount | None = optional("RtrdInstdAmt")
    exchange_rate: Decimal | None = optional("XchgRate")
    compensation: Amount | None = optional("CompstnAmt")
    charge_bearer: Code | None = optional("ChrgBr")
    charges: tuple[Charges, ...] = repeated("ChrgsInf")
    instructing_agent: Agent | None = optional("InstgAgt")
    instructed_agent: Agent | None = optional("InstdAgt")
    reasons: tuple[StatusReason, ...] = repeated("RtrRsnInf")


class PaymentReturn(Part, frozen=True, kw_only=True):
    """The body of a pacs.004: PaymentReturn."""

    header: ReturnHeader = required("GrpHdr")
    original_group: OriginalGroup | None = optional("OrgnlGrpInf")
    transfers: tuple[ReturnedTransfer, ...] = repeated("TxInf")
