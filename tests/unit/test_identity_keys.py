"""The folder of signing keys: who signs when, who is published until when, and what the files must be."""

import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.identity.keys import LEAD_S, KeyFolder, Keyring, SigningKey, plan
from finflow.identity.model import LEEWAY_S, MAX_TTL_S
from finflow.kernel.errors import FinFlowError

NOW = 1_800_000_000


def code(caught: pytest.ExceptionInfo[FinFlowError]) -> str:
    return caught.value.kind.code


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "data" / "keys")


def test_the_first_key_signs_at_once_and_nobody_else_may_read_it(folder: KeyFolder) -> None:
    key = folder.ensure(NOW)
    assert folder.ensure(NOW + 5).kid == key.kid
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    [file] = folder.root.glob("*.pem")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stem == key.kid
    assert key.kid.startswith(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW)))


def test_a_rotated_key_signs_after_the_lead_and_the_former_stays_until_its_tokens_are_over(
    folder: KeyFolder,
) -> None:
    first = folder.ensure(NOW)
    second = folder.rotate(NOW + 1000)
    ring = Keyring(folder)
    assert ring.signing(NOW + 1000).kid == first.kid
    assert ring.signing(NOW + 1000 + LEAD_S - 1).kid == first.kid
    assert ring.signing(NOW + 1000 + LEAD_S).kid == second.kid
    last_token_s = NOW + 1000 + LEAD_S + MAX_TTL_S
    assert [key.kid for key in ring.published(last_token_s)] == [second.kid, first.kid]
    assert ring.find(first.kid, last_token_s) is not None
    assert [key.kid for key in ring.published(last_token_s + LEEWAY_S)] == [second.kid]
    assert ring.find(first.kid, last_token_s + LEEWAY_S) is None
    folder.rotate(last_token_s + LEEWAY_S)
    assert first.kid not in folder.names(), "what nobody needs any more is not kept"


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=6, unique=True), st.integers(0, 20_000))
def test_whoever_signs_is_published_for_as_long_as_the_token_lives(ages: list[int], at: int) -> None:
    keys = [SigningKey(f"k{age}", age, None, None) for age in ages]  # type: ignore[arg-type]
    signing = plan(keys, at).signing
    assert signing is not None
    for later in range(at, at + MAX_TTL_S + 1, 60):
        assert plan(keys, later).until_s[signing.kid] > later
    ripe = [age for age in ages if age + LEAD_S <= at]
    assert signing.published_at_s == (max(ripe) if ripe else min(ages))


def test_keys_made_in_one_second_have_an_order(folder: KeyFolder) -> None:
    made = [folder.ensure(NOW), *(folder.rotate(NOW) for _ in range(3))]
    assert [key.kid for key in folder.load()] == [key.kid for key in made]


def test_a_revoked_key_is_gone_at_once_and_another_is_there(folder: KeyFolder) -> None:
    first = folder.ensure(NOW)
    ring = Keyring(folder)
    assert ring.find(first.kid, NOW) is not None
    folder.revoke(first.kid, NOW)
    assert ring.refresh(NOW)
    assert ring.find(first.kid, NOW) is None
    assert ring.signing(NOW).kid != first.kid
    with pytest.raises(FinFlowError) as caught:
        folder.revoke("../../etc/passwd", NOW)
    assert code(caught) == "signing_key_unknown"


def test_a_key_is_found_in_the_folder_when_a_token_names_it_first(folder: KeyFolder) -> None:
    folder.ensure(NOW)
    ring = Keyring(folder)
    ring.signing(NOW)
    fresh = folder.rotate(NOW + 1)
    found = ring.find(fresh.kid, NOW + 1)
    assert found is not None
    assert found.jwk == fresh.public.jwk


def test_a_folder_without_keys_signs_nothing(folder: KeyFolder) -> None:
    with pytest.raises(FinFlowError) as caught:
        Keyring(folder).signing(NOW)
    assert code(caught) == "signing_key_unknown"


def test_what_is_no_key_of_ours_is_left_aside_and_a_broken_one_is_told(folder: KeyFolder) -> None:
    key = folder.ensure(NOW)
    (folder.root / "notes.txt").write_text("x")
    (folder.root / "other.pem").write_text("x")
    assert [each.kid for each in folder.load()] == [key.kid]
    broken = folder.root / f"{key.kid[:-1]}{'A' if key.kid[-1] != 'A' else 'B'}.pem"
    broken.write_bytes((folder.root / f"{key.kid}.pem").read_bytes())
    broken.chmod(0o600)
    with pytest.raises(FinFlowError, match="does not hold the key that its name says"):
        folder.load()
    broken.write_bytes(b"nonsense")
    with pytest.raises(FinFlowError, match="not an Ed25519 private key"):
        folder.load()


def test_a_key_that_everybody_can_read_is_refused(folder: KeyFolder) -> None:
    key = folder.ensure(NOW)
    (folder.root / f"{key.kid}.pem").chmod(0o644)
    with pytest.raises(FinFlowError, match="chmod 600"):
        folder.load()


def test_a_copied_folder_says_the_same_whatever_the_files_times_are(
    folder: KeyFolder, tmp_path: Path
) -> None:
    folder.ensure(NOW)
    folder.rotate(NOW + 500)
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    for file in folder.root.glob("*.pem"):
        (copy / file.name).write_bytes(file.read_bytes())
        (copy / file.name).chmod(0o600)
        os.utime(copy / file.name, (0, 0))
    for at in (NOW, NOW + 500, NOW + 700, NOW + 5000):
        ours, theirs = Keyring(folder), Keyring(KeyFolder(copy))
        assert ours.signing(at).kid == theirs.signing(at).kid
        assert [key.kid for key in ours.published(at)] == [key.kid for key in theirs.published(at)]


def test_a_broken_file_keeps_no_worker_from_the_good_keys(
    folder: KeyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    good = folder.ensure(NOW)
    ring = Keyring(folder)
    assert ring.signing(NOW).kid == good.kid
    broken = folder.root / "20300101T000000Z-aaaaaaaaaaaa.pem"
    broken.write_bytes(b"nonsense")
    broken.chmod(0o600)
    assert ring.signing(NOW + 1).kid == good.kid
    assert [key.kid for key in ring.published(NOW + 1)] == [good.kid]
    assert [record.message for record in caplog.records] == ["a signing key is left out"]
    with pytest.raises(FinFlowError, match="not an Ed25519 private key"):
        folder.ensure(NOW + 2)
