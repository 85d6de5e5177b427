"""The leases in a file: one line of JSON for each assignment, the last of an address counts.

Lines are appended whole; one that a crash cut short is passed over. The file is written anew, beside
and then in place of the old one, when most of its lines are history.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from cygnet.auth.identity import BadIdentity, Identity
from cygnet.policy.selectors import IpAddress

Assignment = tuple[str, IpAddress, Identity]
NAME: Final = "leases"
MAX_LINE: Final = 16384
SLACK: Final = 1000
"""Lines of history that may stand in the file beside as many as there are leases."""
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW


class Journal:
    """In the directory of this descriptor, which stays the caller's. `lines`: how many the file has.

    All methods raise OSError.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self.lines = 0
        self._fd = -1

    def read(self) -> Iterator[Assignment]:
        """In the order in which they were made; none without a file."""
        try:
            fd = os.open(NAME, os.O_RDONLY | _FLAGS, dir_fd=self._directory)
        except FileNotFoundError:
            return
        with os.fdopen(fd, "rb") as file:
            for line in file:
                self.lines += 1
                known = _parsed(line) if len(line) <= MAX_LINE else None
                if known is not None:
                    yield known

    def append(self, assignment: Assignment) -> None:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS
            self._fd = os.open(NAME, flags, 0o600, dir_fd=self._directory)
            # A line that was cut short must not take the next one with it.
            os.write(self._fd, b"\n")
            self.lines += 1
        os.write(self._fd, _line(assignment))
        self.lines += 1

    def is_long(self, leases: int) -> bool:
        return self.lines > 2 * leases + SLACK

    def rewrite(self, assignments: Iterable[Assignment]) -> None:
        """These and no others; whoever reads sees the old file or the new one."""
        lines = [_line(assignment) for assignment in assignments]
        beside, here = f"{NAME}.new", self._directory
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=here)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=here)
        with os.fdopen(fd, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, NAME, src_dir_fd=here, dst_dir_fd=here)
        os.fsync(here)
        self.close()
        self.lines = len(lines)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _line(assignment: Assignment) -> bytes:
    pool, address, identity = assignment
    record = {"pool": pool, "address": str(address), "type": identity.type, "id": identity.data.hex()}
    return json.dumps(record).encode() + b"\n"


def _parsed(line: bytes) -> Assignment | None:
    try:
        record = json.loads(line)
        identity = Identity.from_wire(int(record["type"]), bytes.fromhex(record["id"]))
        return str(record["pool"]), ip_address(record["address"]), identity
    except (ValueError, KeyError, TypeError, BadIdentity):
        return None
