"""`cygnet demo`: two gateways on this machine, a tunnel between them, and the proof that it holds.

Everything lives in network namespaces that end with this program, also after Ctrl-C. Without root
it moves into a user namespace of its own first, where the machine allows that.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cygnet.auth.identity import Identity
from cygnet.auth.issue import issue, make_ca
from cygnet.cli.terminal import fail
from cygnet.lab.capture import Capture
from cygnet.lab.gateway import Gateway
from cygnet.lab.namespaces import LabError, enter_user_namespace, require
from cygnet.lab.topology import (
    BOB,
    INNER,
    MOON,
    MOON_NET,
    SUN,
    SUN_NET,
    TwoGateways,
    two_gateways,
)
from cygnet.lab.transfer import MARKER

PORT = 8080
GUESTS = "10.1.99.0/24"

CONFIGURATION = """\
# {name}'s side of the tunnel. Try: cygnet check {name}.toml

[connections.{peer}]
version = {version}
{mode}local_addrs = ["{local}"]
remote_addrs = ["{remote}"]
proposals = ["{proposal}"]

[connections.{peer}.local]
id = "{name}.example"
{local_auth}

[connections.{peer}.remote]
id = "{peer}.example"
{remote_auth}
{login}
[connections.{peer}.children.net]
acl = "protected"
esp_proposals = ["aes256gcm16-x25519"]

