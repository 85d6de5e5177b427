"""`cygnet reload`: read the configuration here, where the files may be read, and send what it says.

Everything is validated before anything is sent; then credentials, then connections, then what is gone is
unloaded. The daemon leaves alone what is the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from rich.progress import Progress

from cygnet.cli.terminal import err
from cygnet.config.load import Loaded
from cygnet.daemon.reader import fingerprint_of
from cygnet.vici.client import Client, Unknown
from cygnet.vici.codec import Message, texts

MANY = 200
"""Commands from which on a bar shows how far it is."""


def send(client: Client, loaded: Loaded) -> Counter[str]:
    """Load everything, unload what is not there any more; how many of each. Raises `ViciError`."""
    counts: Counter[str] = Counter()
    keys = set()
    commands = list(loaded.commands())
    with Progress(console=err, transient=True, disable=len(commands) < MANY or not err.is_terminal) as bar:
        task = bar.add_task("loading", total=len(commands))
        for command, answer in client.pipeline(commands):
            counts[command] += 1
            if command == "load-key" and "id" in answer:
                keys.add(answer["id"].decode())
            bar.advance(task)
    known = {
        ("get-conns", "conns", "unload-conn", "name"): {connection.name for connection in loaded.connections},
        ("get-shared", "keys", "unload-shared", "id"): {secret.id for secret in loaded.secrets},
        ("get-keys", "keys", "unload-key", "id"): keys,
        ("get-authorities", "authorities", "unload-authority", "name"): {
            one.name for one in loaded.authorities
        },
    }
    for (ask, field, unload, key), wanted in known.items():
        for name in _listed(client.request(ask), field):
            if name not in wanted:
                client.request(unload, {key: name})
                counts[unload] += 1
    pools = {pool.name for pool in loaded.pools}
    for name in client.request("get-pools"):
        if name not in pools:
            client.request("unload-pool", {"name": name})
            counts["unload-pool"] += 1
    _unload_certificates(client, loaded, counts)
    return counts


def other_options(client: Client, loaded: Loaded) -> bool:
    """Whether the daemon was started with other options than these, which it reads at the start only."""
    running = texts(client.request("daemon-stats")).get("options", "")
    return running not in ("", fingerprint_of(loaded.gateway))


def _unload_certificates(client: Client, loaded: Loaded, counts: Counter[str]) -> None:
    wanted = {hashlib.sha256(entry.der).hexdigest() for entry in loaded.certificates}
    wanted |= {hashlib.sha256(crl).hexdigest() for crl in loaded.crls}
    try:
        held = client.request("get-certs").get("certs", {})
    except Unknown:
        return
    for fingerprint in held:
        if fingerprint not in wanted:
            client.request("unload-cert", {"id": fingerprint})
            counts["unload-cert"] += 1


def _listed(answer: Message, field: str) -> list[str]:
    return [name.decode() for name in answer.get(field, [])]
