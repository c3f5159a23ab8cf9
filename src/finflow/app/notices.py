"""From the `notify:` section to an outbox: secrets are read here, from the variables that the spec names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from finflow.kernel.errors import FinFlowError
from finflow.rollout import checks_spec as spec
from finflow.rollout.notices.local import File, Stderr
from finflow.rollout.notices.mail import Email
from finflow.rollout.notices.outbox import Channel, Outbox
from finflow.rollout.notices.web import Slack, Webhook
from finflow.rollout.ports import Notifier


def outbox(
    specs: Sequence[spec.NotifySpec],
    folder: Path,
    state: Path | None,
    environ: Mapping[str, str] = os.environ,
) -> Outbox:
    """One outbox over all of them; `state` is the file that it remembers in, `folder` where paths begin.

    Raises check_unavailable where a variable is not set, or two have one name.
    """
    channels = [Channel(each.name, _notifier(each, folder, environ), each.events) for each in specs]
    names = [channel.name for channel in channels]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FinFlowError(
            "check_unavailable", f"Two notices are named {twice[0]!r}: give each a name.", "notify"
        )
    return Outbox(channels, state)


def _notifier(each: spec.NotifySpec, folder: Path, environ: Mapping[str, str]) -> Notifier:
    match each:
        case spec.WebhookSpec():
            url = each.url or _value(each.url_variable, each.name, environ) or ""
            secret = _value(each.secret_variable, each.name, environ)
            return Webhook(each, url, None if secret is None else secret.encode())
        case spec.SlackSpec():
            return Slack(each, _value(each.url_variable, each.name, environ) or "")
        case spec.EmailSpec():
            user = _value(each.user_variable, each.name, environ)
            password = _value(each.password_variable, each.name, environ)
            return Email(each, None if user is None or password is None else (user, password))
        case spec.FileSpec():
            return File(each, folder)
        case spec.StderrSpec():
            return Stderr(each)


def _value(variable: str | None, name: str, environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    value = environ.get(variable)
    if not value:
        raise FinFlowError("check_unavailable", f"{name}: the variable {variable} is not set.", "notify")
    return value
