"""Progress checks: a number that must move, or be small."""

import time

from finflow.verification import databases
from finflow.verification.model import Failed, at, metric_sum
from finflow.verification.scene import Scene, pause
from finflow.verification.spec import JsonReading, MetricReading, ProgressCheck, SqlReading


async def look(check: ProgressCheck, scene: Scene) -> str:
    """Read until it has moved, or has been small for long enough. Raises Failed."""
    if check.advances_by is not None:
        return await _advances(check, scene, check.advances_by)
    assert check.at_most is not None, "the spec was checked"
    return await _stays_below(check, scene, check.at_most)


async def _advances(check: ProgressCheck, scene: Scene, by: float) -> str:
    began_s = time.monotonic()
    first = latest = await _read(check, scene)
    while time.monotonic() - began_s < check.within_s:
        if check.stirred_by is not None:
            await scene.ask("GET", scene.place(check.stirred_by, None), {})
        await pause(check.every_s)
        latest = await _read(check, scene)
        if latest - first >= by:
            return f"from {first:g} to {latest:g} in {time.monotonic() - began_s:.1f} s"
    raise Failed(f"stuck: from {first:g} to {latest:g} in {check.within_s:g} s, not by {by:g}")


async def _stays_below(check: ProgressCheck, scene: Scene, bound: float) -> str:
    began_s = time.monotonic()
    small_since_s: float | None = None
    while True:
        value = await _read(check, scene)
        now_s = time.monotonic()
        if value <= bound:
            small_since_s = small_since_s or now_s
            if now_s - small_since_s >= check.hold_s:
                return f"{value:g}, at most {bound:g}"
        elif small_since_s is not None:
            raise Failed(f"{value:g}, which is more than {bound:g}, after it had been less")
        elif now_s - began_s >= check.within_s:
            raise Failed(f"{value:g} after {check.within_s:g} s, not at most {bound:g}")
        await pause(check.every_s)


async def _read(check: ProgressCheck, scene: Scene) -> float:
    reading = check.reading
    if isinstance(reading, SqlReading):
        return await databases.number(reading, scene, check.timeout_s)
    answer = await scene.ask("GET", scene.place(reading.path, reading.url), reading.headers)
    if not 200 <= answer.status < 300:
        raise Failed(f"status {answer.status}, not 2xx")
    if isinstance(reading, MetricReading):
        return _metric(reading, answer.text)
    return _json(reading, answer.json())


def _metric(reading: MetricReading, text: str) -> float:
    found = metric_sum(text, reading.metric, reading.labels)
    if found is None:
        raise Failed(f"there is no sample of {reading.metric} with these labels")
    return found


def _json(reading: JsonReading, document: object) -> float:
    try:
        value = at(document, reading.pointer)
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (KeyError, TypeError, ValueError) as error:
        raise Failed(f"there is no number at {reading.pointer}") from error
