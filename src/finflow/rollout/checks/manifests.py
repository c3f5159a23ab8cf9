"""What a change does to manifests: objects added, removed and changed, field by field. Pure.

Documents are compared as values, so comments, the order of keys and documents, and which file an object
stands in do not matter. The order of a list matters where a router reads it from top to bottom (Ingress,
Gateway, routes), and not in what is a set by its definition: rules, verbs and subjects of RBAC, the rules
of a NetworkPolicy, the ports of a Service.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import yaml

MAX_LEAVES: Final = 500_000
_MAX_DEPTH: Final = 60
# Lists of these kinds are sets, whatever order they are written in.
_SETS: Final = frozenset(
    {"ClusterRole", "ClusterRoleBinding", "NetworkPolicy", "Role", "RoleBinding", "Service", "ServiceAccount"}
)
_SUFFIXES: Final = (".yaml", ".yml", ".json")


class Unreadable(ValueError):
    """A manifest that nobody can compare: says which file, and why."""


class Object(NamedTuple):
    """What an object is known by. The group counts and its version does not: they name the same object."""

    kind: str
    group: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Change(msgspec.Struct, frozen=True):
    """One object that is not what it was: `added`, `removed` or `changed`, and the fields that differ."""

    object: str
    change: str
    fields: tuple[str, ...] = ()


class Difference(NamedTuple):
    """All changes, and a digest of them with the values before and after: another change has another one."""

    changes: list[Change]
    digest: str


_Docs = dict[Object, list[Any]]


def difference(
    before: Mapping[str, bytes], after: Mapping[str, bytes], kinds: Iterable[str], watched: Iterable[str] = ()
) -> Difference:
    """What these files change about objects of these kinds, and about `watched` files whatever they hold.

    Files that are the same on both sides are not read. Raises Unreadable.
    """
    kinds, watched = frozenset(kinds), sorted(watched)
    moved = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    old = _objects({path: before[path] for path in moved if path in before}, kinds)
    new = _objects({path: after[path] for path in moved if path in after}, kinds)
    changes: list[Change] = []
    evidence: list[Any] = []
    for known_by in sorted({*old, *new}):
        was, now = old.get(known_by, []), new.get(known_by, [])
        if was != now:
            changes.append(_change(known_by, was, now))
            evidence.append([list(known_by), was, now])
    for path in watched:
        if path in moved:
            changes.append(Change(path, _how(path in before, path in after)))
            evidence.append([path, _sha256(before.get(path)), _sha256(after.get(path))])
    canonical = msgspec.json.encode(evidence, order="deterministic")
    return Difference(changes, f"sha256:{hashlib.sha256(canonical).hexdigest()}")


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _how(was: bool, is_now: bool) -> str:
    return "changed" if was and is_now else "removed" if was else "added"


def _change(known_by: Object, was: list[Any], now: list[Any]) -> Change:
    how = _how(bool(was), bool(now))
    if len(was) == len(now) == 1:
        return Change(str(known_by), how, tuple(sorted(set(_fields("", was[0], now[0])))))
    return Change(str(known_by), how)


def _fields(path: str, was: Any, now: Any) -> Iterator[str]:
    """Paths of the fields that differ, as deep as both sides go."""
    if was == now and type(was) is type(now):
        return
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {*was, *now}:
            inner = f"{path}.{key}" if path else str(key)
            if key in was and key in now:
                yield from _fields(inner, was[key], now[key])
            else:
                yield inner
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _fields(f"{path}[{i}]", one, other)
    else:
        yield path


def _objects(files: Mapping[str, bytes], kinds: frozenset[str]) -> _Docs:
    """Documents of these kinds by what they are known by; one that stands twice, in the order of content."""
    found: _Docs = {}
    for path, content in files.items():
        if not path.endswith(_SUFFIXES):
            continue
        budget = [MAX_LEAVES]
        for document in _documents(path, content):
            for each in _expanded(document):
                if each["kind"] in kinds:
                    plain = _plain(path, each, each["kind"] in _SETS, budget, 0)
                    found.setdefault(_known_by(each), []).append(plain)
    return {known_by: sorted(documents, key=_canonical) for known_by, documents in found.items()}


def _documents(path: str, content: bytes) -> list[Any]:
    try:
        text = content.decode()
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return list(yaml.load_all(text, Loader=loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Unreadable(f"{path} cannot be read as YAML: {reason}") from error


def _expanded(document: Any) -> Iterator[dict[str, Any]]:
    """The objects of a document: itself, or the items of a list. What is no object holds none."""
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        return
    items = document.get("items")
    if document["kind"].endswith("List") and isinstance(items, list):
        for item in items:
            yield from _expanded(item)
    else:
        yield document


def _known_by(document: Mapping[str, Any]) -> Object:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    group = str(document.get("apiVersion") or "").rpartition("/")[0]
    name = metadata.get("name") or metadata.get("generateName") or ""
    return Object(document["kind"], group, str(metadata.get("namespace") or ""), str(name))


def _plain(path: str, value: Any, sets: bool, budget: list[int], depth: int) -> Any:
    """A value of JSON's kinds, its sets in the order of their content. Aliases can make a small file huge."""
    budget[0] -= 1
    if budget[0] < 0 or depth > _MAX_DEPTH:
        raise Unreadable(f"{path} holds more, or deeper, than a manifest does")
    if isinstance(value, dict):
        return {str(key): _plain(path, each, sets, budget, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        items = [_plain(path, each, sets, budget, depth + 1) for each in value]
        return sorted(items, key=_canonical) if sets else items
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
