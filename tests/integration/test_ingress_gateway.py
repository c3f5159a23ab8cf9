"""The Gateway API adapter against a small server that keeps an HTTPRoute as Kubernetes' API server does."""

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import GatewaySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack.ingress.gateway import GatewayIngress

TOKEN = "the-pod's-token"  # noqa: S105 - the test's own


def _route() -> dict[str, Any]:
    refs = [{"name": "pay-old", "port": 80, "weight": 1}, {"name": "pay-new", "port": 80, "weight": 0}]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "pay", "namespace": "bank", "resourceVersion": "100"},
        "spec": {
            "hostnames": ["pay.example"],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "backendRefs": refs},
                {"backendRefs": [{"name": "pay-old", "port": 80}]},
            ],
        },
        "status": {"parents": [{"conditions": [{"type": "Accepted", "status": "True"}]}]},
    }


@dataclass
class ApiServer:
    """One HTTPRoute with optimistic locking: a merge patch of an older version is answered 409."""

    route: dict[str, Any] = field(default_factory=_route)
    patches: list[dict[str, Any]] = field(default_factory=list)
    rivals: int = 0
    answers: int | None = None
    url: str = ""

    def changed(self) -> None:
        metadata = self.route["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    async def get(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        answer = web.json_response(self.route)
        if self.rivals:
            # Somebody else writes between our reading and our writing.
            self.rivals -= 1
            self.route["spec"]["hostnames"].append(f"rival-{self.rivals}.example")
            self.changed()
        return answer

    async def patch(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        if request.headers["Content-Type"] != "application/merge-patch+json":
            return _status(415, "the body of the request was in an unknown format")
        patch = await request.json()
        if patch["metadata"]["resourceVersion"] != self.route["metadata"]["resourceVersion"]:
            return _status(
                409, "the object has been modified; please apply your changes to the latest version"
            )
        self.patches.append(copy.deepcopy(patch))
        self.route["spec"] |= patch["spec"]
        self.changed()
        return web.json_response(self.route)

    async def slices(self, request: web.Request) -> web.Response:
        label = request.query["labelSelector"]
        ready = [{"addresses": ["10.0.0.7"], "conditions": {"ready": True}}, {"addresses": ["10.0.0.8"]}]
        gone = [{"addresses": ["10.0.0.9"], "conditions": {"ready": False}}]
        found = {"ports": [{"port": 8080}], "endpoints": ready + gone}
        return web.json_response({"items": [found] if label == "kubernetes.io/service-name=pay-new" else []})

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized")
        return _status(self.answers, "as the test wishes") if self.answers else None


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    kept = ApiServer()
    app = web.Application()
    path = "/apis/gateway.networking.k8s.io/v1/namespaces/bank/httproutes/pay"
    app.router.add_get(path, kept.get)
    app.router.add_patch(path, kept.patch)
    app.router.add_get("/apis/discovery.k8s.io/v1/namespaces/bank/endpointslices", kept.slices)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    kept.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    yield kept
    await runner.cleanup()


@pytest.fixture
def ingress(server: ApiServer, tmp_path: Path) -> GatewayIngress:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return GatewayIngress(_spec(server.url, str(tmp_path / "token")))


def _spec(url: str, token_file: str | None = None, **others: Any) -> GatewaySpec:
    named = {"baseline_service": "pay-old", "candidate_service": "pay-new"} | others
    return GatewaySpec(
        api_url=url, namespace="bank", route="pay", token_file=token_file, ca_file=None, **named
    )


async def test_weights_are_set_and_read_back_and_nothing_else_is_touched(
    ingress: GatewayIngress, server: ApiServer
) -> None:
    expected = _route()["spec"]
    for weight_bp in (500, 2_500, 10_000, 0):
        await ingress.set_weight(weight_bp)
        assert await ingress.weight() == weight_bp
        for ref, weight in zip(
            expected["rules"][0]["backendRefs"], (10_000 - weight_bp, weight_bp), strict=True
        ):
            ref["weight"] = weight
        assert server.route["spec"] == expected


async def test_what_is_in_force_is_not_written_again(ingress: GatewayIngress, server: ApiServer) -> None:
    await ingress.set_weight(0)
    assert server.patches == []


async def test_other_peoples_changes_survive(ingress: GatewayIngress, server: ApiServer) -> None:
    server.rivals = 2
    await ingress.set_weight(500)
    assert await ingress.weight() == 500
    assert server.route["spec"]["hostnames"] == ["pay.example", "rival-1.example", "rival-0.example"]


async def test_a_route_that_never_rests_is_refused(ingress: GatewayIngress, server: ApiServer) -> None:
    server.rivals = 1_000
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await ingress.set_weight(500)
    assert server.patches == []


async def test_weights_of_others_are_read_as_shares(ingress: GatewayIngress, server: ApiServer) -> None:
    refs = server.route["spec"]["rules"][0]["backendRefs"]
    refs[0]["weight"], refs[1]["weight"] = 19, 1
    assert await ingress.weight() == 500
    del refs[0]["weight"]
    assert await ingress.weight() == 5_000


@pytest.mark.parametrize(
    ("answers", "code"),
    [(500, "ingress_unreachable"), (429, "ingress_unreachable"), (403, "ingress_refused")],
)
async def test_refusals_have_codes(
    ingress: GatewayIngress, server: ApiServer, answers: int, code: str
) -> None:
    server.answers = answers
    with pytest.raises(FinFlowError, match=code):
        await ingress.set_weight(500)


async def test_nobody_there_is_unreachable(server: ApiServer) -> None:
    with pytest.raises(FinFlowError, match="ingress_unreachable"):
        await GatewayIngress(_spec("http://127.0.0.1:9")).weight()


async def test_a_token_that_is_not_there_is_said(server: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(FinFlowError, match="file_unreadable"):
        await GatewayIngress(_spec(server.url, str(tmp_path / "none"))).weight()


@pytest.mark.parametrize("others", [{"candidate_service": "pay-third"}, {"rule": 1}, {"rule": 7}])
async def test_a_rule_with_other_backends_is_refused(
    server: ApiServer, tmp_path: Path, others: dict[str, Any]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await GatewayIngress(_spec(server.url, str(tmp_path / "token"), **others)).set_weight(500)


async def test_pods_are_read_and_not_chosen(ingress: GatewayIngress) -> None:
    ready = [Endpoint("10.0.0.7", 8080), Endpoint("10.0.0.8", 8080)]
    assert list(await ingress.backends(Side.CANDIDATE)) == ready
    await ingress.set_backends(Side.CANDIDATE, ready)
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await ingress.set_backends(Side.CANDIDATE, ready[:1])


async def test_a_gateway_that_rejects_the_route_is_said(ingress: GatewayIngress, server: ApiServer) -> None:
    await ingress.reload()
    server.route["status"]["parents"][0]["conditions"] = [
        {"type": "ResolvedRefs", "status": "False", "message": "service pay-new not found"}
    ]
    with pytest.raises(FinFlowError, match="pay-new not found"):
        await ingress.reload()


async def test_a_route_counts_nothing(ingress: GatewayIngress) -> None:
    with pytest.raises(FinFlowError, match="ingress_refused"):
        await ingress.routed()
