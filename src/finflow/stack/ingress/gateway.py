"""Kubernetes' Gateway API: the weights of an HTTPRoute's two backends, changed through the API server.

The route splits requests, not customers: a weight moves a share of requests, and one customer meets both
releases. Which pods stand behind a Service is Kubernetes' business, so backends are read and not set.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import GatewaySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Side
from finflow.telemetry import outbound

_GROUP: Final = "apis/gateway.networking.k8s.io/v1"
_ATTEMPTS: Final = 8
_CONFLICT: Final = 409
_ANSWER_MAX_BYTES: Final = 4 << 20
_Route = dict[str, Any]


class GatewayIngress:
    """The port over one rule of one HTTPRoute. Its weights add up to 10,000: basis points, there too."""

    def __init__(self, spec: GatewaySpec) -> None:
        self.spec = spec
        self._path = f"{_GROUP}/namespaces/{spec.namespace}/httproutes/{spec.route}"

    async def set_weight(self, weight_bp: int) -> None:
        """Somebody who changed the route meanwhile is not overwritten: it is read again, and tried again."""
        if not 0 <= weight_bp <= FULL_WEIGHT_BP:
            raise FinFlowError("ingress_refused", f"{weight_bp} is not 0 to {FULL_WEIGHT_BP}.", "weight_bp")
        for _ in range(_ATTEMPTS):
            route = await self._read()
            refs = self._references(route)
            if self._weight_of(refs) == weight_bp:
                return
            if await self._replaced(route, weight_bp):
                return
        raise FinFlowError("ingress_refused", f"{self.spec.route} is changed by others all the time.")

    async def weight(self) -> int:
        return self._weight_of(self._references(await self._read()))

    async def set_backends(self, side: Side, endpoints: Sequence[Endpoint]) -> None:
        """Nothing to do where the Service has exactly these; otherwise refused."""
        if sorted(await self.backends(side)) != sorted(set(endpoints)):
            raise FinFlowError(
                "ingress_refused",
                f"The Service {self._service(side)} chooses its pods by its selector.",
                "endpoints",
            )

    async def backends(self, side: Side) -> Sequence[Endpoint]:
        """The ready addresses of the side's Service."""
        label = f"kubernetes.io%2Fservice-name%3D{self._service(side)}"
        path = (
            f"apis/discovery.k8s.io/v1/namespaces/{self.spec.namespace}/endpointslices?labelSelector={label}"
        )
        _, found = await self._ask("GET", path)
        return sorted(
            {
                Endpoint(address, port["port"])
                for piece in found.get("items", [])
                for port in piece.get("ports") or []
                for each in piece.get("endpoints") or []
                if each.get("conditions", {}).get("ready", True) is not False
                for address in each["addresses"]
            }
        )

    async def routed(self) -> Mapping[Side, int]:
        raise FinFlowError(
            "ingress_refused", "An HTTPRoute counts nothing: name a metrics source of the gateway.", "routed"
        )

    async def reload(self) -> None:
        """A gateway takes its routes by itself; this only sees that the route was accepted."""
        route = await self._read()
        parents = route.get("status", {}).get("parents", [])
        bad = [
            condition.get("message", condition["type"])
            for parent in parents
            for condition in parent.get("conditions", [])
            if condition.get("type") in ("Accepted", "ResolvedRefs") and condition.get("status") == "False"
        ]
        if bad:
            raise FinFlowError("ingress_refused", f"The gateway does not take {self.spec.route}: {bad[0]}")

    def _service(self, side: Side) -> str:
        return self.spec.candidate_service if side is Side.CANDIDATE else self.spec.baseline_service

    def _references(self, route: _Route) -> dict[Side, _Route]:
        """The rule's reference to either Service. Raises ingress_refused where it has others."""
        rules = route.get("spec", {}).get("rules", [])
        refs = rules[self.spec.rule].get("backendRefs", []) if self.spec.rule < len(rules) else []
        found = {side: [ref for ref in refs if ref.get("name") == self._service(side)] for side in Side}
        if len(refs) != 2 or any(len(each) != 1 for each in found.values()):
            names = [ref.get("name") for ref in refs]
            raise FinFlowError(
                "ingress_refused", f"Rule {self.spec.rule} of {self.spec.route} has {names}.", "rule"
            )
        return {side: each[0] for side, each in found.items()}

    @staticmethod
    def _weight_of(refs: Mapping[Side, _Route]) -> int:
        # Kubernetes takes 1 where no weight is written.
        shares = {side: int(ref.get("weight", 1)) for side, ref in refs.items()}
        total = sum(shares.values())
        return round(shares[Side.CANDIDATE] * FULL_WEIGHT_BP / total) if total else 0

    async def _read(self) -> _Route:
        return (await self._ask("GET", self._path))[1]

    async def _replaced(self, route: _Route, weight_bp: int) -> bool:
        """Both weights in one patch, for the version that was read alone; False if that has gone."""
        for side, ref in self._references(route).items():
            ref["weight"] = weight_bp if side is Side.CANDIDATE else FULL_WEIGHT_BP - weight_bp
        version = route["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "spec": {"rules": route["spec"]["rules"]}}
        status, found = await self._ask("PATCH", self._path, patch)
        return status != _CONFLICT and self._weight_of(self._references(found)) == weight_bp

    async def _ask(self, method: str, path: str, body: object = None) -> tuple[int, _Route]:
        url = f"{self.spec.api_url.rstrip('/')}/{path}"
        try:
            async with (
                outbound.session(timeout=aiohttp.ClientTimeout(total=self.spec.timeout_s)) as session,
                session.request(
                    method,
                    # As it stands: its label selector is quoted already.
                    URL(url, encoded=True),
                    data=msgspec.json.encode(body) if body is not None else None,
                    headers=self._headers(),
                    ssl=await self._trusted(),
                ) as answer,
            ):
                raw = await answer.content.read(_ANSWER_MAX_BYTES)
                while not answer.content.at_eof() and len(raw) < _ANSWER_MAX_BYTES:
                    raw += await answer.content.read(_ANSWER_MAX_BYTES - len(raw))
                return self._judged(answer.status, raw)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise FinFlowError(
                "ingress_unreachable", f"{self.spec.api_url}: {error or 'no answer in time'}"
            ) from error

    def _judged(self, status: int, raw: bytes) -> tuple[int, _Route]:
        try:
            found = msgspec.json.decode(raw, type=_Route)
        except msgspec.DecodeError as error:
            raise FinFlowError(
                "ingress_unreachable", f"{self.spec.api_url}: not an API server ({status})"
            ) from error
        if status >= 500 or status == 429:
            raise FinFlowError(
                "ingress_unreachable", f"The API server answers {status}: {found.get('message')}"
            )
        if status not in (200, _CONFLICT):
            raise FinFlowError("ingress_refused", f"The API server answers {status}: {found.get('message')}")
        return status, found

    def _headers(self) -> dict[str, str]:
        """The token is read each time, because Kubernetes exchanges it every hour."""
        kept = {"Accept": "application/json", "Content-Type": "application/merge-patch+json"}
        if self.spec.token_file is None:
            return kept
        return kept | {"Authorization": f"Bearer {self._file(self.spec.token_file, 'token_file').strip()}"}

    async def _trusted(self) -> ssl.SSLContext | bool:
        if self.spec.ca_file is None or self.spec.api_url.startswith("http://"):
            return True
        text = self._file(self.spec.ca_file, "ca_file")
        try:
            return await asyncio.to_thread(ssl.create_default_context, cadata=text)
        except ssl.SSLError as error:
            raise FinFlowError(
                "file_unreadable", f"{self.spec.ca_file}: not a certificate", "ca_file"
            ) from error

    @staticmethod
    def _file(path: str, param: str) -> str:
        try:
            return Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise FinFlowError("file_unreadable", f"{path}: {error}", param) from error
