"""A receiver of OTLP traces over HTTP and over gRPC, in this process: it decodes what comes and keeps it."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def _pairs(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


@dataclass
class Seen:
    """One received span, in plain values; ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[tuple[str, str]]
    failed: bool
    state: str
    dropped_links: int


@dataclass
class Receiver:
    """What was received. While `broken`, requests are answered with an error; while `hung`, not at all."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0
    broken: bool = False
    hung: threading.Event | None = None

    def take(self, request: Any) -> None:
        for of_resource in request.resource_spans:
            resource = _pairs(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_seen(span, resource) for span in scope.spans]

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    async def wait_for(self, name: str, count: int = 1, within_s: float = 20.0) -> list[Seen]:
        """The spans of this name, as soon as there are so many."""
        deadline = monotonic() + within_s
        while len(self.named(name)) < count:
            assert monotonic() < deadline, f"{name}: {[span.name for span in self.spans]}"
            await asyncio.sleep(0.02)
        return self.named(name)


def _seen(span: Any, resource: dict[str, Any]) -> Seen:
    return Seen(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _pairs(span.attributes),
        resource,
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.status.code == Status.STATUS_CODE_ERROR,
        span.trace_state,
        span.dropped_links_count,
    )


@contextmanager
def over_http() -> Iterator[Receiver]:
    """A receiver at a free port of the loopback interface."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests += 1
            if receiver.hung is not None:
                receiver.hung.wait(60)
                self.close_connection = True
                return
            status = 503 if receiver.broken else 200 if self.path == "/v1/traces" else 404
            if status == 200:
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                receiver.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        if receiver.hung is not None:
            receiver.hung.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name for it
        self._receiver.requests += 1
        self._receiver.headers.append({key: str(value) for key, value in context.invocation_metadata()})
        self._receiver.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def over_grpc() -> Iterator[Receiver]:
    """The same for gRPC."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Service(receiver), server)
    receiver.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()
