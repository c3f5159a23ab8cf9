"""The ALB adapter against moto, which keeps balancers, rules and target groups as AWS does."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import AlbSpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack.ingress.alb import AlbIngress

boto3 = pytest.importorskip("boto3")
moto = pytest.importorskip("moto")
REGION = "ap-southeast-1"


@dataclass
class Aws:
    """A balancer with a rule that forwards to one target group, and another one beside it."""

    client: Any
    spec: AlbSpec

    def ingress(self, spec: AlbSpec | None = None) -> AlbIngress:
        return AlbIngress(spec or self.spec, lambda _: self.client)

    def forward(self) -> dict[str, Any]:
        rule = self.client.describe_rules(RuleArns=[self.spec.rule_arn])["Rules"][0]
        return dict(rule["Actions"][0]["ForwardConfig"])

    def weights(self) -> dict[str, int]:
        return {each["TargetGroupArn"]: each["Weight"] for each in self.forward()["TargetGroups"]}


@pytest.fixture(scope="module")
def made() -> Iterator[Aws]:
    """One for all tests, because making it takes seconds."""
    with pytest.MonkeyPatch.context() as patched, moto.mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "testing")
        yield _made()


@pytest.fixture
def aws(made: Aws) -> Aws:
    """Everything on the baseline, one target behind the candidate."""
    groups = (made.spec.baseline_target_group_arn, made.spec.candidate_target_group_arn)
    made.client.modify_rule(
        RuleArn=made.spec.rule_arn, Actions=[{"Type": "forward", "TargetGroupArn": groups[0]}]
    )
    made.client.register_targets(TargetGroupArn=groups[1], Targets=[{"Id": "10.0.0.10", "Port": 80}])
    return made


def _made() -> Aws:
    ec2, elb = (boto3.client(kind, region_name=REGION) for kind in ("ec2", "elbv2"))
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{REGION}{zone}")[
            "Subnet"
        ]
        for number, zone in enumerate("ab")
    ]
    name = f"pay{id(vpc) % 10**8}"
    made = elb.create_load_balancer(Name=name, Subnets=[each["SubnetId"] for each in subnets])
    groups = [
        elb.create_target_group(Name=f"{name}{side}", Protocol="HTTP", Port=80, VpcId=vpc, TargetType="ip")[
            "TargetGroups"
        ][0]["TargetGroupArn"]
        for side in ("old", "new")
    ]
    plain = [{"Type": "forward", "TargetGroupArn": groups[0]}]
    listener = elb.create_listener(
        LoadBalancerArn=made["LoadBalancers"][0]["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=plain,
    )["Listeners"][0]["ListenerArn"]
    condition = [{"Field": "path-pattern", "Values": ["/v1/*"]}]
    rule = elb.create_rule(ListenerArn=listener, Priority=5, Conditions=condition, Actions=plain)
    spec = AlbSpec(
        rule_arn=rule["Rules"][0]["RuleArn"],
        baseline_target_group_arn=groups[0],
        candidate_target_group_arn=groups[1],
        region=REGION,
        sticky_s=300,
    )
    return Aws(elb, spec)


async def test_weights_are_set_and_read_back(aws: Aws) -> None:
    ingress = aws.ingress()
    assert await ingress.weight() == 0
    for weight_bp in (10, 500, 2_500, 5_000, 9_990, 10_000, 0):
        await ingress.set_weight(weight_bp)
        assert await aws.ingress().weight() == weight_bp
        weights = aws.weights()
        assert all(0 <= weight <= 999 for weight in weights.values())
        share = weights[aws.spec.candidate_target_group_arn] / sum(weights.values())
        assert share == pytest.approx(weight_bp / 10_000, abs=0.5e-4)


@pytest.mark.parametrize("weight_bp", [-1, 1, 9_999, 10_001])
async def test_shares_that_a_balancer_cannot_make_are_refused(aws: Aws, weight_bp: int) -> None:
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await aws.ingress().set_weight(weight_bp)
    assert await aws.ingress().weight() == 0


async def test_stickiness_ends_with_an_abort(aws: Aws) -> None:
    """Otherwise those who hold a cookie of the candidate would stay on it after the weight is 0."""
    ingress = aws.ingress()
    await ingress.set_weight(2_500)
    assert aws.forward()["TargetGroupStickinessConfig"] == {"Enabled": True, "DurationSeconds": 300}
    await ingress.set_weight(500)
    assert aws.forward()["TargetGroupStickinessConfig"]["Enabled"] is False
    await ingress.set_weight(2_500)
    await ingress.set_weight(0)
    assert aws.forward()["TargetGroupStickinessConfig"]["Enabled"] is False


async def test_targets_are_registered_and_deregistered(aws: Aws) -> None:
    ingress = aws.ingress()
    ends = [Endpoint("10.0.0.20", 8080), Endpoint("10.0.0.21", 8080)]
    await ingress.set_backends(Side.BASELINE, ends)
    assert list(await ingress.backends(Side.BASELINE)) == ends
    await ingress.set_backends(Side.BASELINE, ends[1:])
    assert list(await ingress.backends(Side.BASELINE)) == ends[1:]
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await ingress.set_backends(Side.BASELINE, [])


async def test_no_weight_for_a_group_without_targets(aws: Aws) -> None:
    ingress = aws.ingress()
    await ingress.set_backends(Side.CANDIDATE, [])
    with pytest.raises(FinFlowError, match="no healthy targets"):
        await ingress.set_weight(500)


async def test_refusals_have_codes(aws: Aws) -> None:
    unknown = AlbSpec(
        rule_arn=aws.spec.rule_arn[:-4] + "0000",
        baseline_target_group_arn="a",
        candidate_target_group_arn="b",
        region=REGION,
    )
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await aws.ingress(unknown).weight()
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await aws.ingress().routed()


async def test_nobody_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    silent = AlbSpec(
        rule_arn="r",
        baseline_target_group_arn="a",
        candidate_target_group_arn="b",
        region=REGION,
        endpoint_url="http://127.0.0.1:9",
        timeout_s=1,
    )
    with pytest.raises(FinFlowError, match="ingress_unreachable"):
        await AlbIngress(silent).weight()


async def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    spec = AlbSpec(rule_arn="r", baseline_target_group_arn="a", candidate_target_group_arn="b", region=REGION)
    with pytest.raises(FinFlowError, match=r"finflow\[aws\]"):
        await AlbIngress(spec).weight()
