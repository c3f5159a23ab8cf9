"""The keys that sign access tokens: one file each in a private folder, rotated without a gap.

A key's name (`kid`) holds the moment at which it was published and the head of its thumbprint, so that a
folder that was copied or restored says the same. Everybody who reads the folder comes to the same plan:

- a key signs once it has been published for LEAD_S, so that whoever checks tokens has seen it by then;
- it stays published until the last token that it can have signed has expired.

So rotating is adding a file, and every process needs nothing but the folder and a clock.
"""

import calendar
import contextlib
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from finflow.identity.jose import PublicKey, public_key
from finflow.identity.model import LEEWAY_S, MAX_TTL_S
from finflow.kernel.errors import FinFlowError

log = logging.getLogger(__name__)

LEAD_S: Final = 120
ALGORITHM: Final = "EdDSA"
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_KID: Final = re.compile(r"(\d{8}T\d{6}Z)-[A-Za-z0-9_-]{12}")
_THUMB: Final = 12
_MAX_KEYS: Final = 64
_MAX_PEM: Final = 16_384


class SigningKey(NamedTuple):
    """A private key of ours; `published_at_s` is when others could first see its public half."""

    kid: str
    published_at_s: int
    public: PublicKey
    key: Any


class Plan(NamedTuple):
    """Which key signs (None without any), and until when each is published: infinity while none follows."""

    signing: SigningKey | None
    until_s: dict[str, float]


def plan(keys: Sequence[SigningKey], now_s: float) -> Plan:
    """What to do with these keys now. Pure."""
    ordered = sorted(keys, key=lambda key: (key.published_at_s, key.kid))
    until_s = {}
    for key, successor in zip_longest(ordered, ordered[1:]):
        signed_until_s = successor.published_at_s + LEAD_S if successor else float("inf")
        until_s[key.kid] = signed_until_s + MAX_TTL_S + LEEWAY_S
    ripe = [key for key in ordered if key.published_at_s + LEAD_S <= now_s]
    # Where none is ripe there is nobody yet who could be surprised.
    return Plan(ripe[-1] if ripe else next(iter(ordered), None), until_s)


class KeyFolder:
    """The folder of the signing keys. Raises data_unusable for what the file system refuses."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ensure(self, now_s: float) -> SigningKey:
        """The key that signs, made now if there is none; the folder is made private to its owner."""
        with self._held():
            keys = self.load()
            return plan(keys, now_s).signing or self._write(now_s)

    def rotate(self, now_s: float) -> SigningKey:
        """Publishes a new key, and removes the private halves of those that nobody needs any more."""
        with self._held():
            for kid, until_s in plan(self.load(), now_s).until_s.items():
                if until_s <= now_s:
                    self._file(kid).unlink(missing_ok=True)
            return self._write(now_s)

    def revoke(self, kid: str, now_s: float) -> None:
        """Takes a key out at once: its tokens die. Another is made first if it was the only one.

        Raises signing_key_unknown.
        """
        with self._held():
            keys = {key.kid: key for key in self.load()}
            if kid not in keys:
                raise FinFlowError("signing_key_unknown", f"{self.root} has no key {kid[:60]!r}.")
            if len(keys) == 1:
                self._write(now_s)
            self._file(kid).unlink()

    def names(self) -> tuple[str, ...]:
        """The names of the keys, sorted: cheap, and different whenever a key came or went."""
        try:
            with os.scandir(self.root) as found:
                kids = (entry.name.removesuffix(".pem") for entry in found if entry.name.endswith(".pem"))
                return tuple(sorted(kid for kid in kids if _KID.fullmatch(kid)))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _unusable(self.root, error) from error

    def load(self, on_fault: Callable[[FinFlowError], None] | None = None) -> list[SigningKey]:
        """Every key, oldest first. A key that is removed while this reads is left out.

        Raises data_unusable for a file that is no good key; with `on_fault` it is told and left out.
        """
        found: list[SigningKey] = []
        for kid in self.names()[-_MAX_KEYS:]:
            try:
                key = self._read(kid)
            except FinFlowError as fault:
                if on_fault is None:
                    raise
                on_fault(fault)
                continue
            if key is not None:
                found.append(key)
        return found

    def _file(self, kid: str) -> Path:
        return self.root / f"{kid}.pem"

    def _read(self, kid: str) -> SigningKey | None:
        path = self._file(kid)
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                pem = file.read(_MAX_PEM)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(path, error) from error
        if mode & stat.S_IRWXO:
            raise FinFlowError("data_unusable", f"{path} can be read by everybody: `chmod 600` it.")
        return _parsed(path, kid, pem)

    def _write(self, now_s: float) -> SigningKey:
        key = OKPKey.generate_key("Ed25519")
        # Of two keys made within a second the later one must come later.
        taken = [_published(kid) for kid in self.names()]
        stamp = max(int(now_s), *(each + 1 for each in taken), 0) if taken else int(now_s)
        kid = f"{time.strftime(_STAMP, time.gmtime(stamp))}-{key.thumbprint()[:_THUMB]}"
        fresh = self.root / f".{kid}.new"
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(key.as_pem(private=True))
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._file(kid))
        except OSError as error:
            raise _unusable(self.root, error) from error
        return SigningKey(kid, stamp, public_key(key.as_dict(private=False), kid), key)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """One writer at a time, also among processes."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.root, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _parsed(path: Path, kid: str, pem: bytes) -> SigningKey:
    try:
        key = OKPKey.import_key(pem)
        public = public_key(key.as_dict(private=False), kid)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise FinFlowError("data_unusable", f"{path} is not an Ed25519 private key.") from error
    if not key.is_private or not kid.endswith(key.thumbprint()[:_THUMB]):
        raise FinFlowError("data_unusable", f"{path} does not hold the key that its name says.")
    return SigningKey(kid, _published(kid), public, key)


