"""Whether the process lives, and whether it can do its work."""

import os
from typing import Final

from litestar import get

from finflow import __version__
from finflow.api.answers import JSON, Answer, encode, ok
from finflow.api.decoding import HttpRequest
from finflow.api.problems import RETRY_AFTER
from finflow.api.schemas import Health, Readiness
from finflow.api.state import services_of

READY_WITHIN_S: Final = 2.0


@get("/healthz", opt={"scope": "open", "gives": Health}, summary="Whether this process answers")
async def healthz(request: HttpRequest) -> Answer:
    return ok(Health("ok", os.getpid(), __version__))


@get(
    "/readyz",
    opt={"scope": "open", "gives": Readiness, "refuses": Readiness},
    summary="Whether this process can do its work",
)
async def readyz(request: HttpRequest) -> Answer:
    if await services_of(request).reachable(READY_WITHIN_S):
        return ok(Readiness("ready", "reachable"))
    return Answer(503, encode(Readiness("unready", "unreachable")), (JSON, RETRY_AFTER))
