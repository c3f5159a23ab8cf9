"""Somebody approves where a change touches who can reach what, or who may do what.

The approval is of the very difference that was looked at: it names the difference by its digest, so that
another difference needs another approval.
"""

import fnmatch
from pathlib import Path
from typing import Final

import msgspec

from finflow.rollout.checks import files
from finflow.rollout.checks.guarded import Guarded, judged, some
from finflow.rollout.checks.manifests import Change, Difference, Unreadable, difference
from finflow.rollout.checks_spec import ManifestsSpec
from finflow.rollout.ports import Approvals
from finflow.rollout.verdicts import Judgement, Verdict

# So much stands in the judgement, which stands in the decision log; the digest is over all.
MAX_LISTED: Final = 50
MAX_FIELDS: Final = 20


class ManifestsCheck(Guarded):
    """PASS without a change, or with one that was approved; else INCONCLUSIVE, which waits for a person."""

    def __init__(self, spec: ManifestsSpec, folder: Path, approvals: Approvals) -> None:
        super().__init__(spec.name, self._compare, 3 * spec.timeout_s)
        self._spec = spec
        self._folder = folder
        self._approvals = approvals

    async def changes(self) -> Difference:
        """What there is to approve. Raises Unreadable."""
        before, after = await self._files(self._spec.before), await self._files(self._spec.after)
        watched = {
            path
            for path in {*before, *after}
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in self._spec.watched_files)
        }
        return difference(before, after, self._spec.kinds, watched)

    async def _files(self, place: str) -> dict[str, bytes]:
        spec = self._spec
        if spec.repository is None:
            return await files.of_folder(self._folder / place / spec.folder)
        return await files.of_revision(self._folder / spec.repository, place, spec.folder, spec.timeout_s)

    async def _compare(self) -> Judgement:
        try:
            found = await self.changes()
        except Unreadable as error:
            return judged(self._spec.name, Verdict.ERROR, f"The manifests cannot be compared: {error}.")
        if not found.changes:
            return judged(self._spec.name, Verdict.PASS, "No watched object changes.", {"changed": 0})
        approval = await self._approvals.find(found.digest)
        numbers: dict[str, float | int | str] = {
            "changed": len(found.changes),
            "digest": found.digest,
            "changes": _listed(found.changes),
        }
        listed = some([_in_words(change) for change in found.changes])
        if approval is None:
            words = f"Approval needed of {len(found.changes)} changes: {listed}."
            return judged(self._spec.name, Verdict.INCONCLUSIVE, words, numbers)
        words = f"Approved by {approval.by} at {approval.at}: {listed}."
        return judged(self._spec.name, Verdict.PASS, words, {**numbers, "approved_by": approval.by})


def _listed(changes: list[Change]) -> str:
    """The first changes, with the first fields of each, as JSON."""
    first = [msgspec.structs.replace(each, fields=each.fields[:MAX_FIELDS]) for each in changes[:MAX_LISTED]]
    return msgspec.json.encode(first).decode()


def _in_words(change: Change) -> str:
    fields = f" ({some(list(change.fields), 3)})" if change.fields else ""
    return f"{change.object} {change.change}{fields}"
