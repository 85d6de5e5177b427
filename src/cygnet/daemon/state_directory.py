"""The directory of what outlives the daemon: made by the supervisor, who may; written by the daemon alone."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from cygnet.daemon.privileges import unprivileged


class NoStateDirectory(Exception):
    """Why nothing can be kept, in a sentence."""


def prepare(path: Path, user: str) -> int:
    """A descriptor of a directory that the account the daemon becomes may write, and nobody else.

    Nothing is followed that somebody could have put in its place. Raises NoStateDirectory.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            becomes = unprivileged(user) if os.geteuid() == 0 else None
            uid, gid = becomes[1] if becomes is not None else (os.geteuid(), os.getegid())
            known = os.fstat(directory)
            if known.st_uid not in (0, uid, os.geteuid()):
                raise NoStateDirectory(f"{path} belongs to somebody else")
            if (known.st_uid, known.st_gid) != (uid, gid):
                os.fchown(directory, uid, gid)
                _give_files(directory, uid, gid)
            if stat.S_IMODE(known.st_mode) != 0o700:
                os.fchmod(directory, 0o700)
        except (OSError, NoStateDirectory):
            os.close(directory)
            raise
    except OSError as error:
        raise NoStateDirectory(f"{path} cannot be used: {error.strerror or error}") from error
    return directory


def _give_files(directory: int, uid: int, gid: int) -> None:
    """What an account before this one wrote. Raises OSError."""
    for name in os.listdir(directory):
        if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
