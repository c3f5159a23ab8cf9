"""Tracing of one process: switched on where an endpoint is named, and off again within a bound.

with tracing_on(os.environ, Sampling(ratio=0.01), release="2026.11.2"):
    ...
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from finflow import __version__
from finflow.telemetry import tracing
from finflow.telemetry.export import Exporter, OnCount
from finflow.telemetry.sampling import Sampling
from finflow.telemetry.settings import OtlpSettings, resource_attributes


@contextmanager
def tracing_on(
    environ: Mapping[str, str],
    sampling: Sampling,
    release: str,
    on_count: OnCount = lambda outcome, count: None,
) -> Iterator[Exporter | None]:
    """This process's traces on their way to the endpoint of OTEL_EXPORTER_OTLP_ENDPOINT, for this block.

    Without one nothing is loaded and None is yielded. The end of the block waits a bounded time for what is
    queued. Raises setting_malformed, and extra_missing where finflow[otlp] is not installed.
    """
    settings = OtlpSettings.from_environment(environ)
    if settings.endpoint is None:
        yield None
        return
    host = socket.gethostname()
    resource = resource_attributes(environ, __version__, release, host, f"{host}:{os.getpid()}")
    exporter = Exporter(settings, resource, on_count)
    exporter.start()
    before = tracing.install(tracing.Tracer(exporter.offer, sampling, exporter.drop))
    try:
        yield exporter
    finally:
        tracing.install(before)
        exporter.close()
