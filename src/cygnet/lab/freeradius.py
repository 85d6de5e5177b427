"""FreeRADIUS as a server for tests: one process, on an address of its namespace or of this host's loopback.

Debian packages: freeradius (the server), freeradius-utils (`radclient`). Its configuration is written from
scratch: Debian's own is left alone.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cygnet.lab.namespaces import LabError, Namespace

PROGRAM = "/usr/sbin/freeradius"
CONFIGURATION = """\
prefix = /usr
name = freeradius
libdir = /usr/lib/freeradius
raddbdir = {directory}
logdir = {directory}
run_dir = {directory}
log {{
  destination = files
  file = {directory}/radius.log
  auth = yes
  }}
pidfile = {directory}/radius.pid
client all {{
  ipaddr = 0.0.0.0/0
  secret = {secret}
  require_message_authenticator = yes
  }}
listen {{
  type = auth
  virtual_server = default
  ipaddr = {address}
  port = {port}
  }}
listen {{
  type = acct
  virtual_server = default
  ipaddr = {address}
  port = {accounting}
  }}
thread pool {{
  start_servers = 1
  max_servers = 4
  }}
modules {{
  pap {{ }}
  mschap {{ }}
  files {{
    usersfile = {directory}/users
  }}
  detail {{
    filename = {directory}/detail
  }}
  eap {{
    default_eap_type = mschapv2
    md5 {{ }}
    gtc {{
      auth_type = PAP
    }}
    mschapv2 {{ }}
    tls-config common {{
      private_key_file = {directory}/server.key
      certificate_file = {directory}/server.pem
      ca_file = {directory}/ca.pem
      cipher_list = DEFAULT
      tls_min_version = "1.2"
      tls_max_version = "{tls}"
      ecdh_curve = ""
    }}
    tls {{
      tls = common
    }}
    ttls {{
      tls = common
      default_eap_type = md5
      copy_request_to_tunnel = yes
      use_tunneled_reply = yes
      virtual_server = inner
      }}
    peap {{
      tls = common
      default_eap_type = mschapv2
      copy_request_to_tunnel = yes
      use_tunneled_reply = yes
      virtual_server = inner
      }}
  }}
}}
server default {{
  authorize {{ eap {{
    ok = return
  }}
    files
    pap
    }}
  authenticate {{ Auth-Type PAP {{
    pap
  }}
    Auth-Type MS-CHAP {{
      mschap
    }}
    eap
    }}
  preacct {{ }}
  accounting {{
    detail
  }}
  # Before 3.2.5 it signs what answers EAP, and nothing else; Cygnet takes no answer without.
  post-auth {{
    update reply {{
      Message-Authenticator := 0x00
    }}
    Post-Auth-Type REJECT {{
      update reply {{
        Message-Authenticator := 0x00
      }}
    }}
  }}
}}
server inner {{
  authorize {{
    files
    mschap
    eap {{
      ok = return
    }}
    pap
    }}
  authenticate {{ Auth-Type PAP {{
    pap
  }}
    Auth-Type MS-CHAP {{
      mschap
    }}
    eap
    }}
}}
"""


def available() -> bool:
    return Path(PROGRAM).exists()


class FreeRadius:
    """One server. `users` is its users file; `server.pem`, `server.key`, `ca.pem` go into `directory` first.

    Raises LabError, with the end of its log, if it does not start.
    """

    def __init__(
        self,
        directory: Path,
        users: str,
        namespace: Namespace | None = None,
        *,
        address: str = "127.0.0.1",
        port: int = 1812,
        secret: str = "testing123",  # noqa: S107 - protects nothing
        tls: str = "1.3",
    ) -> None:
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = port
        (self.directory / "users").write_text(users)
        (self.directory / "radiusd.conf").write_text(
            CONFIGURATION.format(
                directory=self.directory,
                secret=secret,
                address=address,
                port=port,
                accounting=port + 1,
                tls=tls,
            )
        )
        command = [PROGRAM, "-f", "-n", "radiusd", "-d", str(self.directory)]
        self._process: subprocess.Popen[str] = (
            namespace.start(*command, output=subprocess.DEVNULL)
            if namespace is not None
            else subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        )
        deadline = time.monotonic() + 30
        while "Ready to process requests" not in self.log():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"FreeRADIUS did not start:\n{self.log()[-3000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)

    def log(self) -> str:
        path = self.directory / "radius.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def records(self) -> list[dict[str, str]]:
        """The accounting records that came, in order."""
        path = self.directory / "detail"
        found = []
        for block in (path.read_text(errors="replace") if path.exists() else "").split("\n\n"):
            lines = [line.strip().split(" = ", 1) for line in block.splitlines() if " = " in line]
            if lines:
                found.append({key: value.strip('"') for key, value in lines})
        return found

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)


def free_ports() -> int:
    """The first of two UDP ports of loopback that nobody listens on just now."""
    for _ in range(100):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            with contextlib.suppress(OSError):
                other.bind(("127.0.0.1", port + 1))
                return port
    raise LabError("no two free ports")


def radclient(
    namespace: Namespace | None, attributes: Sequence[str], server: str, kind: str, secret: str
) -> subprocess.CompletedProcess[str]:
    """Send one request: `kind` is auth, acct, disconnect or coa."""
    program = shutil.which("radclient") or "radclient"
    command = [program, "-x", "-r", "1", "-t", "5", server, kind, secret]
    text = "\n".join(attributes) + "\n"
    if namespace is not None:
        command = namespace.argv(command)
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