# The first rule that matches decides: permit is protected, deny is left alone.
[acls]
protected = [
{deny}    "20 permit ip {local_net} {remote_net}",
]
{keys}"""


class Auth(StrEnum):
    cert = "cert"
    psk = "psk"
    xauth = "xauth"


class Mode(StrEnum):
    main = "main"
    aggressive = "aggressive"


PROPOSALS = {1: "aes256-sha256-x25519", 2: "aes256gcm16-prfsha384-x25519"}
"""Phase 1 of IKEv1 has no combined-mode ciphers."""
USER = "alice"
AGGRESSIVE = "i_dont_care_about_security_and_use_aggressive_mode_psk"
SHOWN = {
    Auth.cert: "certificates made on the spot",
    Auth.psk: "a pre-shared secret",
    Auth.xauth: "a pre-shared secret, and a login of moon's user at sun",
}


def demo(
    auth: Annotated[
        Auth,
        typer.Option(help="How the gateways prove who they are; xauth: a key, then a login (IKEv1)."),
    ] = Auth.cert,
    ike: Annotated[int, typer.Option(help="The version of IKE, 1 or 2.", min=1, max=2)] = 2,
    mode: Annotated[Mode, typer.Option(help="Phase 1 of IKEv1.")] = Mode.main,
    size: Annotated[int, typer.Option(help="Size of the file that is moved, in MB.", min=1)] = 100,
) -> None:
    """Bring up two gateways in namespaces, move real traffic through the tunnel, prove it was protected.

    Needs root, or a machine that allows user namespaces and lets everybody open /dev/net/tun.
    Takes down everything again. Exit status 0 if all of it held.
    """
    console = Console(highlight=False, soft_wrap=True)
    if ike == 2 and (auth is Auth.xauth or mode is Mode.aggressive):
        fail("xauth and aggressive mode are IKEv1's: --ike 1")
    try:
        enter_user_namespace()
        require()
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cygnet-demo-")))
            write = partial(_configure, directory, auth, ike, mode)
            held = _run(console, stack, directory, auth, write, size * 1_000_000)
    except LabError as error:
        fail(f"the demo cannot run here: {error}")
    except KeyboardInterrupt:
        console.print("Interrupted; everything is taken down.")
        raise typer.Exit(130) from None
    if not held:
        raise typer.Exit(1)


def _run(
    console: Console,
    stack: ExitStack,
    directory: Path,
    auth: Auth,
    configure: Callable[[], None],
    octets: int,
) -> bool:
    _title(console, "Two gateways, moon and sun, each with a host behind it")
    console.print(
        f"  alice ── {MOON_NET} ── [b]moon[/] {MOON} ═══ outer ═══ {SUN} [b]sun[/] ── {SUN_NET} ── bob"
    )
    net = stack.enter_context(two_gateways())
    configure()
    outer = Capture(*net.outer_link, protected=[MOON_NET, SUN_NET], markers=[MARKER])
    stack.callback(outer.stop)
    inner = Capture((net.moon, INNER), markers=[MARKER])
    stack.callback(inner.stop)
    gateways = {}
    for name, namespace in (("moon", net.moon), ("sun", net.sun)):
        gateways[name] = Gateway(namespace, directory / name, (directory / name / "cygnet.toml").read_text())
        stack.callback(gateways[name].stop)
    console.print(f"  {SHOWN[auth]}, both daemons are running")
    moon = gateways["moon"]

    _title(console, "The exchange (cygnet trace, on moon)")
    with _ladder(moon):
        up = moon.cygnet("up", "net")
    if up.returncode:
        console.print(f"[red]The tunnel did not come up.[/]\n{escape(up.stdout + up.stderr + moon.log())}")
        return False

    _title(console, "ping from alice to bob, through the tunnel")
    ping = net.alice.run("ping", "-c", "4", "-i", "0.25", BOB, check=False)
    console.print(escape(ping.stdout.strip()))

    _title(console, f"A file of {octets // 1_000_000} MB from bob to alice")
    sums_agree = _transfer(console, net, octets)

    _title(console, "The security associations (cygnet status, on moon)")
    console.print(escape(moon.cygnet("status").stdout.rstrip()))

    _title(console, "The proof: what an eavesdropper saw on the outer link")
    for gateway in gateways.values():
        gateway.stop()
    seen, control = outer.stop(), inner.stop()
    for kind, count in sorted(seen.frames.items()):
        console.print(f"  {count:8} frames  {kind}")
    protected = not seen.clear and control.frames["clear"] > 0 and seen.frames["esp"] > 0
    console.print(
        f"  the file's text on the inner link: {control.frames['clear']} frames; on the outer link:"
        f" {len(seen.clear)}. [b]{'Nothing went in clear.' if protected else '[red]NOT PROTECTED[/]'}[/]"
    )
    return ping.returncode == 0 and sums_agree and protected


@contextmanager
def _ladder(gateway: Gateway) -> Iterator[None]:
    """Shows what `cygnet trace` says, from before the first message on."""
    trace = gateway.follow("trace")
    lines = trace.stdout or ()
    for line in lines:
        sys.stdout.write(line)
        break
    forward = threading.Thread(target=lambda: sys.stdout.writelines(lines))
    forward.start()
    try:
        yield
    finally:
        trace.terminate()
        trace.wait()
        forward.join()
        sys.stdout.flush()


def _title(console: Console, text: str) -> None:
    console.print(f"\n[b cyan]── {text}[/]")
    sys.stdout.flush()


def _configure(directory: Path, auth: Auth, version: int, mode: Mode) -> None:
    """Write moon/cygnet.toml and sun/cygnet.toml, and the files that they name."""
    sides = (("moon", MOON, MOON_NET), ("sun", SUN, SUN_NET))
    shared, password = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
    aggressive = "aggressive = true\n" if mode is Mode.aggressive else ""
    if auth is Auth.cert:
        _make_certificates(directory)
    for (name, local, local_net), (peer, remote, remote_net) in (sides, sides[::-1]):
        if auth is Auth.cert:
            local_auth = f'auth = "pubkey"\ncerts = ["{directory / name / name}.pem"]'
            remote_auth = f'auth = "pubkey"\ncacerts = ["{directory / "ca.pem"}"]'
            keys = f'\n[secrets.private-{name}]\nfile = "{directory / name / name}.key"\n'
        else:
            local_auth = remote_auth = 'auth = "psk"'
            keys = f'\n[secrets.ike-{peer}]\nid = "{peer}.example"\nsecret = "{shared}"\n'
            if aggressive:
                # What answers it gives everybody a hash of the secret; this one has 256 bits.
                keys += f'\n[options]\n{AGGRESSIVE} = "yes"\n'
        # A quick mode says one pair of networks: what a deny rule cuts into pieces is IKEv2's.
        ends = (GUESTS, "any") if name == "moon" else ("any", GUESTS)
        deny = "" if version == 1 else f'    "10 deny ip {ends[0]} {ends[1]}",\n'
        login = ""
        if auth is Auth.xauth:
            # moon is the client: after phase 1 it logs in at sun.
            side, name_of = ("local", f'xauth_id = "{USER}"\n') if name == "moon" else ("remote", "")
            login = f'\n[connections.{peer}.{side}-login]\nround = 1\nauth = "xauth"\n{name_of}'
            keys += f'\n[secrets.xauth-{USER}]\nid = "{USER}"\nsecret = "{password}"\n'
        folder = directory / name
        folder.mkdir(exist_ok=True)
        file = folder / "cygnet.toml"
        file.touch(mode=0o600)
        file.write_text(
            CONFIGURATION.format(
                name=name,
                peer=peer,
                version=version,
                mode=aggressive,
                proposal=PROPOSALS[version],
                login=login,
                local=local,
                remote=remote,
                local_net=local_net,
                remote_net=remote_net,
                deny=deny,
                local_auth=local_auth,
                remote_auth=remote_auth,
                keys=keys,
            )
        )


def _make_certificates(directory: Path) -> None:
    """A CA, and for each gateway a certificate and a key, as `cygnet pki` would make them."""
    start = time.time() - 3600
    end = start + 7 * 86400
    ca = make_ca("O=Cygnet demo, CN=Demo CA", not_before=start, not_after=end)
    (directory / "ca.pem").write_bytes(ca.certificate)
    for name in ("moon", "sun"):
        made = issue(ca, [Identity.parse(f"{name}.example")], not_before=start, not_after=end)
        folder = directory / name
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.pem").write_bytes(made.certificate)
        key = folder / f"{name}.key"
        key.touch(mode=0o600)
        key.write_bytes(made.key)


def _transfer(console: Console, net: TwoGateways, octets: int) -> bool:
    program = (sys.executable, "-m", "cygnet.lab.transfer")
    server = net.bob.start(*program, "serve", BOB, str(PORT), str(octets))
    if server.stdout is None or server.stdout.readline() != "ready\n":
        raise LabError("the file server did not start in bob's namespace")
    try:
        fetched = net.alice.run(*program, "fetch", BOB, str(PORT), timeout=300)
        served = server.communicate(timeout=60)[0]
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        console.print(f"[red]The transfer failed:[/] {escape(str(error))}")
        return False
    got, received, seconds = fetched.stdout.split()
    _, sent, _ = served.split()
    agree = sent == received and int(got) == octets
    rate = int(got) * 8 / float(seconds) / 1e9
    console.print(f"  sent     SHA-256 {sent}\n  received SHA-256 {received}")
    console.print(f"  {'equal' if agree else '[red]DIFFERENT[/]'}")
    console.print(f"  {int(got) / 1e6:.0f} MB in {float(seconds):.2f} s: {rate:.2f} Gbit/s")
    return agree
