"""Imports what would be imported late, while it may still be read.

The daemon becomes a user who may be denied the directories that Python and its libraries live in
(a virtual environment in somebody's home, for example), and some libraries import at first use.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil

import cryptography

LATE = (
    "asyncio.staggered", "encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.unicode_escape",
    "encodings.utf_8", "stringprep", "unicodedata", "_strptime", "email.utils", "ipaddress",
)  # fmt: skip


OPTIONAL = ("OpenSSL.SSL", "Crypto.Hash.MD4", "Crypto.Cipher.DES", "pyrad.packet")
"""What the extras bring: imported where it is installed."""


def preload() -> None:
    """All of `cryptography` (0.1 s), whose compiled half imports the other at first use; and the rest."""
    for name in LATE:
        importlib.import_module(name)
    for name in OPTIONAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for module in pkgutil.walk_packages(cryptography.__path__, "cryptography."):
        importlib.import_module(module.name)
