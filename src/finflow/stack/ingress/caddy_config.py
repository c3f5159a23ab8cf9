"""Caddy's configuration: everything that changes during a rollout is read from files at each request.

A reload of Caddy closes idle connections, so weight and backends never need one: the weight is a file that
the split's expression reads, and each backend's address is a file too (`dial` takes placeholders). Paths are
relative: the router works in its own folder.

A reload that somebody asks for cuts nothing either. Caddy lets an old configuration serve on for a while
(`shutdown_delay`) where its listeners are not the new one's; here every answer then says `Connection: close`.
What it accepts in its last instant is lost, so it must accept nothing by then. The port has three sockets:
configuration n listens on the n-th and on the one before (round and round, each under two descriptors, so
that no two that follow each other have the same listeners); then the kernel is told to send connections to
the n-th. Whoever reloads may be killed in between: then the new one gets them on the socket of the old.

What the router says of itself is told on a socket that old and new configuration share, by whoever is faster,
and on one that the n-th has for itself: there the new one is heard as soon as it listens.
"""

from collections.abc import Sequence
from typing import Any, Final

from finflow.rollout.buckets import (
    CHUNK_BYTES,
    FACTOR,
    HASHED_BYTES,
    KEYLESS_BUCKET,
    LAST_SHIFT,
    PRIME,
    ROUNDS,
)
from finflow.rollout.ingress_spec import CaddySpec
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Side
from finflow.stack.ingress.folder import CLAIMED_HEADERS, PROOF_HEADER

ADMIN: Final = "admin.sock"
CONTROL: Final = "control.sock"
WEIGHT: Final = "weight"
TRAFFIC: Final = "traffic.log"
# As many places for backends on either side; fewer backends share them. Divisible by most small numbers.
SLOTS: Final = 48
SOCKETS: Final = 3
DRAIN_S: Final = 2
GRACE_S: Final = 10
HEADERS_MAX_BYTES: Final = 64 * 1024
_IDLE_CLIENT_S: Final = 120
# Shorter than the patience of common servers with idle connections (two to 75 seconds), so that we end them.
_IDLE_BACKEND_S: Final = 1
_LOG_MIB: Final = 16
LOGS_KEPT: Final = 4
_HEX_PER_CHUNK: Final = 2 * CHUNK_BYTES
_UNKNOWN_ORIGIN: Final = ("Forwarded", "X-Real-Ip")


def config(
    spec: CaddySpec,
    reloads: int,
    descriptors: Sequence[int],
    salts: Sequence[str],
    proof: str = "",
    tester_secret: str = "",
) -> dict[str, Any]:
    """The whole configuration after so many reloads, over the descriptors that the process inherits."""
    served = [descriptors[2 * (reloads % SOCKETS)], descriptors[2 * ((reloads - 1) % SOCKETS) + 1]]
    listeners = [f"fd/{each}" for each in served]
    routes = [*_decided(spec, tester_secret), *_noted(spec, salts), *_proven(proof), *_proxied(spec)]
    traffic = _traffic(spec, listeners, routes)
    return {
        "admin": {"listen": f"unix/{ADMIN}|0600", "config": {"persist": False}},
        "storage": {"module": "file_system", "root": "storage"},
        "logging": {"logs": _logs()},
        "apps": {
            "http": {
                "grace_period": f"{GRACE_S}s",
                "shutdown_delay": f"{DRAIN_S}s",
                "servers": {"traffic": traffic, "control": _control(reloads)},
            }
        },
    }


def own_control(reloads: int) -> str:
    """The control socket that the configuration after so many reloads shares with none before or after it."""
    return f"control.{reloads % SOCKETS}.sock"


def slot_file(side: Side, slot: int) -> str:
    """Where the address of a slot stands."""
    return f"now/{side}/{slot}"


def _placeholder(name: str) -> str:
    return f"{{{name}}}"


def _file_text(path: str) -> str:
    """What stands in a file when the request comes."""
    return _placeholder(f"file.{path}")


def _logs() -> dict[str, Any]:
    """What Caddy says itself, without requests' text; and one line for each request, without its text."""
    return {
        "default": {
            "writer": _file("router.log"),
            "level": "WARN",
            "encoder": _without("request"),
            "exclude": ["http.log.access"],
        },
        "traffic": {
            "writer": _file(TRAFFIC),
            "encoder": _without("request", "resp_headers", "user_id", "bytes_read", "size", "logger", "msg")
            | {"fields": _deleted("request", "resp_headers", "user_id", "logger", "msg") | _digested()},
            "include": ["http.log.access.traffic"],
        },
    }


