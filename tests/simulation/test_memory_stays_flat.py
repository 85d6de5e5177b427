"""Handshakes and deletes leave nothing behind: neither in the endpoints nor anywhere in the process."""

from __future__ import annotations

import gc
import sys
from ipaddress import ip_address
from pathlib import Path as FilePath

import pytest

from cygnet.config.load import load
from cygnet.crypto.entropy import SeededEntropy
from cygnet.ike.effects import Installed, InstallSa, SendDatagram
from cygnet.ike.endpoint import Endpoint
from cygnet.ike.world import Instant, Path
from cygnet.testing.configurations import connection_text, gateway_address

WARM_UP, CYCLES = 1_500, 10_000
STEP = 3.0
"""Virtual seconds between handshakes: what lingers after a delete is gone some cycles later."""


class Bench:
    """Two endpoints whose datagrams and installations are carried out at once, and nothing is kept."""

    def __init__(self) -> None:
        self.now = Instant(1000.0, 1_700_000_000.0)
        self.endpoints: dict[object, Endpoint] = {}
        for number in (1, 2):
            text = connection_text(
                "peer", number, 3 - number, connection='proposals = "aes256gcm16-prfsha256-x25519"'
            )
            loaded = load(FilePath("flat.toml"), text)
            endpoint = Endpoint(loaded.gateway.options, loaded.credentials(), SeededEntropy(number), self.now)
            for connection in loaded.connections:
                endpoint.load(connection, self.now)
            self.endpoints[ip_address(gateway_address(number))] = endpoint
        self.initiator, self.responder = self.endpoints.values()

    def settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for endpoint in self.endpoints.values():
                for effect in endpoint.effects():
                    busy = True
                    if isinstance(effect, SendDatagram):
                        self._deliver(effect)
                    elif isinstance(effect, InstallSa) and effect.ask_id:
                        endpoint.resume(effect.ask_id, Installed(), self.now)

    def _deliver(self, sent: SendDatagram) -> None:
        path = sent.path
        there = Path(path.remote, path.remote_port, path.local, path.local_port)
        data = sent.data[4:] if path.remote_port == 4500 else sent.data
        self.endpoints[path.remote].receive(data, there, self.now)

    def cycle(self) -> None:
        """Up with one Child SA, down again, and some time."""
        self.initiator.initiate("peer", "net", self.now)
        self.settle()
        (sa,) = self.initiator.sas()
        assert [len(sa.children) for sa in self.responder.sas()] == [1]
        self.initiator.terminate(sa.unique_id, 0, False, self.now)
        self.settle()
        self.now = Instant(self.now.monotonic + STEP, self.now.wall + STEP)
        for endpoint in self.endpoints.values():
            due = endpoint.next_timeout()
            if due is not None and due <= self.now.monotonic:
                endpoint.handle_timeout(self.now)
        self.settle()


def allocated() -> int:
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.slow
def test_ten_thousand_handshakes_and_deletes_leave_nothing_behind() -> None:
    bench = Bench()
    for _ in range(WARM_UP):
        bench.cycle()
    before = allocated()
    for _ in range(CYCLES):
        bench.cycle()
    grown = allocated() - before
    # One object kept of each handshake would be 10,000 blocks.
    assert grown < CYCLES / 20
    assert not list(bench.responder.sas())
    assert not list(bench.initiator.sas())
