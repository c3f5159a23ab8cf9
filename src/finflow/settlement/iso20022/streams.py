"""Messages that do not fit in memory: read and written transaction by transaction.

A stream hands out what a message holds in its order: `Opened` with the parts before the transactions (once
for the message, and for a pain.001 or camt.053 once more for each instruction or statement), then each
transaction or entry, then `Closed` with what follows them. Memory holds one transaction at a time.

The schema is checked along the way. A fault may stand behind transactions that were handed out: whoever
acts on them must be able to take it back until the stream has ended without an error.
"""

from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO, Final, cast

import msgspec
from lxml import etree

from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022 import codec, schemas, xml
from finflow.settlement.iso20022.messages import Message, kind_of, name_of, new_document
from finflow.settlement.iso20022.part import Kept, Part

CHUNK_BYTES: Final = 64 << 10
MAX_UNIT_BYTES: Final = xml.MAX_MESSAGE_BYTES
_DECLARED_WITHIN: Final = 4 << 10
# Whether anything in an element at depth 3 is deeper than a message may be; one level more does no harm.
_TOO_DEEP: Final = etree.XPath("boolean(" + "/".join("*" * (xml.MAX_DEPTH - 2)) + ")")


class Opened(msgspec.Struct, frozen=True):
    """A level begins: `part` is its element with everything before the first transaction.

    `level` is 0 for the message's body, 1 for an instruction or statement in it; `name` is the message.
    """

    level: int
    part: Part
    name: str


class Closed(msgspec.Struct, frozen=True):
    """A level ends: `kept` are the elements that came after its transactions."""

    level: int
    kept: tuple[Kept, ...]


Event = Opened | Part | Closed


def read_stream(file: BinaryIO) -> Iterator[Event]:
    """The events of the message in a file, which is read in chunks and never whole.

    Raises what `messages.read` raises; a Document in an envelope is refused as message_unsupported.
    """
    return _Reader(file).events()


class _Reader:
    """Follows the few elements that make a message's levels; libxml2 tells of no others."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._since_unit = 0
        self._levels: list[_Level] = []
        # The full names of Document, the body and the units: what stands at depth 1, 2, 3 and so on.
        self._chain: list[str] = []
        self._name = ""
        self._bodies = 0
        self._ended = False

    def events(self) -> Iterator[Event]:
        gate = xml.Gate()
        first = _first_chunk(self._file)
        gate.check(first)
        self._name = _announced(first)
        kind = kind_of(self._name)
        self._levels = _levels_of(kind.body, kind.units)
        document = new_document(self._name, None)
        prefix = str(document.tag).rpartition("}")[0]
        self._chain = [f"{prefix}}}{name}" for name in ("Document", kind.root, *kind.units)]
        # No `resolve_entities=False` here: with it and a schema, lxml takes a message for well-formed whose
        # faults it has not looked at. The gate lets no document type in, so there are no entities.
        parser = etree.XMLPullParser(
            events=("start", "end"),
            tag=self._chain,
            schema=schemas.schema_of(self._name),
            encoding="utf-8",
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
        )
        try:
            yield from self._fed(parser, gate, first)
            parser.close()
        except etree.XMLSyntaxError as error:
            raise _refusal(parser, error) from error
        if not self._ended:
            raise FinFlowError("xml_malformed", "the file ends in the middle of the message")

    def _fed(self, parser: Any, gate: xml.Gate, first: bytes) -> Iterator[Event]:
        chunk = first
        while chunk:
            parser.feed(chunk)
            self._since_unit += len(chunk)
            for action, element in parser.read_events():
                depth = self._depth(element)
                if depth:
                    yield from (self._on_start if action == "start" else self._on_end)(element, depth)
            if len(parser.feed_error_log):
                raise _refusal(parser, None)
            if self._since_unit > MAX_UNIT_BYTES:
                raise FinFlowError("xml_too_large", f"one transaction has more than {MAX_UNIT_BYTES:,} bytes")
            chunk = self._file.read(CHUNK_BYTES)
            gate.check(chunk)

    def _depth(self, element: xml.Element) -> int:
        """The depth of an element of the chain; 0 for one of the same name that stands elsewhere."""
        names = [str(each.tag) for each in element.iterancestors()]
        names.reverse()
        names.append(str(element.tag))
        return len(names) if names == self._chain[: len(names)] else 0

    def _on_start(self, element: xml.Element, depth: int) -> Iterator[Event]:
        if depth == 1:
            codec.schema_location(element)
        # A level is opened by its first transaction, when everything before it has been read.
        if depth > 2:
            parent = element.getparent()
            assert parent is not None, "a transaction stands in a message"
            yield from self._open(depth - 3, parent, parent.index(element))

    def _open(self, level: int, parent: xml.Element, before: int) -> Iterator[Event]:
        """Hand out a level's head: its first `before` children. Those behind may be parsed already."""
        state = self._levels[level]
        if state.opened:
            return
        state.opened = True
        head = list(parent)[:before]
        for each in head:
            _check_depth(each)
        yield Opened(level, codec.read_children(state.part, parent, head), self._name)
        for each in head:
            parent.remove(each)

    def _on_end(self, element: xml.Element, depth: int) -> Iterator[Event]:
        if depth == 1:
            self._check_document(element)
        elif depth == len(self._chain):
            _check_depth(element)
            yield codec.read(self._levels[-1].unit_part, element)
            self._forget(element)
        else:
            yield from self._close(depth - 2, element)
            if depth > 2:
                self._forget(element)
            else:
                self._bodies += 1

    def _close(self, level: int, element: xml.Element) -> Iterator[Event]:
        state = self._levels[level]
        yield from self._open(level, element, len(element))
        codec.refuse_stray_around(element)
        rest = [each for each in element if each.tag != self._chain[level + 2]]
        for each in rest:
            _check_depth(each)
        yield Closed(level, codec.keep(state.part, element, rest))
        state.opened = False

    def _forget(self, element: xml.Element) -> None:
        """Empty a transaction that was handed out, and drop those before it.

        The element itself goes with the next one: the white space behind it is not parsed yet, and would
        pile up in its parent.
        """
        self._since_unit = 0
        element.clear(keep_tail=True)  # type: ignore[call-arg] # the stubs are older than the argument
        parent = element.getparent()
        while parent is not None and parent[0] is not element:
            codec.refuse_stray_text(parent[0].tail, parent)
            del parent[0]

    def _check_document(self, document: xml.Element) -> None:
        self._ended = True
        codec.refuse_stray_around(document)
        if self._bodies != 1 or len(document) != 1:
            name = self._chain[1].rpartition("}")[2]
            raise FinFlowError(
                "message_invalid", f"{self._name} holds one {name} and nothing else", "Document"
            )


