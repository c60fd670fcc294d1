"""Machines that are reached through SSH alone: one that a person types at, and those of onprem.yaml."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chaos_runs as runs
import namespaces
import yaml
from launch_files import LAUNCH, ROOT, header
from namespaces import Machine, Network

PATH = f"{os.environ['PATH']}:/usr/sbin"
PROGRAMS = ("sshd", "ssh-keygen", "rsync")
FILE = LAUNCH / "onprem.yaml"
GIVEN: dict[str, Any] = yaml.safe_load(FILE.read_text())
USER = GIVEN["auth"]["ssh_user"]
SENT = ("qsweep", "sweeps", "trainables", "search_spaces", "cluster")
# Ray writes to these fixed folders: each machine has its own. The second one is that of `ray up`'s connections.
RAYS = ("ray", f"ray_ssh_{hashlib.sha256(USER.encode()).hexdigest()[:10]}")
# A machine as one gets it: a user who may log in with a key. That user is root, who alone can read these programs;
# the name and the home folder are those of the machine. `/run` is where sshd wants a folder.
LOGIN = """
for name in $RAYS; do mkdir -p "/tmp/$name" "$DISK/$name"; mount --bind "$DISK/$name" "/tmp/$name"; done
mount --bind "$SHARED/passwd" /etc/passwd
mount -t tmpfs none /run
mkdir /run/sshd
cp -r /etc/skel/. "$HOME"
mkdir -m 700 "$HOME/.ssh"
cp "$SHARED/id" "$HOME/.ssh/id_ed25519"
cp "$SHARED/id.pub" "$HOME/.ssh/authorized_keys"
ssh-keygen -q -t ed25519 -N "" -C "" -f "$DISK/host_key"
"""
# What stands for the internet, which is not there: pip finds this environment's packages in ~/venv, and installs
# nothing but the project that was sent. `0` is pip's word for "without isolation": the build's tools are found too.
PACKAGES = """
echo "export PATH=$PYTHON:\\$PATH PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0" >> "$HOME/.profile"
"$PYTHON/python3" -m venv --without-pip "$HOME/venv"
echo "$HERE" > "$(echo "$HOME"/venv/lib/python*/site-packages)/here.pth"
for name in pip ray; do
  sed "1s|.*|#!$HOME/venv/bin/python|" "$PROGRAMS/$name" > "$HOME/venv/bin/$name"
  chmod +x "$HOME/venv/bin/$name"
done
"""


def why_not() -> str | None:
    """Why no such machines can be made here; None where they can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"there is no {missing[0]} here: apt-get install openssh-server rsync"
    return namespaces.why_not()


class SSH:
    """A head node and two workers, on which nothing runs yet, and a machine with the project to type at."""

    def __init__(self, network: Network) -> None:
        self._network = network
        key, passwd = network.shared / "id", network.shared / "passwd"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        passwd.write_text(f"{USER}:x:0:0::{network.folder}/disk/home:/bin/bash\n" + Path("/etc/passwd").read_text())
        self.own = self._machine("own", "")
        self.head, *self.workers = (self._machine(name, PACKAGES) for name in ("head", "worker1", "worker2"))
        known = [f"{each.address} {(each.disk / 'host_key.pub').read_text()}" for each in self.machines]
        self.own.home.joinpath(".ssh", "known_hosts").write_text("".join(known))
        for machine in self.machines:
            sshd = [str(shutil.which("sshd", path=PATH)), "-D", "-e", "-f", os.devnull]
            host_key = f"{network.folder}/disk/host_key"
            machine.start(machine.disk / "sshd.out", machine.disk / "sshd.err", *sshd, "-h", host_key)
        for name in SENT:
            shutil.copytree(ROOT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.project / name)
        self.file.write_text(self._filled_in())

    @property
    def machines(self) -> list[Machine]:
        """Those that the file names."""
        return [self.head, *self.workers]

    @property
    def project(self) -> Path:
        """The repository, on the machine that a person types at."""
        return self.own.home / "project"

    @property
    def file(self) -> Path:
        """The file in that repository, with its lines filled in."""
        return self.project / "cluster" / "launch" / FILE.name

    def _machine(self, name: str, more: str) -> Machine:
        machine = self._network.boot(name, USER=USER, LOGNAME=USER)
        known = {
            "DISK": f"{self._network.folder}/disk", "SHARED": str(self._network.shared), "RAYS": " ".join(RAYS),
            "PYTHON": str(Path(sys.executable).resolve().parent), "PROGRAMS": str(Path(sys.executable).parent),
            "HERE": sysconfig.get_path("purelib"),
        }  # fmt: skip
        answer = machine.run("sh", "-ec", LOGIN + more, **known)
        assert answer.returncode == 0, answer.stderr
        return machine

    def _filled_in(self) -> str:
        """The file with these machines' addresses, and what it says for machines without the internet and a GPU.

        Ray takes 127.0.0.1 for the address of a head without a route to the internet. No GPU is here to be found.
        """
        text, provider = FILE.read_text(), GIVEN["provider"]
        workers = [each.address for each in self.workers]
        told = {
            f"head_ip: {provider['head_ip']}": f"head_ip: {self.head.address}",
            f"worker_ips: [{', '.join(provider['worker_ips'])}]": f"worker_ips: [{', '.join(workers)}]",
            f"for worker in {' '.join(provider['worker_ips'])};": f"for worker in {' '.join(workers)};",
            "ray start --head": f"ray start --head --node-ip-address={self.head.address}",
            "ray start --address=$RAY_HEAD_IP:6379": "ray start --address=$RAY_HEAD_IP:6379 --num-gpus=1",
        }
        for before, after in told.items():
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        return text

    def typed(self, line: str) -> subprocess.CompletedProcess[str]:
        """What a line answers that is typed in the project's folder."""
        return self.own.run("env", "-C", f"{self._network.folder}/disk/home/project", "bash", "-c", line)

    def documented(self, start: str) -> subprocess.CompletedProcess[str]:
        """What the one line answers that the file tells people to type and that begins so."""
        (line,) = (line.strip() for line in header(self.file) if line.strip().startswith(start))
        return self.typed(line)

    def on_head(self, line: str) -> subprocess.CompletedProcess[str]:
        """What `ray exec` answers."""
        return self.typed(f"ray exec cluster/launch/{FILE.name} '{line}'")

    def begun_on_head(self, folder: Path, line: str) -> runs.Run:
        """`ray exec`, which goes on."""
        out, err = folder / "out", folder / "err"
        inside = f"cd project && ray exec cluster/launch/{FILE.name} '{line}'"
        return runs.Run(self.own.start(out, err, "bash", "-c", inside), out, err)


@contextmanager
def ssh() -> Iterator[SSH]:
    with namespaces.network() as network:
        yield SSH(network)
