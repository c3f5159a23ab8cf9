"""AWS: a rule of an Application Load Balancer that forwards to two target groups by weight.

The balancer splits requests. With stickiness, a cookie of its own keeps a visitor where the first request
went, whatever the weights say later; so whenever the candidate's weight falls, stickiness is turned off with
the same call, and comes back with the next rise.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import AlbSpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Side

# The greatest weight of a target group.
_PART_MAX: Final = 999
_SETTLED_STATES: Final = ("initial", "healthy", "unhealthy", "unused", "unavailable")


class AlbIngress:
    """The port over one listener rule. Shares are 0, 0.1 % to 99.9 %, and all."""

    def __init__(self, spec: AlbSpec, connect: Callable[[AlbSpec], Any] | None = None) -> None:
        self.spec = spec
        self._connect = connect or _connected
        self._client: Any = None

    async def set_weight(self, weight_bp: int) -> None:
        """Raises ingress_refused for a candidate without healthy targets: its share would be answered 503."""
        if not 0 <= weight_bp <= FULL_WEIGHT_BP:
            raise FinFlowError("ingress_refused", f"{weight_bp} is not 0 to {FULL_WEIGHT_BP}.", "weight_bp")
        actions, forward = await self._forward()
        baseline, candidate = parts_of(weight_bp)
        before = self._share_of(forward)
        sticky = self.spec.sticky_s if weight_bp >= before and weight_bp > 0 else 0
        if weight_bp > before and not await self._healthy(Side.CANDIDATE):
            raise FinFlowError("ingress_refused", "The candidate has no healthy targets.", "weight_bp")
        forward["TargetGroups"] = [
            {"TargetGroupArn": self._arn(Side.BASELINE), "Weight": baseline},
            {"TargetGroupArn": self._arn(Side.CANDIDATE), "Weight": candidate},
        ]
        forward["TargetGroupStickinessConfig"] = _stickiness(sticky)
        await self._call("modify_rule", RuleArn=self.spec.rule_arn, Actions=actions)
        if (found := await self.weight()) != weight_bp:
            raise FinFlowError("ingress_refused", f"The balancer has {found} instead of {weight_bp}.")

    async def weight(self) -> int:
        return self._share_of((await self._forward())[1])

    async def set_backends(self, side: Side, endpoints: Sequence[Endpoint]) -> None:
        """New targets are registered before those that go are deregistered, which the balancer drains."""
        wanted = set(endpoints)
        if not wanted and self._parts((await self._forward())[1])[side]:
            raise FinFlowError("ingress_refused", f"The {side} is sent requests.", "endpoints")
        present = set(await self.backends(side))
        if fresh := wanted - present:
            await self._call("register_targets", TargetGroupArn=self._arn(side), Targets=_targets(fresh))
        if gone := present - wanted:
            await self._call("deregister_targets", TargetGroupArn=self._arn(side), Targets=_targets(gone))

    async def backends(self, side: Side) -> Sequence[Endpoint]:
        """Targets that are registered and not being drained."""
        return sorted(endpoint for endpoint, state in await self._states(side) if state in _SETTLED_STATES)

    async def routed(self) -> Mapping[Side, int]:
        raise FinFlowError(
            "ingress_refused",
            "A balancer's counts are in CloudWatch, minutes late: name a metrics source.",
            "routed",
        )

    async def reload(self) -> None:
        """A balancer has nothing to read anew; this only sees that the rule is there."""
        await self._forward()

    async def _healthy(self, side: Side) -> bool:
        return any(state in ("healthy", "unused") for _, state in await self._states(side))

    async def _states(self, side: Side) -> list[tuple[Endpoint, str]]:
        found = await self._call("describe_target_health", TargetGroupArn=self._arn(side))
        return [
            (Endpoint(each["Target"]["Id"], each["Target"]["Port"]), each["TargetHealth"]["State"])
            for each in found["TargetHealthDescriptions"]
        ]

    def _arn(self, side: Side) -> str:
        spec = self.spec
        return spec.candidate_target_group_arn if side is Side.CANDIDATE else spec.baseline_target_group_arn

    def _parts(self, forward: Mapping[str, Any]) -> dict[Side, int]:
        weights = {each["TargetGroupArn"]: int(each.get("Weight", 1)) for each in forward["TargetGroups"]}
        if set(weights) - {self._arn(side) for side in Side}:
            raise FinFlowError(
                "ingress_refused", "The rule forwards to other target groups, too.", "rule_arn"
            )
        return {side: weights.get(self._arn(side), 0) for side in Side}

    def _share_of(self, forward: Mapping[str, Any]) -> int:
        parts = self._parts(forward)
        return _share(parts[Side.BASELINE], parts[Side.CANDIDATE])

    async def _forward(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The rule's actions as they may be written back, and the forwarding among them."""
        found = await self._call("describe_rules", RuleArns=[self.spec.rule_arn])
        actions = [dict(action) for rule in found["Rules"] for action in rule["Actions"]]
        for action in actions:
            if action["Type"] == "forward":
                # The balancer shows a single target group twice, and takes it only once.
                arn = action.pop("TargetGroupArn", None)
                config = action.setdefault("ForwardConfig", {"TargetGroups": []})
                if not config.get("TargetGroups"):
                    config["TargetGroups"] = [{"TargetGroupArn": arn, "Weight": 1}]
                return actions, config
        raise FinFlowError("ingress_refused", "The rule does not forward.", "rule_arn")

    async def _call(self, operation: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(self._called, operation, arguments)

    def _called(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        if self._client is None:
            self._client = self._connect(self.spec)
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, operation)(**arguments)
        except ClientError as error:
            told = error.response.get("Error", {})
            busy = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
            code = "ingress_unreachable" if busy or told.get("Code") == "Throttling" else "ingress_refused"
            raise FinFlowError(code, f"AWS answers {told.get('Code')}: {told.get('Message')}") from error
        except BotoCoreError as error:
            raise FinFlowError("ingress_unreachable", f"AWS: {error}") from error


def parts_of(weight_bp: int) -> tuple[int, int]:
    """The weights of baseline and candidate, 0 to 999 each, that make the share and read back the same.

    Raises ingress_refused for shares that they cannot make: below 0.1 %, above 99.9 %, and a few between;
    whole tenths of a per cent always work.
    """
    if weight_bp in (0, FULL_WEIGHT_BP):
        return (_PART_MAX, 0) if weight_bp == 0 else (0, _PART_MAX)
    rest = FULL_WEIGHT_BP - weight_bp
    pairs = ((round(part * rest / weight_bp), part) for part in range(1, _PART_MAX + 1))
    exact = [pair for pair in pairs if 0 < pair[0] <= _PART_MAX and _share(*pair) == weight_bp]
    if not exact:
        raise FinFlowError("ingress_refused", f"A balancer cannot split {weight_bp} to {rest}.", "weight_bp")
    return min(exact, key=lambda pair: abs(pair[1] * rest - pair[0] * weight_bp) / sum(pair))


def _share(baseline: int, candidate: int) -> int:
    total = baseline + candidate
    return round(candidate * FULL_WEIGHT_BP / total) if total else 0


def _stickiness(seconds: int) -> dict[str, Any]:
    return {"Enabled": True, "DurationSeconds": seconds} if seconds else {"Enabled": False}


def _targets(endpoints: set[Endpoint]) -> list[dict[str, Any]]:
    return [{"Id": each.host, "Port": each.port} for each in sorted(endpoints)]


def _connected(spec: AlbSpec) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise FinFlowError(
            "extra_missing", "An ALB needs boto3: pip install 'finflow[aws]'.", "kind"
        ) from error

    config = Config(
        connect_timeout=spec.timeout_s,
        read_timeout=spec.timeout_s,
        retries={"max_attempts": 3, "mode": "standard"},
    )
    return boto3.client("elbv2", region_name=spec.region, endpoint_url=spec.endpoint_url, config=config)
