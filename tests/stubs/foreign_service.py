"""A small WSGI service that knows nothing of FinFlow: its port and its faults come from the environment."""

import os
import random
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers with its release; fails as often as FAULTS says, but is always ready."""
    dice = random.random()  # noqa: S311 - a fault, not a secret
    faulty = environ["PATH_INFO"] != "/ready" and dice < float(os.environ.get("FAULTS", "0"))
    body = os.environ["FINFLOW_RELEASE"].encode()
    # /only/1.1 is there in release 1.1 alone.
    _, only, release = environ["PATH_INFO"].rpartition("/only/")
    status = "404 Elsewhere" if only and release != body.decode() else "200 OK"
    start_response("500 Oops" if faulty and not only else status, [("Content-Length", str(len(body)))])
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 128


class Quiet(WSGIRequestHandler):
    """Keeps connections open, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        return None


if __name__ == "__main__":
    address = ("127.0.0.1", int(os.environ["PORT"]))
    with make_server(*address, application, Server, Quiet) as server:
        server.serve_forever()
