"""camt.053 and camt.054: what a bank says it has booked, as a statement or as a notification."""

import datetime as dt

from finflow.settlement.iso20022.part import (
    Amount,
    Code,
    Flag,
    Moment,
    Part,
    Text,
    Text35,
    Uetr,
    optional,
    repeated,
    required,
)
from finflow.settlement.iso20022.parties import (
    Agent,
    CashAccount,
    Choice,
    DateChoice,
    Party,
    Remittance,
)


class ReportHeader(Part, frozen=True, kw_only=True):
    """The header of a camt message."""

    message_id: Text35 = required("MsgId")
    created_at: Moment = required("CreDtTm")


class BalanceType(Part, frozen=True, kw_only=True):
    """Which balance: OPBD, CLBD, and so on."""

    kind: Choice = required("CdOrPrtry")


class Balance(Part, frozen=True, kw_only=True):
    """A balance of the account; the direction says whether it is the owner's money."""

    type: BalanceType = required("Tp")
    amount: Amount = required("Amt")
    direction: Code = required("CdtDbtInd")
    day: DateChoice = required("Dt")

    @property
    def signed_minor(self) -> int:
        return self.amount.minor if self.direction == "CRDT" else -self.amount.minor


class EntryStatus(Part, frozen=True, kw_only=True):
    """BOOK, PDNG, INFO or FUTR; the element's own text in old versions."""

    plain: Code | None = optional("#")
    code: Text35 | None = optional("Cd")

    @property
    def word(self) -> str | None:
        return self.code or self.plain


class References(Part, frozen=True, kw_only=True):
    """The references of a payment as the bank that booked it repeats them."""

    message_id: Text35 | None = optional("MsgId")
    servicer_reference: Text35 | None = optional("AcctSvcrRef")
    payment_information_id: Text35 | None = optional("PmtInfId")
    instruction_id: Text35 | None = optional("InstrId")
    end_to_end_id: Text35 | None = optional("EndToEndId")
    uetr: Uetr | None = optional("UETR")
    transaction_id: Text35 | None = optional("TxId")
    clearing_reference: Text35 | None = optional("ClrSysRef")


class RelatedParty(Party, frozen=True, kw_only=True):
    """A party; in newer versions one level down, where it may also be a bank."""

    party: Party | None = optional("Pty")
    agent: Agent | None = optional("Agt")


class RelatedParties(Part, frozen=True, kw_only=True):
    """Who paid whom."""

    debtor: RelatedParty | None = optional("Dbtr")
    debtor_account: CashAccount | None = optional("DbtrAcct")
    ultimate_debtor: RelatedParty | None = optional("UltmtDbtr")
    creditor: RelatedParty | None = optional("Cdtr")
    creditor_account: CashAccount | None = optional("CdtrAcct")
    ultimate_creditor: RelatedParty | None = optional("UltmtCdtr")


class RelatedAgents(Part, frozen=True, kw_only=True):
    """The banks of the debtor and of the creditor."""

    instructing_agent: Agent | None = optional("InstgAgt")
    instructed_agent: Agent | None = optional("InstdAgt")
    debtor_agent: Agent | None = optional("DbtrAgt")
    creditor_agent: Agent | None = optional("CdtrAgt")


class RelatedDates(Part, frozen=True, kw_only=True):
    """The days of a payment, where the entry itself names none."""

    settlement_date: dt.date | None = optional("IntrBkSttlmDt")


class EntryTransaction(Part, frozen=True, kw_only=True):
    """One payment in an entry."""

    references: References | None = optional("Refs")
    amount: Amount | None = optional("Amt")
    direction: Code | None = optional("CdtDbtInd")
    parties: RelatedParties | None = optional("RltdPties")
    agents: RelatedAgents | None = optional("RltdAgts")
    remittance: Remittance | None = optional("RmtInf")
    dates: RelatedDates | None = optional("RltdDts")


class EntryDetails(Part, frozen=True, kw_only=True):
    """The payments of an entry; many, if the bank has booked a batch in one sum."""

    transactions: tuple[EntryTransaction, ...] = repeated("TxDtls")


class Entry(Part, frozen=True, kw_only=True):
    """One booking on the account."""

    reference: Text35 | None = optional("NtryRef")
    amount: Amount = required("Amt")
    direction: Code = required("CdtDbtInd")
    reversal: Flag | None = optional("RvslInd")
    status: EntryStatus = required("Sts")
    booking_day: DateChoice | None = optional("BookgDt")
    value_day: DateChoice | None = optional("ValDt")
    servicer_reference: Text35 | None = optional("AcctSvcrRef")
    details: tuple[EntryDetails, ...] = repeated("NtryDtls")
    additional: Text | None = optional("AddtlNtryInf")

    @property
    def signed_minor(self) -> int:
        """Minor units, positive where the account grows. The indicator already tells a reversal's side."""
        return self.amount.minor if self.direction == "CRDT" else -self.amount.minor


class Statement(Part, frozen=True, kw_only=True):
    """What happened on one account, with its balances."""

    id: Text35 = required("Id")
    created_at: Moment | None = optional("CreDtTm")
    account: CashAccount = required("Acct")
    balances: tuple[Balance, ...] = repeated("Bal")
    entries: tuple[Entry, ...] = repeated("Ntry")


class Notification(Part, frozen=True, kw_only=True):
    """Bookings on one account as they happen."""

    id: Text35 = required("Id")
    created_at: Moment | None = optional("CreDtTm")
    account: CashAccount = required("Acct")
    entries: tuple[Entry, ...] = repeated("Ntry")


class Statements(Part, frozen=True, kw_only=True):
    """The body of a camt.053: BankToCustomerStatement."""

    header: ReportHeader = required("GrpHdr")
    statements: tuple[Statement, ...] = repeated("Stmt")


class Notifications(Part, frozen=True, kw_only=True):
    """The body of a camt.054: BankToCustomerDebitCreditNotification."""

    header: ReportHeader = required("GrpHdr")
    notifications: tuple[Notification, ...] = repeated("Ntfctn")
