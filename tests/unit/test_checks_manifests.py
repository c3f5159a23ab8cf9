"""What a change does to manifests, and the approval that binds to exactly that."""

from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from finflow.rollout.checks.approval import ManifestsCheck
from finflow.rollout.checks.manifests import Change, Unreadable, difference
from finflow.rollout.checks_spec import WATCHED_KINDS, ManifestsSpec
from finflow.rollout.ports import Approval
from finflow.rollout.verdicts import Verdict

ROLE = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: payments}
rules:
  - apiGroups: [""]
    resources: [pods, secrets]
    verbs: [get, list]
"""
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
spec:
  rules:
    - host: pay.example
      http: {paths: [{path: /a, pathType: Prefix}, {path: /, pathType: Prefix}]}
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: api}
spec: {replicas: 2}
"""


def changes(before: dict[str, str], after: dict[str, str], watched: tuple[str, ...] = ()) -> list[Change]:
    old, new = ({path: text.encode() for path, text in files.items()} for files in (before, after))
    return difference(old, new, WATCHED_KINDS, watched).changes


PAYMENTS = "Role payments/reader"


def changed(known_by: str, *fields: str) -> Change:
    return Change(known_by, "changed", fields)


def both(*documents: str) -> str:
    return "---\n".join(documents)


def test_order_comments_files_and_style_do_not_matter() -> None:
    rewritten = dedent("""\
        # who may read
        kind: Role
        rules:
        - verbs: ["list", "get"]   # in any order
          resources:
          - secrets
          - pods
          apiGroups: ['']
        metadata:
          namespace: payments
          name: reader
        apiVersion: rbac.authorization.k8s.io/v1
        """)
    before = {"all.yaml": both(ROLE, INGRESS, DEPLOYMENT)}
    after = {"b.yml": both(DEPLOYMENT, INGRESS), "roles/a.yaml": rewritten}
    assert changes(before, after) == []


def test_objects_of_other_kinds_are_nobodys_business() -> None:
    assert changes({"a.yaml": DEPLOYMENT}, {"a.yaml": DEPLOYMENT.replace("2", "3"), "c.yaml": "a: b"}) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (ROLE, ROLE.replace("list]", "list, delete]"), changed(PAYMENTS, "rules[0].verbs")),
        (
            ROLE,
            ROLE.replace("secrets", "configmaps"),
            changed(PAYMENTS, "rules[0].resources[0]", "rules[0].resources[1]"),
        ),
        ("", ROLE, Change(PAYMENTS, "added")),
        (ROLE, "", Change(PAYMENTS, "removed")),
        (INGRESS, INGRESS.replace("pay.", "evil."), changed("Ingress web", "spec.rules[0].host")),
        (INGRESS, INGRESS.replace("/a", "/b"), changed("Ingress web", "spec.rules[0].http.paths[0].path")),
        (
            INGRESS,
            INGRESS.replace("name: web", "name: web\n  annotations: {a: b}"),
            changed("Ingress web", "metadata.annotations"),
        ),
    ],
)
def test_what_changed_is_named(before: str, after: str, expected: Change) -> None:
    files = {"a.yaml": before} if before else {}
    assert changes(files, {"a.yaml": after} if after else {}) == [expected]


def test_the_order_of_routes_matters_and_that_of_rules_does_not() -> None:
    swapped = INGRESS.replace(
        "[{path: /a, pathType: Prefix}, {path: /, pathType: Prefix}]",
        "[{path: /, pathType: Prefix}, {path: /a, pathType: Prefix}]",
    )
    assert len(changes({"a.yaml": INGRESS}, {"a.yaml": swapped})) == 1


@pytest.mark.parametrize("kind", sorted(WATCHED_KINDS))
def test_every_watched_kind_is_seen(kind: str) -> None:
    document = f"{{apiVersion: example/v1, kind: {kind}, metadata: {{name: x}}}}"
    assert changes({}, {"a.json": document.replace("'", '"')}) == [Change(f"{kind} x", "added")]


def test_items_of_a_list_are_objects() -> None:
    listed = "apiVersion: v1\nkind: List\nitems:\n" + "- " + ROLE.replace("\n", "\n  ")
    assert changes({"a.yaml": ROLE}, {"b.yaml": listed}) == []


def test_one_object_in_two_files_is_compared_as_a_pair() -> None:
    other = ROLE.replace("list]", "watch]")
    assert changes({"a.yaml": ROLE, "b.yaml": other}, {"a.yaml": other, "b.yaml": ROLE}) == []
    removed = changes({"a.yaml": ROLE, "b.yaml": other}, {"a.yaml": ROLE})
    assert removed == [Change("Role payments/reader", "removed")]


