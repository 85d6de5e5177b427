"""The control socket's file: made by the supervisor, who may; listened on by the daemon, who may not."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from pathlib import Path

DEFAULT_PATH = Path("/run/cygnet/cygnet.vici")
BACKLOG = 128
MODE = 0o660


class ControlSocketRefused(Exception):
    """One sentence for a person."""


def listen(path: Path, group: str = "") -> socket.socket:
    """Bind and listen, mode 0660, in a directory that others cannot write. Raises ControlSocketRefused.

    A file that a dead Cygnet left is replaced; one that somebody listens on is not.
    """
    _prepare_directory(path.parent)
    if path.is_socket():
        if _answers(path):
            raise ControlSocketRefused(f"{path}: another Cygnet is running here")
        path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o777 & ~MODE)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        sock.close()
        remove(path)
        raise ControlSocketRefused(f"{path}: there is no group {group}") from None
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            remove(path)
        raise ControlSocketRefused(
            f"{path}: the control socket cannot be made: {error.strerror or error}"
        ) from error
    finally:
        os.umask(before)
    return sock


def remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _prepare_directory(directory: Path) -> None:
    """Made where it is missing, `/run/cygnet` say; not one that itself would stand in a missing one."""
    try:
        directory.mkdir(mode=0o755, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ControlSocketRefused(f"{directory}: {error.strerror}") from error
    # A sticky directory (/tmp) lets others add files, not replace ours.
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise ControlSocketRefused(
            f"{directory}: others may write here; the control socket wants its own directory"
        )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True
