"""What the daemon gives up before it reads the first octet from the network, and how.

Order: core dumps off, undumpable, bounding set (becoming another user takes the right to drop it),
supplementary groups and ids (only where another id is mapped: a rootless user namespace has one), all
capability sets, no_new_privs. Nothing can be taken back; `give_up` raises `PrivilegesKept` rather than
go on with too much.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct
from pathlib import Path

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_LAST = 63

_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegesKept(Exception):
    """The process holds more than it should and cannot give it up; the text is one sentence."""


def hide_memory() -> None:
    """No core file and no /proc/PID/mem for others: key material stays in this process (T46)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(PR_SET_DUMPABLE, 0)


def account(name: str) -> tuple[int, int] | None:
    """User and group id of an account that exists and is mapped here, else None."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    if is_mapped(entry.pw_uid, "uid") and is_mapped(entry.pw_gid, "gid"):
        return entry.pw_uid, entry.pw_gid
    return None


def unprivileged(user: str) -> tuple[str, tuple[int, int]] | None:
    """The account that the daemon becomes, with its user and group id: `user`, or where there is none of that
    name, nobody; None where neither is."""
    if not user:
        return None
    return next(((name, ids) for name in (user, "nobody") if (ids := account(name))), None)


def is_mapped(number: int, kind: str, text: str | None = None) -> bool:
    """Does this user namespace know the id? `kind` is uid or gid; `text` replaces /proc's map (tests)."""
    lines = (Path(f"/proc/self/{kind}_map").read_text() if text is None else text).splitlines()
    for line in lines:
        inside, _, count = (int(field) for field in line.split())
        if inside <= number < inside + count:
            return True
    return False


def give_up(user: str = "") -> str:
    """Give up everything; returns in a few words what was done.

    `user`: the account to become, or where there is none of that name, nobody; "" stays.

    Raises PrivilegesKept.
    """
    hide_memory()
    for capability in range(CAP_LAST + 1):
        if _libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            _libc.prctl(
                PR_CAPBSET_DROP, capability, 0, 0, 0
            )  # needs CAP_SETPCAP; checked by its effect below
    changed = _change_ids(user) if user else "same user"
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise PrivilegesKept(f"capabilities cannot be dropped: {os.strerror(ctypes.get_errno())}")
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    # setuid made the process undumpable or dumpable by fs.suid_dumpable: say it again, last.
    _prctl(PR_SET_DUMPABLE, 0)
    held = capabilities_held()
    if held:
        raise PrivilegesKept(f"capabilities are still held after dropping them: {held:#x}")
    return f"{changed}, no capabilities, no new privileges, no core dumps"


def capabilities_held() -> int:
    """Bits of the permitted and effective sets together, from /proc/self/status."""
    held = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
            held |= int(value, 16)
    return held


def missing(*wanted: tuple[int, str]) -> list[str]:
    """Names of the capabilities (number, name) that are not in this process's effective set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return [name for number, name in wanted if not held >> number & 1]
    return []


def _change_ids(user: str) -> str:
    becomes = unprivileged(user)
    if becomes is None or os.geteuid() != 0:
        return "same user"
    user, (uid, gid) = becomes
    try:
        # A user namespace that denies setgroups has no supplementary groups of its own to drop.
        if Path("/proc/self/setgroups").read_text().strip() == "allow":
            os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise PrivilegesKept(f"cannot become user {user}: {error.strerror}") from error
    return f"user {user}"


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise PrivilegesKept(f"prctl {option} failed: {os.strerror(ctypes.get_errno())}")