def test_a_number_and_its_text_are_two_values() -> None:
    service = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {port: 80}}"
    [change] = changes({"a.yaml": service}, {"a.yaml": service.replace("80", "'80'")})
    assert change.fields == ("spec.port",)


def test_watched_files_count_whole() -> None:
    before, after = {"net/security_group.tf": "a"}, {"net/security_group.tf": "a # b"}
    assert changes(before, after) == []
    found = changes(before, after, ("net/security_group.tf",))
    assert found == [Change("net/security_group.tf", "changed")]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + chr(ord(name) - 1)] * 9)}]\n" for name in "bcdefghi"
)


@pytest.mark.parametrize(
    "text",
    [
        "kind: [Role",
        "kind: Role\nmetadata: {{ .Values.x }}: y",
        "a: !!python/object/apply:os.system [ls]",
        "kind: Role\n" + BOMB,
        "kind: Role\na: " + "[" * 200 + "]" * 200,
        "kind: Role\na: &x [*x]",
    ],
)
def test_what_cannot_be_read_is_not_compared(text: str) -> None:
    with pytest.raises(Unreadable):
        changes({}, {"a.yaml": text})


def test_a_file_that_did_not_change_need_not_be_readable() -> None:
    assert changes({"a.yaml": "{{ helm }}"}, {"a.yaml": "{{ helm }}"}) == []


class Recorded:
    """Approvals by digest."""

    def __init__(self) -> None:
        self.digests: set[str] = set()

    async def find(self, digest: str) -> Approval | None:
        return Approval(digest, "ada", "2026-03-01T10:00:00Z") if digest in self.digests else None


async def test_an_approval_is_of_one_change(tmp_path: Path) -> None:
    for name, text in (("old", ROLE), ("new", ROLE.replace("list]", "list, delete]"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "role.yaml").write_text(text)
    approvals = Recorded()
    check = ManifestsCheck(ManifestsSpec("old", "new"), tmp_path, approvals)
    asked = await check.judge()
    assert asked.verdict is Verdict.INCONCLUSIVE
    assert asked.words == "Approval needed of 1 changes: Role payments/reader changed (rules[0].verbs)."
    approvals.digests.add(str(asked.numbers["digest"]))
    approved = await check.judge()
    assert approved.verdict is Verdict.PASS
    assert approved.numbers["approved_by"] == "ada"
    # Written otherwise, it is the same change; one verb more is another.
    (tmp_path / "new" / "role.yaml").write_text(
        "# reviewed\n" + ROLE.replace("get, list]", "delete, list, get]")
    )
    assert (await check.judge()).verdict is Verdict.PASS
    (tmp_path / "new" / "role.yaml").write_text(ROLE.replace("list]", "list, delete, create]"))
    assert (await check.judge()).verdict is Verdict.INCONCLUSIVE


async def test_no_change_needs_nobody_and_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    check = ManifestsCheck(ManifestsSpec("old", "old"), tmp_path, Recorded())
    assert (await check.judge()).verdict is Verdict.PASS
    gone = ManifestsCheck(ManifestsSpec("old", "gone"), tmp_path, Recorded())
    assert (await gone.judge()).verdict is Verdict.ERROR


async def test_a_large_change_is_listed_in_part_and_approved_whole(tmp_path: Path) -> None:
    def service(number: int, ports: int) -> str:
        spec = ", ".join(f"f{field}: {ports}" for field in range(40))
        return f"---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{number:03}}}, spec: {{{spec}}}}}\n"

    for name, ports in (("old", 1), ("new", 2), ("newer", 2)):
        (tmp_path / name).mkdir()
        text = "".join(service(number, ports + (name == "newer" and number == 99)) for number in range(100))
        (tmp_path / name / "all.yaml").write_text(text)
    new = await ManifestsCheck(ManifestsSpec("old", "new"), tmp_path, Recorded()).judge()
    newer = await ManifestsCheck(ManifestsSpec("old", "newer"), tmp_path, Recorded()).judge()
    listed = msgspec.json.decode(str(new.numbers["changes"]))
    assert (len(listed), len(listed[0]["fields"])) == (50, 20)
    assert new.numbers["changes"] == newer.numbers["changes"]
    assert new.numbers["digest"] != newer.numbers["digest"]


async def test_tofu_is_watched_by_its_files(tmp_path: Path) -> None:
    for name, text in (("old", "cidr = 10.0.0.0/8"), ("new", "cidr = 0.0.0.0/0")):
        (tmp_path / name / "net").mkdir(parents=True)
        (tmp_path / name / "net" / "security_group.tf").write_text(text)
    spec = ManifestsSpec("old", "new", watched_files=("*security_group*.tf",))
    judgement = await ManifestsCheck(spec, tmp_path, Recorded()).judge()
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "net/security_group.tf changed" in judgement.words
