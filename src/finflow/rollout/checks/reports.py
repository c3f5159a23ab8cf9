"""Trivy's JSON reports: their shape, and what a policy says of one. Pure.

Shape: `trivy --format json`, SchemaVersion 2. Fields that no rule looks at are not declared; msgspec passes
them over. A finding without a severity makes the report malformed: nobody can say that it is harmless.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from finflow.rollout.checks_spec import IgnoredFinding, ScanSpec, moment

# Clocks of the scanner's host and of ours differ a little; a report from further ahead is nobody's.
CLOCK_SKEW: Final = timedelta(minutes=5)
SCHEMA_VERSION: Final = 2


class Vulnerability(msgspec.Struct, frozen=True, rename="pascal"):
    """A known hole in a package."""

    vulnerability_id: str = msgspec.field(name="VulnerabilityID")
    severity: str
    pkg_name: str = ""
    installed_version: str = ""
    fixed_version: str = ""


class Misconfiguration(msgspec.Struct, frozen=True, rename="pascal"):
    """A check of configuration; `Status` is FAIL where it found something."""

    id: str = msgspec.field(name="ID")
    severity: str
    status: str = "FAIL"


class Secret(msgspec.Struct, frozen=True, rename="pascal"):
    """A secret that lies in the artifact; its text is not read."""

    rule_id: str = msgspec.field(name="RuleID")
    severity: str


class Result(msgspec.Struct, frozen=True, rename="pascal"):
    """What was found in one target of the artifact."""

    target: str
    vulnerabilities: list[Vulnerability] | None = None
    misconfigurations: list[Misconfiguration] | None = None
    secrets: list[Secret] | None = None


class Metadata(msgspec.Struct, frozen=True, rename="pascal"):
    """What else the artifact is known by."""

    image_id: str = msgspec.field(name="ImageID", default="")
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None


class Report(msgspec.Struct, frozen=True, rename="pascal"):
    """One report. Trivy leaves `Results` out where it had nothing to look at."""

    schema_version: int
    artifact_name: str
    created_at: str
    metadata: Metadata = Metadata()
    results: list[Result] | None = None


class Finding(NamedTuple):
    """One thing that was found: what, how bad, in which package or target."""

    id: str
    severity: str
    place: str

    def __str__(self) -> str:
        return f"{self.id} ({self.severity}, {self.place})" if self.place else f"{self.id} ({self.severity})"


class Ruling(NamedTuple):
    """What the policy says: why the report does not count, or the findings that it refuses."""

    unusable: str | None
    refused: list[Finding]
    ignored: int
    lapsed: int
    age_s: int


_decode: Final = msgspec.json.Decoder(Report).decode


def rule(content: bytes, written_at: datetime, now: datetime, spec: ScanSpec) -> Ruling:
    """Judge a report's bytes, which were written to the disk at this moment, as of now."""
    try:
        report = _decode(content)
        created_at = moment(report.created_at)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _unusable(f"it is not a Trivy report of SchemaVersion {SCHEMA_VERSION}: {str(error)[:200]}")
    age = now - min(created_at, written_at)
    reason = _not_ours(report, spec) or _wrong_time(created_at, age, now, spec)
    if reason is not None:
        return _unusable(reason, age)
    return _ruling(list(_findings(report)), now, age, spec)


def _unusable(reason: str, age: timedelta = timedelta()) -> Ruling:
    return Ruling(reason, [], 0, 0, int(age.total_seconds()))


def _not_ours(report: Report, spec: ScanSpec) -> str | None:
    if report.schema_version != SCHEMA_VERSION:
        return f"its SchemaVersion is {report.schema_version}, not {SCHEMA_VERSION}"
    if spec.artifact not in _names(report):
        return f"it is about {report.artifact_name[:80]!r}, not about {spec.artifact!r}"
    if not report.results:
        return "it has no Results: nothing was scanned"
    return None


def _names(report: Report) -> set[str]:
    """Everything that the artifact is called; a digest also without the repository before it."""
    digests = report.metadata.repo_digests or []
    names = {report.artifact_name, report.metadata.image_id, *(report.metadata.repo_tags or []), *digests}
    names |= {digest.rpartition("@")[2] for digest in [report.artifact_name, *digests] if "@" in digest}
    return names - {""}


def _wrong_time(created_at: datetime, age: timedelta, now: datetime, spec: ScanSpec) -> str | None:
    if created_at > now + CLOCK_SKEW:
        return f"it was made at {created_at.isoformat()}, which lies ahead"
    if age > timedelta(seconds=spec.max_age_s):
        return f"it is {int(age.total_seconds())} s old, and may be {spec.max_age_s} s"
    return None


def _findings(report: Report) -> Iterator[Finding]:
    for result in report.results or []:
        for each in result.vulnerabilities or []:
            yield Finding(each.vulnerability_id, each.severity, each.pkg_name or result.target)
        for wrong in result.misconfigurations or []:
            # PASS and EXCEPTION are listed too where all checks were asked for.
            if wrong.status == "FAIL":
                yield Finding(wrong.id, wrong.severity, result.target)
        for secret in result.secrets or []:
            yield Finding(secret.rule_id, secret.severity, result.target)


def _ruling(findings: Sequence[Finding], now: datetime, age: timedelta, spec: ScanSpec) -> Ruling:
    bad = [finding for finding in findings if finding.severity.upper() in spec.refuse]
    accepted = [[each for each in spec.ignore if _covers(each, finding)] for finding in bad]
    valid = [any(each.until >= now.date() for each in covering) for covering in accepted]
    refused = sorted({finding for finding, ok in zip(bad, valid, strict=True) if not ok}, key=_worst_first)
    lapsed = sum(bool(covering) and not ok for covering, ok in zip(accepted, valid, strict=True))
    return Ruling(None, refused, sum(valid), lapsed, int(age.total_seconds()))


def _covers(ignored: IgnoredFinding, finding: Finding) -> bool:
    return ignored.id == finding.id and ignored.package in (None, finding.place)


_RANKS: Final = {"CRITICAL": 0, "HIGH": 1, "MEDIUM": 2, "LOW": 3}


def _worst_first(finding: Finding) -> tuple[int, Finding]:
    return _RANKS.get(finding.severity.upper(), 4), finding
