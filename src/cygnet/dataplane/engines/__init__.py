"""What moves the packets: the kernel, or an engine of ours, `native` (Rust) or `portable` (Python).

The supervisor settles what `auto` means (`settle`) before it opens anything, because sockets differ: where
the kernel does ESP, its UDP sockets say so. The data plane process makes what was chosen (`choose`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cygnet.dataplane.engines.portable import PortableEngine


KERNEL = "kernel"
CRATE_API = 1
"""What `native` expects of the crate (native/src/python.rs); one built from other sources is not used."""

try:
    from cygnet import _native

    built = _native
except ImportError:  # no Rust toolchain where Cygnet was installed
    built = None  # type: ignore[assignment]


class EngineUnavailable(Exception):
    """Why there is no such engine here, in a sentence."""


def native_available() -> bool:
    """Whether the crate was built with this installation, and from its sources."""
    return built is not None and built.API == CRATE_API


def choose(wanted: str) -> type[PortableEngine]:
    """The engine of that name; `auto`: native where it was built. Raises EngineUnavailable."""
    if ours(wanted) == "portable":
        from cygnet.dataplane.engines.portable import PortableEngine

        return PortableEngine
    from cygnet.dataplane.engines.native import NativeEngine

    return NativeEngine


def ours(wanted: str) -> str:
    """The engine of ours that `wanted` means. Raises EngineUnavailable."""
    if wanted == "auto":
        return "native" if native_available() else "portable"
    if wanted == "native" and not native_available():
        raise EngineUnavailable("engine native is not here: there was no Rust toolchain at installation")
    return wanted


def settle(wanted: str) -> tuple[str, str]:
    """(engine, why) for one of the words of `options.engine`; `auto` is the kernel where it has ESP, else
    what `ours` makes of it. In the network namespace of the caller. Raises EngineUnavailable."""
    from cygnet.dataplane.xfrm.probe import probe

    if wanted not in ("auto", KERNEL):
        return wanted, "as configured"
    found = probe()
    if found.usable:
        return KERNEL, found.text
    if wanted == KERNEL:
        raise EngineUnavailable(f"engine kernel is not here: {found.text}")
    return ours(wanted), found.text
