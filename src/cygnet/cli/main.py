"""The command `cygnet`: what a person types. Each command is thin; the work is in the modules beside this.

Everything but `run`, `check`, `clear`, `service`, `pki` and `demo` talks to the daemon, through its control
socket.
"""

from __future__ import annotations

import importlib
import os
import pwd
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from cygnet.cli.terminal import (
    DEFAULT_CONFIGURATION,
    DEFAULT_SOCKET,
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    JsonOption,
    SocketOption,
    complain,
    daemon,
    fail,
    out,
)

DEFAULT_USER = "cygnet"
app = typer.Typer(
    name="cygnet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="IPsec: tunnels that an access list picks out, negotiated with IKEv2; why each failed.",
    epilog=EXIT_CODES,
)

TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", "-t", min=0, help="Seconds to wait for the result; 0: until there is one."),
]
IkeOption = Annotated[str, typer.Option("--ike", "-i", help="Name of the connection.")]
ChildOption = Annotated[str, typer.Option("--child", "-c", help="Name of the child.")]
NameArgument = Annotated[
    str,
    typer.Argument(metavar="[NAME]", help="A connection, a child, or CONNECTION/CHILD.", show_default=False),
]


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"cygnet {metadata.version('cygnet')}")
        raise typer.Exit


@app.callback()
def cygnet(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


# -- the daemon and its configuration -----------------------------------------------------------------


@app.command(rich_help_panel="Gateway")
def run(
    configuration: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="cygnet.toml, or a swanctl.conf.")
    ] = DEFAULT_CONFIGURATION,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket", help="Control socket; instead of options.control_socket.", show_default=False
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Directory of what outlives a restart; instead of options.state_directory.",
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str, typer.Option(help="Account that the daemon becomes, where there is one.")
    ] = DEFAULT_USER,
    log_level: Annotated[
        str,
        typer.Option(help="error, warning, info or debug; instead of options.log_level.", show_default=False),
    ] = "",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON, one object a line.")] = False,
    clear_on_stop: Annotated[
        bool,
        typer.Option(
            "--clear-on-stop",
            help="Take routes and guard down when it stops; protected traffic may then leave in clear.",
        ),
    ] = False,
) -> None:
    """Run the gateway in the foreground until SIGTERM or Ctrl-C.

    Needs CAP_NET_ADMIN, CAP_NET_RAW and, for port 500, CAP_NET_BIND_SERVICE; the daemon gives up
    what it does not need. SIGHUP reads the configuration again.
    """
    from cygnet.daemon.settings import Settings
    from cygnet.daemon.supervisor import run as supervise

    if log_level not in ("", "error", "warning", "info", "debug"):
        raise typer.BadParameter("error, warning, info or debug", param_hint="--log-level")
    if user != DEFAULT_USER:
        try:
            pwd.getpwnam(user)
        except KeyError:
            raise typer.BadParameter(f"there is no account {user}", param_hint="--user") from None
    settings = Settings(
        configuration=configuration.absolute(),
        socket=socket,
        state=state,
        user=user,
        log_level=log_level,
        log_json=log_json,
        clear_on_stop=clear_on_stop,
    )
    raise typer.Exit(supervise(settings))


@app.command(rich_help_panel="Gateway")
def check(
    configuration: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="cygnet.toml, or a swanctl.conf.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of cygnet.toml instead.")
    ] = False,
) -> None:
    """Say whether a configuration is right, or everything that is wrong with it. Needs no daemon.

    Each problem has file, line, key, what was found and what is allowed. Certificates and keys are
    read as well. Exit status 1 if anything is wrong.
    """
    from cygnet.cli.check import check_file, print_schema

    if schema:
        print_schema()
        return
    if not check_file(configuration or DEFAULT_CONFIGURATION, as_json=as_json):
        raise typer.Exit(FAILED)


@app.command(rich_help_panel="Gateway")
def reload(
    configuration: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="cygnet.toml, or a swanctl.conf.")
    ] = DEFAULT_CONFIGURATION,
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Load a configuration into the running gateway; tunnels that it does not change go on.

    The file is read here, with your rights, and judged as a whole first: if anything is wrong,
    the running configuration stays as it is.
    """
    from cygnet.cli.check import load_or_complain
    from cygnet.cli.reload import other_options, send

    loaded = load_or_complain(configuration)
    if loaded is None:
        complain("the running configuration stays as it was")
        raise typer.Exit(FAILED)
    with daemon(socket) as client:
        counts = send(client, loaded)
        later = other_options(client, loaded)
    gone = counts["unload-conn"]
    also = f", unloaded because they are gone: {gone}" if gone else ""
    out.print(f"connections loaded: {len(loaded.connections)}{also}")
    if later:
        complain("changed options take effect at the next start")


@app.command(rich_help_panel="Gateway")
def clear(socket: SocketOption = DEFAULT_SOCKET) -> None:
    """Take away what a stopped Cygnet left to protect: routes, guard, the kernel's policies and SAs.

    Protected traffic may leave in clear afterwards. Refused while a Cygnet answers: stop it first.
    """
    from cygnet.daemon.clearing import NotCleared
    from cygnet.daemon.clearing import clear as clear_all
    from cygnet.vici.client import Client, NotRunning, ViciError

    try:
        Client.connect(socket).close()
    except NotRunning:
        pass
    except ViciError as error:
        fail(str(error))
    else:
        fail(f"a Cygnet answers at {socket}; stop it first, or unload what it protects")
    try:
        clear_all()
    except NotCleared as error:
        fail(str(error))
    out.print("cleared: what was protected may leave in clear from now on")


# -- tunnels ------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Tunnels")
def up(
    name: NameArgument = "",
    ike: IkeOption = "",
    child: ChildOption = "",
    timeout: TimeoutOption = 0,
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Bring a tunnel up, or say exactly why it does not come up.

    A connection's name brings up all its children. On failure you see the reason code, and what
    both sides offered as far as the wire revealed it.
    """
    from cygnet.cli import tunnels

    with daemon(socket) as client:
        for target in tunnels.find(client, name, ike, child):
            tunnels.up(client, target, timeout)