def _file(name: str) -> dict[str, Any]:
    return {
        "output": "file",
        "filename": name,
        "mode": "0600",
        "roll_size_mb": _LOG_MIB,
        "roll_keep": LOGS_KEPT,
        "roll_gzip": False,
    }


def _without(*names: str) -> dict[str, Any]:
    return {"format": "filter", "wrap": {"format": "json"}, "fields": _deleted(*names)}


def _deleted(*names: str) -> dict[str, Any]:
    return {name: {"filter": "delete"} for name in names}


def _digested() -> dict[str, Any]:
    """Caddy hashes to 32 bits; two salts make 64 of them."""
    return {name: {"filter": "hash"} for name in ("customer_a", "customer_b")}


def _traffic(spec: CaddySpec, listeners: list[str], routes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "listen": listeners,
        "automatic_https": {"disable": True},
        "protocols": ["h1"],
        "read_header_timeout": "10s",
        "read_timeout": f"{spec.timeout_s:g}s",
        "write_timeout": f"{2 * spec.timeout_s:g}s",
        "idle_timeout": f"{_IDLE_CLIENT_S}s",
        "max_header_bytes": HEADERS_MAX_BYTES,
        "logs": {"default_logger_name": "traffic"},
        "routes": routes,
    }


def _decided(spec: CaddySpec, tester_secret: str) -> list[dict[str, Any]]:
    """Which side: the split by the customer's bucket, then what a tester asks for."""
    key = _placeholder(f"http.request.header.{spec.customer_header}")
    to_side = {side: [{"handler": "vars", "side": side}] for side in Side}
    return [
        {
            "match": [{"vars": {"{http.shutting_down}": ["true"]}}],
            "handle": [{"handler": "headers", "response": {"set": {"Connection": ["close"]}}}],
        },
        {"handle": [{"handler": "vars", "key": key, "side": Side.BASELINE}]},
        {"match": [{"expression": split(spec.seed)}], "handle": to_side[Side.CANDIDATE]},
        *({"match": [_override(spec, side, tester_secret)], "handle": to_side[side]} for side in Side),
    ]  # fmt: skip


def _override(spec: CaddySpec, side: Side, tester_secret: str) -> dict[str, Any]:
    """Whether somebody asks for this side who knows the secret; whoever does not is routed like everybody."""
    variable = spec.override_secret_env
    secret = f"'{tester_secret}'" if variable is None else f"ph(req, 'env.{variable}')"
    given = _header(f"{spec.override_header}-Secret")
    return {
        "header": {spec.override_header: [side]},
        "expression": f"{given} != '' && {given} == {secret}",
    }


def _header(name: str) -> str:
    return f"ph(req, 'http.request.header.{name}')"


def _noted(spec: CaddySpec, salts: Sequence[str]) -> list[dict[str, Any]]:
    """What the log shall say beside status and duration."""
    key = "{http.vars.key}"
    names = ("customer_a", "customer_b")
    salted = {name: f"{salt}{key}" for name, salt in zip(names, salts, strict=True)}
    # `log_append` takes a placeholder or a text, and nothing made of both.
    customer = [
        {"handler": "vars", **salted},
        *(
            {"handler": "log_append", "key": name, "value": _placeholder(f"http.vars.{name}")}
            for name in names
        ),
    ]
    return [
        {"handle": [{"handler": "log_append", "key": "side", "value": "{http.vars.side}"}]},
        {"match": [{"not": [{"vars": {key: [""]}}]}], "handle": customer},
    ]


def _proven(proof: str) -> list[dict[str, Any]]:
    """The router's proof, or none, whatever the client sends under its name."""

    def put(request: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"handler": "headers", "request": request}]

    if not proof:
        return [{"handle": put({"delete": [PROOF_HEADER]})}]
    claimed = [{"header": {name: ["*"]}} for name in CLAIMED_HEADERS]
    return [
        {"handle": put({"set": {PROOF_HEADER: [f"{proof}:"]}})},
        {"match": claimed, "handle": put({"set": {PROOF_HEADER: [f"{proof}:claimed"]}})},
    ]


def _proxied(spec: CaddySpec) -> list[dict[str, Any]]:
    stripped = [spec.override_header, f"{spec.override_header}-Secret", *_UNKNOWN_ORIGIN]
    return [
        {
            "handle": [
                {"handler": "headers", "request": {"delete": stripped}},
                {"handler": "request_body", "max_size": spec.body_max_bytes},
            ]
        },
        {
            "match": [{"vars": {"{http.vars.side}": [Side.CANDIDATE]}}],
            "handle": [_proxy(spec, Side.CANDIDATE)],
        },
        {"handle": [_proxy(spec, Side.BASELINE)]},
    ]


