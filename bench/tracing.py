"""What traces and logs cost, beside the OpenTelemetry SDK doing the same in the same run.

`python -m bench.tracing [--json] [--keep] [--short]`. Microseconds of one request's trace: off, recorded and
let go, recorded and kept; of a kept span's way to OTLP bytes, which the exporter's thread pays; of a span of
the SDK with as many attributes; of a log line. `measure` is what bench.telemetry takes its part from.
"""

import argparse
import asyncio
import gc
import io
import logging
import tracemalloc
from collections.abc import Callable
from time import perf_counter
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider

from bench.ground import report
from finflow.api.asgi import HANDLERS
from finflow.api.envelope import Envelope
from finflow.api.watching import Watch
from finflow.telemetry import tracing
from finflow.telemetry.export import Exporter
from finflow.telemetry.logs import JsonLines
from finflow.telemetry.otlp import resource_of, spans_of
from finflow.telemetry.otlp_encoding import encode
from finflow.telemetry.sampling import Sampling
from finflow.telemetry.settings import OtlpSettings
from finflow.telemetry.tracing import Tracer

SCOPE = {
    "type": "http", "method": "POST", "path": "/v1/transactions", "path_template": "/v1/transactions",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"idempotency-key", b"k"),
                (b"content-length", b"250"), (b"user-agent", b"bench")],
    "server": ("127.0.0.1", 8400), "scheme": "http", "http_version": "1.1",
}  # fmt: skip

_COMMIT = tracing.Work(Tracer().begin_for_others("ledger.group_commit"), "ledger.submit", 0, None, {})


def micros(work: Callable[[], object], times: int, rounds: int = 7) -> float:
    """The best round's microseconds a call: what others do on the machine only ever adds."""
    found = []
    for _ in range(rounds):
        began = perf_counter()
        for _ in range(times):
            work()
        found.append((perf_counter() - began) / times * 1e6)
    return round(min(found), 3)


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    """A request as the application handles it: one job in the group commit's queue, one answer."""
    caller = tracing.running()
    if caller is not None:
        _COMMIT.serve([(caller, 0.0, 1)])
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _sent(message: Any) -> None:
    return None


async def _request_us(app: Any, times: int) -> float:
    """The best round's microseconds of a request that waits for nothing."""
    found = []
    for _ in range(7):
        began = perf_counter()
        for _ in range(times):
            await app(dict(SCOPE, state={}), None, _sent)
        found.append((perf_counter() - began) / times * 1e6)
    return min(found)


def requests(times: int) -> dict[str, float]:
    """What watching adds to one request: with traces off, recorded and let go, kept for the exporter.

    Around them is the envelope that every request has.
    """
    figures, kept = {}, []

    def keep(root: tracing.Span) -> None:
        kept.append(root)
        if len(kept) > 1000:
            kept.clear()

    watched = Envelope(_answer, watch=Watch(HANDLERS, "bench"))
    bare = asyncio.run(_request_us(Envelope(_answer), times))
    for name, tracer in {
        "off": Tracer(),
        "let_go": Tracer(lambda root: None, Sampling(ratio=0.0)),
        "kept": Tracer(keep, Sampling(ratio=1.0, head_per_s=1e9)),
    }.items():
        before = tracing.install(tracer)
        figures[f"request_{name}_us"] = round(asyncio.run(_request_us(watched, times)) - bare, 3)
        tracing.install(before)
    return figures


def _batch(spans: int) -> tracing.Span:
    """A kept trace of a root and so many statements, as a group commit has."""
    root = Tracer(lambda each: None, Sampling(1.0)).begin("ledger.group_commit")
    for _ in range(spans):
        span = root.child("UPDATE heads", "client")
        assert span is not None
        span.attributes = {
            "db.system.name": "postgresql", "db.query.text": "update heads set seq = $2 where ledger_no = $1",
            "db.operation.name": "UPDATE", "db.query.summary": "UPDATE heads", "db.collection.name": "heads",
            "db.namespace": "finflow", "server.address": "localhost",
        }  # fmt: skip
        span.end()
    root.end()
    return root


def spans(times: int) -> dict[str, float]:
    """One span: the SDK's own with seven attributes; and ours, whole on its way to OTLP, in the thread."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("bench")
    attributes = {f"attribute.{n}": "value" for n in range(7)}

    def sdk() -> None:
        with tracer.start_as_current_span("span") as span:
            span.set_attributes(attributes)

    root, resource = _batch(99), resource_of({"service.name": "bench"})
    made = list(spans_of(root, resource))
    few = max(3, times // 1000)
    return {
        "sdk_span_us": micros(sdk, times),
        "sdk_encode_span_us": round(micros(lambda: encode_spans(made).SerializeToString(), few) / 100, 3),
        "encode_span_us": round(micros(lambda: encode(root), few) / 100, 3),
    }


def lines(times: int) -> dict[str, float]:
    """One log line, within a request, with three extras; written to memory."""
    logger = logging.Logger("bench")
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonLines("bench"))
    logger.addHandler(handler)
    extra = {"ledger_no": 7, "code": "database_unreachable", "commands": 12}

    def line() -> None:
        logger.error("write transaction failed", extra=extra)

    plain = logging.Logger("plain")
    plain.addHandler(logging.StreamHandler(io.StringIO()))
    return {
        "log_line_us": micros(line, times // 10),
        "plain_log_line_us": micros(lambda: plain.error("write transaction failed"), times // 10),
    }


def memory() -> dict[str, float]:
    """What a queue holds that is full of group commits and whose receiver never answers, in MiB."""
    settings = OtlpSettings(endpoint="http://127.0.0.1:9", max_queued=8_192)
    exporter = Exporter(settings, {})
    gc.collect()
    tracemalloc.start()
    for _ in range(3_000):
        exporter.offer(_batch(9))
    held = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    return {"full_queue_mib": round(held, 2), "full_queue_spans": exporter.queued}


def measure(short: bool = False) -> dict[str, float]:
    times = 2_000 if short else 50_000
    figures = requests(times) | spans(times) | lines(times) | memory()
    figures["let_go_to_sdk_spans"] = round(figures["request_let_go_us"] / (2 * figures["sdk_span_us"]), 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    options = parser.parse_args()
    report("tracing", measure(options.short), seed=0, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
