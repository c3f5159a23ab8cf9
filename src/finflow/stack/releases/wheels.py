"""Unpacks a wheel: every file checked against the wheel's own record, scripts left to the environment."""

import base64
import csv
import hashlib
import io
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError

_FILES_MAX_BYTES: Final = 2 << 30


class Wheel(msgspec.Struct, frozen=True):
    """What a wheel says about itself."""

    project: str
    version: str
    needs: tuple[str, ...]


def unpack(wheel: Path, site: Path, scripts: Path) -> Wheel:
    """Puts the files of a wheel into these folders. Raises release_failed for a wheel that is not whole."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if sum(each.file_size for each in archive.infolist()) > _FILES_MAX_BYTES:
                raise FinFlowError("release_failed", f"{wheel.name} is larger than a release may be.")
            info = _info_folder(archive)
            record = _record(archive, info)
            for name in archive.namelist():
                if not name.endswith("/"):
                    _put(archive, name, record, _place(name, site, scripts))
            return _described(archive, info)
    except (OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise FinFlowError("release_failed", f"{wheel.name} is not a whole wheel: {error}.") from error


def _info_folder(archive: zipfile.ZipFile) -> str:
    found = {name.split("/")[0] for name in archive.namelist() if name.split("/")[0].endswith(".dist-info")}
    if len(found) != 1:
        raise FinFlowError("release_failed", "A wheel has one .dist-info folder.")
    return found.pop()


def _record(archive: zipfile.ZipFile, info: str) -> dict[str, str]:
    rows = csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode()))
    return {row[0]: row[1] for row in rows if len(row) >= 2}


def _place(name: str, site: Path, scripts: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise FinFlowError("release_failed", f"{name} leads out of the release.")
    if path.parts[0].endswith(".data") and len(path.parts) > 2:
        kind, rest = path.parts[1], Path(*path.parts[2:])
        places = {"purelib": site, "platlib": site, "scripts": scripts, "data": scripts.parent}
        if kind not in places:
            return scripts.parent / "include" / rest
        return places[kind] / rest
    return site / Path(*path.parts)


def _put(archive: zipfile.ZipFile, name: str, record: dict[str, str], place: Path) -> None:
    content = archive.read(name)
    algorithm, _, wanted = record.get(name, "").partition("=")
    if not name.endswith((".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")):
        if algorithm not in ("sha256", "sha384", "sha512"):
            raise FinFlowError("release_failed", f"{name} is not in the wheel's record.")
        got = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()
        if got != wanted:
            raise FinFlowError("release_failed", f"{name} is not what the wheel's record says.")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    if archive.getinfo(name).external_attr >> 16 & 0o100 or ".data/scripts/" in name:
        place.chmod(0o755)


def _described(archive: zipfile.ZipFile, info: str) -> Wheel:
    told = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    needs = [each for each in told.get_all("Requires-Dist", []) if "extra ==" not in each]
    return Wheel(str(told["Name"]), str(told["Version"]), tuple(needs))
