"""What people write in a verification's YAML: a struct for each kind of check, every field explained."""

from typing import Annotated, Any, Final, Literal

import msgspec

MAX_CHECKS: Final = 500
LONGEST_S: Final = 3600.0

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Variable = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
EnvironmentName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Pointer = Annotated[str, msgspec.Meta(pattern=r"^(/.*)?$", max_length=500)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_S)]
Pause = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_S)]
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anything that people write: a misspelt field is refused, not ignored."""


class Check(Written, frozen=True, kw_only=True, tag_field="kind"):
    """What every check has. It waits for the checks in `after` and for those whose captures it uses.

    A check runs when those that it waits for have passed. One that `cleans_up` runs whenever they are over,
    and is chosen with them, whatever its tags are.
    """

    id: Name
    title: str = ""
    tags: list[Name] = []
    after: list[Name] = []
    cleans_up: bool = False
    timeout_s: Seconds = 10.0


class HttpExpectation(Written, frozen=True, kw_only=True):
    """What an answer must be. Without `status` any 2xx; `json` is a part that it must contain.

    `pointers` are places in the JSON (RFC 6901) and what must stand there; `text` must occur in the body.
    """

    status: Status | list[Status] | None = None
    json: Any = msgspec.UNSET
    pointers: dict[Pointer, Any] = {}
    headers: dict[str, str] = {}
    text: str | None = None


class HttpCheck(Check, frozen=True, kw_only=True, tag="http"):
    """One request. `path` belongs to the service's URL, `url` is another place as a whole.

    `capture` names variables and the JSON pointer each is taken from, `capture_headers` the header;
    `retry_for_s` asks again until the answer is as expected or the time is over.
    """

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    path: str | None = None
    url: str | None = None
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    json: Any = msgspec.UNSET
    form: dict[str, str] | None = None
    body: str | None = None
    expect: HttpExpectation = HttpExpectation()
    capture: dict[Variable, Pointer] = {}
    capture_headers: dict[Variable, str] = {}
    retry_for_s: Pause = 0.0
    retry_every_s: Seconds = 0.5


class TlsEndpoint(Written, frozen=True, kw_only=True):
    """One place that answers with a certificate; `name` is whom the certificate must be for [the host]."""

    host: str
    port: Port
    name: str | None = None
    protocol: Literal["tls", "postgres"] = "tls"


class CertificateCheck(Check, frozen=True, kw_only=True, tag="certificates"):
    """Certificates: of places named, of the URLs in environment variables, of the service itself, in files.

    Chain, host name and days left are checked; `authority` is a file of the roots to trust instead of the
    system's, `files` may be patterns. `client_certificate` and `client_key` are shown where asked for.
    """

    endpoints: list[TlsEndpoint] = []
    environment: list[EnvironmentName] = []
    service: bool = True
    files: list[str] = []
    authority: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    days_left_min: Annotated[float, msgspec.Meta(ge=0)] = 14.0


class SqlExpectation(Written, frozen=True, kw_only=True):
    """What rows must be: exactly or at least so many, the first of them with these values."""

    rows: Annotated[int, msgspec.Meta(ge=0)] | None = None
    rows_min: Annotated[int, msgspec.Meta(ge=0)] | None = None
    first: dict[str, Any] = {}


class SqlCheck(Check, frozen=True, kw_only=True, tag="sql"):
    """Statements on the database whose URL stands in an environment variable.

    Without `writes` they run in a read-only transaction; with it each must touch a row, and everything is
    rolled back. The expectation is of the last statement. PostgreSQL's `$1` are the `arguments` of it.
    """

    database: EnvironmentName
    statements: Annotated[list[str], msgspec.Meta(min_length=1, max_length=50)]
    arguments: list[Any] = []
    writes: bool = False
    expect: SqlExpectation = SqlExpectation()


class SqlReading(Written, frozen=True, kw_only=True, tag_field="from", tag="sql"):
    """One number that a statement answers."""

    database: EnvironmentName
    statement: str
    arguments: list[Any] = []


class MetricReading(Written, frozen=True, kw_only=True, tag_field="from", tag="metric"):
    """The sum of a metric's samples with these labels, in Prometheus' text, at the service or elsewhere."""

    metric: str
    labels: dict[str, str] = {}
    path: str = "/metrics"
    url: str | None = None
    headers: dict[str, str] = {}


class JsonReading(Written, frozen=True, kw_only=True, tag_field="from", tag="json"):
    """A number in a JSON answer."""

    pointer: Pointer
    path: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}


class ProgressCheck(Check, frozen=True, kw_only=True, tag="progress"):
    """A queue moves: the number grows by `advances_by` within `within_s`, or comes to `at_most`.

    `at_most` must be reached within `within_s` and then hold for `hold_s`. `stirred_by` is a path of the
    service that is asked between readings, so that a counter has something to count where nobody else asks.
    """

    reading: SqlReading | MetricReading | JsonReading
    advances_by: Annotated[float, msgspec.Meta(gt=0)] | None = None
    at_most: float | None = None
    within_s: Seconds = 10.0
    hold_s: Pause = 0.0
    every_s: Seconds = 0.5
    stirred_by: str | None = None
    timeout_s: Seconds = 60.0


class Seen(Written, frozen=True, kw_only=True):
    """Where a heartbeat must show: a URL whose answer must contain the text."""

    url: str
    text: str
    headers: dict[str, str] = {}


class HeartbeatCheck(Check, frozen=True, kw_only=True, tag="heartbeat"):
    """The path of alerts is alive: what is sent here arrives there.

    `send_url` is posted `json` (an Alertmanager takes it at /api/v2/alerts). It has arrived when `seen` shows
    it, or when somebody posts a body with `listen_text` to `listen_port` on this machine. Without `send_url`
    something else beats: a rule that always fires, a dead man's switch.
    """

    send_url: str | None = None
    headers: dict[str, str] = {}
    json: Any = None
    seen: Seen | None = None
    listen_host: str = "127.0.0.1"
    listen_port: Port | None = None
    listen_text: str = "${run}"
    within_s: Seconds = 30.0
    every_s: Seconds = 0.5
    timeout_s: Seconds = 60.0


class CommandCheck(Check, frozen=True, kw_only=True, tag="command"):
    """A program, without a shell. It sees PATH, HOME, LANG and the variables in `environment`, no others."""

    argv: Annotated[list[str], msgspec.Meta(min_length=1)]
    environment: list[EnvironmentName] = []
    exit_code: int = 0
    stdout_text: str | None = None


AnyCheck = HttpCheck | CertificateCheck | SqlCheck | ProgressCheck | HeartbeatCheck | CommandCheck


class Spec(Written, frozen=True, kw_only=True):
    """A verification. `inputs` are variables that whoever runs it gives; `variables` have their value here.

    `secrets` are those of them that no output may show. `${run}` is new in every run, `${now}` is its time.
    """

    name: Name
    checks: Annotated[list[AnyCheck], msgspec.Meta(min_length=1, max_length=MAX_CHECKS)]
    url: str | None = None
    inputs: list[Variable] = []
    variables: dict[Variable, str] = {}
    secrets: list[Variable] = []
    at_once: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
