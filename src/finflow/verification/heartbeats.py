"""Heartbeat checks: an alert that is sent must arrive."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from finflow.verification.model import Failed
from finflow.verification.scene import Scene, pause
from finflow.verification.spec import HeartbeatCheck, Seen

_MAX_BYTES: Final = 1 << 20


async def look(check: HeartbeatCheck, scene: Scene) -> str:
    """Send, if there is something to send, and wait until it shows. Raises Failed."""
    began_s = time.monotonic()
    if check.listen_port is not None:
        async with _listening(check.listen_host, check.listen_port, check.listen_text) as heard:
            await _send(check, scene)
            await _wait_for(heard, check.within_s)
    else:
        assert check.seen is not None, "the spec was checked"
        await _send(check, scene)
        await _wait_until_seen(check, check.seen, scene)
    return f"arrived after {time.monotonic() - began_s:.1f} s"


async def _send(check: HeartbeatCheck, scene: Scene) -> None:
    if check.send_url is None:
        return
    answer = await scene.ask("POST", check.send_url, check.headers, json=check.json)
    if not 200 <= answer.status < 300:
        raise Failed(f"the alert was not taken: status {answer.status}: {answer.text[:200]}")


async def _wait_until_seen(check: HeartbeatCheck, seen: Seen, scene: Scene) -> None:
    until_s = time.monotonic() + check.within_s
    while True:
        try:
            answer = await scene.ask("GET", seen.url, seen.headers)
            if 200 <= answer.status < 300 and seen.text in answer.text:
                return
            words = f"{seen.url} answers {answer.status} without {seen.text!r}"
        except Failed as error:
            words = str(error)
        if time.monotonic() + check.every_s > until_s:
            raise Failed(f"the alert has not arrived within {check.within_s:g} s: {words}")
        await pause(check.every_s)


async def _wait_for(heard: asyncio.Event, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await heard.wait()
    except TimeoutError as error:
        raise Failed(f"nobody called with the alert within {within_s:g} s") from error


@asynccontextmanager
async def _listening(host: str, port: int, text: str) -> AsyncIterator[asyncio.Event]:
    """A receiver of webhooks for the length of the block; the event is set by a body that has the text."""
    heard = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        if text in (await request.read()).decode(errors="replace"):
            heard.set()
        return web.Response(status=204)

    application = web.Application(client_max_size=_MAX_BYTES)
    application.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield heard
    except OSError as error:
        raise Failed(f"cannot listen on {host}:{port}: {error.strerror}") from error
    finally:
        await runner.cleanup()
