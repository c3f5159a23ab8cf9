"""Spans over gRPC by OpenTelemetry's exporter, which is given bytes and asked what the receiver answered."""

from collections.abc import Callable
from typing import Any, Final

from grpc import Compression, RpcError  # type: ignore[import-untyped]  # it ships no types
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.export import SpanExportResult

from finflow.telemetry.otlp_answers import MAX_ANSWER, Answer, Send, answered, failed
from finflow.telemetry.otlp_encoding import Encoded
from finflow.telemetry.settings import OtlpSettings

_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def sender(settings: OtlpSettings) -> tuple[Send, Callable[[], None]]:
    """See `otlp.sender`."""
    kind: Any = _Exporter
    exporter = kind(
        endpoint=settings.endpoint,
        # gRPC allows lower-case header names only.
        headers={name.lower(): value for name, value in settings.headers.items()},
        timeout=settings.timeout_s,
        compression=Compression.Gzip if settings.compression == "gzip" else Compression.NoCompression,
        channel_options=(("grpc.max_receive_message_length", MAX_ANSWER),),
    )

    def send(batch: Encoded) -> Answer:
        if exporter.export(batch) is SpanExportResult.SUCCESS:
            return answered(ExportTraceServiceResponse.FromString(exporter.response))
        error = exporter.error
        return failed(batch, error, f"{error.code().name}: {error.details()}")

    return send, exporter.shutdown


class _Exporter(OTLPSpanExporter):
    """Takes what is encoded already, and keeps the last answer, which OpenTelemetry's does not look at."""

    response = b""
    error: Any = None

    def _translate_data(self, data: Any) -> Any:
        return data.request

    def _count_data(self, data: Any) -> int:
        return int(data.spans)

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]  # OpenTelemetry's
        channel: Any = self._channel
        stub: Any = self._client
        # It takes and gives bytes, and would log each answer that does not decode.
        call = channel.unary_unary(_METHOD)

        def export(**request: Any) -> None:
            try:
                self.response = call(**request)
            except RpcError as error:
                self.error = error
                raise

        stub.Export = export
