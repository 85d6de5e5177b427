"""strongSwan as a peer inside a namespace, with its own userspace ESP (kernel-libipsec) or the kernel's.

Its own ESP needs nothing of the kernel but a TUN device. It is always UDP-encapsulated, tunnel mode,
without extended sequence numbers. Debian packages: PACKAGES.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cygnet.lab.namespaces import LabError, Namespace

PACKAGES = (
    "strongswan-charon",
    "strongswan-swanctl",
    "strongswan-pki",
    "libstrongswan-standard-plugins",
    "libstrongswan-extra-plugins",
    "libcharon-extra-plugins",
    "libcharon-extauth-plugins",
)
START_WITHIN = 60.0
CHARON = "/usr/lib/ipsec/charon"
ANOTHER: Final = os.environ.get("CYGNET_STRONGSWAN", "")
"""Where another strongSwan than Debian's was installed (its --prefix), with `libexec/ipsec/charon` and
`sbin/swanctl`; the tests then meet that one, and those that need version 6 are collected."""
FOLDERS = (
    "x509 x509ca x509ocsp x509aa x509ac x509crl pubkey private rsa ecdsa bliss pkcs8 pkcs12".split()  # noqa: SIM905
)

# Named one by one: forecast, bypass-lan and connmark, loaded by default, take the namespace's traffic.
PLUGINS = (
    "pem pkcs1 pkcs7 pkcs8 pkcs12 x509 revocation constraints pubkey openssl random nonce aes md5 sha1 sha2"
    " hmac kdf gcm ccm ctr chapoly cmac xcbc curve25519 gmp mgf1 fips-prf kernel-libipsec kernel-netlink"
    " socket-default vici updown eap-identity eap-md5 eap-mschapv2 eap-gtc eap-tls eap-ttls"
    " xauth-generic"
    " counters resolve curl"
)

# Of the program swanctl, which loads all there are otherwise: a minute's work in a guest.
LOADERS = "pem pkcs1 pkcs7 pkcs8 pkcs12 x509 pubkey openssl random nonce aes md5 sha1 sha2 hmac gmp"

CONFIGURATION = """\
swanctl {{
  load = {loaders}
}}
charon {{
  load = {plugins}
  {options}
  plugins {{
    eap-gtc {{ backend = generic }}
    vici {{ socket = unix://{directory}/charon.vici }}
    kernel-libipsec {{ allow_peer_ts = yes }}
    kernel-netlink {{
      fwmark = !0x42
    }}
    socket-default {{
      fwmark = 0x42
    }}
    resolve {{ file = {directory}/resolv.conf }}
  }}
  filelog {{
    log {{
      path = {directory}/charon.log
      default = 1
      ike = 2
      cfg = 2
      enc = 1
      flush_line = yes
    }}
  }}
}}
"""


PIDFD_GETFD: Final = 438
SO_RCVBUFFORCE: Final = 33
ROOM: Final = 8 << 20
"""Octets that its sockets hold while it does not get its turn."""


def widen_sockets(pid: int) -> None:
    """Room in its UDP sockets. charon leaves them at the system's default, which at 500 packets a second is
    full when a busy machine has not given it its turn for a third of a second: what comes then is lost there
    (RcvbufErrors), and no fault of the peer's. Kernels without pidfd_getfd leave it as it is."""
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile, so none that matters
                if not os.readlink(entry).startswith("socket:"):
                    continue
            number = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, int(entry.name), 0)
            if number < 0:
                continue
            with socket.socket(fileno=number) as shared:
                if shared.type == socket.SOCK_DGRAM and shared.family != socket.AF_UNIX:
                    shared.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
    finally:
        os.close(process)


def programs() -> tuple[str, str]:
    """charon and swanctl."""
    if ANOTHER:
        return f"{ANOTHER}/libexec/ipsec/charon", f"{ANOTHER}/sbin/swanctl"
    return CHARON, "swanctl"


def available() -> bool:
    return all(map(shutil.which, programs()))


class StrongSwan:
    """One charon. `configuration` is swanctl.conf's text; files for it go into `directory`/swanctl first.

    `options` are further lines of strongswan.conf's charon section, for example
    `retransmit_timeout = 0.5`. `kernel`: the kernel's ESP, where there is any. Raises LabError, with the
    end of its log, if it does not start.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        configuration: str,
        options: str = "",
        *,
        kernel: bool = False,
    ) -> None:
        self.namespace = namespace
        self.directory = directory.resolve()
        self.socket = self.directory / "charon.vici"
        for folder in FOLDERS:
            (self.directory / "swanctl" / folder).mkdir(parents=True, exist_ok=True)
        (self.directory / "run").mkdir(exist_ok=True)
        (self.directory / "strongswan.conf").write_text(
            CONFIGURATION.format(
                plugins=(PLUGINS.replace("kernel-libipsec ", "") if kernel else PLUGINS)
                + (" ml" if ANOTHER else ""),
                loaders=LOADERS,
                options=options,
                directory=self.directory,
            )
        )
        self._charon: subprocess.Popen[str] | None = None
        self.configure(configuration)
        self.start()

    @property
    def pid(self) -> int:
        """charon's process id."""
        if self._charon is None:
            raise LabError("strongSwan is not running")
        return self._charon.pid

    def configure(self, configuration: str) -> None:
        """Replace swanctl.conf; takes effect with `load` or `start`."""
        (self.directory / "swanctl" / "swanctl.conf").write_text(configuration)

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        # /run is the peer's own, or two of them would share one pid file.
        self._charon = self.namespace.start(
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"mount --bind '{self.directory}/run' /run; exec {programs()[0]}",
            output=subprocess.DEVNULL,
            env={**os.environ, "STRONGSWAN_CONF": str(self.directory / "strongswan.conf")},
        )
        deadline = time.monotonic() + START_WITHIN
        while not self._answers():
            if self._charon.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"strongSwan did not start:\n{self.log()[-2000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._charon.wait(0.05)
        widen_sockets(self.pid)
        # And its TUN device holds 500 packets, which one burst of answers can be.
        self.namespace.run("ip", "link", "set", "ipsec0", "txqueuelen", "10000", check=False)
        self.load()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def load(self) -> None:
        """`swanctl --load-all`. Raises LabError with what swanctl said."""
        done = self.swanctl("--load-all")
        if done.returncode:
            raise LabError(f"swanctl --load-all: {done.stdout}{done.stderr}")

    def swanctl(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [programs()[1], *arguments, "--uri", f"unix://{self.socket}"],
            env={
                **os.environ,
                "STRONGSWAN_CONF": str(self.directory / "strongswan.conf"),
                "SWANCTL_DIR": str(self.directory / "swanctl"),
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """A session of the independent `vici` library."""
        import vici

        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            yield vici.Session(connection)

    def sas(self) -> list[dict[str, Any]]:
        """What list-sas says: one dictionary per IKE SA with its name under `name`, values decoded."""
        with self.session() as session:
            return [
                {"name": name, **decoded(sa)} for entry in session.list_sas() for name, sa in entry.items()
            ]

    def log(self) -> str:
        path = self.directory / "charon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self, kill: bool = False) -> None:
        """End it: with SIGTERM it says goodbye to its peers, with `kill` it is just gone."""
        if self._charon and self._charon.poll() is None:
            self._charon.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._charon.wait(20)
        self._charon = None


def decoded(value: Any) -> Any:
    """A vici message with its octets as text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return value
