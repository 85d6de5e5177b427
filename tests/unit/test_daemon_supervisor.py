"""The supervisor's part that needs no network: whom it ends when it is told what."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from cygnet.daemon.settings import Settings
from cygnet.daemon.supervisor import Supervisor


def test_a_data_plane_that_hangs_is_killed_when_the_daemon_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    supervisor = Supervisor(Settings(Path("cygnet.toml")), cast(Any, None))
    stopped = subprocess.Popen(["sleep", "60"])
    stopped.send_signal(signal.SIGSTOP)
    supervisor.dataplane.process = stopped
    daemon = supervisor.leash.renew()
    try:
        daemon.send(b"alive")
        supervisor.hear()
        assert stopped.poll() is None
        daemon.send(b"stuck")
        supervisor.hear()
        assert stopped.wait(10) == -signal.SIGKILL
        assert supervisor.dataplane.reap() == "was ended by SIGKILL"
        assert "the dataplane process does not answer any more" in capsys.readouterr().err
    finally:
        stopped.kill()
        daemon.close()
        supervisor.leash.close()
        for end in supervisor.pair:
            end.close()
