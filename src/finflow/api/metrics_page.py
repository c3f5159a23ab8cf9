"""/metrics, for callers on this machine alone; for everybody else a route that the application has not."""

from ipaddress import ip_address
from typing import Any, Final

from finflow.api.answers import Answer
from finflow.telemetry import instruments
from finflow.telemetry.collecting import Collector
from finflow.telemetry.exposition import Exposition

METRICS_PATH: Final = "/metrics"
_FORWARDED: Final = (b"forwarded", b"x-forwarded-for", b"x-real-ip")


class MetricsPage:
    """ASGI; `exposition` is what it answers: by default this process."""

    def __init__(self, exposition: Exposition | None = None) -> None:
        self.exposition = exposition or Exposition(Collector(None, instruments.REGISTRY))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await Answer(405, b"", ((b"allow", b"GET, HEAD"),))(scope, receive, send)
            return
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        body, media_type = await self.exposition.render(accept.decode("latin-1"))
        headers = ((b"content-type", media_type.encode()), (b"vary", b"accept"))
        await Answer(200, b"" if scope["method"] == "HEAD" else body, headers)(scope, receive, send)


def is_local(scope: Any) -> bool:
    """Whether the caller sits on this machine and speaks for itself: behind a proxy everybody would."""
    client = scope.get("client")
    if not client or any(name in _FORWARDED for name, _ in scope["headers"]):
        return False
    try:
        return ip_address(client[0]).is_loopback
    except ValueError:
        return False
