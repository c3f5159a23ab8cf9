"""Lints files: reads them, asks both sets of rules, applies waivers, sorts what is left by place."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from finflow.db.lint import ours, squawk, tree, waivers
from finflow.db.lint.alter import proofs_in
from finflow.db.lint.rules import ERROR, RULES, Finding
from finflow.db.lint.tree import SqlFile
from finflow.db.phases import FILE_NAME, MAX_FILE_BYTES, Phase
from finflow.kernel.errors import FinFlowError

MAX_FILES: Final = 20_000


class Report(msgspec.Struct, frozen=True):
    """What was found in how many files; waived findings are among them, with their reason."""

    files: int
    findings: list[Finding]

    @property
    def refused(self) -> bool:
        """Whether any error stands unwaived."""
        return any(each.level == ERROR and each.because is None for each in self.findings)


def collect(places: Sequence[Path]) -> list[Path]:
    """The SQL files of folders and the files themselves, each once, in order. Raises file_unreadable."""
    found: list[Path] = []
    for each in places:
        if each.is_dir():
            found += sorted(path for path in each.iterdir() if path.suffix == ".sql" and path.is_file())
        elif each.is_file():
            found.append(each)
        else:
            raise FinFlowError("file_unreadable", f"{each}: there is no such file or folder.")
    if len(found) > MAX_FILES:
        raise FinFlowError("file_unreadable", f"{len(found)} files are more than {MAX_FILES}.")
    return list(dict.fromkeys(found))


def lint(places: Sequence[Path]) -> Report:
    """Lints folders and files. Raises extra_missing, linter_failed and file_unreadable."""
    paths = collect(places)
    contents = {str(path): _content(path) for path in paths}
    files = [tree.read(name, content.decode()) for name, content in contents.items()]
    by_file: dict[str, list[Finding]] = defaultdict(list)
    for finding in [*_ours(files), *_squawk(files)]:
        by_file[finding.file].append(finding)
    baselines = {folder: waivers.baseline(folder) for folder in {path.parent for path in paths}}
    findings: list[Finding] = []
    for file in files:
        path = Path(file.name)
        accepted = baselines[path.parent].get(path.name)
        found = _waived(file, by_file[file.name])
        if accepted is not None and waivers.is_accepted(accepted, contents[file.name]):
            found = [_because(each, accepted.because) for each in found]
        findings += sorted(found, key=lambda each: (each.line, each.column, each.rule))
    return Report(len(files), findings)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise FinFlowError("file_unreadable", f"{path}: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise FinFlowError("file_unreadable", f"{path} is larger than {MAX_FILE_BYTES} bytes.")
    return content


def _because(finding: Finding, reason: str) -> Finding:
    return finding if finding.because else msgspec.structs.replace(finding, because=reason)


def _waived(file: SqlFile, findings: list[Finding]) -> list[Finding]:
    found, malformed = waivers.read(file.text)
    unread = [_finding(file, "waiver-malformed", offset, None) for offset in malformed]
    return list(waivers.applied([*findings, *unread], found, file.name))


def _finding(file: SqlFile, rule_id: str, offset: int, words: str | None) -> Finding:
    rule = RULES[rule_id]
    return Finding(file.name, *file.where(offset), rule.id, rule.level, words or rule.reason, rule.remedy)


def _ours(files: list[SqlFile]) -> Iterable[Finding]:
    proofs = proofs_in(files)
    for file in files:
        for rule, offset, words in [*_of_name(file), *ours.check(file, proofs)]:
            yield _finding(file, rule, offset, words)
    yield from _of_folder(files)


def _of_name(file: SqlFile) -> list[ours.Hit]:
    match = FILE_NAME.fullmatch(Path(file.name).name)
    if match is None:
        return [("file-name", 0, None)]
    return [] if match["phase"] else [("missing-phase", 0, None)]


def _of_folder(files: list[SqlFile]) -> Iterable[Finding]:
    """What only the files together tell: phases that a change lacks, numbers that two changes have."""
    changes: dict[tuple[Path, str], list[SqlFile]] = defaultdict(list)
    numbers: dict[tuple[Path, str], set[str]] = defaultdict(set)
    for file in files:
        path = Path(file.name)
        if match := FILE_NAME.fullmatch(path.name):
            changes[path.parent, match["change"]].append(file)
            numbers[path.parent, match["number"]].add(match["change"])
    for group in changes.values():
        phases = {file.phase: file for file in group}
        if Phase.CONTRACT in phases and Phase.BACKFILL in phases and Phase.VERIFY not in phases:
            yield _finding(phases[Phase.CONTRACT], "missing-verify", 0, None)
    for (folder, number), names in numbers.items():
        for change in sorted(names)[1:]:
            words = f"{number} is also the number of {min(names)}."
            yield _finding(changes[folder, change][0], "number-taken", 0, words)


def _squawk(files: list[SqlFile]) -> Iterable[Finding]:
    """Files of CONCURRENTLY run outside of a transaction, and squawk is told so."""
    alone: list[Path] = []
    within: list[Path] = []
    for file in files:
        outside = bool(file.parsed) and all(ours.is_concurrent(each) for each in file.parsed)
        (alone if outside else within).append(Path(file.name))
    for paths, in_transaction in ((within, True), (alone, False)):
        if paths:
            yield from squawk.findings(paths, in_transaction)
