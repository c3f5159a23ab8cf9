"""The security scan: which reports count, which findings hold a release back. Samples: tests/data/trivy."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from finflow.rollout.checks.reports import rule
from finflow.rollout.checks.scan import ScanCheck
from finflow.rollout.checks_spec import IgnoredFinding, ScanSpec
from finflow.rollout.verdicts import Verdict

DATA = Path(__file__).parents[1] / "data" / "trivy"
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
TAG = "registry.example/payments:2.4.0"
DIGEST = "sha256:" + "2" * 64
CRITICAL_AND_HIGH = ["CVE-2023-45853", "aws-access-key-id", "CVE-2024-2961", "CVE-2024-2961", "DS002"]


def spec(name: str = "clean.json", **rest: Any) -> ScanSpec:
    return ScanSpec(**{"report": str(DATA / name), "artifact": TAG, **rest})


async def judged(spec: ScanSpec, now: datetime = NOW) -> tuple[Verdict, str]:
    judgement = await ScanCheck(spec, Path("/"), lambda: now).judge()
    return judgement.verdict, judgement.words


@pytest.mark.parametrize(
    "artifact", [TAG, DIGEST, f"registry.example/payments@{DIGEST}", "sha256:" + "1" * 64]
)
async def test_a_clean_report_passes_by_every_name_of_its_artifact(artifact: str) -> None:
    assert (await judged(spec(artifact=artifact)))[0] is Verdict.PASS


@pytest.mark.parametrize(
    "artifact", ["registry.example/payments:2.4.1", "payments", "sha256:" + "3" * 64, "2" * 64, "sha256"]
)
async def test_a_report_about_another_artifact_fails(artifact: str) -> None:
    verdict, words = await judged(spec(artifact=artifact))
    assert verdict is Verdict.FAIL
    assert "it is about" in words


async def test_critical_and_high_findings_of_all_three_kinds_fail() -> None:
    ruling = rule((DATA / "findings.json").read_bytes(), NOW, NOW, spec())
    assert [finding.id for finding in ruling.refused] == CRITICAL_AND_HIGH
    verdict, words = await judged(spec("findings.json"))
    assert verdict is Verdict.FAIL
    assert words.startswith("5 findings: CVE-2023-45853 (CRITICAL, zlib1g), aws-access-key-id (CRITICAL,")


def ignoring(*ids: str, until: date = date(2026, 3, 1), package: str | None = None) -> ScanSpec:
    reason = "not reachable from outside"
    return spec("findings.json", ignore=tuple(IgnoredFinding(each, reason, until, package) for each in ids))


async def test_accepted_findings_pass_until_their_day_is_over() -> None:
    accepted = ignoring(*CRITICAL_AND_HIGH)
    assert (await judged(accepted, datetime(2026, 3, 1, 23, 59, tzinfo=UTC)))[0] is Verdict.PASS
    after_midnight = datetime(2026, 3, 2, 0, 1, tzinfo=UTC)
    verdict, words = await judged(accepted, after_midnight)
    assert verdict is Verdict.FAIL
    assert "Of 5 the acceptance has expired" in words


def test_a_finding_may_be_accepted_on_one_package_alone() -> None:
    content = (DATA / "findings.json").read_bytes()
    ruling = rule(content, NOW, NOW, ignoring("CVE-2024-2961", package="libc6"))
    assert [f.place for f in ruling.refused if f.id == "CVE-2024-2961"] == ["libc-bin"]
    assert (ruling.ignored, ruling.lapsed) == (1, 0)


@pytest.mark.parametrize(
    ("created", "written", "counts"),
    [
        (timedelta(hours=23), timedelta(hours=23), True),
        (timedelta(hours=25), timedelta(), False),  # an old report, copied just now
        (timedelta(), timedelta(hours=25), False),  # a file that lay there before the scan it claims
        (timedelta(minutes=-4), timedelta(), True),
        (timedelta(minutes=-6), timedelta(), False),  # made in the future
    ],
)
def test_the_older_of_report_and_file_counts(created: timedelta, written: timedelta, counts: bool) -> None:
    report = json.loads((DATA / "clean.json").read_text())
    report["CreatedAt"] = (NOW - created).isoformat()
    ruling = rule(json.dumps(report).encode(), NOW - written, NOW, spec())
    assert (ruling.unusable is None) == counts


def changed(**fields: Any) -> bytes:
    report = json.loads((DATA / "clean.json").read_text())
    return json.dumps({name: value for name, value in {**report, **fields}.items() if value != ...}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"SchemaVersion": 2}', b"[" * 100_000,
        changed(SchemaVersion=1), changed(SchemaVersion="2"), changed(CreatedAt=...),
        changed(CreatedAt="today"), changed(CreatedAt="2026-03-01T09:00:00"), changed(Results=...),
        changed(Results=[]), changed(Results={}),
        changed(Results=[{"Target": "a", "Vulnerabilities": [{"VulnerabilityID": "CVE-1"}]}]),
        changed(Results=[{"Target": "a", "Vulnerabilities": {}}]), changed(ArtifactName=...),
    ],
)  # fmt: skip
def test_a_malformed_report_never_counts(content: bytes) -> None:
    assert rule(content, NOW, NOW, spec()).unusable is not None


async def test_a_missing_report_fails(tmp_path: Path) -> None:
    verdict, words = await judged(spec(report=str(tmp_path / "none.json")))
    assert verdict is Verdict.FAIL
    assert words == "The report none.json does not count: No such file or directory."
    assert (await judged(spec(report=str(tmp_path))))[0] is Verdict.FAIL


def test_other_severities_can_be_refused() -> None:
    ruling = rule((DATA / "clean.json").read_bytes(), NOW, NOW, spec(refuse=("LOW",)))
    assert [finding.id for finding in ruling.refused] == ["CVE-2011-3374"]
