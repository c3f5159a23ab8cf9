"""From elements to parts and back, by what the parts declare.

A plan is made once for each part and namespace. Reading goes child by child: a declared element is read
by its field, any other is kept; an element out of order, or one that comes twice where one is allowed, is
refused, as is everything that could only be dropped (attributes and text that no field holds).
"""

import datetime as dt
import re
import types
import typing
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from lxml import etree

from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022.part import Kept, Part
from finflow.settlement.iso20022.xml import MAX_ATTRIBUTES, Element, local_name, parser, place_of

P = TypeVar("P", bound=Part)

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
_MAX_TEXT: Final = 10_000
_XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"


class Slot(NamedTuple):
    """Where a child element goes: its place, the field, how it is read, how often it comes."""

    place: int
    field: str
    name: str
    read: Callable[[Element], Any]
    many: bool


class Plan(NamedTuple):
    """Everything about one part in one namespace."""

    cls: type[Part]
    slots: dict[str, Slot]
    order: tuple[tuple[str, str, str, Any], ...]
    attributes: dict[str, tuple[str, Callable[[str], Any]]]
    text: tuple[str, Callable[[str], Any]] | None
    required: tuple[tuple[str, str], ...]


def read(cls: type[P], element: Element) -> P:
    """The part that an element holds.

    Raises message_invalid or message_not_understood, and what an amount raises; `param` is the path.
    """
    return read_children(cls, element, element)


def read_children(cls: type[P], element: Element, children: Iterable[Element]) -> P:
    """The part that some children of an element make; the same refusals as `read`."""
    found = _read(plan_of(cls, str(element.tag).rpartition("}")[0]), element, children)
    assert isinstance(found, cls), "a plan makes its part"
    return found


def _read(plan: "Plan", element: Element, children: Iterable[Element]) -> Part:
    """The loop that every element of every message goes through, so calls and look-ups are few."""
    found: dict[str, Any] = {}
    kept: list[Kept] = []
    lists: list[str] = []
    last, after = -1, ""
    slots = plan.slots
    for child in children:
        tail = child.tail
        if tail is not None and not tail.isspace():
            refuse_stray_text(tail, child)
        slot = slots.get(child.tag)
        if slot is None:
            kept.append(Kept(after, fragment(child)))
            continue
        place, field, name, reader, many = slot
        if place < last or (kept and many and place == last and kept[-1].after == name):
            raise FinFlowError("message_invalid", f"{name} is not where it belongs", place_of(child))
        if not many:
            if field in found:
                raise FinFlowError("message_invalid", f"{name} comes twice", place_of(child))
            found[field] = reader(child)
        elif field in found:
            found[field].append(reader(child))
        else:
            found[field] = [reader(child)]
            lists.append(field)
        last, after = place, name
    _read_own(plan, element, found)
    for field in lists:
        found[field] = tuple(found[field])
    if kept:
        found["kept"] = tuple(kept)
    return _made(plan, element, found)


def _read_own(plan: "Plan", element: Element, found: dict[str, Any]) -> None:
    """The element's own text and attributes."""
    text = element.text
    if plan.text is not None:
        _read_text(plan.text, element, found)
    elif text is not None and not text.isspace():
        refuse_stray_text(text, element)
    if element.keys():
        _read_attributes(plan, element, found)


def _made(plan: "Plan", element: Element, found: dict[str, Any]) -> Part:
    for field, name in plan.required:
        if field not in found:
            raise FinFlowError("message_invalid", f"{name} is missing", place_of(element))
    try:
        return plan.cls(**found)
    except FinFlowError as error:
        # An amount refuses to be made, and does not know where it stands.
        raise FinFlowError(error.kind.code, error.detail, place_of(element)) from error


def keep(cls: type[Part], element: Element, children: Iterable[Element]) -> tuple[Kept, ...]:
    """Children that follow everything a part declares. Raises message_invalid if it declares one of them."""
    plan = plan_of(cls, str(element.tag).rpartition("}")[0])
    found = []
    for child in children:
        if child.tag in plan.slots:
            raise FinFlowError("message_invalid", f"{local_name(child)} comes too late", place_of(child))
        found.append(Kept("", fragment(child)))
    return tuple(found)


@lru_cache(maxsize=256)
def part_of(cls: type[Part], name: str) -> type[Part]:
    """The part of the elements called `name` in a part."""
    hints = typing.get_type_hints(cls, include_extras=True)
    kind: type[Part] = _kind_of(hints[field_of(cls, name)])[0]
    return kind


@lru_cache(maxsize=256)
def field_of(cls: type[Part], name: str) -> str:
    """The field of a part that holds the elements called `name`."""
    return next(each.name for each in msgspec.structs.fields(cls) if each.encode_name == name)


def refuse_stray_text(text: str | None, element: Element) -> None:
    """Raises message_invalid for text between elements, which no part could hold."""
    if text and not text.isspace():
        raise FinFlowError("message_invalid", "text between elements", place_of(element))


def refuse_stray_around(element: Element) -> None:
    """The same for an element's own text and for what follows each of its children."""
    refuse_stray_text(element.text, element)
    for child in element:
        refuse_stray_text(child.tail, element)


def _read_text(text: tuple[str, Callable[[str], Any]], element: Element, found: dict[str, Any]) -> None:
    field, convert = text
    content = element.text
    if content is not None and (len(element) == 0 or content.strip()):
        found[field] = _converted(convert, content, element)


def _read_attributes(plan: Plan, element: Element, found: dict[str, Any]) -> None:
    for name in map(str, element.keys()):
        taken = plan.attributes.get(name)
        if taken is None:
            raise FinFlowError("message_not_understood", f"the attribute {name[:60]}", place_of(element))
        found[taken[0]] = _converted(taken[1], element.get(name, ""), element)


