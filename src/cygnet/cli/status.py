"""`cygnet status`: every connection, up or down, its SAs, and why it last failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from cygnet.cli.tunnels import algorithms, reasons
from cygnet.vici.client import Client, single
from cygnet.vici.codec import texts

_COLOURS = {
    **dict.fromkeys(("ESTABLISHED", "INSTALLED", "MANUAL"), "green"),
    "REKEYED": "dim",
    "DELETING": "yellow",
}


def gather(client: Client, name: str = "") -> dict[str, Any]:
    """Connections with their SAs and failures, and failures that belong to no connection."""
    conns = _named(client.stream("list-conns", "list-conn"))
    sas = [(ike, sa) for ike, sa in single([texts(entry) for entry in client.stream("list-sas", "list-sa")])]
    failures = [texts(entry) for entry in client.stream("list-failures", "ike-failure")]
    connections: dict[str, Any] = {
        ike: {"configured": True, **body, "sas": [], "failures": []} for ike, body in conns.items()
    }
    for ike, sa in sas:
        entry = connections.setdefault(ike, {"configured": False, "sas": [], "failures": []})
        entry["sas"].append(sa)
    stray: list[dict[str, Any]] = []
    for failure in failures:
        ike = failure.get("ike", "")
        (connections[ike]["failures"] if ike in connections else stray).append(failure)
    if name:
        connections = {
            ike: body for ike, body in connections.items() if name == ike or name in body.get("children", {})
        }
        stray = []
    stats = texts(client.request("daemon-stats"))
    engine = {"name": stats.get("engine", ""), "why": stats.get("engine-why", "")}
    engine["offloads"] = stats.get("offloads", [])
    engine["silent"] = stats.get("dataplane-silent", "")
    expiring = stats.get("expiring", [])
    return {"connections": connections, "failures": stray, "engine": engine, "expiring": expiring}


def _named(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return dict(single([texts(entry) for entry in messages]))


def show_json(console: Console, status: Mapping[str, Any]) -> None:
    console.out(json.dumps(status, indent=2, ensure_ascii=False), highlight=False)


def show(console: Console, status: Mapping[str, Any], failures: int) -> None:
    """As people read it; at most `failures` of each connection's, the newest last."""
    connections = status["connections"]
    for ike, body in connections.items():
        _connection(console, ike, body, failures)
    stray = status["failures"][-failures:] if failures else []
    if stray:
        console.print("[b]Negotiations that fit no connection that is loaded[/]")
        for failure in stray:
            _print(console, _failure(failure, console.width), 2)
    for text in status.get("expiring", ()):
        console.print(Text(text, style="yellow"))
    if not connections and not stray:
        console.print("Nothing is configured.")
        return
    engine = status.get("engine", {})
    if engine.get("name"):
        why = f": {engine['why']}" if engine["why"] else ""
        offloads = engine.get("offloads")
        told = f"; offloads: {', '.join(offloads)}" if offloads else ""
        console.print(Text(f"engine {engine['name']}{why}{told}", style="dim"))
    if engine.get("silent"):
        silent = f"the data plane has not answered for {engine['silent']}: counters are missing"
        console.print(Text(silent, style="red"))
    up = sum(bool(body["sas"]) for body in connections.values())
    console.print(f"[dim]{len(connections)} connection{'s' * (len(connections) != 1)}, {up} up[/]")


def _print(console: Console, text: Text, indent: int) -> None:
    for line in text.split("\n"):
        console.print(Text(" " * indent).append_text(line))


def _connection(console: Console, ike: str, body: Mapping[str, Any], failures: int) -> None:
    _print(console, _headline(ike, body), 0)
    alive: set[str] = set()
    for sa in body["sas"]:
        _print(console, _ike_sa(sa), 2)
        for child in sa.get("child-sas", {}).values():
            alive.add(child.get("name", ""))
            _print(console, _child_sa(child), 4)
    for name, child in body.get("children", {}).items():
        if name not in alive:
            _print(console, _down_child(name, child), 4)
    for failure in body["failures"][-failures:] if failures else []:
        _print(console, _failure(failure, console.width), 2)


def _headline(ike: str, body: Mapping[str, Any]) -> Text:
    text = Text.from_markup(f"[b]{escape(ike)}[/]")
    if body["configured"]:
        text.append(f"  {', '.join(body['local_addrs'])} ... {', '.join(body['remote_addrs'])}", "dim")
        text.append(f"  {body.get('version', '')}", "dim")
    else:
        text.append("  not configured any more", "yellow")
    if not body["sas"]:
        text.append("  down", "red" if body["failures"] else "yellow")
    return text


