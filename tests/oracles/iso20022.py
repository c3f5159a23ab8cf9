"""Messages made from schemas, and two messages compared without the code under test.

`Maker` reads an XML Schema file with the standard library's parser and draws instances of it: the subset of
XML Schema that ISO 20022 uses is small. `canonical` is the standard library's C14N 2.0 over expat, so what
libxml2 wrote is judged by another parser.
"""

import gzip
import random
import xml.etree.ElementTree as ET
from pathlib import Path
from xml.sax.saxutils import escape

SCHEMAS = Path(__file__).parents[2] / "src" / "finflow" / "settlement" / "iso20022" / "schemas"
NAMES = sorted(path.name.removesuffix(".xsd.gz") for path in SCHEMAS.glob("*.xsd.gz"))
_XS = "{http://www.w3.org/2001/XMLSchema}"
_MAX_DEPTH = 9
# What a pattern of the schemas may be, and a text of that form. A pattern that is missing here fails loudly.
_BY_PATTERN = {
    "([0-9A-F][0-9A-F]){32}": "A1" * 32,
    "[+]{0,1}[0-9]{1,15}": "12",
    "[0-9]": "1",
    "[0-9]{1,15}": "3",
    "[0-9]{1,3}": "3",
    "[0-9]{1,5}": "12",
    "[0-9]{2,3}": "12",
    "[0-9]{2}": "12",
    "[0-9]{3,4}": "123",
    "[0-9]{3}": "123",
    "[0-9]{8,28}": "12345678",
    "[0-9a-fA-F]+": "0aF",
    "[A-Z0-9]{12,12}": "ABCDEF123456",
    "[A-Z0-9]{18,18}[0-9]{2,2}": "5493001KJTIIGC8Y1R12",
    "[A-Z0-9]{18}[0-9]{2}[A-Z0-9]{0,32}": "5493001KJTIIGC8Y1R12XYZ",
    "[A-Z0-9]{4,4}[A-Z]{2,2}[A-Z0-9]{2,2}([A-Z0-9]{3,3}){0,1}": "DBSSSGSGXXX",
    "[A-Z]{2,2}": "SG",
    "[A-Z]{2,2}[0-9]{2,2}[a-zA-Z0-9]{1,30}": "DE89370400440532013000",
    "[A-Z]{2,2}[A-Z0-9]{9,9}[0-9]{1,1}": "US0378331005",
    "[A-Z]{3,3}": "SGD",
    "[A-Z]{6,6}[A-Z2-9][A-NP-Z0-9]([A-Z0-9]{3,3}){0,1}": "DBSSSGSG",
    r"[\+]{0,1}[0-9]{1,15}": "+12",
    "[a-f0-9]{8}-[a-f0-9]{4}-4[a-f0-9]{3}-[89ab][a-f0-9]{3}-[a-f0-9]{12}": (
        "8a562c67-ca16-48ba-b074-65581be6f011"
    ),
    "[a-zA-Z0-9]{4}": "Ab12",
    "[a-z]{2,2}": "en",
    r"\+[0-9]{1,3}-[0-9()+\-]{1,30}": "+65-61234567",
}


class Maker:
    """Draws instances of one message's schema. `fullness` is the share of optional elements that appear."""

    def __init__(self, name: str, seed: int, fullness: float) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - drawn from a seed, so that a failure comes back
        self._fullness = fullness
        root = ET.fromstring(gzip.decompress((SCHEMAS / f"{name}.xsd.gz").read_bytes()))  # noqa: S314 - own files
        self._types = {each.get("name"): each for each in root if each.tag != f"{_XS}element"}
        self._namespace = root.get("targetNamespace")
        self._root = root.find(f"{_XS}element")

    def document(self) -> str:
        """One message as text."""
        assert self._root is not None
        body = self._content(self._types[self._root.get("type")], 0)
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{self._namespace}">{body}</Document>'
        )

    def _content(self, kind: ET.Element, depth: int) -> str:
        return "".join(self._particle(each, depth) for each in kind)

    def _particle(self, node: ET.Element, depth: int) -> str:
        if node.tag == f"{_XS}choice":
            return self._particle(self._rng.choice(list(node)), depth)
        if node.tag == f"{_XS}any":
            return '<x:Own xmlns:x="urn:example:own" x:note="kept"><x:Deep>whole &amp; sound</x:Deep></x:Own>'
        if node.tag != f"{_XS}element":
            return self._content(node, depth)
        return "".join(self._element(node, depth) for _ in range(self._times(node, depth)))

    def _times(self, node: ET.Element, depth: int) -> int:
        least = int(node.get("minOccurs", "1"))
        most = node.get("maxOccurs", "1")
        wanted = self._rng.random() < self._fullness and depth < _MAX_DEPTH
        if least == 0 and not wanted:
            return 0
        more = wanted and (most == "unbounded" or int(most) > 1) and self._rng.random() < 0.3
        return max(least, 2 if more else 1)

    def _element(self, node: ET.Element, depth: int) -> str:
        name, kind = node.get("name"), self._types.get(node.get("type"))
        if kind is None:
            return f"<{name}>{self._simple_base(node.get('type', ''))}</{name}>"
        if kind.tag == f"{_XS}simpleType":
            return f"<{name}>{escape(self._simple(kind))}</{name}>"
        extension = kind.find(f"{_XS}simpleContent/{_XS}extension")
        if extension is None:
            return f"<{name}>{self._content(kind, depth + 1)}</{name}>"
        attributes = "".join(
            f' {each.get("name")}="{self._simple(self._types[each.get("type")])}"'
            for each in extension.findall(f"{_XS}attribute")
            if each.get("use") == "required"
        )
        inner = self._types.get(extension.get("base"))
        text = self._simple_base(extension.get("base", "")) if inner is None else self._simple(inner)
        return f"<{name}{attributes}>{escape(text)}</{name}>"

    def _simple(self, kind: ET.Element) -> str:
        restriction = kind.find(f"{_XS}restriction")
        assert restriction is not None
        facets: dict[str, list[str]] = {}
        for each in restriction:
            facets.setdefault(each.tag.removeprefix(_XS), []).append(each.get("value", ""))
        if "enumeration" in facets:
            return self._rng.choice(facets["enumeration"])
        base = restriction.get("base", "")
        if "pattern" in facets:
            return _BY_PATTERN[facets["pattern"][0]]
        if base.endswith("decimal"):
            # Two decimals suit the one currency that is drawn; zero is no transfer.
            whole = str(self._rng.randint(1, 99999))
            return (
                whole if facets.get("fractionDigits") == ["0"] else f"{whole}.{self._rng.randint(0, 99):02}"
            )
        if base.endswith("string"):
            longest = min(int(facets.get("maxLength", ["35"])[0]), 60)
            length = self._rng.randint(int(facets.get("minLength", ["1"])[0]), longest)
            return "".join(self._rng.choice("Abc é<&>'\"/-") for _ in range(length)).strip() or "x"
        return self._simple_base(base)

    def _simple_base(self, base: str) -> str:
        texts = {
            "date": "2026-02-28",
            "dateTime": self._rng.choice(["2026-02-28T23:59:59.123456789+08:00", "2026-02-28T00:00:00Z"]),
            "time": "12:00:00",
            "boolean": self._rng.choice(["true", "false", "1", "0"]),
            "gYear": "2026",
            "gYearMonth": "2026-02",
            "base64Binary": "AQID",
        }
        return texts[base.partition(":")[2]]


def canonical(data: bytes | str) -> str:
    """C14N 2.0 without white space around texts, by the standard library."""
    return ET.canonicalize(data if isinstance(data, str) else data.decode(), strip_text=True)
