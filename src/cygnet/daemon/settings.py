"""What the supervisor is told on the command line, and what the daemon is told by the supervisor."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """Of one `cygnet run`. What is None or empty is as the configuration's `options` say.

    `user`: the account that the daemon becomes, if it exists and is mapped here. `log_level` as
    `options.log_level`. `clear_on_stop`: routes and guard go with the process, so that protected traffic
    may leave in clear afterwards; without it they stay, and protect, until the policy is unloaded.
    """

    configuration: Path
    socket: Path | None = None
    state: Path | None = None
    user: str = "cygnet"
    log_level: str = ""
    log_json: bool = False
    clear_on_stop: bool = False


class Inherited(msgspec.Struct, frozen=True):
    """The daemon's descriptors by number, and the settings that concern it; its one argument, as JSON.

    `lanes`: (descriptor, uses the non-ESP marker). `plane`: the pair to the data plane. `channel`: to the
    supervisor. `listener`: the control socket. `configuration`: a `bundle`. `spi_tag`: 16 bits that the
    SPIs of our IKE SAs begin with, so that the kernel puts live SAs into a lane of their own. `state`: the
    directory that the daemon may write, -1 if there is none. `engine`: of the data plane. `kept`: what was
    loaded since the start (`daemon.kept`).
    """

    lanes: tuple[tuple[int, bool], ...]
    plane: int
    channel: int
    listener: int
    configuration: int
    spi_tag: int = 0
    user: str = ""
    log_level: str = ""
    log_json: bool = False
    clear_on_stop: bool = False
    state: int = -1
    engine: str = ""
    kept: int = -1
