"""Kept traces on their way out: a bounded queue, and a thread that sends what is in it.

Nothing here can slow a request: handing over is an append, and where the queue is full the trace is counted
and let go. The thread may wait for a receiver that is slow, dead or swallows everything; it waits alone, and
at shutdown only for so long. It makes few spans at a time and sleeps between, so that the requests' thread
gets the interpreter.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from time import monotonic, sleep
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.telemetry.otlp_answers import Send, failed
from finflow.telemetry.otlp_encoding import Encoded, Frame, encode
from finflow.telemetry.settings import OtlpSettings
from finflow.telemetry.tracing import Trace

log = logging.getLogger(__name__)

COMPLAIN_EVERY_S: Final = 60.0
# Spans are made for so long at a time; then comes a rest in which the requests' thread takes over.
_WORK_S: Final = 0.001
_REST_S: Final = 0.0005

OnCount = Callable[[str, int], None]


class Exporter:
    """Takes roots of ended traces from one thread and exports them in another. `start` before `offer`.

    `exported` and `dropped` count spans; the reasons are `rate` (more than the tracer may keep a second),
    `queue_full`, `closed` (they came after the end), `failed` (the receiver did not take them) and `unsent`
    (the end came first). `on_count` is told the same, with `exported` for the good ones: that and the last
    two by the exporter's thread, the others by the one that offers.
    """

    def __init__(
        self,
        settings: OtlpSettings,
        resource: Mapping[str, str],
        on_count: OnCount = lambda outcome, count: None,
    ) -> None:
        self._settings = settings
        self._attributes = resource
        self._on_count = on_count
        self._queue: deque[Trace] = deque()
        # Written by one thread each, so that their difference needs no lock.
        self._put, self._taken = 0, 0
        self._wake = threading.Event()
        self._closing = False
        self._close_by_s = float("inf")
        self._thread: threading.Thread | None = None
        self._send: Send | None = None
        self._frame: Frame | None = None
        self._complained_s = float("-inf")
        self.exported = 0
        self.dropped: Counter[str] = Counter()

    def start(self) -> None:
        """Load OpenTelemetry and start the thread. Raises extra_missing where it is not installed."""
        try:
            from finflow.telemetry import otlp
        except ImportError as error:
            raise FinFlowError("extra_missing", f"Traces need finflow[otlp]: {error}.") from error
        # Its exporters log each failure with a traceback of theirs; ours is logged once a minute, here.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._frame = otlp.frame_of(self._attributes)
        self._send, end = otlp.sender(self._settings)
        self._thread = threading.Thread(target=self._run, args=(end,), name="trace-export", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Spans that wait."""
        return self._put - self._taken

    def offer(self, trace: Trace) -> None:
        """Take an ended trace, or count it as dropped. Never waits."""
        size = len(trace.spans) + 1
        if self._closing or self.queued + size > self._settings.max_queued:
            self.drop("closed" if self._closing else "queue_full", size)
            trace.forget()
            return
        self._put += size
        self._queue.append(trace)
        if self.queued >= self._settings.max_batch:
            self._wake.set()

    def drop(self, reason: str, count: int) -> None:
        """Count spans that will not be exported."""
        self.dropped[reason] += count
        self._on_count(reason, count)

    def close(self) -> bool:
        """Send what is queued, but return after `close_within_s` at the latest. Whether all was sent.

        A thread that still waits for its receiver then is left behind; it ends with the process.
        """
        self._close_by_s = monotonic() + self._settings.close_within_s
        self._closing = True
        self._wake.set()
        if self._thread is None:
            return True
        self._thread.join(self._settings.close_within_s)
        return not self._thread.is_alive() and not self.dropped["failed"]

    # --- the thread --------------------------------------------------------------------------------

    def _run(self, end: Callable[[], None]) -> None:
        while not self._closing:
            self._wake.wait(self._settings.every_s)
            self._wake.clear()
            self._drain()
        self._drain()
        if self.queued:
            self.drop("unsent", self.queued)
        end()

    def _drain(self) -> None:
        """Export until the queue is empty, or the time to close is over."""
        while self._queue and monotonic() < self._close_by_s:
            self._export(self._next_batch())

    def _next_batch(self) -> Encoded:
        assert self._frame is not None, "start() made it"
        batch, count, rest_at_s = [], 0, monotonic() + _WORK_S
        while self._queue and count < self._settings.max_batch:
            trace = self._queue.popleft()
            size = len(trace.spans) + 1
            self._taken += size
            count += size
            batch.append(encode(trace))
            trace.forget()
            if monotonic() >= rest_at_s:
                sleep(_REST_S)
                rest_at_s = monotonic() + _WORK_S
        return Encoded(self._frame.around(b"".join(batch)), count)

    def _export(self, batch: Encoded) -> None:
        assert self._send is not None, "start() made it"
        try:
            answer = self._send(batch)
        except Exception as error:
            # Whatever a library raises here, this thread must outlive it: nobody would start another.
            answer = failed(batch, error)
        refused = min(answer.refused, batch.spans)
        if refused < batch.spans:
            self.exported += batch.spans - refused
            self._on_count("exported", batch.spans - refused)
        if refused:
            self.drop("failed", refused)
            self._complain("spans were not exported: %s", answer.reason)
        elif answer.reason:
            self._complain("the receiver of spans took all and warns: %s", answer.reason)

    def _complain(self, text: str, reason: str) -> None:
        if monotonic() - self._complained_s < COMPLAIN_EVERY_S:
            return
        self._complained_s = monotonic()
        facts = {"endpoint": self._settings.endpoint, "dropped": dict(self.dropped)}
        log.warning(text, reason or "the receiver refused them", extra=facts)
