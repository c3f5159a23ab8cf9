"""Spans over HTTP by OpenTelemetry's exporter, on connections that bound how long and how much they are read.

The exporter leaves both open: its timeout is for each read from the socket, so that a receiver which sends a
byte a second holds it for ever, and an answer is read into memory whatever its size.
"""

from collections.abc import Callable
from http.client import HTTPResponse
from io import BufferedReader, BytesIO, RawIOBase
from time import monotonic
from typing import Any

import msgspec
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests import Response
from requests.adapters import HTTPAdapter

from finflow.telemetry.otlp_answers import MAX_ANSWER, Answer, Send, answered, failed, let_go
from finflow.telemetry.otlp_encoding import Encoded
from finflow.telemetry.settings import OtlpSettings


def sender(settings: OtlpSettings) -> tuple[Send, Callable[[], None]]:
    """See `otlp.sender`."""
    exporter: Any = OTLPSpanExporter(
        settings.endpoint,
        headers=settings.headers,
        timeout=settings.timeout_s,
        compression=Compression(settings.compression),
    )
    client, adapter = exporter._client, _Adapter()
    session = client._transport._session
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # What is not unpacked needs no bound of its own.
    session.headers["Accept-Encoding"] = "identity"

    def send(batch: Encoded) -> Answer:
        adapter.until_s = monotonic() + settings.timeout_s
        result = client.export(batch.request)
        if result.success:
            return adapter.answer
        reason = "" if result.error else f"the receiver answered {result.status_code} {result.reason}"
        return failed(batch, result.error, reason)

    return send, exporter.shutdown


class _Adapter(HTTPAdapter):
    """Reads each answer whole, within its bounds, and what it says. All tries of an export share its end."""

    until_s = 0.0
    answer = Answer()

    def left_s(self) -> float:
        left_s = self.until_s - monotonic()
        if left_s <= 0:
            raise TimeoutError("the time for one export is over")
        return left_s

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The pool for a request, through a proxy or not, with connections of ours."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not issubclass(pool.ConnectionCls, _Connection):
            kind = pool.ConnectionCls
            pool.ConnectionCls = type(kind.__name__, (_Connection, kind), {"left_s": self.left_s})
        return pool

    def send(self, *args: Any, **kwargs: Any) -> Response:
        try:
            return self._answered(super().send(*args, **{**kwargs, "stream": True}))
        except Exception as error:
            let_go(error)
            raise

    def _answered(self, response: Response) -> Response:
        # In pieces, because Python makes room at once for what it is to read, whatever length was announced.
        body = b"".join(response.raw.stream(MAX_ANSWER, decode_content=False))
        response.raw = BytesIO(body)
        if 300 <= response.status_code < 400:
            raise ValueError(f"the receiver answered {response.status_code}, which is not followed")
        if response.ok:
            self.answer = _read(body, response.headers.get("Content-Type", ""))
        return response


class _Partial(msgspec.Struct, frozen=True, rename="camel"):
    rejected_spans: int = 0
    error_message: str = ""


class _Json(msgspec.Struct, frozen=True, rename="camel"):
    """An ExportTraceServiceResponse as JSON, in which a number may be a string."""

    partial_success: _Partial = _Partial()


def _read(body: bytes, kind: str) -> Answer:
    """What an answer says that means success. One without a body takes everything."""
    try:
        if body and "json" in kind:
            return answered(msgspec.json.decode(body, type=_Json, strict=False))
        return answered(ExportTraceServiceResponse.FromString(body))
    except Exception as error:
        # Each decoder raises errors of its own, and on bytes from outside also Python's.
        raise ValueError(f"the receiver's answer is none of OTLP's ({kind[:80]})") from error


class _Connection:
    """Stands before urllib3's connections: what they do with their socket has what is left of the export.

    So have the handshake of TLS, a proxy's answer and the request. Looking up a name is the system's and has
    its own bound, and each address of a name may take until the end to connect.
    """

    sock: Any
    left_s: Callable[[], float]

    def _new_conn(self) -> Any:
        made = super()._new_conn()  # type: ignore[misc]  # urllib3's
        made.settimeout(self.left_s())
        return made

    def send(self, data: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self.left_s())
        super().send(data)  # type: ignore[misc]  # http.client's

    def response_class(self, sock: Any, *args: Any, **kwargs: Any) -> HTTPResponse:
        """Called by http.client for every answer."""
        response = HTTPResponse(sock, *args, **kwargs)
        response.fp = BufferedReader(_Bounded(response.fp.detach(), sock, self.left_s))
        return response


class _Bounded(RawIOBase):
    """The bytes of one answer, its head included: so many at most, and until the export's end."""

    def __init__(self, raw: Any, sock: Any, left_s: Callable[[], float]) -> None:
        self._raw, self._sock, self._left_s, self._room = raw, sock, left_s, MAX_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._room <= 0:
            raise ValueError(f"the receiver's answer is larger than {MAX_ANSWER} bytes")
        self._sock.settimeout(self._left_s())
        count: int = self._raw.readinto(memoryview(buffer)[: self._room])
        self._room -= count
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
