"""Where a handshake's CPU goes: the daemon with the functions of each part timed.

`python -m bench.ike_split ...` is `python -m cygnet.daemon ...` whose functions of interest were
wrapped before anybody imported them. A wrapped function's time is its own: what wrapped functions
inside it take is theirs. At SIGTERM the sums go to the file named in CYGNET_BENCH_SPLIT. The
wrappers cost some tenths of a microsecond a call; the shares are what counts.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

WHERE = "CYGNET_BENCH_SPLIT"
# part: functions as module:name or module:class.name, in the order of dependence
PARTS: dict[str, tuple[str, ...]] = {
    "parse": (
        "cygnet.wire.message:decode",
        "cygnet.wire.message:decode_header",
        "cygnet.wire.message:decode_payloads",
    ),
    "encode": ("cygnet.wire.message:encode", "cygnet.wire.message:encode_payloads"),
    "x25519": ("cygnet.crypto.key_exchange:generate", "cygnet.crypto.key_exchange:_X25519.shared"),
    "kdf": (
        "cygnet.crypto.kdf:ike_sa_keys",
        "cygnet.crypto.kdf:child_keymat",
    ),
    "crypto": ("cygnet.crypto.suites:_Aead.seal", "cygnet.crypto.suites:_Aead.open"),
    "sockets": ("cygnet.daemon.lanes:Lanes.send", "cygnet.daemon.lanes:Lanes._readable"),
    "install": (
        "cygnet.daemon.plane:Plane.install_sa",
        "cygnet.daemon.plane:Plane.remove_sa",
        "cygnet.daemon.plane:Plane.install_policy",
        "cygnet.daemon.plane:Plane._readable",
    ),
    # What these call and is not named above: exchanges, decisions, state, events.
    "negotiation": (
        "cygnet.ike.endpoint:Endpoint.receive",
        "cygnet.ike.endpoint:Endpoint.resume",
        "cygnet.ike.endpoint:Endpoint.handle_timeout",
        "cygnet.ike.endpoint:Endpoint.effects",
        "cygnet.ike.endpoint:Endpoint.next_timeout",
    ),
    "events": ("cygnet.daemon.process:Daemon.emit",),
}

_sums: dict[str, int] = defaultdict(int)
_stack: list[int] = []


def _timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    clock, stack, sums = time.thread_time_ns, _stack, _sums

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        stack.append(0)
        started = clock()
        try:
            return function(*arguments, **named)
        finally:
            took = clock() - started
            inner = stack.pop()
            sums[part] += took - inner
            if stack:
                stack[-1] += took

    return timed


def _wrap() -> None:
    for part, names in PARTS.items():
        for name in names:
            module, _, path = name.partition(":")
            owner: Any = importlib.import_module(module)
            *outer, attribute = path.split(".")
            for step in outer:
                owner = getattr(owner, step)
            setattr(owner, attribute, _timed(part, getattr(owner, attribute)))


def _tell(*_: object) -> None:
    Path(os.environ[WHERE]).write_text(json.dumps({"cpu": time.process_time_ns(), **_sums}))
    os._exit(0)


def _reset(*_: object) -> None:
    _sums.clear()
    _sums["before"] = time.process_time_ns()


def measure(handshakes: int, total_ms: float) -> dict[str, float]:
    """Milliseconds per handshake by part, scaled so that they add up to `total_ms`."""
    from bench import ike_responders

    with tempfile.TemporaryDirectory() as directory:
        sums = Path(directory) / "sums"
        os.environ[WHERE] = str(sums)
        with ike_responders.cygnet("bench.ike_split") as running:
            running.load.handshakes(300)
            os.kill(running.pid, signal.SIGUSR1)
            running.load.handshakes(handshakes)
        told = json.loads(sums.read_text())
    cpu = told.pop("cpu") - told.pop("before")
    scale = total_ms / cpu
    parts = {part: round(told.get(part, 0) * scale, 4) for part in PARTS}
    parts["rest"] = round(total_ms - sum(parts.values()), 4)
    return parts


def main() -> int:
    signal.signal(signal.SIGTERM, _tell)
    signal.signal(signal.SIGUSR1, _reset)
    _wrap()
    from cygnet.daemon.__main__ import main as daemon

    return daemon()


if __name__ == "__main__":
    sys.exit(main())
