"""One API worker: `python -P -m finflow.stack.serve TARGET HOST PORT`, an ASGI application under granian.

Several of these share one port (SO_REUSEPORT) and know nothing of each other: whoever starts them starts
another where one has died. Granian's own respawning is not used, because it gives the whole server up
when one worker dies twice within seconds. Settings and secrets come by the environment, never by argv.
"""

import importlib
import os
import resource
import signal
import sys
from typing import Any, Final

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels

from finflow import __version__
from finflow.stack.enter import die_with_parent
from finflow.stack.scheduling import interrupt_nobody
from finflow.telemetry import logs

_BACKLOG: Final = 4096
# Connections that one worker holds, idle ones too; further ones wait in the backlog. What a tenant may
# have under way is bounded elsewhere (api/admission.py), so this only has to be more than anybody needs.
_BACKPRESSURE: Final = 4096
# Descriptors for those connections and for the worker's own.
_DESCRIPTORS: Final = 8192
_STOP_TIMEOUT_S: Final = 20
# Whoever has not sent the headers of a first or next request by then is hung up on; bodies are under the
# request's deadline.
_HEADERS_TIMEOUT_MS: Final = 10_000
# Granian's own lines go the way of all others, instead of to a handler of its own that writes plain text.
_GRANIANS_LINES: Final[dict[str, Any]] = {"handlers": {}, "loggers": {}}


def load(target: str) -> Any:
    """The ASGI application of "package.module:name". Runs in the worker, which ends when granian does."""
    die_with_parent(signal.SIGTERM)
    interrupt_nobody()
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def main(target: str, host: str, port: str) -> None:
    """Serves until SIGTERM or SIGINT; exits 1 when the worker dies by itself."""
    logs.configure("warning", release=os.environ.get("FINFLOW_RELEASE") or __version__)
    _make_room()
    Granian(
        target,
        address=host,
        port=int(port),
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=_HEADERS_TIMEOUT_MS),
        websockets=False,
        workers=1,
        backlog=_BACKLOG,
        backpressure=_BACKPRESSURE,
        log_level=LogLevels.warning,
        log_dictconfig=_GRANIANS_LINES,
        respawn_failed_workers=False,
        workers_kill_timeout=_STOP_TIMEOUT_S,
    ).serve(target_loader=load)


def _make_room() -> None:
    """Raise the soft limit of open files, which many shells set to 1024, as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
