"""Certificate checks: whose it is, who vouches for it, and for how many days it is good."""

import asyncio
import glob
import ssl
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from finflow.verification.model import Failed, NothingToCheck, Unanswered
from finflow.verification.scene import Scene, reason
from finflow.verification.spec import CertificateCheck, TlsEndpoint

_DAY_S: Final = 86_400
_MAX_FILES: Final = 1_000
# What a client of PostgreSQL sends to ask for TLS, and the ports of URLs that speak it.
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80_877_103)
_PORTS: Final = {"https": 443, "wss": 443, "rediss": 6380, "valkeys": 6380, "tls": 4222, "nats+tls": 4222}
_DATABASES: Final = ("postgres", "postgresql")


async def look(check: CertificateCheck, scene: Scene) -> str:
    """Look at every certificate that is named or found. Raises Failed with all that is wrong."""
    context = _context(check)
    endpoints = list(dict.fromkeys(_endpoints(check, scene)))
    files = sorted({path for pattern in check.files for path in glob.glob(pattern, recursive=True)})  # noqa: PTH207 - patterns may be absolute
    missing = [pattern for pattern in check.files if not glob.glob(pattern, recursive=True)]  # noqa: PTH207 - the same
    found = await asyncio.gather(*(_of_endpoint(each, context, check.days_left_min) for each in endpoints))
    faults = [words for words, _ in found if words] + [f"{pattern}: no such file" for pattern in missing]
    days = [left for _, left in found if left is not None]
    for path in files[:_MAX_FILES]:
        words, left = await asyncio.to_thread(_of_file, path, check.days_left_min)
        faults += words
        days += left
    if faults:
        raise Failed("; ".join(faults))
    if not days:
        raise NothingToCheck("no service speaks TLS, and no certificate file is named")
    return f"{len(days)} certificates, the first expires in {min(days):.0f} days"


def _context(check: CertificateCheck) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=check.authority)
        if check.client_certificate:
            context.load_cert_chain(check.client_certificate, check.client_key)
    except OSError as error:
        raise Failed(f"{check.authority or check.client_certificate}: {reason(error)}") from error
    return context


def _endpoints(check: CertificateCheck, scene: Scene) -> Iterator[TlsEndpoint]:
    yield from check.endpoints
    urls = [scene.url] if check.service and scene.url else []
    urls += [url for name in check.environment for url in scene.environ.get(name, "").split(",")]
    for url in urls:
        if (endpoint := endpoint_of(url.strip())) is not None:
            yield endpoint


def endpoint_of(url: str) -> TlsEndpoint | None:
    """Where a URL speaks TLS; None where it does not."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Failed("an environment variable holds what is not a URL") from error
    if (
        host
        and parts.scheme in _DATABASES
        and "sslmode=" in parts.query
        and "sslmode=disable" not in parts.query
    ):
        return TlsEndpoint(host=host, port=port or 5432, protocol="postgres")
    if host and parts.scheme in _PORTS:
        return TlsEndpoint(host=host, port=port or _PORTS[parts.scheme])
    return None


async def _of_endpoint(
    endpoint: TlsEndpoint, context: ssl.SSLContext, days_min: float
) -> tuple[str | None, float | None]:
    """What is wrong with one endpoint's certificate, or None; and the days that are left of it."""
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        left = await _days_left(endpoint, context)
    except ssl.SSLCertVerificationError as error:
        return f"{where}: {error.verify_message}", None
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError, Unanswered) as error:
        return f"{where}: {reason(error)}", None
    return _too_few(where, left, days_min), left


def _too_few(where: str, left: float, days_min: float) -> str | None:
    if left < 0:
        return f"{where}: expired {-left:.0f} days ago"
    return f"{where}: expires in {left:.1f} days, less than {days_min:g}" if left < days_min else None


async def _days_left(endpoint: TlsEndpoint, context: ssl.SSLContext) -> float:
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        if endpoint.protocol == "postgres":
            writer.write(_SSL_REQUEST)
            if await reader.readexactly(1) != b"S":
                raise Unanswered("the database does not speak TLS")
        await writer.start_tls(context, server_hostname=endpoint.name or endpoint.host)
        shown = writer.get_extra_info("ssl_object").getpeercert()
        return (ssl.cert_time_to_seconds(shown["notAfter"]) - time.time()) / _DAY_S
    finally:
        writer.transport.abort()


def _of_file(path: str, days_min: float) -> tuple[list[str], list[float]]:
    """Every certificate of a PEM file: the faults, and the days that are left."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path comes from glob as text
            certificates = x509.load_pem_x509_certificates(file.read(1 << 20))
    except (OSError, ValueError) as error:
        return [f"{path}: {reason(error)}"], []
    now = datetime.now(UTC)
    days = [(each.not_valid_after_utc - now).total_seconds() / _DAY_S for each in certificates]
    early = [
        f"{path}: not valid before {c.not_valid_before_utc:%Y-%m-%d}"
        for c in certificates
        if c.not_valid_before_utc > now
    ]
    return early + [words for left in days if (words := _too_few(path, left, days_min))], days
