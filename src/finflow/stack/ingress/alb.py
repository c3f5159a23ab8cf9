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

# A target group's weight is 0 to 999; 1,000 parts in all would be finer than the balancer takes.
_PARTS: Final = 999
_SETTLED_STATES: Final = ("initial", "healthy", "unhealthy", "unused", "unavailable")


class AlbIngress:
    """The port over one listener rule. Weights are rounded to 1/999, never to 0 or to all of it."""

    def __init__(self, spec: AlbSpec, connect: Callable[[AlbSpec], Any] | None = None) -> None:
        self.spec = spec
        self._connect = connect or _connected
        self._client: Any = None

    async def set_weight(self, weight_bp: int) -> None:
        """Raises ingress_refused for a candidate without healthy targets: its share would be answered 503."""
        if not 0 <= weight_bp <= FULL_WEIGHT_BP:
            raise FinFlowError("ingress_refused", f"{weight_bp} is not 0 to {FULL_WEIGHT_BP}.", "weight_bp")
        actions, forward = await self._forward()
        before = self._parts(forward)[Side.CANDIDATE]
        parts = parts_of(weight_bp)
        if parts > before and not await self._healthy(Side.CANDIDATE):
            raise FinFlowError("ingress_refused", "The candidate has no healthy targets.", "weight_bp")
        sticky = self.spec.sticky_s if parts >= before and parts > 0 else 0
        forward["TargetGroups"] = [
            {"TargetGroupArn": self._arn(Side.BASELINE), "Weight": _PARTS - parts},
            {"TargetGroupArn": self._arn(Side.CANDIDATE), "Weight": parts},
        ]
        forward["TargetGroupStickinessConfig"] = _stickiness(sticky)
        await self._call("modify_rule", RuleArn=self.spec.rule_arn, Actions=actions)
        if (found := await self.weight()) != round(parts * FULL_WEIGHT_BP / _PARTS):
            raise FinFlowError("ingress_refused", f"The balancer has {found} instead of {weight_bp}.")

    async def weight(self) -> int:
        parts = self._parts((await self._forward())[1])
        total = sum(parts.values())
        return round(parts[Side.CANDIDATE] * FULL_WEIGHT_BP / total) if total else 0

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
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._client is None:
                self._client = self._connect(self.spec)
            return getattr(self._client, operation)(**arguments)
        except ClientError as error:
            told = error.response.get("Error", {})
            busy = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
            code = "ingress_unreachable" if busy or told.get("Code") == "Throttling" else "ingress_refused"
            raise FinFlowError(code, f"AWS answers {told.get('Code')}: {told.get('Message')}") from error
        except BotoCoreError as error:
            raise FinFlowError("ingress_unreachable", f"AWS: {error}") from error


def parts_of(weight_bp: int) -> int:
    """A weight in the balancer's parts: the nearest, but something of something and not all of less than all."""
    if weight_bp in (0, FULL_WEIGHT_BP):
        return weight_bp * _PARTS // FULL_WEIGHT_BP
    return min(_PARTS - 1, max(1, round(weight_bp * _PARTS / FULL_WEIGHT_BP)))


def _stickiness(seconds: int) -> dict[str, Any]:
    return {"Enabled": True, "DurationSeconds": seconds} if seconds else {"Enabled": False}


def _targets(endpoints: set[Endpoint]) -> list[dict[str, Any]]:
    return [{"Id": each.host, "Port": each.port} for each in sorted(endpoints)]


def _connected(spec: AlbSpec) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=spec.timeout_s,
        read_timeout=spec.timeout_s,
        retries={"max_attempts": 3, "mode": "standard"},
    )
    return boto3.client("elbv2", region_name=spec.region, endpoint_url=spec.endpoint_url, config=config)