def _state(state: str) -> tuple[str, str]:
    return state, _COLOURS.get(state, "yellow")


def _ike_sa(sa: Mapping[str, Any]) -> Text:
    text = Text()
    text.append(*_state(sa["state"]))
    if sa["state"] == "MANUAL":
        text.append(f"  keyed by hand  {sa['local-host']} ... {sa['remote-host']}")
        return text
    text.append(
        f"  #{sa['uniqueid']}  {sa['local-host']}[{sa['local-port']}] {sa['local-id']} ... "
        f"{sa['remote-host']}[{sa['remote-port']}] {sa['remote-id']}"
    )
    details = ["initiator" if sa.get("initiator") == "yes" else "responder"]
    if algorithms(sa):
        details.append(algorithms(sa))
    for key, word in (("local-vips", "virtual"), ("remote-vips", "leased")):
        if sa.get(key):
            details.append(f"{word} {' '.join(sa[key])}")
    if "established" in sa:
        details.append(f"for {duration(sa['established'])}")
    if "rekey-time" in sa:
        details.append(f"rekeyed in {duration(sa['rekey-time'])}")
    # With encapsulation forced, the peer's side looks like a NAT without being one.
    if sa.get("nat-local") == "yes" or (sa.get("nat-remote") == "yes" and sa.get("nat-fake") != "yes"):
        details.append("NAT in between")
    text.append(f"\n  {', '.join(details)}", "dim")
    if sa.get("remote-vendor-ids"):
        text.append(f"\n  the peer says: {', '.join(sa['remote-vendor-ids'])}", "dim")
    return text


def _child_sa(child: Mapping[str, Any]) -> Text:
    text = Text()
    text.append(child["name"])
    if child.get("rule"):
        text.append(f" ({child['rule']})")
    text.append("  ")
    text.append(*_state(child["state"]))
    protocol = child["protocol"] + (" in UDP" if child.get("encap") == "yes" else "")
    text.append(f"  {child['mode']} {protocol}  {child['spi-in']} in, {child['spi-out']} out")
    if "ah-spi-in" in child:
        text.append(f", in AH  {child['ah-spi-in']} in, {child['ah-spi-out']} out")
    text.append(f"\n  {' '.join(child['local-ts'])} === {' '.join(child['remote-ts'])}")
    details = [algorithms(child)] if algorithms(child) else []
    if "bytes-in" in child:
        details.extend(
            f"{size(child[f'bytes-{side}'])} {side} ({int(child[f'packets-{side}']):,} packets)"
            for side in ("in", "out")
        )
    if "rekey-time" in child:
        details.append(f"rekeyed in {duration(child['rekey-time'])}")
    text.append(f"\n  {', '.join(details)}", "dim")
    dropped = [
        f"{int(count):,} {key.removeprefix('drops-')}"
        for key, count in child.items()
        if key.startswith("drops-")
    ]
    if dropped:
        text.append(f"\n  dropped: {', '.join(dropped)}", "yellow")
    return text


def _down_child(name: str, child: Mapping[str, Any]) -> Text:
    mode = child.get("mode", "TUNNEL")
    text = Text(f"{name}  ")
    if mode in ("PASS", "DROP"):
        text.append(mode, "dim")
    else:
        text.append("down", "yellow")
        action = child.get("start_action", "none")
        if "trap" in action:
            text.append("  negotiated when traffic comes", "dim")
    text.append(
        f"\n  {' '.join(child.get('local-ts', []))} === {' '.join(child.get('remote-ts', []))}", "dim"
    )
    return text


def _failure(failure: Mapping[str, Any], width: int) -> Text:
    when = datetime.fromtimestamp(float(failure["time"])).strftime("%Y-%m-%d %H:%M:%S")
    who = (
        "we started" if failure.get("initiator") == "yes" else f"{failure.get('peer') or 'the peer'} started"
    )
    what = f"{failure['child']}: " if failure.get("child") else ""
    text = Text()
    text.append("failed ", "red")
    text.append(f"{when}, {who}: {what}")
    text.append(failure["reason"], "bold red")
    if failure.get("detail"):
        text.append(f": {failure['detail']}")
    for line in reasons(failure, width - 2):
        text.append(f"\n{line}")
    return text


def duration(seconds: str) -> str:
    """`3h 50m`, the two largest units."""
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for unit, length in units:
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def size(octets: str) -> str:
    """`12.3 MB`."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
