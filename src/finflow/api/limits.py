"""What a tenant may take of the host, as routes: read by the tenant, changed by the platform's operator."""

from typing import Annotated, Final

import msgspec
from litestar import get, patch
from litestar.params import FromPath

from finflow.api.answers import JSON, Answer, encode
from finflow.api.conditions import etag, expected_settings, read_answer
from finflow.api.decoding import Body, HttpRequest, Query
from finflow.api.identity import ADMIN, caller_of, principal_of
from finflow.api.schemas import NoQuery
from finflow.api.state import services_of
from finflow.kernel.errors import FinFlowError
from finflow.limits.model import MAX_BURST, MAX_CONCURRENCY, MAX_PER_S
from finflow.limits.service import LimitsView


class LimitsChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What changes about a tenant's limits; null is the default, a field that is left out stays as it is."""

    requests_per_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_PER_S)] | msgspec.UnsetType | None = (
        msgspec.UNSET
    )
    burst: Annotated[int, msgspec.Meta(ge=1, le=MAX_BURST)] | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONCURRENCY)] | msgspec.UnsetType | None = (
        msgspec.UNSET
    )


_CHANGE: Final = Body(LimitsChange)
_NOTHING: Final = Query(NoQuery)


@get(
    "/v1/tenants/{tenant_id:str}/limits",
    opt={
        "scope": "ledgers:read",
        "tenant": "optional",
        "gives": LimitsView,
        "tagged": True,
        "conditional": True,
    },
    summary="Read how many requests a tenant may send",
)
async def read_limits(request: HttpRequest, tenant_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    own = principal_of(request).tenant_id
    if own is not None and own != tenant_id:
        raise FinFlowError("tenant_unknown", f"no tenant {tenant_id[:40]!r}")
    view = await services_of(request).limits.read(tenant_id)
    return read_answer(request, view, _tag(view))


@patch(
    "/v1/tenants/{tenant_id:str}/limits",
    opt={
        "scope": ADMIN,
        "tenant": "none",
        "takes": LimitsChange,
        "gives": LimitsView,
        "tagged": True,
        "match": "required",
    },
    summary="Change how many requests a tenant may send",
)
async def change_limits(request: HttpRequest, tenant_id: FromPath[str]) -> Answer:
    expected = expected_settings(request, required=True)
    change = await _CHANGE.read(request)
    fields = {
        name: value
        for name in change.__struct_fields__
        if (value := getattr(change, name)) is not msgspec.UNSET
    }
    view = await services_of(request).limits.change(tenant_id, fields, expected, caller_of(request))
    return Answer(200, encode(view), (JSON, etag(_tag(view))))


def _tag(view: LimitsView) -> bytes:
    # What If-Match is held against stands before the hyphen; behind it, what the default may do by itself.
    return f'"{view.version}-{view.requests_per_s}.{view.burst}.{view.concurrency}"'.encode()
