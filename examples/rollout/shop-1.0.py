"""A shop that says what a number of apples costs. It has never heard of FinFlow."""

import json
import os
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

VERSION = "1.0"


def cents(apples: int) -> int:
    """The price of so many apples."""
    return 50 * apples


def shop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """GET /3 answers what three apples cost; GET /ready that the shop is open."""
    wanted = environ["PATH_INFO"].strip("/")
    found = "open" if wanted == "ready" else cents(int(wanted))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"version": VERSION, "cents": found}).encode()]


class Server(ThreadingMixIn, WSGIServer):
    """One thread a request."""

    daemon_threads = True
    request_queue_size = 128


class Quiet(WSGIRequestHandler):
    """Says nothing of requests that went well."""

    def log_request(self, *words: object) -> None:
        return None


make_server("127.0.0.1", int(os.environ["PORT"]), shop, Server, Quiet).serve_forever()
