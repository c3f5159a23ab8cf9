"""Starts a program as a child that dies with its parent and, for root, without being root.

Run as a script (`python -I -S enter.py IDENTITY SIGNAL PROGRAM ARGUMENTS...`), because what it does must
happen between fork and exec, in a process of one thread. It imports nothing of the house for speed.

IDENTITY is one of
- `same`: stay who we are;
- `namespace`: enter a user namespace in which we are user 65534. PostgreSQL refuses user id 0 and sees
  none; outside of the namespace we are root still, so every file stays root's and no folder above the
  data has to be opened to anybody;
- `nobody`: become the user `nobody`, where a container forbids user namespaces.
SIGNAL is the number that the kernel sends when the thread that started us ends; 0 for none.
"""

import ctypes
import os
import sys

NOBODY = 65534
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib doubles this script's start-up
        file.write(text)


def enter_namespace() -> None:
    """Become user 65534 of a fresh user namespace, which is root outside. Raises OSError where forbidden."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc().unshare(_CLONE_NEWUSER), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{NOBODY} {uid} 1")
    _write("/proc/self/gid_map", f"{NOBODY} {gid} 1")


def become_nobody() -> None:
    """Become user and group 65534 for good."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send us this signal when the thread that started us ends."""
    _check(_libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def main(arguments: list[str]) -> None:
    """Never returns: the program takes this process over."""
    identity, signal_number, *command = arguments
    if identity == "namespace":
        enter_namespace()
    elif identity == "nobody":
        become_nobody()
    # Only now, because a change of identity clears the signal.
    if int(signal_number):
        die_with_parent(int(signal_number))
    os.execvp(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
