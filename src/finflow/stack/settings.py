"""The embedded server's settings, each with the reason why it is not PostgreSQL's default."""

import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

_MB: Final = 1 << 20
_GB: Final = 1 << 30


class Setting(msgspec.Struct, frozen=True):
    """One line of postgresql.conf and why it stands there."""

    name: str
    value: str
    reason: str


# Money is on the disk before anybody is told so; said aloud because tests and benches turn it off.
DURABLE: Final = (
    Setting("fsync", "on", "a commit that is not on the disk is not a commit"),
    Setting("synchronous_commit", "on", "an acknowledged transaction survives a power cut"),
    Setting("full_page_writes", "on", "a torn page after a power cut is repaired from the log"),
)
VOLATILE: Final = (
    Setting("fsync", "off", "a test's server need not survive the machine"),
    Setting("synchronous_commit", "off", "the same"),
    Setting("full_page_writes", "off", "the same"),
)
CONSTANT: Final = (
    Setting("listen_addresses", "''", "reached by its socket in a private folder only"),
    Setting("unix_socket_permissions", "0700", "only the user who started it may connect"),
    Setting("max_connections", "100", "workers pool a few connections each"),
    Setting("checkpoint_timeout", "15min", "fewer checkpoints, so fewer full pages in the log"),
    Setting("checkpoint_completion_target", "0.9", "spreads a checkpoint's writes over the time it has"),
    Setting("wal_compression", "off", "measured: pglz halves the rows posted a second and saves no log"),
    Setting("wal_init_zero", "off", "measured: a log file filled with zeroes holds up commits for 50 ms"),
    Setting("random_page_cost", "1.1", "pages come from memory or a solid-state disk: indices are cheap"),
    Setting("jit", "off", "compiling costs more than our short statements take"),
    Setting("autovacuum", "on", "freezes the insert-only tables and keeps their statistics"),
    Setting("timezone", "UTC", "times are UTC wherever they are kept"),
    Setting("log_timezone", "UTC", "log lines of all servers compare"),
    Setting("logging_collector", "off", "the log goes to a file of the data folder that `finflow up` opens"),
    Setting("log_line_prefix", "'%m [%p] %a '", "when, which process, which program"),
    Setting("log_min_duration_statement", "1s", "a slow statement is worth a line"),
    Setting("log_lock_waits", "on", "so is one that waits for a lock"),
    Setting("log_checkpoints", "off", "a line each quarter of an hour says nothing"),
    Setting("log_parameter_max_length", "0", "parameters are customers' data"),
    Setting("log_parameter_max_length_on_error", "0", "the same when a statement fails"),
    Setting("log_error_verbosity", "terse", "the detail of an error quotes the row that broke a rule"),
    Setting("log_min_error_statement", "panic", "what somebody typed may hold values, what we send does not"),
)


def settings_for(folder: Path, socket_folder: Path, *, durable: bool = True) -> list[Setting]:
    """Every setting of a server whose data and socket lie in these folders."""
    wal_limit = max_wal_size(folder)
    return [
        *CONSTANT,
        *(DURABLE if durable else VOLATILE),
        Setting(
            "unix_socket_directories", f"'{socket_folder}'", "beside the data, where nobody else may enter"
        ),
        Setting("shared_buffers", _megabytes(shared_buffers()), "a quarter of the memory, 128 MB to 1 GB"),
        Setting("max_wal_size", _megabytes(wal_limit), "8 GB, or an eighth of the free disk"),
        Setting(
            "min_wal_size",
            _megabytes(min(_GB, wal_limit // 2)),
            "recycles log files instead of making new ones",
        ),
    ]


def shared_buffers() -> int:
    """A quarter of the machine's memory in bytes, between 128 MB and 1 GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(128 * _MB, min(memory // 4, _GB))


def max_wal_size(folder: Path) -> int:
    """Bytes of log between checkpoints: 8 GB, less on a small disk, never below 128 MB."""
    return max(128 * _MB, min(8 * _GB, shutil.disk_usage(folder).free // 8))


def _megabytes(size: int) -> str:
    return f"{size // _MB}MB"


def render(settings: list[Setting]) -> str:
    """The settings as a configuration file, on top of the one that initdb made for this machine's locale."""
    head = "# Written by `finflow up` at every start; a change here is lost.\ninclude 'postgresql.conf'\n"
    return head + "".join(f"{each.name} = {each.value}  # {each.reason}\n" for each in settings)