def _check_depth(element: xml.Element) -> None:
    if _TOO_DEEP(element):
        raise FinFlowError("xml_too_large", f"elements are nested deeper than {xml.MAX_DEPTH} levels")


class _Level:
    """One level of a message: its part, the name of what repeats in it, and that one's part."""

    def __init__(self, part: type[Part], unit: str, unit_part: type[Part]) -> None:
        self.part, self.unit, self.unit_part = part, unit, unit_part
        self.opened = False


def _levels_of(body: type[Part], units: tuple[str, ...]) -> list[_Level]:
    levels = []
    part = body
    for unit in units:
        unit_part = codec.part_of(part, unit)
        levels.append(_Level(part, unit, unit_part))
        part = unit_part
    return levels


def _first_chunk(file: BinaryIO) -> bytes:
    """Enough of the file to see the declaration and the namespace, however little a read returns."""
    first = b""
    while len(first) < _DECLARED_WITHIN:
        chunk = file.read(CHUNK_BYTES)
        if not chunk:
            break
        first += chunk
    return first


def _announced(first: bytes) -> str:
    """The message that the first start tag announces: the schema has to be chosen before parsing goes on."""
    probe = etree.XMLPullParser(events=("start",), encoding="utf-8", resolve_entities=False, no_network=True)
    try:
        probe.feed(first)
        for _, root in probe.read_events():
            return name_of(cast("xml.Element", root))
    except etree.XMLSyntaxError as error:
        raise xml.malformed(error) from error
    raise FinFlowError("xml_malformed", f"no element begins within {_DECLARED_WITHIN} bytes")


def _refusal(parser: Any, error: Exception | None) -> FinFlowError:
    """A fault of the schema as such, and any other as XML that is not well-formed."""
    findings = [each for each in parser.feed_error_log if each.domain_name == "SCHEMASV"]
    if findings:
        return schemas.invalid(findings)
    return xml.malformed(error or FinFlowError("xml_malformed", str(parser.feed_error_log)))


def events_of(message: Message) -> Iterator[Event]:
    """The events that a stream of this message would give; its envelope is not part of them."""
    yield from _level_events(message.body, kind_of(message.name).units, 0, message.name)


def _level_events(part: Part, units: tuple[str, ...], level: int, name: str) -> Iterator[Event]:
    if level == len(units):
        yield part
        return
    field = codec.field_of(type(part), units[level])
    after = tuple(Kept("", each.xml) for each in part.kept if each.after == units[level])
    before = tuple(each for each in part.kept if each.after != units[level])
    yield Opened(level, msgspec.structs.replace(part, **{field: (), "kept": before}), name)
    for each in getattr(part, field):
        yield from _level_events(each, units, level + 1, name)
    yield Closed(level, after)


def write_stream(file: IO[bytes], events: Iterable[Event]) -> None:
    """Write a message from its events, holding one transaction at a time.

    Raises message_invalid for events out of order and text_malformed; parts are checked as in `write`,
    but the whole is not checked against the schema: reading it back does that.
    """
    feed = iter(events)
    first = next(feed, None)
    if not isinstance(first, Opened) or first.level != 0:
        raise FinFlowError("message_invalid", "a stream begins with the opening of its message")
    kind = kind_of(first.name)
    document = new_document(first.name, None)
    namespace = {None: xml.namespace_of(document)}
    with etree.xmlfile(file, encoding="UTF-8") as out:
        out.write_declaration()
        with out.element(document.tag, nsmap=namespace):
            _write_level(out, feed, first, [kind.root, *kind.units], xml.namespace_of(document))
            out.write("\n")
    if next(feed, None) is not None:
        raise FinFlowError("message_invalid", "events after the end of the message")


def _write_level(out: Any, feed: Iterator[Event], opened: Opened, names: list[str], namespace: str) -> None:
    """Write one level: the elements before the transactions, the transactions, what was kept after them."""
    tag = f"{{{namespace}}}"
    with out.element(tag + names[opened.level]):
        head = etree.Element(tag + names[opened.level])
        codec.write(opened.part, head)
        for child in head:
            out.write(child)
        unit = names[opened.level + 1]
        for event in feed:
            if isinstance(event, Closed):
                tail = etree.Element(tag + unit)
                codec.write_kept(event.kept, tail)
                for child in tail:
                    out.write(child)
                return
            if isinstance(event, Opened):
                _write_level(out, feed, event, names, namespace)
            else:
                element = etree.Element(tag + unit)
                codec.write(event, element)
                out.write(element)
    raise FinFlowError("message_invalid", "the stream ends before its message")
