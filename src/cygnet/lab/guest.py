"""A guest: Debian's kernel under software emulation (qemu TCG), with this machine's files as its root.

For what this machine's kernel may lack: ESP, AH, IPComp, XFRM interfaces. Files are shared by 9p, read-only,
with a tmpfs for changes, so that whatever is installed here runs there under the same path: this
interpreter and its libraries, `ip`, strongSwan. What a guest writes is gone with it.

    initrd (busybox, 9p, overlay) → root: this machine's files → modules from the kernel package → COMMAND

Every look at a file of the root is a question to this machine, and takes a millisecond under emulation; an
interpreter that starts has thousands. So files that many will want (`copied`) are in the guest's memory.

COMMAND talks to the program that booted it over `Guest.channel`, a stream that the guest has as the device
named in its environment (`CHANNEL`). Debian packages: PACKAGES; the kernel package may be installed, or
unpacked under `CACHE` (`tools/packages` does that).
"""

from __future__ import annotations

import gzip
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cygnet.lab.namespaces import LabError, Namespace

PACKAGES = ("qemu-system-x86", "busybox", "kmod")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cygnet" / "kernel"
QEMU, BUSYBOX, MODPROBE, DEPMOD = "qemu-system-x86_64", "/bin/busybox", "/sbin/modprobe", "/sbin/depmod"
CHANNEL = "CYGNET_GUEST_CHANNEL"
"""The environment variable that names the channel's device to the guest's command."""
TAP = "guest0"
BOOT_WITHIN = 120.0
_FIRST = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
"""Modules without which there is no root and no channel; the others are found by the kernel itself."""

_INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t devtmpfs dev /dev; mount -t sysfs sys /sys
for module in /modules/*; do insmod "$module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host || poweroff -f
mount -t tmpfs -o size=80% tmpfs /over; mkdir /over/upper /over/work /over/root
layers=lowerdir=/copied:/host,upperdir=/over/upper,workdir=/over/work
mount -t overlay -o $layers overlay /over/root || poweroff -f
cd /over/root
for t in proc sys dev; do mount --move /$t /over/root/$t; done
mount -t tmpfs tmpfs run; mkdir -p run/netns run/lock dev/pts dev/net dev/shm lib/modules
mount -t devpts devpts dev/pts; mount -t tmpfs tmpfs dev/shm
mount --bind ./{modules} lib/modules
cat >run/guest-command <<'COMMAND'
{command}
COMMAND
# The kernel's own calls of modprobe go where process 1 is.
exec chroot . /bin/sh /run/guest-command
"""
_EARLY = (
    "veth xfrm_user esp4 esp6 ah4 ah6 ipcomp ipcomp6 aesni_intel gcm seqiv echainiv authenc hmac"
    " sha256_generic cbc ctr deflate nf_tables"
)
"""Modules that will be wanted: loaded while the command starts, as there are two processors."""
_FOLDERS = ("crypto", "net/xfrm", "net/ipv4", "net/ipv6", "net/netfilter", "arch/x86/crypto", "lib/crypto")
_COMMAND = """
modprobe -qa virtio_net tun
modprobe -qa {early} &
[ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
cd {directory}
for port in /sys/class/virtio-ports/*; do channel=/dev/${{port##*/}}; done
env {environment} {channel}=$channel {command} </dev/null
echo "guest-status $?"
echo o >/proc/sysrq-trigger; sleep 9
"""


def missing() -> str:
    """What a guest needs and is not here, as a sentence; empty when all is there."""
    lacking = [program for program in (QEMU, BUSYBOX, MODPROBE, DEPMOD) if shutil.which(program) is None]
    if lacking:
        return f"a guest needs {', '.join(lacking)}: make packages (Debian: {' '.join(PACKAGES)})"
    if _kernel() is None:
        return "a guest needs a kernel: make packages (Debian: linux-image-amd64)"
    return ""


def _kernel() -> tuple[Path, Path] | None:
    """(kernel, its modules' folder) of the newest kernel package that is installed or unpacked. One for real
    time, which some machines run, is the last choice: it is slow under emulation."""
    found = []
    for root in (Path("/"), CACHE):
        for kernel in root.glob("boot/vmlinuz-*"):
            modules = root / "lib/modules" / kernel.name.removeprefix("vmlinuz-")
            if (modules / "kernel/fs/9p").is_dir():
                found.append(("-rt-" not in modules.name, kernel.stat().st_mtime, kernel, modules))
    return max(found)[2:] if found else None


class Guest:
    """Boots at once; `command` runs as root in `directory`, its output goes to the file `console`.

    `tap`: the guest gets a network card whose other end is the device `TAP` in that namespace. `copied`:
    files that it has in its memory, as they are now, instead of asking for them each time. Raises
    LabError where a guest cannot be had; `console` tells why one that was started has ended.
    """

    def __init__(
        self,
        *command: str,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        tap: Namespace | None = None,
        memory: int = 1536,
        copied: Iterable[Path] = (),
    ) -> None:
        lacking = missing()
        kernel = _kernel()
        if lacking or kernel is None:
            raise LabError(lacking)
        self._folder = Path(tempfile.mkdtemp(prefix="cygnet-guest-"))
        self.console = self._folder / "console"
        values = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            **(environment or {}),
            "TMPDIR": "/var/tmp",  # noqa: S108 - of the guest, which has one user
        }
        inner = _COMMAND.format(
            directory=shlex.quote(str((directory or Path.cwd()).resolve())),
            environment=" ".join(f"{name}={shlex.quote(value)}" for name, value in values.items()),
            command=shlex.join(command),
            channel=CHANNEL,
            early=_EARLY,
        )
        initrd = self._folder / "initrd"
        initrd.write_bytes(_copies([*copied, *_modules(kernel[1])]) + _initrd(*kernel, inner))
        network = ["-nic", "none"]
        if tap is not None:
            tap.run("ip", "link", "del", TAP, check=False)
            tap.ip(f"tuntap add dev {TAP} mode tap", f"link set {TAP} up")
            network = ["-netdev", f"tap,id=n0,ifname={TAP},script=no,downscript=no"]
            network += ["-device", "virtio-net-pci,netdev=n0,romfile="]
        path = self._folder / "channel"
        argv = [
            QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory),
            "-display", "none", "-monitor", "none", "-no-reboot", "-serial", f"file:{self.console}",
            "-kernel", str(kernel[0]), "-initrd", str(initrd),
            "-append", "console=ttyS0 rdinit=/init quiet loglevel=1 panic=-1 tsc=unstable",
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=c0,path={path},server=on,wait=off",
            "-device", "virtserialport,chardev=c0,name=cygnet", *network,
        ]  # fmt: skip
        with (self._folder / "qemu").open("w") as said:
            self._qemu = subprocess.Popen(
                tap.argv(argv) if tap is not None else argv,
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
        self.channel = self._connected(path)

    def _connected(self, path: Path) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + BOOT_WITHIN
        while True:
            try:
                channel.connect(str(path))
                return channel
            except OSError as error:
                if not self.alive or time.monotonic() > deadline:
                    said = self.said()
                    self.close()
                    raise LabError(f"qemu did not start: {said}") from error
                time.sleep(0.02)  # the socket appears with qemu

    @property
    def alive(self) -> bool:
        return self._qemu.poll() is None

    def said(self) -> str:
        """The end of what qemu and the guest's console have said."""
        parts = [path.read_text(errors="replace") for path in (self._folder / "qemu", self.console)
                 if path.exists()]  # fmt: skip
        return "\n".join(parts)[-6000:]

    def close(self) -> None:
        """End it at once; there is nothing in it to keep."""
        self._qemu.kill()
        self._qemu.wait()
        if hasattr(self, "channel"):
            self.channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -- the first root -------------------------------------------------------------------------------


def _initrd(kernel: Path, modules: Path, command: str) -> bytes:
    version = modules.name
    root = modules.parents[2]
    if not (modules / "modules.dep").exists():
        subprocess.run([DEPMOD, "-b", str(root), version], check=True)
    files: dict[str, bytes] = {"bin/busybox": Path(BUSYBOX).read_bytes()}
    place = str(modules.parent.resolve()).lstrip("/")
    files["init"] = _INIT.format(modules=place, command=command).encode()
    for number, path in enumerate(_first_modules(root, version)):
        files[f"modules/{number:02}-{path.name}"] = path.read_bytes()
    for library in libraries(BUSYBOX):
        files[library.lstrip("/")] = Path(library).read_bytes()
    folders = [*dict.fromkeys(
        str(folder) for name in (*files, "dev/", "proc/", "sys/", "host/", "over/", "modules/")
        for folder in reversed(Path(name + "x").parents) if str(folder) != "."
    )]  # fmt: skip
    entries = [_entry(name, 0o040755, b"") for name in folders]
    entries.append(_entry("bin/sh", 0o120777, b"busybox"))
    entries += [_entry(name, 0o100755, data) for name, data in files.items()]
    return gzip.compress(b"".join(entries) + _entry("TRAILER!!!", 0, b""), 1)


def _modules(folder: Path) -> Iterator[Path]:
    """What the kernel reads when it misses something, and what it then misses mostly."""
    yield from folder.glob("modules.*")
    for name in _FOLDERS:
        yield from (folder / "kernel" / name).glob("*.ko*")


def _copies(files: Iterable[Path]) -> bytes:
    """An archive of its own, not compressed, of files that are below `copied` then as they are below `/`."""
    chosen = sorted({file.resolve() for file in files if file.is_file()})
    folders = {Path("/copied")}
    entries = []
    for file in chosen:
        inside = Path("/copied") / file.relative_to("/")
        folders.update(inside.parents)
        # An interpreter compares the times of what it compiled.
        entries.append(
            _entry(str(inside).lstrip("/"), 0o100755, file.read_bytes(), int(file.stat().st_mtime))
        )
    made = [_entry(str(one).lstrip("/"), 0o040755, b"") for one in sorted(folders) if str(one) != "/"]
    archive = b"".join([*made, *entries, _entry("TRAILER!!!", 0, b"")])
    return archive + bytes(-len(archive) % 512)


def libraries(program: str) -> list[str]:
    """What a program is linked with; nothing if it is linked statically."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return [word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")]


def _first_modules(root: Path, version: str) -> Sequence[Path]:
    """In the order of their dependencies."""
    found: dict[Path, None] = {}
    for name in _FIRST:
        done = subprocess.run(
            [MODPROBE, "-d", str(root), "-S", version, "--show-depends", name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            if line.startswith("insmod "):
                found[Path(line.split()[1])] = None
    return list(found)


def _entry(name: str, mode: int, data: bytes, modified: int = 0) -> bytes:
    """One file of a cpio archive in the kernel's format (newc)."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, modified, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
