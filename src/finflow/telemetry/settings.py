"""Where traces go and what they say of their process: OpenTelemetry's own OTEL_* variables, read once.

Names, units and precedence are those of the OpenTelemetry specification (a variable for traces wins over the
general one). Traces are off until an endpoint is named. OTEL_TRACES_SAMPLER is not read: what is kept is
decided at a trace's end, by FINFLOW_TRACE_RATIO and FINFLOW_TRACE_SLOW_MS.

Three defaults are ours. One export may take 5 s where the specification has 10, because all others wait for
it. The queue holds 8,192 spans where it has 2,048: traces are handed over whole, a hundred spans and more at
once. Exports begin every 2 s where it has 5, so that a trace is found soon after its request and few are
lost with a process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.telemetry.redaction import redact

Protocol = Literal["grpc", "http/protobuf"]
Compression = Literal["none", "gzip", "deflate"]

TIMEOUT_S: Final = 5.0
MAX_QUEUED: Final = 8_192
MAX_BATCH: Final = 512
EVERY_S: Final = 2.0

_PROTOCOLS: Final[tuple[Protocol, ...]] = ("grpc", "http/protobuf")
_COMPRESSIONS: Final[dict[Protocol, tuple[Compression, ...]]] = {
    "grpc": ("none", "gzip"),
    "http/protobuf": ("none", "gzip", "deflate"),
}
_TRACES_PATH: Final = "/v1/traces"
_TRUE: Final = "true"
# Where Kubernetes' downward API and shells usually put what OpenTelemetry has attributes for.
_FROM_VARIABLES: Final = {
    "k8s.pod.name": ("K8S_POD_NAME", "POD_NAME"),
    "k8s.namespace.name": ("K8S_NAMESPACE_NAME", "POD_NAMESPACE"),
    "k8s.node.name": ("K8S_NODE_NAME", "NODE_NAME"),
    "k8s.cluster.name": ("K8S_CLUSTER_NAME", "CLUSTER_NAME"),
    "deployment.environment.name": ("DEPLOYMENT_ENVIRONMENT_NAME", "ENVIRONMENT"),
}


class OtlpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How spans leave the process. Queue and batch count spans; times are seconds.

    `endpoint` None: they do not, and nothing is recorded. `headers` may hold a secret.
    """

    endpoint: str | None = None
    protocol: Protocol = "http/protobuf"
    headers: dict[str, str] = {}
    compression: Compression = "none"
    timeout_s: float = TIMEOUT_S
    max_queued: int = MAX_QUEUED
    max_batch: int = MAX_BATCH
    every_s: float = EVERY_S
    close_within_s: float = 2.0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "OtlpSettings":
        """Raises setting_malformed, which names the variable.

        Certificates are read by OpenTelemetry's exporters; that they can be is found out here.
        """
        protocol = _protocol(environ)
        _check_certificates(environ)
        return cls(
            endpoint=_endpoint(environ, protocol),
            protocol=protocol,
            headers=_pairs(environ, _name(environ, "HEADERS")),
            compression=_compression(environ, protocol),
            timeout_s=_seconds(environ, _name(environ, "TIMEOUT"), TIMEOUT_S, scale=1e-3),
            max_queued=_count(environ, "OTEL_BSP_MAX_QUEUE_SIZE", MAX_QUEUED),
            max_batch=_count(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", MAX_BATCH),
            every_s=_seconds(environ, "OTEL_BSP_SCHEDULE_DELAY", EVERY_S, scale=1e-3),
        )


def resource_attributes(
    environ: Mapping[str, str], version: str, release: str, host: str, instance_id: str
) -> dict[str, str]:
    """What is the same for every span of this process: the service, where it runs, which release it is.

    OTEL_RESOURCE_ATTRIBUTES wins over what is known here, and OTEL_SERVICE_NAME over that.
    """
    found = {
        "service.name": "finflow",
        "service.namespace": "finflow",
        "service.version": version,
        "service.instance.id": instance_id,
        "host.name": host,
        "finflow.release": release,
    }
    for attribute, variables in _FROM_VARIABLES.items():
        value = next((environ[name] for name in variables if environ.get(name)), None)
        if value:
            found[attribute] = value
    if "KUBERNETES_SERVICE_HOST" in environ:
        # Inside of a pod the host's name is the pod's.
        found.setdefault("k8s.pod.name", host)
    found |= _pairs(environ, "OTEL_RESOURCE_ATTRIBUTES")
    if environ.get("OTEL_SERVICE_NAME"):
        found["service.name"] = environ["OTEL_SERVICE_NAME"]
    return found


def _name(environ: Mapping[str, str], what: str) -> str:
    """The variable for traces where it is set, else the one for every signal."""
    special = f"OTEL_EXPORTER_OTLP_TRACES_{what}"
    return special if environ.get(special) else f"OTEL_EXPORTER_OTLP_{what}"


def _protocol(environ: Mapping[str, str]) -> Protocol:
    name = _name(environ, "PROTOCOL")
    text = environ.get(name) or "http/protobuf"
    for protocol in _PROTOCOLS:
        if text == protocol:
            return protocol
    raise FinFlowError("setting_malformed", f"{name}={text}: it is none of {', '.join(_PROTOCOLS)}.", name)


def _compression(environ: Mapping[str, str], protocol: Protocol) -> Compression:
    name, known = _name(environ, "COMPRESSION"), _COMPRESSIONS[protocol]
    text = environ.get(name, "").strip().lower() or "none"
    for compression in known:
        if text == compression:
            return compression
    raise FinFlowError("setting_malformed", f"{name}={text}: {protocol} has {', '.join(known)}.", name)


def _check_certificates(environ: Mapping[str, str]) -> None:
    for what in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        name = _name(environ, what)
        try:
            if path := environ.get(name):
                Path(path).read_bytes()
        except OSError as error:
            raise FinFlowError("setting_malformed", f"{name}={path}: {error.strerror}.", name) from error


def _endpoint(environ: Mapping[str, str], protocol: Protocol) -> str | None:
    off = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == _TRUE or environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    name = _name(environ, "ENDPOINT")
    url = environ.get(name)
    if off or not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FinFlowError("setting_malformed", f"{name}={redact(url)}: it is not an http(s) URL.", name)
    # The general endpoint is a base that every signal adds its path to; the one for traces stands as it is.
    if protocol == "http/protobuf" and "TRACES" not in name:
        return url.rstrip("/") + _TRACES_PATH
    return url


def _pairs(environ: Mapping[str, str], name: str) -> dict[str, str]:
    """`a=1,b=2` with percent-encoded values, as W3C Baggage has it."""
    pairs = {}
    for member in environ.get(name, "").split(","):
        key, sign, value = member.partition("=")
        if member.strip() and not (sign and key.strip()):
            # The member is not shown: what is meant for a header may be a key.
            raise FinFlowError("setting_malformed", f"{name}: write it as name=value,name=value.", name)
        if sign:
            pairs[key.strip()] = unquote(value.strip())
    return pairs


def _seconds(environ: Mapping[str, str], name: str, default: float, scale: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text) * scale
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise FinFlowError("setting_malformed", f"{name}={text}: it is not a time of up to an hour.", name)
    return value


def _count(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise FinFlowError("setting_malformed", f"{name}={text}: it is not a number up to a million.", name)
    return int(text)
