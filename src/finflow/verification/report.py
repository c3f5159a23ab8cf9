"""A report as text, as JSON, as JUnit XML. Pure; everything in it has been masked before."""

import re
from typing import Any, Final

from lxml import etree

from finflow.verification.model import Outcome, Report, Status

_WORDS: Final = {Status.PASSED: "ok", Status.FAILED: "FAILED", Status.SKIPPED: "skipped"}
# What XML 1.0 cannot hold, however it is escaped.
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def line(outcome: Outcome) -> str:
    """One outcome as one line."""
    words = " ".join(outcome.words.split())
    return f"{_WORDS[outcome.status]:<8}{outcome.id:<28} {outcome.duration_s:>7.3f} s  {words}"


def text(report: Report) -> str:
    """Every outcome on a line, and the sum in a sentence."""
    return "\n".join([*(line(each) for each in report.outcomes), "", sentence(report)])


def sentence(report: Report) -> str:
    """How it ended."""
    counts = {status: report.count(status) for status in Status}
    where = f" of {report.url}" if report.url else ""
    verdict = "is verified" if report.passed() else "IS NOT VERIFIED"
    ending = "; the service never answered" if report.unreachable else ""
    return (
        f"{report.name}{where} {verdict}: {counts[Status.PASSED]} passed, {counts[Status.FAILED]} failed, "
        f"{counts[Status.SKIPPED]} skipped in {report.duration_s:.1f} s (run {report.run}){ending}."
    )


def plain(report: Report, *, strict: bool = False) -> dict[str, Any]:
    """The report for programs."""
    return {
        "name": report.name,
        "url": report.url,
        "run": report.run,
        "at": report.at,
        "duration_s": report.duration_s,
        "verified": report.passed(strict=strict) and not report.unreachable,
        "reachable": not report.unreachable,
        **{str(status): report.count(status) for status in Status},
        "checks": report.outcomes,
    }


def junit(report: Report) -> bytes:
    """The report as JUnit XML, as continuous integration reads it."""
    attributes = {
        "name": report.name,
        "tests": str(len(report.outcomes)),
        "failures": str(report.count(Status.FAILED)),
        "skipped": str(report.count(Status.SKIPPED)),
        "errors": "0",
        "time": f"{report.duration_s:.3f}",
    }
    root = etree.Element("testsuites", attributes)
    suite = etree.SubElement(root, "testsuite", {**attributes, "timestamp": report.at, "id": report.run})
    for each in report.outcomes:
        _case(suite, report, each)
    return bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True))


def _case(suite: Any, report: Report, outcome: Outcome) -> None:
    case = etree.SubElement(
        suite,
        "testcase",
        {
            "classname": f"{report.name}.{outcome.kind}",
            "name": outcome.id,
            "time": f"{outcome.duration_s:.3f}",
        },
    )
    words = _UNPRINTABLE.sub("?", outcome.words)
    if outcome.status is Status.FAILED:
        etree.SubElement(case, "failure", {"message": words, "type": outcome.kind})
    elif outcome.status is Status.SKIPPED:
        etree.SubElement(case, "skipped", {"message": words})
