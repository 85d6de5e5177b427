"""What all commands share: exit codes, the two streams, and one sentence for what goes wrong.

0  done                        3  the daemon cannot be reached: not running, or not permitted
1  tried and failed            4  no result in time
2  wrong usage                 130  interrupted (Ctrl-C)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cygnet.vici.client import Client, NotPermitted, NotRunning, Refused, TimedOut, ViciError

DONE, FAILED, USAGE, UNREACHABLE, TOO_LATE, INTERRUPTED = 0, 1, 2, 3, 4, 130

DEFAULT_SOCKET = Path("/run/cygnet/cygnet.vici")
DEFAULT_CONFIGURATION = Path("/etc/cygnet/cygnet.toml")

EXIT_CODES = (
    "Exit status: 0 done, 1 tried and failed, 2 wrong usage, 3 the daemon cannot be reached, "
    "4 no result in time, 130 interrupted."
)

SocketOption = Annotated[
    Path,
    typer.Option(
        "--socket",
        envvar="CYGNET_SOCKET",
        help="Control socket of the daemon.",
        rich_help_panel="Connection",
        # Whether it may be used is found out, and told, when it is.
        readable=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def complain(text: str) -> None:
    """One sentence on standard error."""
    err.print(
        f"[red]cygnet:[/] {escape(text)}" if err.is_terminal else f"cygnet: {text}", markup=err.is_terminal
    )


def fail(text: str, code: int = FAILED) -> NoReturn:
    complain(text)
    raise typer.Exit(code)


@contextmanager
def daemon(path: Path) -> Iterator[Client]:
    """A connection to the daemon; what goes wrong with it ends the command with one sentence."""
    try:
        with Client.connect(path) as client:
            yield client
    except NotRunning as error:
        fail(f"{error}. Start it with: cygnet run FILE", UNREACHABLE)
    except NotPermitted as error:
        who = "root" if os.geteuid() else "its owner"
        fail(f"{error}; {who} may, and the group of the socket", UNREACHABLE)
    except TimedOut as error:
        fail(str(error), TOO_LATE)
    except Refused as error:
        fail(str(error))
    except ViciError as error:
        fail(str(error), UNREACHABLE)