@app.command(rich_help_panel="Tunnels")
def down(
    name: NameArgument = "",
    ike: IkeOption = "",
    child: ChildOption = "",
    ike_id: Annotated[int, typer.Option("--ike-id", help="Number of an IKE SA, as status shows it.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Forget it without waiting for the peer.")] = False,
    timeout: TimeoutOption = 0,
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Close a tunnel: all SAs of a connection, or those of one child."""
    from cygnet.cli import tunnels

    with daemon(socket) as client:
        message, what = _selection(client, name, ike, child, ike_id)
        tunnels.down(client, message, what, timeout, force)


@app.command(rich_help_panel="Tunnels")
def rekey(
    name: NameArgument = "",
    ike: IkeOption = "",
    child: ChildOption = "",
    ike_id: Annotated[int, typer.Option("--ike-id", help="Number of an IKE SA, as status shows it.")] = 0,
    reauth: Annotated[bool, typer.Option("--reauth", help="Authenticate anew as well.")] = False,
    timeout: TimeoutOption = 0,
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Replace the keys of a tunnel now: those of the IKE SA, or those of one child."""
    from cygnet.cli import tunnels

    with daemon(socket) as client:
        message, what = _selection(client, name, ike, child, ike_id)
        tunnels.rekey(client, message, what, timeout, reauth)


def _selection(client: Any, name: str, ike: str, child: str, ike_id: int) -> tuple[dict[str, Any], str]:
    """The live SAs that the names mean, as the daemon's commands take them."""
    from cygnet.cli import tunnels

    message: dict[str, Any]
    if ike and not name:
        message = {"ike": ike, "child": child} if child else {"ike": ike}
        what = f"{ike}/{child}" if child else ike
    elif child and not name:
        message, what = {"child": child}, child
    elif ike_id and not name:
        message, what = {}, "IKE SA"
    else:
        (target,) = tunnels.find(client, name, ike, child)
        message = {"ike": target.ike, "child": target.child} if target.child else {"ike": target.ike}
        what = str(target)
    if ike_id:
        message["ike-id"] = str(ike_id)
        what += f" #{ike_id}"
    return message, what


@app.command(rich_help_panel="Tunnels")
def status(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]", help="Only this connection, or those with this child.", show_default=False
        ),
    ] = "",
    failures: Annotated[int, typer.Option(min=0, help="How many failures of each connection to show.")] = 1,
    as_json: JsonOption = False,
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Show all connections, up or down, their SAs and counters, and why each last failed."""
    from cygnet.cli.status import gather, show, show_json

    with daemon(socket) as client:
        found = gather(client, name)
    if name and not found["connections"]:
        fail(f"there is no connection and no child named {name}")
    if as_json:
        show_json(out, found)
    else:
        show(out, found, failures)


@app.command(rich_help_panel="Tunnels")
def trace(
    connection: Annotated[
        str, typer.Argument(metavar="[CONNECTION]", help="Only this connection.", show_default=False)
    ] = "",
    brief: Annotated[bool, typer.Option("--brief", "-b", help="Without what the payloads say.")] = False,
    drops: Annotated[
        bool, typer.Option("--drops", help="Datagrams that are dropped in silence, too.")
    ] = False,
    as_json: JsonOption = False,
    socket: SocketOption = DEFAULT_SOCKET,
) -> None:
    """Draw every IKE message as it passes, as the RFC draws them, until Ctrl-C.

    This gateway is on the left, the peer on the right; HDR(A,B) carries two letters for the SPIs,
    SK {...} is what travels encrypted.
    """
    from cygnet.cli.trace import trace as follow

    with daemon(socket) as client:
        follow(client, connection=connection, as_json=as_json, brief=brief, drops=drops)


# -- the rest -----------------------------------------------------------------------------------------


def _mount() -> None:
    """Commands that live in modules of their own, unless it is plain that another one is wanted: they import
    much."""
    if sys.argv[1:2] and sys.argv[1] in {
        command.callback.__name__ for command in app.registered_commands if command.callback
    }:
        return
    for name, attribute in (
        ("pki", "pki_app"),
        ("service", "service_app"),
        ("client", "client_app"),
        ("demo", "demo"),
    ):
        try:
            module = importlib.import_module(f"cygnet.cli.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"cygnet.cli.{name}":
                raise
            continue
        part = getattr(module, attribute)
        if isinstance(part, typer.Typer):
            app.add_typer(part, name=name, rich_help_panel="Beginning")
        else:
            app.command(name=name, rich_help_panel="Beginning")(part)


_mount()


def main() -> None:
    """The program. Ends the process with one of the exit statuses of `cli.terminal`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough of it; nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
