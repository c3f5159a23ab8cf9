"""The schemas that come with FinFlow, compiled once a process, and what they say of a message."""

import gzip
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Final, cast

from lxml import etree

from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022.xml import Element

_MAX_FINDINGS: Final = 5
_NAMESPACE: Final = re.compile(r"\{[^}]*\}")


@lru_cache(maxsize=64)
def schema_of(name: str) -> etree.XMLSchema | None:
    """The compiled schema of a message such as "pacs.008.001.08", or None if none comes with FinFlow.

    `name` is only ever one that the registry knows, so it cannot lead out of the folder.
    """
    file = resources.files(__package__) / "schemas" / f"{name}.xsd.gz"
    if not file.is_file():
        return None
    return etree.XMLSchema(etree.fromstring(gzip.decompress(file.read_bytes())))


def names() -> list[str]:
    """The messages that have a schema, in order."""
    files = (resources.files(__package__) / "schemas").iterdir()
    return sorted(each.name.removesuffix(".xsd.gz") for each in files if each.name.endswith(".xsd.gz"))


def validate(root: Element, schema: etree.XMLSchema) -> None:
    """Raises message_invalid with the first findings of libxml2."""
    if not schema.validate(root):
        raise invalid(list(cast("Any", schema.error_log)))


def invalid(findings: "Sequence[etree._LogEntry]") -> FinFlowError:
    """What the schema found, line by line, without the namespace that every name would repeat."""
    lines = [f"line {each.line}: {_short(each.message)}" for each in findings[:_MAX_FINDINGS]]
    return FinFlowError("message_invalid", "; ".join(lines))


def _short(message: str) -> str:
    return _NAMESPACE.sub("", message)[:300]
