"""Strict reverse path filtering (rp_filter 1) beside routes that point to the TUN.

Replies of bypassed flows come in on other links than the one that the tunnels' routes name, so the reverse
path is looked up with their mark (src_valid_mark). ARP requests carry none: a link whose own neighbours are
inside a protected network, as all are with 0.0.0.0/0, has its filter set to loose while that lasts. What
comes out of the TUN may come from anywhere that its SA allows, and the engine has checked that. IPv6 has
no such filter. Settings that are read-only here stay; those that were changed are restored at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

_STRICT, _LOOSE = "1", "2"
_CONFIGURATION = Path("/proc/sys/net/ipv4/conf")


class ReversePaths:
    def __init__(self) -> None:
        self._before: dict[Path, str] = {}

    def fit(self, tun: str) -> None:
        """Marks decide reverse paths on all links but the TUN."""
        # "default" comes first: writing it writes all links whose own value nobody ever set.
        self._write(_CONFIGURATION / "default" / "src_valid_mark", "1")
        with contextlib.suppress(OSError):
            for interface in _CONFIGURATION.iterdir():
                if interface.name not in ("all", "lo", tun):
                    self._write(interface / "src_valid_mark", "1")
        # On the TUN not even loose filtering works with marks, because it has no address of its own.
        self._write(_CONFIGURATION / tun / "src_valid_mark", "0")
        self._write(_CONFIGURATION / tun / "rp_filter", "0")

    def loosen(self, links: Iterable[str]) -> None:
        """Links with neighbours inside protected networks."""
        strict_everywhere = _read(_CONFIGURATION / "all" / "rp_filter") == _STRICT
        for name in links:
            setting = _CONFIGURATION / name / "rp_filter"
            if _read(setting) == _STRICT or strict_everywhere:
                self._write(setting, _LOOSE)

    def restore(self) -> None:
        for setting, value in self._before.items():
            with contextlib.suppress(OSError):
                setting.write_text(value)
        self._before.clear()

    def _write(self, setting: Path, value: str) -> None:
        found = _read(setting)
        if found not in ("", value):
            with contextlib.suppress(OSError):
                setting.write_text(value)
                self._before.setdefault(setting, found)


def _read(setting: Path) -> str:
    try:
        return setting.read_text().strip()
    except OSError:
        return ""
