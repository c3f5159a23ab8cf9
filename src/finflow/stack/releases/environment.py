"""The skeleton of an environment: an interpreter's link, the paths to what is imported, commands in bin/."""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError

# The kernel reads so many bytes of a script's first line.
_SHEBANG_MAX: Final = 120


class Environment:
    """An environment that is built in one folder and will stand in another one."""

    def __init__(self, building: Path, place: Path) -> None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.building, self.place = building, place
        self.bin = building / "bin"
        self.site = building / "lib" / version / "site-packages"

    def lay_out(self) -> None:
        """The folders, the link to the interpreter, and the file that makes it one of an environment."""
        interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        self.bin.mkdir()
        self.site.mkdir(parents=True)
        (self.bin / "python").symlink_to(interpreter)
        (self.bin / "python3").symlink_to("python")
        version = ".".join(map(str, sys.version_info[:3]))
        told = f"home = {interpreter.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
        (self.building / "pyvenv.cfg").write_text(told)

    def import_from(self, *folders: Path) -> None:
        """Has modules looked for in these folders, after the environment's own; their .pth files count."""
        lines = [f"import site; site.addsitedir({str(folder)!r})" for folder in folders]
        (self.site / "_release.pth").write_text("".join(f"{line}\n" for line in lines))

    def write_commands(self, *sites: Path) -> None:
        """The commands of every distribution in these folders, run by this environment's interpreter."""
        for site in sites:
            for distribution in metadata.distributions(path=[str(site)]):
                for entry in distribution.entry_points.select(group="console_scripts"):
                    self._write_command(entry)
            self._link_programs(site / "bin")

    def _write_command(self, entry: metadata.EntryPoint) -> None:
        path = self.bin / entry.name
        if not entry.attr or "/" in entry.name or os.path.lexists(path):
            return
        first = entry.attr.split(".")[0]
        start = f"import sys\nfrom {entry.module} import {first}\nsys.exit({entry.attr}())\n"
        path.write_text(self._first_line() + start)
        path.chmod(0o755)

    def _first_line(self) -> str:
        interpreter = str(self.place / "bin" / "python")
        if len(os.fsencode(interpreter)) < _SHEBANG_MAX and " " not in interpreter:
            return f"#!{interpreter}\n"
        # A shell reads it as a command, Python as a string.
        quoted = interpreter.replace("'", "'\"'\"'")
        if quoted != interpreter:
            raise FinFlowError("data_unusable", f"{interpreter} holds a quotation mark.")
        return f"#!/bin/sh\n''':'\nexec '{interpreter}' \"$0\" \"$@\"\n'''\n"

    def _link_programs(self, folder: Path) -> None:
        """Programs that are not Python's: their place is the layer's."""
        for program in sorted(folder.iterdir()) if folder.is_dir() else []:
            if program.is_file() and not program.is_symlink() and not (self.bin / program.name).exists():
                with program.open("rb") as file:
                    python = b"python" in file.readline(200)
                if not python:
                    (self.bin / program.name).symlink_to(program)

    def rewrite_scripts(self) -> None:
        """Scripts that a wheel brings begin with `#!python`, which is to become this environment's."""
        for path in self.bin.iterdir():
            if not path.is_symlink() and path.read_bytes()[:8] == b"#!python":
                _, _, rest = path.read_bytes().partition(b"\n")
                path.write_bytes(self._first_line().encode() + rest)
