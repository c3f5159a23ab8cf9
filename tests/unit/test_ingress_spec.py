"""What a specification may say about its router, and what is refused."""

from typing import Any

import msgspec
import pytest

from finflow.rollout.ingress_spec import AlbSpec, CaddySpec, GatewaySpec, HaproxySpec, IngressSpec


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ({"kind": "caddy", "port": 8400, "customer_header": "X-Account"}, CaddySpec),
        ({"kind": "haproxy", "override_secret_env": "SIDE_SECRET"}, HaproxySpec),
        ({"kind": "gateway", "route": "pay", "baseline_service": "a", "candidate_service": "b"}, GatewaySpec),
        (
            {
                "kind": "alb",
                "rule_arn": "r",
                "baseline_target_group_arn": "a",
                "candidate_target_group_arn": "b",
                "region": "ap-southeast-1",
            },
            AlbSpec,
        ),
    ],
)
def test_each_kind_is_read(written: dict[str, Any], kind: type[Any]) -> None:
    found = msgspec.convert(written, IngressSpec)
    assert type(found) is kind
    assert msgspec.convert(msgspec.to_builtins(found), IngressSpec) == found


@pytest.mark.parametrize(
    "written",
    [
        {"kind": "nginx"},
        {"port": 8400},
        {"kind": "caddy", "prot": 8400},
        {"kind": "caddy", "port": 65_536},
        {"kind": "caddy", "host": "a b"},
        {"kind": "caddy", "customer_header": "X-Id\r\nX-Evil"},
        {"kind": "caddy", "customer_header": "X-Id\n"},
        {"kind": "caddy", "customer_header": "X' || true"},
        {"kind": "caddy", "override_secret_env": "A{B}"},
        {"kind": "caddy", "timeout_s": 0},
        {"kind": "caddy", "body_max_bytes": 0},
        {"kind": "haproxy", "program": "haproxy\n"},
        {"kind": "gateway", "route": "Pay", "baseline_service": "a", "candidate_service": "b"},
        {"kind": "gateway", "route": "../x", "baseline_service": "a", "candidate_service": "b"},
        {
            "kind": "gateway",
            "api_url": "file:///x",
            "route": "a",
            "baseline_service": "a",
            "candidate_service": "b",
        },
    ],
)
def test_what_no_router_can_be_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(written, IngressSpec)
