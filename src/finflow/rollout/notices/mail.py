"""Notices by e-mail, with the standard library's SMTP client in a thread; each step has its deadline."""

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final

from finflow.rollout.checks_spec import EmailSpec
from finflow.rollout.notices.delivery import NotNow, Refused, delivered
from finflow.rollout.notices.model import key_of, letter, subject
from finflow.rollout.ports import Notice

# 4xx is `try again later`; a server says it also of one command alone.
_LATER: Final = range(400, 500)


class Email:
    """Sends a message to everybody on the list; by its Message-ID, the key, readers drop a second one."""

    def __init__(
        self,
        spec: EmailSpec,
        credentials: tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.name = spec.name
        self._spec = spec
        self._credentials = credentials
        self._context = context or ssl.create_default_context()

    async def notify(self, notice: Notice) -> None:
        """Deliver it: the server has taken it for every receiver."""
        message = self._message(notice)

        async def attempt() -> None:
            await asyncio.to_thread(self._send, message)

        await delivered(self.name, attempt, self._spec.within_s)

    def _message(self, notice: Notice) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._spec.sender
        message["To"] = ", ".join(self._spec.to)
        message["Subject"] = subject(notice)
        message["Date"] = formatdate()
        message["Message-ID"] = f"<{key_of(notice)}@{self._spec.sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter(notice))
        return message

    def _send(self, message: EmailMessage) -> None:
        try:
            with self._connected() as server:
                refused = server.send_message(message, self._spec.sender, list(self._spec.to))
        except smtplib.SMTPRecipientsRefused as error:
            raise _meaning(min(code for code, _ in error.recipients.values())) from None
        except smtplib.SMTPResponseException as error:
            raise _meaning(error.smtp_code) from None
        except smtplib.SMTPNotSupportedError:
            raise Refused("it offers no STARTTLS or no login") from None
        except ssl.SSLCertVerificationError:
            raise Refused("its certificate is not one that this host trusts") from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotNow(f"it cannot be reached ({type(error).__name__})") from None
        if refused:
            # The others have it: once more would tell them twice.
            raise Refused(
                f"it took the message, but not for {len(refused)} of {len(self._spec.to)} receivers"
            )

    def _connected(self) -> smtplib.SMTP:
        spec = self._spec
        server: smtplib.SMTP
        if spec.tls == "implicit":
            server = smtplib.SMTP_SSL(spec.host, spec.port, timeout=spec.timeout_s, context=self._context)
        else:
            server = smtplib.SMTP(spec.host, spec.port, timeout=spec.timeout_s)
        try:
            if spec.tls == "starttls":
                # Raises where the server does not offer it: a password never goes out in the clear.
                server.starttls(context=self._context)
            if self._credentials is not None:
                server.login(*self._credentials)
        except BaseException:
            server.close()
            raise
        return server


def _meaning(code: int) -> Exception:
    return NotNow(f"it answered {code}") if code in _LATER else Refused(f"it answered {code}")
