"""One contract for every way of telling people, with real servers; and what is each one's own."""

import hashlib
import hmac
import io
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email import message_from_string, policy
from pathlib import Path
from typing import Any

import pytest

from finflow.app.notices import outbox
from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import EmailSpec, FileSpec, SlackSpec, StderrSpec, WebhookSpec
from finflow.rollout.notices.local import File, Stderr
from finflow.rollout.notices.mail import Email
from finflow.rollout.notices.model import key_of
from finflow.rollout.notices.web import Slack, Webhook
from finflow.rollout.ports import Notice, Notifier
from oracles.hook import Hook, hook
from oracles.mail import MailServer, certificate, mail_server

NOTICE = Notice(
    "rol_1", "payments", "aborted", "Errors at 5 %: took it back.", "2026-03-01T10:00:00Z", {"weight_bp": 500}
)
KEY = key_of(NOTICE)


@dataclass
class Rig:
    """A notifier, what its receiver has, and one that has nobody at the other end."""

    notifier: Notifier
    received: Callable[[], list[str]]
    nobody: Notifier
    drops_repetitions: bool = False


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
async def receiver() -> AsyncIterator[Hook]:
    async with hook() as made:
        yield made


@pytest.fixture
async def mailbox() -> AsyncIterator[MailServer]:
    async with mail_server() as made:
        yield made


def email(port: int, **rest: Any) -> EmailSpec:
    return EmailSpec(
        **{"host": "127.0.0.1", "port": port, "tls": "none", "sender": "finflow@bank.example",
           "to": ("ops@bank.example",), "timeout_s": 1, "within_s": 3, **rest}
    )  # fmt: skip


