"""What moves the packets: two engines behind one contract, `portable` (Python) and `native` (Rust)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cygnet.dataplane.engines.portable import PortableEngine


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
