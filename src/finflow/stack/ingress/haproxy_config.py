"""HAProxy's configuration: the split by a hash and a map, places for backends, one JSON line a request.

Weight and backends change over the runtime socket; they stand in here too, because a reload reads them anew.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from finflow.rollout.buckets import KEYLESS_BUCKET
from finflow.rollout.ingress_spec import HaproxySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Side
from finflow.stack.ingress.folder import CLAIMED_HEADERS, PROOF_HEADER

MAP: Final = "weight.map"
MAP_KEY: Final = "candidate"
RELOADS: Final = "FINFLOW_RELOADS"
# Twice what a side may have: a place is used again only when its last process has been gone for a while.
BACKENDS_MAX: Final = 48
PLACES: Final = 2 * BACKENDS_MAX
# Where a place that is not used points to.
NOBODY: Final = "127.0.0.1:1"
IDLE_S: Final = 120
_CUSTOMER_BYTES: Final = 8


def map_text(weight_bp: int) -> str:
    return f"{MAP_KEY} {weight_bp}\n"


def address(endpoint: Endpoint) -> str:
    return f"{endpoint.host}:{endpoint.port}"


def config(
    spec: HaproxySpec,
    reloads: int,
    listener: str,
    backends: Mapping[Side, Sequence[Endpoint]],
    salt: str,
    proof: str,
    tester_secret: str,
) -> str:
    """The whole configuration, serving this listener."""
    sections = [
        _globals(spec, reloads),
        _defaults(spec),
        _frontend(spec, listener, salt, proof, tester_secret),
        *(_backend(side, backends[side]) for side in Side),
    ]
    return "\n\n".join(sections) + "\n"


def _globals(spec: HaproxySpec, reloads: int) -> str:
    # An old worker ends at the latest when an idle client would have been sent away. One thread, because
    # two that log at the same moment lose a line of one of them: of 13,303 requests, 189 were missing.
    return f"""global
    nbthread 1
    setenv {RELOADS} {reloads}
    hard-stop-after {IDLE_S + int(spec.timeout_s)}s
    tune.bufsize 65536
    tune.maxrewrite 4096
    log stdout format raw local0"""


def _defaults(spec: HaproxySpec) -> str:
    """A request is sent again only where its connection was never made."""
    return f"""defaults
    mode http
    log global
    option idle-close-on-response
    option dontlognull
    option redispatch 1
    retries 3
    retry-on conn-failure
    http-reuse safe
    timeout connect 2s
    timeout queue 3s
    timeout tunnel 1h
    timeout http-request 10s
    timeout http-keep-alive {IDLE_S}s
    timeout client {spec.timeout_s:g}s
    timeout server {spec.timeout_s:g}s"""


def _frontend(spec: HaproxySpec, listener: str, salt: str, proof: str, tester_secret: str) -> str:
    asked = f"req.fhdr({spec.override_header})"
    given = f"req.fhdr({spec.override_header}-Secret)"
    variable = spec.override_secret_env
    secret = f"str({tester_secret})" if variable is None else f"env({variable})"
    known = f"{{ {given} -m len gt 0 }} {{ {given},strcmp(txn.secret) eq 0 }}"
    rules = [
        "http-request set-var(txn.began) date(0,us)",
        f"http-request set-var(txn.key) req.fhdr({spec.customer_header})",
        f"http-request set-var(txn.bucket) int({KEYLESS_BUCKET})",
        f"http-request set-var(txn.bucket) var(txn.key),xxh32({spec.seed}),mod({FULL_WEIGHT_BP}) "
        "if { var(txn.key) -m len gt 0 }",
        f"http-request set-var(txn.customer) str({salt}),concat(,txn.key),sha2(256),"
        f"bytes(0,{_CUSTOMER_BYTES}),hex if {{ var(txn.key) -m len gt 0 }}",
        f"http-request set-var(txn.weight) str({MAP_KEY}),map_str_int({MAP},0)",
        f"http-request set-var(txn.side) str({Side.BASELINE})",
        f"http-request set-var(txn.side) str({Side.CANDIDATE}) "
        "if { var(txn.bucket),sub(txn.weight) -m int lt 0 }",
    ]
    rules.append(f"http-request set-var(txn.secret) {secret}")
    rules += [
        f"http-request set-var(txn.side) str({side}) if {{ {asked} -m str {side} }} {known}" for side in Side
    ]
    rules.append(f"http-request del-header {PROOF_HEADER}")
    if proof:
        claimed = " || ".join(f"{{ req.fhdr({name}) -m found }}" for name in CLAIMED_HEADERS)
        rules.append(f"http-request set-header {PROOF_HEADER} {proof}:")
        rules.append(f"http-request set-header {PROOF_HEADER} {proof}:claimed if {claimed}")
    rules += [f"http-request del-header {name}" for name in _stripped(spec)]
    rules += [
        "option forwardfor",
        "http-request set-header X-Forwarded-Host %[req.fhdr(host)] if { req.fhdr(host) -m found }",
        "http-request set-header X-Forwarded-Proto http",
        f"http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {spec.body_max_bytes} }}",
        "use_backend %[var(txn.side)]",
        f"log-format '{_LINE}'",
    ]
    return "\n    ".join(["frontend traffic", f"bind {listener}", *rules])


_LINE: Final = (
    '{"ts":%[date(0,us)]e-6,"side":"%[var(txn.side)]","status":%ST,'
    '"duration":%[date(0,us),sub(txn.began)]e-6,"customer_a":"%[var(txn.customer),lower]"}'
)


def _stripped(spec: HaproxySpec) -> list[str]:
    own = [spec.override_header, f"{spec.override_header}-Secret"]
    return [*own, "Forwarded", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"]


def _backend(side: Side, endpoints: Sequence[Endpoint]) -> str:
    """A process that refuses connections gets none after a second or two; until then others are tried."""
    used = [f"server p{place} {address(each)}" for place, each in enumerate(endpoints)]
    free = [f"server p{place} {NOBODY} disabled" for place in range(len(endpoints), PLACES)]
    return "\n    ".join(
        [
            f"backend {side}",
            "balance leastconn",
            "default-server check inter 1s fastinter 250ms downinter 250ms fall 2 rise 1",
            *used,
            *free,
        ]
    )
