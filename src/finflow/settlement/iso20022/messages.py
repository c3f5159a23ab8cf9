"""Whole messages: which there are, reading one, writing one."""

from typing import Final, NamedTuple, cast

import msgspec
from lxml import etree

from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022 import codec, schemas, xml
from finflow.settlement.iso20022.answers import PaymentReturn, StatusReport
from finflow.settlement.iso20022.part import Kept, Part
from finflow.settlement.iso20022.statements import Notifications, Statements
from finflow.settlement.iso20022.transfers import CreditTransfers, Initiation

_PREFIX: Final = "urn:iso:std:iso:20022:tech:xsd:"
_XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"


class Kind(NamedTuple):
    """A kind of message: the element under Document, its part, what repeats in it, the versions."""

    root: str
    body: type[Part]
    units: tuple[str, ...]
    versions: range


# `units` is the path under the body to the element that repeats: what a stream hands out one by one.
KINDS: Final[dict[str, Kind]] = {
    "pain.001": Kind("CstmrCdtTrfInitn", Initiation, ("PmtInf", "CdtTrfTxInf"), range(3, 14)),
    "pacs.008": Kind("FIToFICstmrCdtTrf", CreditTransfers, ("CdtTrfTxInf",), range(2, 14)),
    "pacs.002": Kind("FIToFIPmtStsRpt", StatusReport, ("TxInfAndSts",), range(3, 16)),
    "pacs.004": Kind("PmtRtr", PaymentReturn, ("TxInf",), range(2, 15)),
    "camt.053": Kind("BkToCstmrStmt", Statements, ("Stmt", "Ntry"), range(2, 15)),
    "camt.054": Kind("BkToCstmrDbtCdtNtfctn", Notifications, ("Ntfctn", "Ntry"), range(2, 15)),
}


class Envelope(msgspec.Struct, frozen=True):
    """What is around a Document, kept word for word: the outer element, and its other children.

    A business application header (head.001) is one of those children.
    """

    tag: str
    around: tuple[Kept, ...]


class Message(msgspec.Struct, frozen=True):
    """A message: its full name ("pacs.008.001.08"), its body, and what came around it.

    `schema_location` is where its author says that the schema lies; nobody goes there.
    """

    name: str
    body: Part
    schema_location: str | None = None
    envelope: Envelope | None = None

    @property
    def kind(self) -> str:
        """The name without variant and version: "pacs.008"."""
        return self.name[:8]


def kind_of(name: str) -> Kind:
    """The kind of a message's full name. Raises message_unsupported."""
    kind = KINDS.get(name[:8])
    version = name[13:]
    known = name[8:13] == ".001." and len(version) == 2 and version.isascii() and version.isdigit()
    if kind is None or not known or int(version) not in kind.versions:
        raise FinFlowError("message_unsupported", f"{name[:60]!r}; known are {', '.join(KINDS)}")
    return kind


def name_of(document: xml.Element) -> str:
    """The full name of the message that a Document announces by its namespace. Raises message_unsupported."""
    namespace = xml.namespace_of(document)
    if xml.local_name(document) != "Document" or not namespace.startswith(_PREFIX):
        raise FinFlowError(
            "message_unsupported", f"no Document but {xml.local_name(document)[:60]!r} of {namespace[:120]!r}"
        )
    name = namespace.removeprefix(_PREFIX)
    kind_of(name)
    return name


def read(data: bytes) -> Message:
    """One whole message, checked against its schema or, where none exists here, by what the parts declare.

    Raises xml_too_large, xml_forbidden, xml_malformed, message_unsupported, message_invalid,
    message_not_understood, and currency and amount codes.
    """
    root = xml.parse(data)
    document, envelope = _unwrapped(root)
    name = name_of(document)
    schema = schemas.schema_of(name)
    if schema is not None:
        schemas.validate(document, schema)
    body = codec.read(kind_of(name).body, body_of(document, name))
    return Message(name, body, codec.schema_location(document), envelope)


def _unwrapped(root: xml.Element) -> tuple[xml.Element, Envelope | None]:
    """The Document and what is around it, if it is not the root itself."""
    if xml.local_name(root) == "Document":
        return root, None
    documents = [each for each in root if xml.local_name(each) == "Document"]
    if len(documents) != 1:
        raise FinFlowError("message_unsupported", f"{xml.local_name(root)[:60]!r} holds no single Document")
    if root.attrib:
        raise FinFlowError("message_not_understood", "an attribute of the envelope", xml.local_name(root))
    place = root.index(documents[0])
    around = tuple(
        Kept("Document" if number > place else "", codec.fragment(each))
        for number, each in enumerate(root)
        if number != place
    )
    return documents[0], Envelope(str(root.tag), around)


def body_of(root: xml.Element, name: str) -> xml.Element:
    """The one element under Document. Raises message_invalid."""
    kind = kind_of(name)
    if len(root) != 1 or root[0].tag != f"{{{_PREFIX}{name}}}{kind.root}":
        raise FinFlowError("message_invalid", f"{name} holds one {kind.root} and nothing else", "Document")
    codec.refuse_stray_around(root)
    return root[0]


def write(message: Message) -> bytes:
    """The message as UTF-8. What is written is checked as what is read: nothing invalid leaves.

    Raises message_unsupported, message_invalid, message_not_understood or text_malformed.
    """
    kind = kind_of(message.name)
    document = new_document(message.name, message.schema_location)
    body = etree.SubElement(document, f"{{{_PREFIX}{message.name}}}{kind.root}")
    try:
        codec.write(message.body, body)
    except ValueError as error:
        # libxml2 refuses control characters, which XML 1.0 cannot say.
        raise FinFlowError("text_malformed", str(error)) from error
    schema = schemas.schema_of(message.name)
    if schema is not None:
        schemas.validate(document, schema)
    codec.read(kind.body, body)
    root = document if message.envelope is None else _wrapped(document, message.envelope)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _wrapped(document: xml.Element, envelope: Envelope) -> xml.Element:
    namespace = envelope.tag.rpartition("}")[0].lstrip("{")
    root = _element(envelope.tag, {None: namespace} if namespace else {})
    codec.write_kept([each for each in envelope.around if not each.after], root)
    root.append(document)
    codec.write_kept([each for each in envelope.around if each.after], root)
    return root


def new_document(name: str, schema_location: str | None) -> xml.Element:
    """An empty Document of a message."""
    if schema_location is None:
        return _element(f"{{{_PREFIX}{name}}}Document", {None: _PREFIX + name})
    document = _element(f"{{{_PREFIX}{name}}}Document", {None: _PREFIX + name, "xsi": _XSI})
    document.set(f"{{{_XSI}}}schemaLocation", schema_location)
    return document


def _element(tag: str, namespaces: dict[str | None, str]) -> xml.Element:
    # The stubs know no default namespace, which is the prefix None.
    return etree.Element(tag, nsmap=cast("dict[str, str]", namespaces))
