"""A lint report as text, as JSON, and as SARIF 2.1.0 for the tools that show findings beside the code."""

from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from finflow import __version__
from finflow.db.lint.rules import ERROR, RULES, WARNING, Finding, Rule
from finflow.db.lint.service import Report

SARIF_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def shown(report: Report, with_notes: bool = False, with_waived: bool = False) -> str:
    """Lines of file:line:column, one finding each, its remedy below; a last line counts."""
    lines = []
    for each in report.findings:
        if (each.because is None or with_waived) and (each.level in (ERROR, WARNING) or with_notes):
            word = each.level if each.because is None else "waived"
            lines.append(f"{each.file}:{each.line}:{each.column}: {word}: {each.rule}: {each.message}")
            if each.because or each.remedy:
                lines.append(f"    {f'because {each.because}' if each.because else each.remedy}")
    return "\n".join([*lines, summary(report)])


def summary(report: Report) -> str:
    """How many files, errors, warnings, notes and waived findings there are."""
    standing = [each for each in report.findings if each.because is None]
    counts = {level: sum(each.level == level for each in standing) for level in (ERROR, WARNING, "note")}
    waived = len(report.findings) - len(standing)
    return (
        f"{report.files} files: {counts[ERROR]} errors, {counts[WARNING]} warnings, "
        f"{counts['note']} notes, {waived} waived."
    )


def as_json(report: Report) -> dict[str, Any]:
    """Everything that was found."""
    return {"files": report.files, "refused": report.refused, "findings": report.findings}


def sarif(report: Report) -> dict[str, Any]:
    """The report as one run of SARIF 2.1.0; what is waived is there as suppressed, with its reason."""
    names = sorted({each.rule for each in report.findings})
    index = {name: number for number, name in enumerate(names)}
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "finflow db lint",
                        "version": __version__,
                        "rules": [_rule(name, report) for name in names],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(each, index) for each in report.findings],
            }
        ],
    }


def _rule(name: str, report: Report) -> dict[str, Any]:
    rule = RULES.get(name) or _of_squawk(name, report)
    found: dict[str, Any] = {
        "id": name,
        "shortDescription": {"text": rule.reason},
        "defaultConfiguration": {"level": rule.level},
    }
    return found | ({"help": {"text": rule.remedy}} if rule.remedy else {})


def _of_squawk(name: str, report: Report) -> Rule:
    first = next(each for each in report.findings if each.rule == name)
    return Rule(name, first.level, first.message, first.remedy)


def _result(each: Finding, index: dict[str, int]) -> dict[str, Any]:
    region = {"startLine": each.line, "startColumn": each.column}
    location = {"artifactLocation": {"uri": quote(PurePath(each.file).as_posix())}, "region": region}
    found: dict[str, Any] = {
        "ruleId": each.rule,
        "ruleIndex": index[each.rule],
        "level": each.level,
        "message": {"text": f"{each.message} {each.remedy}".strip()},
        "locations": [{"physicalLocation": location}],
    }
    if each.because is not None:
        found["suppressions"] = [{"kind": "inSource", "justification": each.because}]
    return found