class Broken(io.StringIO):
    """A terminal that is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture(params=["webhook", "slack", "email", "file", "stderr"])
def rig(request: pytest.FixtureRequest, receiver: Hook, mailbox: MailServer, tmp_path: Path) -> Rig:
    gone = f"http://127.0.0.1:{closed_port()}"

    def posted() -> list[str]:
        return [each.headers["Idempotency-Key"] for each in receiver.posted]

    if request.param == "webhook":
        spec = WebhookSpec(url="http://unused", within_s=3)
        return Rig(Webhook(spec, receiver.url), posted, Webhook(spec, gone))
    if request.param == "slack":
        slack = SlackSpec("HOOK", within_s=3)
        return Rig(Slack(slack, receiver.url), posted, Slack(slack, gone))
    if request.param == "email":
        return Rig(
            Email(email(mailbox.port)),
            lambda: [re.findall("Message-ID: <(.*)@", text)[0] for _, text in mailbox.messages],
            Email(email(closed_port())),
        )
    if request.param == "file":
        path = tmp_path / "notices.jsonl"

        def lines() -> list[str]:
            return [json.loads(line)["key"] for line in path.read_text().splitlines()]

        here, nowhere = FileSpec(str(path)), FileSpec(str(tmp_path / "none" / "a"))
        return Rig(File(here, tmp_path), lines, File(nowhere, tmp_path), drops_repetitions=True)
    stream = io.StringIO()
    told = Stderr(StderrSpec(), stream)
    return Rig(told, lambda: [KEY] * stream.getvalue().count("took it back"), Stderr(StderrSpec(), Broken()))


async def test_a_notice_arrives(rig: Rig) -> None:
    await rig.notifier.notify(NOTICE)
    assert rig.received() == [KEY]


async def test_a_repeated_notice_carries_the_same_key(rig: Rig) -> None:
    await rig.notifier.notify(NOTICE)
    await rig.notifier.notify(NOTICE)
    assert rig.received() == [KEY] * (1 if rig.drops_repetitions else 2)


async def test_where_nobody_is_it_says_so_in_time(rig: Rig) -> None:
    with pytest.raises(FinFlowError) as raised:
        await rig.nobody.notify(NOTICE)
    assert raised.value.kind.code == "notice_undelivered"


# --- by HTTP


async def test_the_signature_is_over_time_and_body(receiver: Hook) -> None:
    spec = WebhookSpec(url="http://unused", secret_variable="SECRET")  # noqa: S106 # a variable's name
    await Webhook(spec, receiver.url, b"over the wall", lambda: 1_772_359_200.7).notify(NOTICE)
    [posted] = receiver.posted
    expected = hmac.new(b"over the wall", b"1772359200." + posted.body, hashlib.sha256).hexdigest()
    assert posted.headers["FinFlow-Signature"] == f"t=1772359200,v1={expected}"
    assert posted.headers["Content-Type"] == "application/json"
    assert json.loads(posted.body)["facts"] == {"weight_bp": 500}


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_not_now_is_tried_again(receiver: Hook, status: int) -> None:
    receiver.answers = [(status, {})]
    await Webhook(WebhookSpec(url="http://unused"), receiver.url).notify(NOTICE)
    assert len(receiver.posted) == 2
    assert len({each.body for each in receiver.posted}) == 1


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410])
async def test_not_this_is_not_tried_again(receiver: Hook, status: int) -> None:
    receiver.answers = [(status, {"Location": f"{receiver.url}/elsewhere"})]
    with pytest.raises(FinFlowError, match=f"answered {status}"):
        await Webhook(WebhookSpec(url="http://unused"), receiver.url).notify(NOTICE)
    assert [each.path for each in receiver.posted] == ["/"]


async def test_a_receiver_that_does_not_answer_costs_its_budget(receiver: Hook) -> None:
    receiver.silent = True
    spec = WebhookSpec(url="http://unused", timeout_s=0.2, within_s=1)
    with pytest.raises(FinFlowError, match=r"within 0\.2 s"):
        await Webhook(spec, receiver.url).notify(NOTICE)
    assert 1 <= len(receiver.posted) <= 2


async def test_no_error_tells_a_url_or_a_secret(receiver: Hook) -> None:
    receiver.answers = [(403, {})]
    spec = SlackSpec("HOOK", within_s=0.3)
    for url in (
        f"{receiver.url}/T0/s3cr3t",
        f"http://127.0.0.1:{closed_port()}/s3cr3t",
        "s3cr3t://a",
        "s3cr3t",
    ):
        with pytest.raises(FinFlowError) as raised:
            await Slack(spec, url).notify(NOTICE)
        assert "s3cr3t" not in str(raised.value)


async def test_slack_gets_blocks(receiver: Hook) -> None:
    await Slack(SlackSpec("HOOK"), receiver.url).notify(NOTICE)
    told = json.loads(receiver.posted[0].body)
    assert told["text"] == "[payments] aborted: Errors at 5 %: took it back."
    assert [block["type"] for block in told["blocks"]] == ["section", "section", "context"]


# --- by e-mail


async def test_a_message_has_its_parts(mailbox: MailServer) -> None:
    spec = email(mailbox.port, to=("a@bank.example", "b@bank.example"))
    injected = Notice("r", "payments\r\nBcc: x@evil.example", "aborted", "ü\n.\nQUIT", "2026-03-01T10:00:00Z")
    await Email(spec).notify(injected)
    [(receivers, text)] = mailbox.messages
    message = message_from_string(text, policy=policy.default)
    assert receivers == ["a@bank.example", "b@bank.example"]
    assert message["Bcc"] is None
    assert message["From"] == "finflow@bank.example"
    assert "aborted" in message["Subject"]


async def test_later_is_tried_again_and_never_is_not(mailbox: MailServer) -> None:
    mailbox.greetings = ["421 come back later"]
    await Email(email(mailbox.port)).notify(NOTICE)
    assert (mailbox.tries, len(mailbox.messages)) == (2, 1)
    mailbox.greetings = ["554 never"]
    with pytest.raises(FinFlowError, match="answered 554"):
        await Email(email(mailbox.port)).notify(NOTICE)
    assert mailbox.tries == 3


async def test_a_receiver_that_is_refused_is_told_of_and_the_others_have_it_once(mailbox: MailServer) -> None:
    mailbox.refusals = {"b@bank.example": "550 no such user"}
    spec = email(mailbox.port, to=("a@bank.example", "b@bank.example"))
    with pytest.raises(FinFlowError, match="not for 1 of 2"):
        await Email(spec).notify(NOTICE)
    assert [receivers for receivers, _ in mailbox.messages] == [["a@bank.example"]]


async def test_a_mail_server_that_says_nothing_costs_its_budget(mailbox: MailServer) -> None:
    mailbox.silent = True
    with pytest.raises(FinFlowError, match="notice_undelivered"):
        await Email(email(mailbox.port, timeout_s=0.3, within_s=1)).notify(NOTICE)


async def test_starttls_and_login(tmp_path: Path) -> None:
    server_side, client_side = certificate(tmp_path)
    async with mail_server(server_side, ("finflow", "s3cr3t")) as mailbox:
        spec = email(mailbox.port, host="localhost", tls="starttls", within_s=2)
        await Email(spec, ("finflow", "s3cr3t"), client_side).notify(NOTICE)
        assert len(mailbox.messages) == 1
        with pytest.raises(FinFlowError, match="answered 535"):
            await Email(spec, ("finflow", "wrong"), client_side).notify(NOTICE)
        # A certificate that nobody vouches for: not even the name of the user is sent.
        with pytest.raises(FinFlowError, match="certificate"):
            await Email(spec, ("finflow", "s3cr3t")).notify(NOTICE)
        assert len(mailbox.messages) == 1


async def test_without_starttls_no_password_is_sent() -> None:
    async with mail_server(None, ("finflow", "s3cr3t")) as mailbox:
        spec = email(mailbox.port, host="localhost", tls="starttls", within_s=2)
        with pytest.raises(FinFlowError, match="STARTTLS"):
            await Email(spec, ("finflow", "s3cr3t")).notify(NOTICE)
        assert mailbox.messages == []


# --- a file


async def test_a_line_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "notices.jsonl"
    await File(FileSpec(str(path)), tmp_path).notify(NOTICE)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    await File(FileSpec(str(path)), tmp_path).notify(NOTICE)
    assert path.read_bytes() == whole[:-20] + b"\n" + whole
    assert path.stat().st_mode & 0o777 == 0o600


# --- from the spec


def test_secrets_come_from_variables(tmp_path: Path) -> None:
    with pytest.raises(FinFlowError, match="the variable HOOK is not set"):
        outbox([SlackSpec("HOOK")], tmp_path, None, {"HOOK": ""})
    with pytest.raises(FinFlowError, match="Two notices are named 'slack'"):
        outbox([SlackSpec("HOOK"), SlackSpec("HOOK")], tmp_path, None, {"HOOK": "http://a"})
    outbox([SlackSpec("HOOK"), FileSpec("a"), StderrSpec()], tmp_path, None, {"HOOK": "http://a"})
