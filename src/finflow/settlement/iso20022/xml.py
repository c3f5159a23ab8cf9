"""XML from strangers: what is refused before and right after libxml2 has seen it.

A message is UTF-8, has no document type (so no entities), no processing instructions, a bounded size
and a bounded depth. Comments are no part of a message and are left out on reading.
"""

import re
from typing import Final

from lxml import etree

from finflow.kernel.errors import FinFlowError

Element = etree._Element

MAX_MESSAGE_BYTES: Final = 8 << 20
MAX_DEPTH: Final = 40
MAX_ATTRIBUTES: Final = 16
_DECLARATION: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?<\?xml\s[^>]{0,200}?\?>")
_ENCODING: Final = re.compile(rb"encoding\s*=\s*[\"']([^\"']{0,40})[\"']")
_DEEPER_THAN_ALLOWED: Final = etree.XPath("boolean(" + "/*" * (MAX_DEPTH + 1) + ")")
# Long enough to hold any forbidden mark that a boundary between two chunks could cut in two.
_OVERLAP: Final = len(b"<!DOCTYPE")


def parser() -> etree.XMLParser:
    """A fresh parser with everything off that reaches outside or expands; a shared one keeps old errors."""
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
    )


def parse(data: bytes) -> Element:
    """The root of one whole message. Raises xml_too_large, xml_forbidden or xml_malformed."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise FinFlowError(
            "xml_too_large", f"the message has {len(data):,} bytes; {MAX_MESSAGE_BYTES:,} are allowed"
        )
    refuse_forbidden(data[body_start(data) :])
    try:
        root = etree.fromstring(data, parser())
    except etree.XMLSyntaxError as error:
        raise malformed(error) from error
    check_depth(root)
    return root


def malformed(error: Exception) -> FinFlowError:
    """What libxml2 did not like, in its words and bounded."""
    return FinFlowError("xml_malformed", str(error)[:300])


def body_start(data: bytes) -> int:
    """Where the text after the XML declaration begins. Raises xml_forbidden for an encoding but UTF-8."""
    declaration = _DECLARATION.match(data)
    if declaration is None:
        return 0
    encoding = _ENCODING.search(declaration[0])
    if encoding is not None and encoding[1].lower() not in (b"utf-8", b"utf8", b"us-ascii", b"ascii"):
        raise FinFlowError("xml_forbidden", f"the encoding is {encoding[1].decode('latin-1')!r}, not UTF-8")
    return declaration.end()


def refuse_forbidden(data: bytes) -> None:
    """Refuse marks that no message needs; `data` is the text after the declaration, or a part of it.

    The bytes are searched before any parser sees them. As the text is UTF-8, nothing can hide a mark; a
    mark inside CDATA is refused too, which no honest message notices.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise FinFlowError("xml_forbidden", "a document type declaration")
    if b"<?" in data:
        raise FinFlowError("xml_forbidden", "a processing instruction")
    if b"\0" in data:
        raise FinFlowError("xml_forbidden", "a NUL, or an encoding that is not UTF-8")


def check_depth(root: Element) -> None:
    """Raises xml_too_large if elements are nested deeper than any message nests them."""
    if _DEEPER_THAN_ALLOWED(root.getroottree()):
        raise FinFlowError("xml_too_large", f"elements are nested deeper than {MAX_DEPTH} levels")


class Gate:
    """The same checks for text that comes in chunks: give each chunk to `check` before a parser gets it."""

    def __init__(self) -> None:
        self._tail = b""
        self._first = True

    def check(self, chunk: bytes) -> None:
        """Raises xml_forbidden. The first chunk must hold the whole declaration."""
        start = body_start(chunk) if self._first else 0
        self._first = False
        seen = self._tail + chunk[start:]
        refuse_forbidden(seen)
        self._tail = seen[-_OVERLAP:]


def local_name(element: Element) -> str:
    """The element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def namespace_of(element: Element) -> str:
    """The element's namespace, or an empty text."""
    return str(element.tag).rpartition("}")[0].lstrip("{")


def place_of(element: Element) -> str:
    """Where an element stands, as a path of names: Document/FIToFICstmrCdtTrf/GrpHdr."""
    names = [local_name(element), *(local_name(each) for each in element.iterancestors())]
    return "/".join(reversed(names))