def _published(kid: str) -> int:
    try:
        return calendar.timegm(time.strptime(kid.partition("-")[0], _STAMP))
    except ValueError:
        return 0


def _unusable(path: Path, error: OSError) -> FinFlowError:
    return FinFlowError("data_unusable", f"{path}: {os.strerror(error.errno or 0)}")


def _log_fault(fault: FinFlowError) -> None:
    log.error("a signing key is left out", extra={"reason": fault.detail})


class Keyring:
    """The keys of a folder as a worker sees them: in memory, read again when the folder's list changes."""

    def __init__(self, folder: KeyFolder) -> None:
        self._folder = folder
        self._names: tuple[str, ...] = ()
        self._keys: list[SigningKey] = []
        self._plan = Plan(None, {})
        self._planned_at_s = float("-inf")

    def refresh(self, now_s: float) -> bool:
        """Looks at the folder's list; whether another key is there, or one is gone. Raises data_unusable."""
        names = self._folder.names()
        changed = names != self._names
        if changed:
            # One bad file must not keep a worker from the good ones.
            self._keys = self._folder.load(_log_fault)
            self._names = names
        if changed or not self._planned_at_s <= now_s < self._planned_at_s + 1:
            self._plan, self._planned_at_s = plan(self._keys, now_s), now_s
        return changed

    def signing(self, now_s: float) -> SigningKey:
        """The key to sign with now. Raises signing_key_unknown without any."""
        self.refresh(now_s)
        if self._plan.signing is None:
            raise FinFlowError("signing_key_unknown", f"{self._folder.root} has no signing key.")
        return self._plan.signing

    def find(self, kid: str, now_s: float) -> PublicKey | None:
        """The public half of a published key; a name that is not known yet is looked for in the folder."""
        for _ in range(2):
            for key in self._keys:
                if key.kid == kid and now_s < self._plan.until_s[kid]:
                    return key.public
            if not self.refresh(now_s):
                break
        return None

    def published(self, now_s: float) -> list[PublicKey]:
        """Every key that tokens may be signed with, now or still, newest first."""
        self.refresh(now_s)
        return [key.public for key in reversed(self._keys) if now_s < self._plan.until_s[key.kid]]
