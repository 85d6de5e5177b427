"""What moves the packets: the kernel, or an engine of ours, `native` (Rust) or `portable` (Python).

The supervisor settles what `auto` means (`settle`) before it opens anything, because sockets differ: where
the kernel does ESP, its UDP sockets say so. The data plane process makes what was chosen (`choose`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cygnet.dataplane.engines.portable import PortableEngine


KERNEL = "kernel"


class EngineUnavailable(Exception):
    """Why there is no such engine here, in a sentence."""


def choose(wanted: str) -> type[PortableEngine]:
    """The engine of that name; `auto`: native where it was built. Raises EngineUnavailable."""
    from cygnet.dataplane.engines import native
    from cygnet.dataplane.engines.portable import PortableEngine

    if wanted == "portable" or (wanted == "auto" and not native.available()):
        return PortableEngine
    if not native.available():
        raise EngineUnavailable("engine native is not here: there was no Rust toolchain at installation")
    return native.NativeEngine


def settle(wanted: str) -> tuple[str, str]:
    """(engine, why) for one of the words of `options.engine`: `kernel` is taken by name only, `auto` is what
    `choose` makes of it. In the network namespace of the caller. Raises EngineUnavailable."""
    from cygnet.dataplane.xfrm.probe import probe

    if wanted not in ("auto", KERNEL):
        return wanted, "as configured"
    found = probe()
    if wanted == KERNEL:
        if not found.usable:
            raise EngineUnavailable(f"engine kernel is not here: {found.text}")
        return KERNEL, found.text
    return choose(wanted).name, f"{found.text}; `engine = kernel` chooses it" if found.usable else found.text
