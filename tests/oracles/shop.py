"""A small foreign service with every bad habit, and certificates of one's own making, for verifications."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Shop:
    """What the service remembers; tests look at it and change it."""

    def __init__(self) -> None:
        self.url = ""
        self.orders: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.alerts: list[Any] = []
        self.lose_alerts = False
        self.not_ready_left = 0
        self.counter = 0
        self.busy = 0
        self.most_busy = 0

    async def order(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer s3cret-token":
            return web.json_response(
                {"code": "who", "echo": request.headers.get("Authorization")}, status=401
            )
        key = request.headers["Idempotency-Key"]
        if key in self.orders:
            return web.json_response(self.orders[key], headers={"Idempotency-Replayed": "true"})
        body = await request.json()
        self.orders[key] = {"id": f"o{len(self.orders)}", "item": body["item"], "lines": [{"n": 1}]}
        return web.json_response(self.orders[key], status=201, headers={"X-Trace": "t-1"})

    async def read(self, request: web.Request) -> web.Response:
        for each in self.orders.values():
            if each["id"] == request.match_info["id"]:
                return web.json_response(each)
        return web.json_response({"code": "unknown"}, status=404)

    async def ready(self, _: web.Request) -> web.Response:
        self.not_ready_left -= 1
        return web.json_response(
            {"ready": self.not_ready_left < 0}, status=503 if self.not_ready_left >= 0 else 200
        )

    async def slow(self, _: web.Request) -> web.Response:
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(0.1)
        self.busy -= 1
        return web.json_response({})

    async def hang(self, _: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def rubbish(self, _: web.Request) -> web.Response:
        return web.Response(body=b"\x00\xff{not json", content_type="application/json")

    async def endless(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65_536)

    async def metrics(self, _: web.Request) -> web.Response:
        self.counter += 1
        text = f'jobs_total{{queue="a"}} {self.counter}\njobs_total{{queue="stuck"}} 4\nlag_seconds 12.5\n'
        return web.Response(text=text)

    async def alert(self, request: web.Request) -> web.Response:
        if not self.lose_alerts:
            self.alerts += await request.json()
        return web.json_response({})

    async def alerts_now(self, _: web.Request) -> web.Response:
        return web.json_response(self.alerts)


@web.middleware
async def _noted(request: web.Request, handler: Any) -> Any:
    request.app[_SHOP].requests.append((request.method, request.path, dict(request.headers)))
    return await handler(request)


_SHOP = web.AppKey("shop", Shop)


@asynccontextmanager
async def shop(context: ssl.SSLContext | None = None) -> AsyncIterator[Shop]:
    """The service on a free port of this machine, with TLS if there is a context."""
    one = Shop()
    application = web.Application(middlewares=[_noted])
    application[_SHOP] = one
    application.add_routes(
        [
            web.post("/orders", one.order), web.get("/orders/{id}", one.read), web.get("/ready", one.ready),
            web.get("/slow", one.slow), web.get("/hang", one.hang), web.get("/rubbish", one.rubbish),
            web.get("/endless", one.endless), web.get("/metrics", one.metrics),
            web.post("/api/v2/alerts", one.alert), web.get("/api/v2/alerts", one.alerts_now),
        ]
    )  # fmt: skip
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    one.url = f"http{'s' if context else ''}://127.0.0.1:{port}"
    try:
        yield one
    finally:
        await runner.cleanup()


class Authority:
    """A certificate authority of one's own; `issue` writes a server's certificate and key as PEM."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Testing Authority")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        own = self._builder(self._name, self._key.public_key(), 3650).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        own = own.add_extension(usage, critical=True)
        self.root = folder / "root.pem"
        self.root.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, name: x509.Name, key: Any, days: float) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        start = min(now, now + dt.timedelta(days=days)) - dt.timedelta(days=30)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(identifier, critical=False)
        )

    def issue(self, host: str, days: float) -> tuple[Path, ssl.SSLContext]:
        """A certificate for a host, good for so many days from now; and what a server needs to show it."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        made = self._builder(name, key.public_key(), days).add_extension(names, critical=False)
        shown = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        stem = f"{host}-{days:g}"
        certificate, both = self._folder / f"{stem}.pem", self._folder / f"{stem}-key.pem"
        certificate.write_bytes(shown)
        both.write_bytes(secret + shown)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        return certificate, context
