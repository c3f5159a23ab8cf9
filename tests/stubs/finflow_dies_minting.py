"""The API, but its worker is killed when it is about to make a token: after the assertion was used up."""

import os
import signal
from typing import Any

from finflow.api.asgi import from_environment
from finflow.identity import assertions


def die(*_: Any, **__: Any) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process does not get here")


assertions.mint = die  # type: ignore[assignment] -- that is the point of this file
application = from_environment()
