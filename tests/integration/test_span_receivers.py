"""Receivers of spans that do not do as they should: what is counted, what is logged, and that an export ends.

Each is a socket that reads a request and then does what its test says. None of these tests asserts a time:
without the bound that it is about, an export would never end.
"""

import contextlib
import gc
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from finflow.telemetry import export, otlp
from finflow.telemetry.export import Exporter
from finflow.telemetry.otlp_encoding import Encoded
from finflow.telemetry.sampling import Sampling
from finflow.telemetry.settings import OtlpSettings
from finflow.telemetry.tracing import Tracer
from oracles.mail import certificate

OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = 10**9
PARTIAL = trace_service_pb2.ExportTraceServiceResponse


class Evil:
    """A server on a free port. `answer` is called for each request that was read whole, until it raises."""

    def __init__(self, answer: Callable[[Any], None], tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._tls = answer, tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.connections = self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(made,), daemon=True).start()

    def _serve(self, made: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            made = self._tls.wrap_socket(made, server_side=True) if self._tls else made
            while _request(made):
                self.requests += 1
                self._answer(made)
        made.close()

    def close(self) -> None:
        # A thread that accepts wakes up for this, not for a close.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def _request(made: Any) -> bool:
    read = made.makefile("rb")
    length, line = 0, read.readline()
    while line.strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
        line = read.readline()
    return len(read.read(length)) == length and line != b""


@contextmanager
def evil(answer: Callable[[Any], None], tls: ssl.SSLContext | None = None) -> Iterator[Evil]:
    server = Evil(answer, tls)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def exporting(url: str, **settings: Any) -> Iterator[Exporter]:
    found = OtlpSettings(endpoint=url, **{"timeout_s": 0.4, "every_s": 0.01, **settings})
    exporter = Exporter(found, {"service.name": "x"})
    exporter.start()
    try:
        yield exporter
    finally:
        exporter.close()


def hand_over(exporter: Exporter, spans: int = 3) -> None:
    """One trace of so many spans, and what became of it is awaited."""
    before = exporter.exported + exporter.dropped.total()
    root = Tracer(lambda trace: None, Sampling(1.0)).begin("root")
    for number in range(spans - 1):
        child = root.child(f"step {number}")
        assert child is not None
        child.end()
    root.end()
    exporter.offer(root)
    until = monotonic() + 30
    while exporter.exported + exporter.dropped.total() < before + spans:
        assert monotonic() < until, "the export does not end"
        sleep(0.005)


def counted(exporter: Exporter) -> tuple[int, int]:
    return exporter.exported, exporter.dropped["failed"]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [line.getMessage() for line in caplog.records if line.name == export.__name__]


# --- how much, how long ---------------------------------------------------------------------------------


def drip(text: bytes, then: bytes) -> Callable[[Any], None]:
    def answer(made: Any) -> None:
        made.sendall(text)
        for _ in range(ENDLESS):
            made.sendall(then)
            sleep(0.05)

    return answer


DRIPS = {
    "body": drip(OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "chunks": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "trailers": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
    "status": drip(b"HTTP/1.1 200 ", b"x"),
    "headers": drip(OK, b"x"),
    "interim answers": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body of an error": drip(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 1000000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_an_answer_that_drips_ends_with_the_time_for_one_export(
    what: str, told: Callable[[], list[str]]
) -> None:
    with evil(DRIPS[what]) as server, exporting(f"http://127.0.0.1:{server.port}") as exporter:
        hand_over(exporter)
        assert counted(exporter) == (0, 3)
        assert len(told()) == 1
        assert told()[0].startswith("spans were not exported: ")


def test_a_receiver_that_takes_the_request_in_drips_is_given_up_too() -> None:
    def sip(made: Any) -> bool:
        for _ in range(ENDLESS):
            if not made.recv(1):
                return False
            sleep(0.05)
        return True

    server = socket.create_server(("127.0.0.1", 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    threading.Thread(target=lambda: sip(server.accept()[0]), daemon=True).start()
    settings = OtlpSettings(endpoint=f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.4)
    send, end = otlp.sender(settings)
    try:
        answer = send(Encoded(bytes(20_000_000), 7))
    finally:
        end()
        server.close()
    assert answer.refused == 7


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server for localhost needs, whose certificate the exporter trusts."""
    server, _ = certificate(tmp_path)
    # Where the machine has these, they win.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "mail.pem"))
    return server


def test_so_does_one_over_tls(tls: ssl.SSLContext) -> None:
    with evil(DRIPS["body"], tls) as server, exporting(f"https://localhost:{server.port}") as exporter:
        hand_over(exporter)
        assert counted(exporter) == (0, 3)
        assert server.requests == 1


def test_and_a_proxy_that_drips_where_it_should_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    with evil(DRIPS["headers"]) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        with exporting("https://receiver.invalid") as exporter:
            hand_over(exporter)
            assert counted(exporter) == (0, 3)
            assert server.requests >= 1


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        (OK + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65_536),
        (OK + b"\r\n", b"x" * 65_536),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 10_000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000),
    ],
    ids=["chunked", "length", "until the end", "trailers", "interim answers"],
)
def test_an_answer_without_end_is_not_read(head: bytes, piece: bytes, told: Callable[[], list[str]]) -> None:
    written = []

    def flood(made: Any) -> None:
        made.sendall(head)
        for _ in range(ENDLESS):
            made.sendall(piece)
            written.append(len(piece))

    # There is an hour for it: what ends it is its size.
    with (
        evil(flood) as server,
        exporting(f"http://127.0.0.1:{server.port}", timeout_s=3600.0) as exporter,
    ):
        for times in (1, 2):
            hand_over(exporter)
            assert counted(exporter) == (0, 3 * times)
            # It is not asked again, and its connection is not used again.
            assert (server.requests, server.connections) == (times, times)
    assert told() == ["spans were not exported: ValueError: the receiver's answer is larger than 65536 bytes"]
    # What the system's buffers took counts too.
    assert sum(written) < 64_000_000


# --- what the receiver says -----------------------------------------------------------------------------


def reply(body: bytes, kind: str = "application/x-protobuf", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Location: http://127.0.0.1:9/\r\n\r\n" + body


def partial(rejected: int, message: str = "") -> Any:
    return PARTIAL(partial_success={"rejected_spans": rejected, "error_message": message})


JSON = "application/json; charset=utf-8"
REFUSED = "spans were not exported: "
WARNED = "the receiver of spans took all and warns: "
NONE_OF = "ValueError: the receiver's answer is none of OTLP's "
# An answer to three spans; how many are exported and failed; what is logged.
ANSWERS = {
    "empty": (reply(b""), (3, 0), None),
    "empty json": (reply(b"", JSON), (3, 0), None),
    "protobuf": (reply(b"\x0a\x00"), (3, 0), None),
    "json": (reply(b"{}", JSON), (3, 0), None),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n\x0a\x00\r\n0\r\n\r\n", (3, 0), None),
    "some refused": (reply(partial(2, "no room").SerializeToString()), (1, 2), REFUSED + "no room"),
    "all refused": (reply(partial(3).SerializeToString()), (0, 3), REFUSED + "the receiver refused them"),
    "more refused than sent": (reply(partial(9, "?").SerializeToString()), (0, 3), REFUSED + "?"),
    "less than none refused": (reply(partial(-9, "?").SerializeToString()), (3, 0), WARNED + "?"),
    "a warning": (reply(partial(0, "slow down").SerializeToString()), (3, 0), WARNED + "slow down"),
    "a long warning": (reply(partial(0, "x" * 9_000).SerializeToString()), (3, 0), WARNED + "x" * 300),
    "json refused": (reply(b'{"partialSuccess":{"rejectedSpans":"3"}}', JSON), (0, 3), REFUSED),
    "json with news": (reply(b'{"new":1,"partialSuccess":{"rejectedSpans":1}}', JSON), (2, 1), REFUSED),
    "html": (reply(b"<html>log in</html>", "text/html"), (0, 3), REFUSED + NONE_OF + "(text/html)"),
    "garbage": (reply(b"\xff\xfe\x00garbage"), (0, 3), REFUSED + NONE_OF + "(application/x-protobuf)"),
    "garbage json": (reply(b"[" * 9_000, JSON), (0, 3), REFUSED + NONE_OF + f"({JSON})"),
    "other json": (reply(b'"busy"', JSON), (0, 3), REFUSED + NONE_OF + f"({JSON})"),
    "redirect": (
        reply(b"", status="302 Found"), (0, 3),
        REFUSED + "ValueError: the receiver answered 302, which is not followed",
    ),
    "not modified": (reply(b"", status="304 Not Modified"), (0, 3), REFUSED),
    "bad request": (reply(b"", status="400 No"), (0, 3), REFUSED + "the receiver answered 400 No"),
}  # fmt: skip


@pytest.mark.parametrize("what", ANSWERS)
def test_what_a_receiver_refuses_is_counted_as_failed(what: str, told: Callable[[], list[str]]) -> None:
    answer, expected, line = ANSWERS[what]
    with (
        evil(lambda made: made.sendall(answer)) as server,
        exporting(f"http://127.0.0.1:{server.port}") as exporter,
    ):
        hand_over(exporter)
        assert counted(exporter) == expected
        # An answer that was read is no reason for another connection.
        hand_over(exporter)
        assert (server.requests, server.connections) == (2, 1)
    # Once a minute, however many there are.
    assert len(told()) == (line is not None)
    assert all(found.startswith(line or "") for found in told())


def test_an_answer_that_is_cut_off_is_none() -> None:
    def cut(made: Any) -> None:
        made.sendall(OK + b"Content-Length: 100\r\n\r\n\x0a\x00")
        made.close()

    with evil(cut) as server, exporting(f"http://127.0.0.1:{server.port}") as exporter:
        hand_over(exporter)
        assert counted(exporter) == (0, 3)
        assert server.requests == 1, "spans that may have been taken are not sent twice"


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name for it
        return self._answer


@pytest.mark.parametrize(
    ("answer", "expected", "line"),
    [
        (partial(0), (3, 0), None),
        (partial(2, "no room"), (1, 2), REFUSED + "no room"),
        (partial(0, "slow down"), (3, 0), WARNED + "slow down"),
        (partial(0, "x" * 100_000), (0, 3), REFUSED + "RESOURCE_EXHAUSTED: "),
    ],
    ids=["taken", "some refused", "a warning", "too large"],
)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_so_is_what_one_refuses_over_grpc(
    answer: Any, expected: tuple[int, int], line: str | None, compression: str, told: Callable[[], list[str]]
) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Service(answer), server)
    url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with exporting(url, protocol="grpc", compression=compression) as exporter:
            hand_over(exporter)
            assert counted(exporter) == expected
    finally:
        server.stop(0).wait()
    assert len(told()) == (line is not None)
    assert all(found.startswith(line or "") for found in told())


def test_garbage_over_grpc_is_no_answer_either(told: Callable[[], list[str]]) -> None:
    class Garbage(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC ships no types
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff\xfegarbage")

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Garbage()])
    url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with exporting(url, protocol="grpc") as exporter:
            hand_over(exporter)
            assert counted(exporter) == (0, 3)
    finally:
        server.stop(0).wait()
    assert len(told()) == 1
    assert told()[0].startswith(REFUSED + "DecodeError: ")


# --- what is left behind --------------------------------------------------------------------------------


def garbage(made: Any) -> None:
    made.sendall(b"\x00\xff\x17garbage\r\n" * 100)
    raise OSError


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_export_that_failed_leaves_nothing_for_the_garbage_collector(protocol: Any) -> None:
    """It left its request, half a megabyte with gRPC, until a collection; those are rare in a worker."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = server.accept()
                with contextlib.suppress(OSError):
                    made.recv(65_536)
                    garbage(made)
                made.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    send, end = otlp.sender(
        OtlpSettings(endpoint=f"http://127.0.0.1:{port}", protocol=protocol, timeout_s=0.2)
    )
    batch = Encoded(b"\x0a\x00" * 1_000, 7)
    try:
        # What libraries make once is not counted.
        send(batch)
        gc.collect()
        gc.disable()
        assert [send(batch).refused for _ in range(3)] == [7, 7, 7]
        assert gc.collect() == 0
    finally:
        gc.enable()
        end()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
