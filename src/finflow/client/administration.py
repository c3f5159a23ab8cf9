"""What the platform's operator asks of an API beside its tenants' books: how much each tenant may take."""

from urllib.parse import quote

import msgspec

from finflow.client.transport import Reply, Request, Transport


class Limits(msgspec.Struct, frozen=True):
    """What a tenant may do: requests a second and at once on a host, and under way in one worker.

    `overridden` names what is the tenant's own; the rest is the default. `etag` names this state of it.
    """

    tenant_id: str
    requests_per_s: int
    burst: int
    concurrency: int
    overridden: list[str]
    version: int
    etag: str | None = None


class LimitsChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changes about a tenant's limits; what is left UNSET stays as it is, None is the default again."""

    requests_per_s: int | msgspec.UnsetType | None = msgspec.UNSET
    burst: int | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: int | msgspec.UnsetType | None = msgspec.UNSET


class Administration:
    """The part of `Client` that moves no money."""

    _transport: Transport

    async def limits(self, tenant_id: str) -> Limits:
        """How many requests a tenant may send. Raises tenant_unknown."""
        return _limits(await self._transport.send(Request("GET", _path(tenant_id))))

    async def change_limits(self, tenant_id: str, change: LimitsChange, *, if_match: str = "*") -> Limits:
        """Other limits for a tenant; with an `etag` as `if_match` only if they still are so.

        Raises tenant_unknown, precondition_failed, and operator_required for a tenant's own token.
        """
        data = msgspec.json.encode(change)
        return _limits(
            await self._transport.send(Request("PATCH", _path(tenant_id), data, if_match=if_match))
        )


def _path(tenant_id: str) -> str:
    return f"/v1/tenants/{quote(tenant_id, safe='')}/limits"


def _limits(reply: Reply) -> Limits:
    return msgspec.structs.replace(msgspec.json.decode(reply.content, type=Limits), etag=reply.etag)