def _converted(convert: Callable[[str], Any], text: str, element: Element) -> Any:
    try:
        return convert(text)
    except ValueError as error:
        raise FinFlowError("message_invalid", str(error), place_of(element)) from error


@lru_cache(maxsize=4096)
def plan_of(cls: type[Part], prefix: str) -> Plan:
    """The plan of a part for a namespace; `prefix` is "{namespace", as it stands before the name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    slots: dict[str, Slot] = {}
    order = []
    attributes: dict[str, tuple[str, Callable[[str], Any]]] = {}
    text = None
    required = []
    for index, info in enumerate(msgspec.structs.fields(cls)):
        if info.name == "kept":
            continue
        name, kind, many = info.encode_name, *_kind_of(hints[info.name])
        if info.required:
            required.append((info.name, name))
        if name == "#":
            text = (info.name, _converter(kind))
        elif name.startswith("@"):
            attributes[name[1:]] = (info.name, _converter(kind))
        else:
            slots[f"{prefix}}}{name}"] = Slot(index, info.name, name, _reader(kind, prefix), many)
            order.append((info.name, name, f"{prefix}}}{name}", many))
    return Plan(cls, slots, tuple(order), attributes, text, tuple(required))


def _kind_of(hint: Any) -> tuple[Any, bool]:
    """The type of one value of a field, and whether the field holds many."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return typing.get_args(hint)[0], True
    if origin in (types.UnionType, typing.Union):
        return next(each for each in typing.get_args(hint) if each is not type(None)), False
    return hint, False


def _reader(kind: Any, prefix: str) -> Callable[[Element], Any]:
    if isinstance(kind, type) and issubclass(kind, Part):
        plan = plan_of(kind, prefix)
        return lambda element: _read(plan, element, element)
    convert = _converter(kind)

    def leaf(element: Element) -> Any:
        if len(element) or element.keys():
            raise FinFlowError(
                "message_not_understood", "more than the text that is declared", place_of(element)
            )
        try:
            return convert(element.text or "")
        except ValueError as error:
            raise FinFlowError("message_invalid", str(error), place_of(element)) from error

    return leaf


def _converter(kind: Any) -> Callable[[str], Any]:
    if kind is Decimal:
        return _to_decimal
    if kind is dt.date:
        return _to_date
    metas = [each for each in getattr(kind, "__metadata__", ()) if isinstance(each, msgspec.Meta)]
    shortest = next((each.min_length for each in metas if each.min_length is not None), 0)
    longest = next((each.max_length for each in metas if each.max_length is not None), _MAX_TEXT)
    pattern = next((re.compile(each.pattern) for each in metas if each.pattern is not None), None)

    fits = None if pattern is None else pattern.fullmatch

    def check(text: str) -> str:
        if not shortest <= len(text) <= longest:
            raise ValueError(f"the text has {len(text)} characters, not {shortest} to {longest}")
        if fits is not None and fits(text) is None:
            assert pattern is not None, "what fits comes from it"
            raise ValueError(f"{text[:60]!r} does not have the form {pattern.pattern}")
        return text

    return check


def _to_decimal(text: str) -> Decimal:
    if _DECIMAL.fullmatch(text.strip()) is None or len(text) > 100:
        raise ValueError(f"{text[:60]!r} is not a decimal")
    try:
        return Decimal(text.strip())
    except InvalidOperation as error:
        raise ValueError(f"{text[:60]!r} is not a decimal") from error


def _to_date(text: str) -> dt.date:
    if _DATE.fullmatch(text) is None:
        raise ValueError(f"{text[:60]!r} is not a date of the form YYYY-MM-DD")
    return dt.date.fromisoformat(text)


def fragment(element: Element) -> str:
    """The XML of an element that is not understood, with the namespaces that it needs."""
    for each in element.iter():
        if len(each.keys()) > MAX_ATTRIBUTES:
            raise FinFlowError("xml_too_large", f"more than {MAX_ATTRIBUTES} attributes", place_of(each))
    return etree.tostring(element, encoding="unicode", with_tail=False)


def write(part: Part, element: Element) -> None:
    """Put a part into an element that is there, in the declared order, kept elements where they stood."""
    plan = plan_of(type(part), str(element.tag).rpartition("}")[0])
    for name, (field, _) in plan.attributes.items():
        element.set(name, _text_of(getattr(part, field)))
    if plan.text is not None and getattr(part, plan.text[0]) is not None:
        element.text = _text_of(getattr(part, plan.text[0]))
    kept: dict[str, list[Kept]] = {}
    for each in part.kept:
        kept.setdefault(each.after, []).append(each)
    write_kept(kept.pop("", ()), element)
    for field, name, tag, many in plan.order:
        value = getattr(part, field)
        for each in value if many else () if value is None else (value,):
            _write_value(each, etree.SubElement(element, tag))
        write_kept(kept.pop(name, ()), element)
    assert not kept, f"kept elements follow ones that {type(part).__name__} does not declare: {sorted(kept)}"


def _write_value(value: Any, element: Element) -> None:
    if isinstance(value, Part):
        write(value, element)
    else:
        element.text = _text_of(value)


def write_kept(kept: Iterable[Kept], element: Element) -> None:
    """Append kept elements as they came."""
    for each in kept:
        element.append(etree.fromstring(each.xml.encode(), parser()))


def _text_of(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, dt.date) else str(value)


def schema_location(root: Element) -> str | None:
    """The one attribute that a root may have: where its author says that the schema lies."""
    found = root.get(f"{{{_XSI}}}schemaLocation")
    if len(root.attrib) > (found is not None):
        raise FinFlowError("message_not_understood", "an attribute of the root", local_name(root))
    return found
