"""HTTP checks: one request, its answer compared, variables taken from it."""

import time
from typing import Any

import msgspec

from finflow.verification.model import Failed, at, difference, shown
from finflow.verification.scene import Answer, Scene, pause
from finflow.verification.spec import HttpCheck, HttpExpectation


async def look(check: HttpCheck, scene: Scene) -> str:
    """Ask, and again until the answer is as expected or the time for it is over. Raises Failed."""
    until_s = time.monotonic() + check.retry_for_s
    tries = 0
    while True:
        tries += 1
        try:
            answer = await _once(check, scene)
        except Failed:
            if time.monotonic() + check.retry_every_s > until_s:
                raise
            await pause(check.retry_every_s)
            continue
        again = f" at the {tries}. attempt" if tries > 1 else ""
        return f"{answer.status}{again}"


async def _once(check: HttpCheck, scene: Scene) -> Answer:
    url = scene.place(check.path, check.url)
    answer = await scene.ask(check.method, url, check.headers, **_body(check))
    compare(check.expect, answer)
    taken = {name: _captured(answer, pointer) for name, pointer in check.capture.items()}
    for name, header in check.capture_headers.items():
        if header.lower() not in answer.headers:
            raise Failed(f"the answer has no header {header}")
        taken[name] = answer.headers[header.lower()]
    scene.values.update(taken)
    return answer


def _body(check: HttpCheck) -> dict[str, Any]:
    parts: dict[str, Any] = {"params": check.query} if check.query else {}
    if check.json is not msgspec.UNSET:
        return {**parts, "json": check.json}
    if check.form is not None or check.body is not None:
        return {**parts, "data": check.form if check.form is not None else (check.body or "").encode()}
    return parts


def compare(expect: HttpExpectation, answer: Answer) -> None:
    """Raises Failed with the first thing that is not as expected."""
    if not _status_fits(expect, answer.status):
        wanted = "2xx" if expect.status is None else shown(expect.status)
        raise Failed(f"status {answer.status}, not {wanted}: {' '.join(answer.text[:300].split())}")
    for name, value in expect.headers.items():
        if answer.headers.get(name.lower()) != value:
            raise Failed(f"header {name} is {answer.headers.get(name.lower())!r}, not {value!r}")
    if expect.text is not None and expect.text not in answer.text:
        raise Failed(f"the answer does not contain {expect.text!r}")
    if expect.json is not msgspec.UNSET and (words := difference(expect.json, answer.json())):
        raise Failed(words)
    for pointer, value in expect.pointers.items():
        if words := difference(value, _at(answer, pointer), pointer):
            raise Failed(words)


def _status_fits(expect: HttpExpectation, status: int) -> bool:
    if expect.status is None:
        return 200 <= status < 300
    return status in (expect.status if isinstance(expect.status, list) else [expect.status])


def _at(answer: Answer, pointer: str) -> Any:
    try:
        return at(answer.json(), pointer)
    except KeyError as error:
        raise Failed(f"the answer has nothing at {pointer} ({error.args[0]!r} is missing)") from error


def _captured(answer: Answer, pointer: str) -> str:
    found = _at(answer, pointer)
    return found if isinstance(found, str) else shown(found)
