"""pain.001 and pacs.008: credit transfers, as a customer asks for them and as banks pass them on."""

import datetime as dt
from decimal import Decimal

from finflow.settlement.iso20022.part import (
    Amount,
    Code,
    Count,
    Moment,
    Part,
    Text35,
    optional,
    repeated,
    required,
)
from finflow.settlement.iso20022.parties import (
    Agent,
    CashAccount,
    Charges,
    Choice,
    DateChoice,
    Party,
    PaymentId,
    PaymentType,
    Remittance,
    Settlement,
)


class GroupHeader(Part, frozen=True, kw_only=True):
    """The header of a pacs.008."""

    message_id: Text35 = required("MsgId")
    created_at: Moment = required("CreDtTm")
    count: Count = required("NbOfTxs")
    control_sum: Decimal | None = optional("CtrlSum")
    total: Amount | None = optional("TtlIntrBkSttlmAmt")
    settlement_date: dt.date | None = optional("IntrBkSttlmDt")
    settlement: Settlement = required("SttlmInf")
    payment_type: PaymentType | None = optional("PmtTpInf")
    instructing_agent: Agent | None = optional("InstgAgt")
    instructed_agent: Agent | None = optional("InstdAgt")


class CreditTransfer(Part, frozen=True, kw_only=True):
    """One transfer of a pacs.008: from the debtor through the banks to the creditor."""

    id: PaymentId = required("PmtId")
    payment_type: PaymentType | None = optional("PmtTpInf")
    amount: Amount = required("IntrBkSttlmAmt")
    settlement_date: dt.date | None = optional("IntrBkSttlmDt")
    priority: Code | None = optional("SttlmPrty")
    instructed_amount: Amount | None = optional("InstdAmt")
    exchange_rate: Decimal | None = optional("XchgRate")
    charge_bearer: Code | None = optional("ChrgBr")
    charges: tuple[Charges, ...] = repeated("ChrgsInf")
    instructing_agent: Agent | None = optional("InstgAgt")
    instructed_agent: Agent | None = optional("InstdAgt")
    ultimate_debtor: Party | None = optional("UltmtDbtr")
    initiator: Party | None = optional("InitgPty")
    debtor: Party = required("Dbtr")
    debtor_account: CashAccount | None = optional("DbtrAcct")
    debtor_agent: Agent = required("DbtrAgt")
    creditor_agent: Agent = required("CdtrAgt")
    creditor: Party = required("Cdtr")
    creditor_account: CashAccount | None = optional("CdtrAcct")
    ultimate_creditor: Party | None = optional("UltmtCdtr")
    purpose: Choice | None = optional("Purp")
    remittance: Remittance | None = optional("RmtInf")


class CreditTransfers(Part, frozen=True, kw_only=True):
    """The body of a pacs.008: FIToFICustomerCreditTransfer."""

    header: GroupHeader = required("GrpHdr")
    transfers: tuple[CreditTransfer, ...] = repeated("CdtTrfTxInf")


class InitiationHeader(Part, frozen=True, kw_only=True):
    """The header of a pain.001."""

    message_id: Text35 = required("MsgId")
    created_at: Moment = required("CreDtTm")
    count: Count = required("NbOfTxs")
    control_sum: Decimal | None = optional("CtrlSum")
    initiator: Party = required("InitgPty")


class OrderedAmount(Part, frozen=True, kw_only=True):
    """What a customer orders to be paid; an equivalent in another currency is kept."""

    instructed: Amount | None = optional("InstdAmt")


class OrderedTransfer(Part, frozen=True, kw_only=True):
    """One transfer that a customer orders."""

    id: PaymentId = required("PmtId")
    payment_type: PaymentType | None = optional("PmtTpInf")
    amount: OrderedAmount = required("Amt")
    charge_bearer: Code | None = optional("ChrgBr")
    ultimate_debtor: Party | None = optional("UltmtDbtr")
    creditor_agent: Agent | None = optional("CdtrAgt")
    creditor: Party | None = optional("Cdtr")
    creditor_account: CashAccount | None = optional("CdtrAcct")
    ultimate_creditor: Party | None = optional("UltmtCdtr")
    purpose: Choice | None = optional("Purp")
    remittance: Remittance | None = optional("RmtInf")


class PaymentInstruction(Part, frozen=True, kw_only=True):
    """Transfers from one account on one day."""

    id: Text35 = required("PmtInfId")
    method: Code = required("PmtMtd")
    count: Count | None = optional("NbOfTxs")
    control_sum: Decimal | None = optional("CtrlSum")
    payment_type: PaymentType | None = optional("PmtTpInf")
    execution_date: DateChoice = required("ReqdExctnDt")
    debtor: Party = required("Dbtr")
    debtor_account: CashAccount = required("DbtrAcct")
    debtor_agent: Agent = required("DbtrAgt")
    ultimate_debtor: Party | None = optional("UltmtDbtr")
    charge_bearer: Code | None = optional("ChrgBr")
    transfers: tuple[OrderedTransfer, ...] = repeated("CdtTrfTxInf")


class Initiation(Part, frozen=True, kw_only=True):
    """The body of a pain.001: CustomerCreditTransferInitiation."""

    header: InitiationHeader = required("GrpHdr")
    instructions: tuple[PaymentInstruction, ...] = repeated("PmtInf")
