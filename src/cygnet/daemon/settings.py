"""What the supervisor is told on the command line, and what the daemon is told by the supervisor."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cygnet.daemon.control_socket import DEFAULT_PATH


class Settings(msgspec.Struct, frozen=True):
    """Of one `cygnet run`. `user`: the account the daemon becomes if it exists and is mapped here.

    `log_level`: 0 what an operator must know, 1 messages too, 2 details. `clear_on_stop`: routes and
    guard go with the process, so that protected traffic may leave in clear afterwards; without it they
    stay and protect until the policy is unloaded.
    """

    configuration: Path
    socket: Path = DEFAULT_PATH
    user: str = "cygnet"
    group: str = ""
    log_level: int = 0
    log_json: bool = False
    clear_on_stop: bool = False


class Inherited(msgspec.Struct, frozen=True):
    """The daemon's descriptors by number, and the settings that concern it; its one argument, as JSON.

    `lanes`: (descriptor, uses the non-ESP marker). `plane`: the pair to the data plane. `channel`: to the
    supervisor. `listener`: the control socket. `configuration`: what `daemon.reader` wrote.
    """

    lanes: tuple[tuple[int, bool], ...]
    plane: int
    channel: int
    listener: int
    configuration: int
    user: str = ""
    log_level: int = 0
    log_json: bool = False
    clear_on_stop: bool = False
