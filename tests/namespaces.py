"""Machines on this one, each with a network, processes and a disk of its own: their links can be cut, their power too.

Nothing of them has a name outside, so two runs never meet: a machine is the namespaces of its first process. That
process ends when this one does, however it ends. Then the kernel ends all that runs there and removes the links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# As an init does, it takes away processes that nobody waits for. Its end is that of the namespaces.
FIRST = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
sys.stdin.read()
"""
# The machine's disk lies where that of each other machine lies, and no machine sees another's.
BOOT = """
mount --bind "$1/machines/$2" "$1/disk"
mount -t tmpfs none "$1/machines"
ip link set lo up
shift 2
exec "$@"
"""
NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
SUBNET = "10.55.0"
SECONDS = 240
"""How long a command on a machine may take."""


def why_not() -> str | None:
    """Why no such machines can be made here; None where they can."""
    missing = [program for program in ("unshare", "nsenter", "ip", "mount") if shutil.which(program) is None]
    if missing:
        return f"there is no {missing[0]} here"
    bridge = "mount -t tmpfs none /tmp; ip link add name s type bridge; ip link add name v type veth peer name w"
    done = subprocess.run([*NAMESPACES, "sh", "-ec", bridge], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no namespaces can be made here: {done.stderr.strip()}"


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    disk: Path
    """Its disk as this process sees it; lost when the machine is."""
    environment: dict[str, str]
    holder: subprocess.Popen[str] = field(repr=False)
    first: int
    """The process id, here, of its first process."""

    @property
    def home(self) -> Path:
        return self.disk / "home"

    def command(self, *words: str, **changes: str) -> list[str]:
        """What runs a command there, in the home folder; `python` and `qsweep` are those of this environment."""
        given = {**self.environment, **changes}
        inside = ["env", "-i", "-C", given["HOME"], *(f"{name}={value}" for name, value in given.items())]
        return ["nsenter", f"--target={self.first}", "--net", "--mount", "--pid", *inside, *words]

    def run(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        timed = self.command("timeout", str(SECONDS), *words, **changes)
        return subprocess.run(timed, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def start(self, out: Path, err: Path, *words: str, **changes: str) -> subprocess.Popen[bytes]:
        """Starts a command there, which writes into two files of this machine."""
        command = self.command(*words, **changes)
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes whose command begins with `title`."""
        found, place = [], Path(f"/proc/{self.first}/ns/pid").readlink()
        for each in psutil.process_iter(["cmdline"]):
            try:
                is_there = Path(f"/proc/{each.pid}/ns/pid").readlink() == place
            except OSError:  # it has just ended
                continue
            found += [each] if is_there and " ".join(each.info["cmdline"] or ()).startswith(title) else []
        return found


@dataclass
class Network:
    """Machines, and the switch that joins them."""

    folder: Path
    _switch: subprocess.Popen[str]
    _machines: dict[str, Machine] = field(default_factory=dict)
    _next: int = 1

    @property
    def shared(self) -> Path:
        """A folder that every machine sees at this path, as one that a file server gives out."""
        return self.folder / "shared"

    def boot(self, name: str, **environment: str) -> Machine:
        """Starts a machine with an empty disk and an address that none had before; its name is not used yet."""
        disk = self.folder / "machines" / name
        for each in ("home", "tmp"):
            (disk / each).mkdir(parents=True)
        holder = _held([*NAMESPACES, "sh", "-ec", BOOT, "sh", str(self.folder), name])
        address = f"{SUBNET}.{self._next}"
        # A short path: Ray's sockets lie in TMPDIR.
        own = {"HOME": f"{self.folder}/disk/home", "TMPDIR": f"{self.folder}/disk/tmp"}
        machine = Machine(name, address, disk, {**_plain_environment(), **own, **environment}, holder, _child(holder))
        self._machines[name], self._next = machine, self._next + 1
        self._ip(self._switch, f"link add name {name} type veth peer name eth0 netns {machine.first}")
        self._ip(self._switch, f"link set dev {name} master switch up")
        self._ip(holder, f"address add {address}/24 dev eth0")
        self._ip(holder, "link set dev eth0 up")
        return machine

    def cut(self, machine: Machine) -> None:
        """Takes out a machine's network cable: nobody is told, and what runs there goes on."""
        self._ip(self._switch, f"link set dev {machine.name} down")

    def put_back(self, machine: Machine) -> None:
        self._ip(self._switch, f"link set dev {machine.name} up")

    def power_off(self, machine: Machine) -> None:
        """Ends all that runs on a machine at once, without a word to others, and loses its disk."""
        self.cut(machine)
        del self._machines[machine.name]
        _end(machine.holder)
        shutil.rmtree(machine.disk, ignore_errors=True)

    def close(self) -> None:
        """Ends all machines, also those of which a part has ended."""
        for machine in self._machines.values():
            _end(machine.holder)
        _end(self._switch)

    def _ip(self, holder: subprocess.Popen[str], words: str) -> None:
        command = ["nsenter", f"--target={_child(holder)}", "--net", "ip", *words.split()]
        subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def network() -> Iterator[Network]:
    """A switch, to which machines can be joined for as long as the block runs."""
    # Outside TMPDIR, whose path may be long.
    with tempfile.TemporaryDirectory(prefix="qs", dir="/tmp", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        for name in ("machines", "disk", "shared"):
            (folder / name).mkdir()
        made = Network(folder, _held([*NAMESPACES, "sh", "-ec", 'exec "$@"', "sh"]))
        try:
            made._ip(made._switch, "link add name switch type bridge")
            made._ip(made._switch, "link set dev switch up")
            yield made
        finally:
            made.close()


def _held(namespaces: list[str]) -> subprocess.Popen[str]:
    """New namespaces, whose first process runs for as long as this one holds its stdin."""
    first = [*namespaces, sys.executable, "-ISc", FIRST]
    holder = subprocess.Popen(first, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "up\n", "the namespaces were not made"
    return holder


def _child(holder: subprocess.Popen[str]) -> int:
    [first] = psutil.Process(holder.pid).children()
    return first.pid


def _end(holder: subprocess.Popen[str]) -> None:
    """Ends the first process of namespaces, and so all that runs there; back when it is gone."""
    holder.communicate(timeout=60)


def _plain_environment() -> dict[str, str]:
    """This process's environment, without what would lead a machine's commands elsewhere."""
    elsewhere = ("RAY_", "AWS_", "MLFLOW_TRACKING", "QSWEEP_CACHE", "CUDA_VISIBLE_DEVICES", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
