"""Network namespaces that live exactly as long as the program that made them.

Each namespace is held by a child process of ours that the kernel kills with us (PR_SET_PDEATHSIG),
so nothing is left behind, not even after SIGKILL. Programs enter it through `nsenter`; sockets of
our own through a thread that enters it for the moment of `socket()` (`setns` is per thread).

Without root, `enter_user_namespace` first moves this whole program into a user namespace of its
own, where it may do all this; whether that is allowed is the machine's setting.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class LabError(Exception):
    """The machine cannot give what the lab needs; the text is one sentence for a person."""


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    """One network namespace: loopback is up, nothing else is there.

    Raises LabError where the kernel or the caller's privileges do not allow one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._programs: list[subprocess.Popen[str]] = []
        self._holder = subprocess.Popen(
            # Says when its namespace exists, then waits for us to go away.
            # Ctrl-C at the terminal is for us, who take things down in order.
            ["unshare", "--net", "--", "sh", "-c", "echo up; exec sleep infinity"],
            preexec_fn=_die_with_parent,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        if not (self._holder.stdout and self._holder.stdout.readline()):
            _, error = self._holder.communicate()
            raise LabError(f"no network namespace can be made here: {error.strip()}")
        self.path = f"/proc/{self._holder.pid}/ns/net"
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.ip("link set lo up")

    @property
    def pid(self) -> int:
        """The process that holds the namespace: `nsenter --net=/proc/PID/ns/net`."""
        return self._holder.pid

    def argv(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(
        self, *command: str, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in here to its end. Raises CalledProcessError, TimeoutExpired."""
        return subprocess.run(
            self.argv(command), check=check, timeout=timeout, input=stdin, text=True, capture_output=True
        )

    def start(
        self, *command: str, output: IO[str] | int = subprocess.PIPE, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a program in here; it is killed with the namespace."""
        program = subprocess.Popen(
            self.argv(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            preexec_fn=_die_with_parent,
            start_new_session=True,
        )
        self._programs.append(program)
        return program

    def ip(self, *lines: str) -> None:
        """Run `ip` with each line, in one batch. Raises LabError with what `ip` said."""
        done = self.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n", check=False)
        if done.returncode:
            raise LabError(f"{self.name}: ip: {done.stderr.strip()} in {'; '.join(lines)}")

    def sysctl(self, **settings: str | int) -> None:
        """Set /proc/sys/net keys; `__` stands for `/`, e.g. `ipv4__ip_forward=1`."""
        for key, value in settings.items():
            path = "/proc/sys/net/" + key.replace("__", "/")
            self.run("sh", "-c", f"echo {value} > {path}")

    def inside(self, action: Callable[[], T]) -> T:
        """Call `action` on a thread that is in here; sockets it makes stay in here."""

        def enter() -> T:
            if _libc.setns(self._fd, CLONE_NEWNET):
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
            return action()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def close(self) -> None:
        for program in self._programs:
            if program.poll() is None:
                program.kill()
            program.wait()
            if program.stdout:
                program.stdout.close()
        os.close(self._fd)
        self._holder.kill()
        self._holder.communicate()

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def namespaces(*names: str) -> Iterator[tuple[Namespace, ...]]:
    """Several namespaces, all closed at the end."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(Namespace(name)) for name in names)


def connect(left: Namespace, left_link: str, right: Namespace, right_link: str) -> None:
    """Join two namespaces by a veth pair, both ends up, no addresses."""
    left.ip(
        f"link add {left_link} type veth peer name {right_link} netns {right.pid}",
        f"link set {left_link} up",
    )
    right.ip(f"link set {right_link} up")


def require() -> None:
    """Raise LabError, in a sentence, if this machine cannot run the lab."""
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("nft", "nftables")):
        if shutil.which(program, path=":".join(_search_path())) is None:
            raise LabError(f"`{program}` is missing; on Debian: apt-get install {package}")
    tun = Path("/dev/net/tun")
    if not tun.exists():
        raise LabError("/dev/net/tun is missing: the kernel's TUN device is needed (modprobe tun)")
    if not os.access(tun, os.R_OK | os.W_OK):
        raise LabError("/dev/net/tun may not be opened by this user: run as root, or make it mode 0666")


def _search_path() -> list[str]:
    return [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]


def enter_user_namespace() -> None:
    """If not root: start this program again, as root of a user namespace of its own.

    Returns at once where the program may make namespaces already. Raises LabError where user
    namespaces are not allowed.
    """
    os.environ["PATH"] = ":".join(dict.fromkeys(_search_path()))
    if os.geteuid() == 0:
        return
    again = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--"]
    probe = subprocess.run([*again, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        raise LabError(
            f"not root, and this machine does not allow user namespaces ({probe.stderr.strip()}): run as root"
        )
    os.execvp(again[0], [*again, sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is the point
