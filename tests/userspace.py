"""What a test of the engines in userspace asks for: `auto` is the kernel where that has ESP."""

from __future__ import annotations

from typing import Final

from cygnet.dataplane.engines import ours

USERSPACE: Final = ours("auto")
