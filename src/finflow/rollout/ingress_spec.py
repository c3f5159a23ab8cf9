"""The section `ingress:` of a rollout's specification: which router splits the traffic, and by what."""

from typing import Annotated

from msgspec import Meta, Struct

HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}\Z")]
VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:_-]{1,253}\Z")]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Word = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=2_048, pattern=r"^[^\x00-\x1f\x7f]+\Z")]


class LocalSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a router on this machine has, whichever it is.

    `port` 0 takes a free one and keeps it. `seed` says who goes first: with another one, others do.
    A tester sends `override_header: candidate` (or baseline), and in `<override_header>-Secret` the value of
    the environment variable that `override_secret_env` names, or else what the file `tester-secret` in the
    router's folder holds. Whoever does not know it is routed like everybody.
    """

    host: Host = "127.0.0.1"
    port: Port = 0
    customer_header: HeaderName = "X-Customer-Id"
    override_header: HeaderName = "X-Finflow-Side"
    override_secret_env: VariableName | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 2)] = 42
    timeout_s: Annotated[float, Meta(ge=1, le=3_600)] = 60
    body_max_bytes: Annotated[int, Meta(ge=1, le=2**40)] = 64 * 2**20


class CaddySpec(
    LocalSpec, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="caddy"
):
    """The embedded router: no installation, no root."""


class HaproxySpec(
    LocalSpec, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="haproxy"
):
    """HAProxy 2.6 or newer, as the system has it installed."""

    program: Text = "haproxy"


class GatewaySpec(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="gateway"
):
    """An HTTPRoute of Kubernetes' Gateway API with two backends. Requests are split, not customers."""

    api_url: Annotated[str, Meta(pattern=r"^https?://[^\s]{1,2000}\Z")] = "https://kubernetes.default.svc"
    namespace: Word = "default"
    route: Word
    rule: Annotated[int, Meta(ge=0, le=15)] = 0
    baseline_service: Word
    candidate_service: Word
    token_file: Text | None = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
    ca_file: Text | None = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    timeout_s: Annotated[float, Meta(ge=1, le=300)] = 10


class AlbSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="alb"):
    """A rule of an AWS Application Load Balancer that forwards to two target groups, split by requests.

    With `sticky_s`, the balancer keeps a visitor where the first request went, by a cookie of its own.
    """

    rule_arn: Text
    baseline_target_group_arn: Text
    candidate_target_group_arn: Text
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
    endpoint_url: Text | None = None
    sticky_s: Annotated[int, Meta(ge=0, le=604_800)] = 0
    timeout_s: Annotated[float, Meta(ge=1, le=300)] = 10


IngressSpec = CaddySpec | HaproxySpec | GatewaySpec | AlbSpec
