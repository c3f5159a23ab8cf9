"""A small SMTP server: it keeps what it is sent, offers STARTTLS and login, and can be told to misbehave."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class MailServer:
    """Speaks RFC 5321 as far as a client that sends goes. `messages` are (receivers, text), as they came."""

    def __init__(self, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> None:
        self.messages: list[tuple[list[str], str]] = []
        self.tries = 0
        # Answers to RCPT by receiver, and to the first connections.
        self.refusals: dict[str, str] = {}
        self.greetings: list[str] = []
        self.silent = False
        self._tls = tls
        self._login = login
        self.port = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.tries += 1
        try:
            if self.silent:
                await reader.read()
                return
            await self._session(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        greeting = self.greetings.pop(0) if self.greetings else "220 mail.test"
        say(greeting)
        secured, known, receivers = False, self._login is None, list[str]()
        while line := (await reader.readline()).decode().strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    say("250-mail.test")
                    if self._tls is not None and not secured:
                        say("250-STARTTLS")
                    say("250 AUTH PLAIN" if self._login else "250 SIZE 1000000")
                case "STARTTLS":
                    say("220 go ahead")
                    await writer.drain()
                    await writer.start_tls(self._tls)  # type: ignore[arg-type] # offered only with one
                    secured = True
                case "AUTH":
                    user, password = base64.b64decode(rest.split()[-1]).decode().split("\0")[1:]
                    known = (user, password) == self._login and (secured or self._tls is None)
                    say("235 welcome" if known else "535 who are you")
                case "MAIL":
                    receivers = []
                    say("250 ok" if known else "530 log in first")
                case "RCPT":
                    address = rest.partition("<")[2].partition(">")[0]
                    answer = self.refusals.get(address, "250 ok")
                    receivers += [address] * answer.startswith("2")
                    say(answer)
                case "DATA":
                    say("354 go on")
                    text = (await reader.readuntil(b"\r\n.\r\n")).decode()
                    self.messages.append((receivers, text))
                    say("250 kept")
                case "QUIT":
                    say("221 bye")
                    return
                case _:
                    say("250 ok")


@asynccontextmanager
async def mail_server(
    tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None
) -> AsyncIterator[MailServer]:
    """A server on a free port of 127.0.0.1."""
    made = MailServer(tls, login)
    server = await asyncio.start_server(made.talk, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for a server called localhost and for a client that trusts it alone."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=localhost")
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "mail.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + made.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=made.public_bytes(Encoding.PEM).decode())
