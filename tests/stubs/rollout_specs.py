"""A small rollout's specification, for tests that change one thing in it."""

from typing import Any

import msgspec

from finflow.rollout.spec import RolloutSpec

PLAIN: dict[str, Any] = {
    "service": "shop",
    "ingress": {"kind": "caddy"},
    "baseline": {"release": "1.0", "fleet": {"kind": "command", "command": ["shop"], "processes": 4}},
    "candidate": {"release": "1.1", "fleet": {"kind": "command", "command": ["shop"], "processes": 4}},
    "steps": [{"weight_percent": percent, "bake_s": 0.1} for percent in (5, 50, 100)],
    "metrics": {"kind": "traffic"},
}


def spec(**changes: Any) -> RolloutSpec:
    """The plain one with these sections instead."""
    return msgspec.convert({**PLAIN, **changes}, RolloutSpec)
