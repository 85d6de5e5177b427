"""On the machine that runs the guest: a whole Cygnet as sun, at the other end of the guest's network card.

Called through the fixture `host` (see conftest.py). Addresses and the echo are `peer`'s.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cygnet.lab.gateway import Gateway
from cygnet.lab.namespaces import Namespace
from tests.guest import peer

_running: dict[str, Gateway] = {}


def start(namespace: Namespace, configuration: str) -> None:
    peer.start(namespace, "portable")
    peer.stop(namespace)
    folder = Path(tempfile.mkdtemp(prefix="cygnet-sun-"))
    _running["sun"] = Gateway(namespace, folder, configuration, "swanctl.conf")


def stop(namespace: Namespace) -> str:
    """The end of its log."""
    gateway = _running.pop("sun")
    gateway.stop()
    return gateway.log()[-3000:]


def up(namespace: Namespace, child: str) -> str:
    """What `cygnet up` said, empty if it is up."""
    done = _running["sun"].cygnet("up", child)
    return "" if done.returncode == 0 else done.stdout + done.stderr + _running["sun"].log()[-2000:]


def children(namespace: Namespace, name: str) -> list[dict[str, Any]]:
    """The installed Child SAs of this name."""
    return [
        child
        for sa in _running["sun"].sas()
        for child in sa["child-sas"].values()
        if child["name"] == name and child["state"] == "INSTALLED"
    ]
