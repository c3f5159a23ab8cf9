"""Which paths the tables of routes answer, and with which parameter."""

from typing import Any

import pytest
from litestar import Litestar, get, post

from finflow.api.direct import Routes

_OPT = {"scope": "open"}


@get("/v1/things", opt=_OPT)
async def things(request: Any) -> Any:
    return _told("all")


@get("/v1/things/{thing_id:str}", opt=_OPT)
async def thing(request: Any, thing_id: str) -> Any:
    return _told(f"thing {thing_id}")


@get("/v1/things/{thing_id:str}/parts", opt=_OPT)
async def parts(request: Any, thing_id: str) -> Any:
    return _told(f"parts {thing_id}")


@post("/v1/rooms/things/{thing_id:str}/move", opt=_OPT)
async def move(request: Any, thing_id: str) -> Any:
    return _told(f"move {thing_id}")


@get("/v1/things/{thing_id:str}/parts/{part_id:str}", opt=_OPT)
async def part(request: Any, thing_id: str, part_id: str) -> Any:
    return _told("two parameters")


def _told(text: str) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send(text)

    return answer


ROUTES = Routes(Litestar([]), [things, thing, parts, move, part])


@pytest.mark.parametrize(
    ("method", "path", "told", "template"),
    [
        ("GET", "/v1/things", "all", "/v1/things"),
        ("GET", "/v1/things/a", "thing a", "/v1/things/{thing_id}"),
        ("GET", "/v1/things/a b", "thing a b", "/v1/things/{thing_id}"),
        ("GET", "/v1/things/{}", "thing {}", "/v1/things/{thing_id}"),
        ("GET", "/v1/things/parts", "thing parts", "/v1/things/{thing_id}"),
        ("GET", "/v1/things/parts/parts", "parts parts", "/v1/things/{thing_id}/parts"),
        ("POST", "/v1/rooms/things/z/move", "move z", "/v1/rooms/things/{thing_id}/move"),
    ],
)
async def test_a_path_is_answered_with_its_parameter(
    method: str, path: str, told: str, template: str
) -> None:
    sent: list[str] = []

    async def send(message: str) -> None:
        sent.append(message)

    found = ROUTES.find(method, path)
    assert found is not None
    scope = {"type": "http", "method": method, "path": path, "state": {}}
    await found(scope, None, send)
    assert (sent, scope["path_template"]) == ([told], template)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/things"),
        ("POST", "/v1/things/a"),
        ("GET", "/"),
        ("GET", ""),
        ("GET", "*"),
        ("GET", "/v1"),
        ("GET", "/v1/things/"),
        ("GET", "/v1/things/a/"),
        ("GET", "/v1/things//parts"),
        ("GET", "/v1/things/a/parts/"),
        ("GET", "/v1/things/a/nothing"),
        ("GET", "/v1/things/a/parts/b"),
        ("GET", "/v1/rooms/things/z/move"),
        ("POST", "/v1/rooms/things//move"),
        ("GET", "/v1/{}/a"),
    ],
)
def test_everything_else_is_the_routers(method: str, path: str) -> None:
    assert ROUTES.find(method, path) is None
