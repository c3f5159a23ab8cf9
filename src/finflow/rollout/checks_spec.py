"""What people write about checks and notices in a rollout's file: the sections `checks:` and `notify:`.

Values only: they are checked as they are read, and what looks at the world is made from them elsewhere.
A mistake raises ValueError with a sentence, which the reader of the file turns into a line number.
"""

import re
from datetime import date, datetime
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Variable = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3_600)]
HttpUrl = Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s@]+$", max_length=2_000)]
Severity = Literal["CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

# What decides who can reach what, and who may do what, in Kubernetes, its gateways and its meshes.
WATCHED_KINDS: Final = (
    "AuthorizationPolicy", "ClusterRole", "ClusterRoleBinding", "Gateway", "GRPCRoute", "HTTPRoute",
    "Ingress", "IngressClass", "IngressRoute", "IngressRouteTCP", "NetworkPolicy", "Role", "RoleBinding",
    "Service", "ServiceAccount", "TCPRoute", "TLSRoute", "UDPRoute", "VirtualService",
)  # fmt: skip

_WALL_CLOCK: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")


class IgnoredFinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finding that somebody accepts, why, and up to which day (UTC, included); on one package or on all."""

    id: Name
    reason: Annotated[str, msgspec.Meta(min_length=10, max_length=500)]
    until: date
    package: Name | None = None


class ScanSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="scan"):
    """A Trivy report in JSON about this artifact: its name, a tag, or a digest `sha256:...`."""

    report: Path
    artifact: Name
    max_age_s: Annotated[int, msgspec.Meta(ge=1, le=31_622_400)] = 86_400
    refuse: tuple[Severity, ...] = ("CRITICAL", "HIGH")
    ignore: tuple[IgnoredFinding, ...] = ()
    name: Name = "scan"


class ManifestsSpec(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="manifests"
):
    """Somebody approves where objects of these kinds change, between two folders or two git revisions.

    With `repository`, `before` and `after` are revisions and `folder` lies within it. A file that matches one
    of `watched_files` (`deploy/tofu/*security_group*.tf`) counts whole, whatever it holds.
    """

    before: Path
    after: Path
    repository: Path | None = None
    folder: str = "."
    kinds: tuple[Name, ...] = WATCHED_KINDS
    watched_files: tuple[Name, ...] = ()
    timeout_s: Seconds = 30.0
    name: Name = "manifests"

    def __post_init__(self) -> None:
        parts = self.folder.split("/")
        if ".." in parts or self.folder.startswith(("/", "-")):
            raise ValueError("folder lies within the repository")
        if self.repository is not None and (self.before.startswith("-") or self.after.startswith("-")):
            raise ValueError("a revision does not begin with a dash")


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """A time without changes: once, between two moments; or weekly, between two times of the wall clock.

    A weekly window begins on each of `days` at `from`, and ends at `until`: on the same day, or on the next
    one where that is not later. 24:00 is the end of the day. The beginning is part of it, the end is not.
    """

    since: str
    until: str
    days: tuple[Day, ...] = ()
    zone: str | None = None
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""

    def __post_init__(self) -> None:
        if self.days:
            self._check_weekly()
        elif self.zone is not None:
            raise ValueError("a window between two moments has no zone: they name their offsets")
        elif moment(self.since) >= moment(self.until):
            raise ValueError("a window ends after its beginning")

    def _check_weekly(self) -> None:
        if not _WALL_CLOCK.fullmatch(self.since):
            raise ValueError('the beginning of a weekly window is a time like "18:00"')
        if not _WALL_CLOCK.fullmatch(self.until) and self.until != "24:00":
            raise ValueError('the end of a weekly window is a time like "08:00", or "24:00"')
        if self.zone is None:
            raise ValueError('a weekly window names its zone, like "Europe/Berlin"')
        try:
            ZoneInfo(self.zone)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"there is no time zone {self.zone[:60]!r}") from error


def moment(text: str) -> datetime:
    """An RFC 3339 moment; ValueError without an offset."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", text):
        raise ValueError(f"{text[:40]!r} is not a moment like 2026-12-24T12:00:00+01:00")
    return datetime.fromisoformat(text.upper())


class FreezeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="freeze"):
    """Nothing goes forward within these windows; if `overridable`, unless somebody approves it."""

    windows: Annotated[tuple[Window, ...], msgspec.Meta(min_length=1, max_length=1_000)]
    overridable: bool = False
    name: Name = "freeze"


class CommandSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="command"):
    """A program that judges: it exits with 0 to pass, with 1 to fail; anything else is an error.

    It sees PATH, HOME, LANG, what `environment` names, FINFLOW_ROLLOUT_SERVICE and FINFLOW_ROLLOUT_RELEASE.
    """

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=200)]
    timeout_s: Seconds = 60.0
    folder: Path | None = None
    environment: tuple[Variable, ...] = ()
    name: Name = "command"


class SmokeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="smoke"):
    """A verification spec run against the candidate, or against `base_url`."""

    spec: Path
    base_url: HttpUrl | None = None
    timeout_s: Seconds = 60.0
    name: Name = "smoke"


class ShadowSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="shadow"):
    """Shadow writes: any mismatch fails, at every look, and fewer comparisons than this never pass.

    While the candidate serves, `least_of_candidate` of them are of what it booked itself, as far as the
    journal says who did. The shadow keeps its report in `folder`; by default `shadow` in the data folder.

    Before everybody is sent to the candidate, both books are compared as a whole, for so long at most. For
    that the live database's URL stands in a variable; that of a clone elsewhere in FINFLOW_SHADOW_CLONE_URL.
    """

    least_compared: Annotated[int, msgspec.Meta(ge=1)] = 30_000
    least_of_candidate: Annotated[int, msgspec.Meta(ge=1)] = 100
    longest_lag_s: Seconds = 30.0
    verify_before_full: bool = True
    verify_within_s: Seconds = 600.0
    database_url_variable: Variable = "FINFLOW_DATABASE_URL"
    folder: Path | None = None
    name: Name = "shadow"


class SchemaSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="schema"):
    """A change of the schema whose phases go with the steps: expand before the first, backfill beside them,
    verify before everybody. Contract is for later, by `finflow db contract --service`.

    `folder` holds the SQL, `change` names one change of it; `work_share` is the part of the time that a
    backfill works.
    """

    folder: Path
    database_url_variable: Variable = "FINFLOW_DATABASE_URL"
    change: Name | None = None
    work_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.15
    quiet_s: Annotated[float, msgspec.Meta(ge=0, le=31_622_400)] = 3_600.0
    old_release: str = ""
    ignored_applications: tuple[Name, ...] = ()
    name: Name = "schema"


class InvariantsSpec(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="invariants"
):
    """The bank's books are sound: looked at in the database whose URL this variable holds."""

    database_url_variable: Variable = "FINFLOW_DATABASE_URL"
    rows_per_look: Annotated[int, msgspec.Meta(ge=1_000, le=1_000_000)] = 50_000
    timeout_s: Seconds = 60.0
    name: Name = "invariants"


CheckSpec = (
    ScanSpec | ManifestsSpec | FreezeSpec | CommandSpec | SmokeSpec | ShadowSpec | SchemaSpec | InvariantsSpec
)

# --- notify: -------------------------------------------------------------------------------------------


class WebhookSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"):
    """JSON is posted there. A URL that is a secret comes from a variable, like the key of the signature."""

    url: HttpUrl | None = None
    url_variable: Variable | None = None
    secret_variable: Variable | None = None
    timeout_s: Seconds = 5.0
    within_s: Seconds = 60.0
    events: tuple[Name, ...] = ()
    name: Name = "webhook"

    def __post_init__(self) -> None:
        if (self.url is None) == (self.url_variable is None):
            raise ValueError("a webhook has either url or url_variable")


class SlackSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="slack"):
    """An incoming webhook of Slack, or of what speaks like it. Its URL is a secret."""

    url_variable: Variable
    timeout_s: Seconds = 5.0
    within_s: Seconds = 60.0
    events: tuple[Name, ...] = ()
    name: Name = "slack"


class EmailSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="email"):
    """A message through this server. `tls: none` is for a server on the same host alone."""

    host: Name
    sender: Annotated[str, msgspec.Meta(pattern=r"^[^\s@<>]+@[^\s@<>]+$", max_length=254)]
    to: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^[^\s@<>]+@[^\s@<>]+$", max_length=254)], ...],
        msgspec.Meta(min_length=1, max_length=50),
    ]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 587
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    user_variable: Variable | None = None
    password_variable: Variable | None = None
    timeout_s: Seconds = 10.0
    within_s: Seconds = 120.0
    events: tuple[Name, ...] = ()
    name: Name = "email"

    def __post_init__(self) -> None:
        if (self.user_variable is None) != (self.password_variable is None):
            raise ValueError("user_variable and password_variable come together")
        if self.tls == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("without TLS only a server on this host is written to")


class FileSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="file"):
    """A line of JSON at the end of a file, for whoever follows it."""

    path: Path
    within_s: Seconds = 10.0
    events: tuple[Name, ...] = ()
    name: Name = "file"


class StderrSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="stderr"):
    """A line on standard error of whoever runs the rollout."""

    within_s: Seconds = 5.0
    events: tuple[Name, ...] = ()
    name: Name = "stderr"


NotifySpec = WebhookSpec | SlackSpec | EmailSpec | FileSpec | StderrSpec