def _proxy(spec: CaddySpec, side: Side) -> dict[str, Any]:
    """A request is sent again only where its connection was never made, or where it is a GET."""
    return {
        "handler": "reverse_proxy",
        "transport": {
            "protocol": "http",
            "compression": False,
            "dial_timeout": "2s",
            "response_header_timeout": f"{spec.timeout_s:g}s",
            "keep_alive": {
                "idle_timeout": f"{_IDLE_BACKEND_S}s",
                "max_idle_conns_per_host": 256,
            },
        },
        "load_balancing": {
            "selection_policy": {"policy": "least_conn"},
            "try_duration": "3s",
            "try_interval": "10ms",
        },
        "health_checks": {"passive": {"fail_duration": "1s", "max_fails": 1}},
        "upstreams": [{"dial": _file_text(slot_file(side, slot))} for slot in range(SLOTS)],
    }


def _control(reloads: int) -> dict[str, Any]:
    """What the router itself reads from the files, told on a socket that only our user may open."""

    def answers(path: str, body: str) -> dict[str, Any]:
        return {"match": [{"path": [path]}], "handle": [{"handler": "static_response", "body": body}]}

    slots = {side: " ".join(_file_text(slot_file(side, slot)) for slot in range(SLOTS)) for side in Side}
    return {
        "listen": [f"unix/{CONTROL}|0600", f"unix/{own_control(reloads)}|0600"],
        "automatic_https": {"disable": True},
        "protocols": ["h1"],
        "routes": [
            answers("/weight", _file_text(WEIGHT)),
            answers("/reloads", str(reloads)),
            *(answers(f"/backends/{side}", body) for side, body in slots.items()),
        ],
    }


def split(seed: int) -> str:
    """The expression that says whether a request belongs to the candidate: bucket_of(key) < weight, in CEL.

    CEL has no loop that carries a value along, so the chunks stand one after another, each bound to a name;
    what lies behind the key's end is not computed. Bytes become numbers by way of hexadecimal floats, exact
    below 2**53. A weight that is no number, as while the disk is full, counts as 0.
    """
    key, half = "string(ph(req, 'http.vars.key'))", HASHED_BYTES
    bindings = [
        ("hex", f"'%x'.format([{key}])"),
        (
            "kept",
            f"size(hex) > {2 * half} ? hex.substring(0, {half}) + hex.substring(size(hex) - {half}) : hex",
        ),
        ("h0", f"({seed * FACTOR % PRIME} + size(hex)) % {PRIME}"),
        *_chunks(),
        *_rounds(HASHED_BYTES // CHUNK_BYTES),
    ]
    last = f"r{len(ROUNDS)}"
    mixed = f"math.bitXor({last}, math.bitShiftRight({last}, {LAST_SHIFT})) % {FULL_WEIGHT_BP}"
    in_share = _bound(bindings, f"(hex == '' ? {KEYLESS_BUCKET} : {mixed}) < weight")
    # Outside of a rollout the weight is 0, and nothing is hashed.
    weight = [
        ("text", f"string(ph(req, 'file.{WEIGHT}'))"),
        ("weight", "text.matches('^[0-9]{1,5}$') ? int(text) : 0"),
    ]
    return _bound(weight, f"weight > 0 && (weight >= {FULL_WEIGHT_BP} || {in_share})")


def _bound(bindings: Sequence[tuple[str, str]], inner: str) -> str:
    """The inner expression, in which each name stands for its value; later ones may use those before."""
    for name, value in reversed(bindings):
        inner = f"cel.bind({name}, {value}, {inner})"
    return inner


def _chunks() -> list[tuple[str, str]]:
    found = []
    for number in range(HASHED_BYTES // CHUNK_BYTES):
        start, end = number * _HEX_PER_CHUNK, (number + 1) * _HEX_PER_CHUNK
        part = f"size(kept) > {end} ? kept.substring({start}, {end}) : kept.substring({start})"
        value = f"int(double('0x' + ({part}) + 'p0'))"
        before = f"h{number}"
        step = f"size(kept) > {start} ? ({before} * {FACTOR} + {value}) % {PRIME} : {before}"
        found.append((f"h{number + 1}", step))
    return found


def _rounds(chunks: int) -> list[tuple[str, str]]:
    names = [f"h{chunks}", *(f"r{number + 1}" for number in range(len(ROUNDS)))]
    return [
        (after, f"math.bitXor({before}, math.bitShiftRight({before}, {shift})) * {factor} % {2**32}")
        for (shift, factor), before, after in zip(ROUNDS, names, names[1:], strict=False)
    ]
