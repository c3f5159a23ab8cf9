"""Parts that every message shares: parties, agents, accounts, codes, references, remittance."""

import datetime as dt
from decimal import Decimal

from finflow.settlement.iso20022.part import (
    Amount,
    Bic,
    Code,
    Country,
    Iban,
    Lei,
    Part,
    Text,
    Text35,
    Text140,
    Uetr,
    optional,
    repeated,
    required,
)


class Choice(Part, frozen=True, kw_only=True):
    """A code of a published list, or a word of the parties' own."""

    code: Text35 | None = optional("Cd")
    proprietary: Text | None = optional("Prtry")

    @property
    def word(self) -> str | None:
        return self.code or self.proprietary


class PostalAddress(Part, frozen=True, kw_only=True):
    """An address, in fields or in lines."""

    street: Text | None = optional("StrtNm")
    building: Text | None = optional("BldgNb")
    post_code: Text | None = optional("PstCd")
    town: Text | None = optional("TwnNm")
    subdivision: Text | None = optional("CtrySubDvsn")
    country: Country | None = optional("Ctry")
    lines: tuple[Text140, ...] = repeated("AdrLine")


class Party(Part, frozen=True, kw_only=True):
    """Somebody who pays, is paid, or is named in between."""

    name: Text140 | None = optional("Nm")
    address: PostalAddress | None = optional("PstlAdr")
    country_of_residence: Country | None = optional("CtryOfRes")


class ClearingMember(Part, frozen=True, kw_only=True):
    """A member of a clearing system; the system itself is kept."""

    system: Choice | None = optional("ClrSysId")
    member_id: Text35 = required("MmbId")


class Institution(Part, frozen=True, kw_only=True):
    """A bank: by BIC (named BIC up to 2012), by its number in a clearing system, by LEI or by name."""

    bic: Bic | None = optional("BICFI")
    bic_until_2012: Bic | None = optional("BIC")
    member: ClearingMember | None = optional("ClrSysMmbId")
    lei: Lei | None = optional("LEI")
    name: Text140 | None = optional("Nm")
    address: PostalAddress | None = optional("PstlAdr")


class Agent(Part, frozen=True, kw_only=True):
    """A bank in its role in a payment."""

    institution: Institution = required("FinInstnId")

    @property
    def participant(self) -> str | None:
        """What a bank is known by, best first: BIC, LEI, clearing member, name."""
        bank = self.institution
        member = None if bank.member is None else bank.member.member_id
        return bank.bic or bank.bic_until_2012 or bank.lei or member or bank.name


class OtherAccount(Part, frozen=True, kw_only=True):
    """An account's number in a scheme that is not the IBAN's."""

    number: Text35 = required("Id")


class AccountId(Part, frozen=True, kw_only=True):
    """An account: by IBAN or by another number."""

    iban: Iban | None = optional("IBAN")
    other: OtherAccount | None = optional("Othr")


class CashAccount(Part, frozen=True, kw_only=True):
    """An account that money is booked on."""

    id: AccountId | None = optional("Id")
    currency: str | None = optional("Ccy")
    name: Text140 | None = optional("Nm")

    @property
    def number(self) -> str | None:
        """The IBAN or the other number."""
        if self.id is None:
            return None
        return self.id.iban or (None if self.id.other is None else self.id.other.number)


class PaymentType(Part, frozen=True, kw_only=True):
    """How a payment is to be handled."""

    priority: Code | None = optional("InstrPrty")
    service_levels: tuple[Choice, ...] = repeated("SvcLvl")
    local_instrument: Choice | None = optional("LclInstrm")
    category_purpose: Choice | None = optional("CtgyPurp")


class PaymentId(Part, frozen=True, kw_only=True):
    """The references of a payment: the instruction's, end to end, the transaction's, and the UETR."""

    instruction_id: Text35 | None = optional("InstrId")
    end_to_end_id: Text35 = required("EndToEndId")
    transaction_id: Text35 | None = optional("TxId")
    uetr: Uetr | None = optional("UETR")
    clearing_reference: Text35 | None = optional("ClrSysRef")


class CreditorReference(Part, frozen=True, kw_only=True):
    """The reference that the payee wants to see."""

    reference: Text35 | None = optional("Ref")


class ReferredDocument(Part, frozen=True, kw_only=True):
    """An invoice or another document that is paid."""

    number: Text35 | None = optional("Nb")


class StructuredRemittance(Part, frozen=True, kw_only=True):
    """What is paid, in fields."""

    documents: tuple[ReferredDocument, ...] = repeated("RfrdDocInf")
    creditor_reference: CreditorReference | None = optional("CdtrRefInf")
    additional: tuple[Text140, ...] = repeated("AddtlRmtInf")


class Remittance(Part, frozen=True, kw_only=True):
    """What is paid, in words or in fields."""

    unstructured: tuple[Text140, ...] = repeated("Ustrd")
    structured: tuple[StructuredRemittance, ...] = repeated("Strd")


class Charges(Part, frozen=True, kw_only=True):
    """A fee and who took it."""

    amount: Amount | None = optional("Amt")
    agent: Agent | None = optional("Agt")


class Settlement(Part, frozen=True, kw_only=True):
    """How the banks settle between themselves; their own accounts are kept."""

    method: Code = required("SttlmMtd")
    clearing_system: Choice | None = optional("ClrSys")


class OriginalGroup(Part, frozen=True, kw_only=True):
    """The message that a status or a return speaks of."""

    message_id: Text35 = required("OrgnlMsgId")
    message_name: Text35 = required("OrgnlMsgNmId")
    created_at: str | None = optional("OrgnlCreDtTm")


class StatusReason(Part, frozen=True, kw_only=True):
    """Why something was refused or sent back."""

    reason: Choice | None = optional("Rsn")
    additional: tuple[Text140, ...] = repeated("AddtlInf")


class DateChoice(Part, frozen=True, kw_only=True):
    """A day: as a date, as a moment, or, in old versions, as the element's own text."""

    plain: dt.date | None = optional("#")
    date: dt.date | None = optional("Dt")
    moment: str | None = optional("DtTm")

    @property
    def day(self) -> dt.date | None:
        if self.moment is not None:
            return dt.date.fromisoformat(self.moment[:10])
        return self.date or self.plain


class Exchange(Part, frozen=True, kw_only=True):
    """The rate between two currencies of one payment."""

    rate: Decimal | None = optional("XchgRate")
