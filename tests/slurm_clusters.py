"""A real Slurm: a login node with its controller, and nodes with one declared GPU each, as machines of namespaces."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import chaos_runs as runs
import namespaces
from launch_files import LAUNCH
from namespaces import Machine, Network

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# GPUs of which Slurm knows no file are not given to jobs. A job's processes are found by their parents: no cgroups.
# `/tmp/...` is each machine's own disk. A node that says nothing for 30 seconds is lost; of less, Slurm would lose the
# other nodes too, which it asks only after it has waited 10 seconds (MessageTimeout) for one that is gone.
CONF = """
ClusterName=test
SlurmctldHost={host}({login})
AuthType=auth/munge
AuthInfo=socket={disk}/munge.socket
SlurmUser=root
StateSaveLocation={disk}/state
SlurmdSpoolDir={disk}/spool
SlurmctldPidFile={disk}/slurmctld.pid
SlurmdPidFile={disk}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmdTimeout=30
{nodes}
PartitionName=gpu Nodes=ALL Default=YES State=UP
"""
GRES = f"NodeName=n[1-9] Name=gpu File={os.devnull}\n"


def why_not() -> str | None:
    """Why no Slurm can be started here; None where one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"there is no {missing[0]} here: apt-get install slurm-wlm munge"
    return namespaces.why_not()


class Job:
    """A job that was handed in."""

    def __init__(self, slurm: Slurm, number: str) -> None:
        self.slurm, self.number = slurm, number

    @property
    def log(self) -> str:
        """What the job has printed so far."""
        file = self.slurm.project / f"qsweep-{self.number}.log"
        return file.read_text() if file.exists() else ""

    def told(self) -> dict[str, str]:
        """What Slurm says of the job."""
        shown = self.slurm.login.run("scontrol", "show", "job", self.number, "--oneliner").stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def state(self) -> str:
        return self.told().get("JobState", "")

    def code(self) -> tuple[str, str]:
        """How it has ended: Slurm's word, and its exit code with the signal. It waits for the end."""
        runs.wait_for(lambda: self.state() not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"))
        told = self.told()
        return told["JobState"], told["ExitCode"]


class Slurm:
    """The project lies on a disk that all nodes share, as does the home folder."""

    def __init__(self, network: Network, nodes: int) -> None:
        self.network = network
        shared, disk = network.shared, network.folder / "disk"
        network.folder.chmod(0o711)  # munge's socket must be in everyone's reach
        self.home, self.project = shared / "home", shared / "project"
        for folder in (self.home, self.project / "cluster", shared / "slurm"):
            folder.mkdir(parents=True)
        self.project.joinpath("cluster", "launch").symlink_to(LAUNCH)
        self.project.joinpath(".venv").symlink_to(sys.prefix)
        self._key = shared / "slurm" / "munge.key"
        self._key.write_bytes(secrets.token_bytes(128))
        self._key.chmod(0o400)
        conf = shared / "slurm" / "slurm.conf"
        path = f"{self.project}/.venv/bin:{os.environ['PATH']}:/usr/sbin"
        own = {"HOME": str(self.home), "SLURM_CONF": str(conf), "PATH": path}
        self.login = network.boot("login", **own)
        self.nodes = {f"n{number + 1}": network.boot(f"n{number + 1}", **own) for number in range(nodes)}
        lines = [
            f"NodeName={name} NodeAddr={node.address} Port=6818 CPUs=8 Gres=gpu:1" for name, node in self.nodes.items()
        ]
        conf.write_text(
            CONF.format(host=socket.gethostname(), login=self.login.address, disk=disk, nodes="\n".join(lines))
        )
        conf.with_name("gres.conf").write_text(GRES)
        conf.with_name("cgroup.conf").write_text("CgroupPlugin=disabled\n")
        self._serve(self.login, "slurmctld", "-D", "-i")
        for name, node in self.nodes.items():
            self._serve(node, "slurmd", "-D", "-N", name)
        runs.wait_for(lambda: self.asked("sinfo", "--noheader", "--format=%D %t").split() == [str(nodes), "idle"])

    def _serve(self, machine: Machine, *words: str) -> subprocess.Popen[bytes]:
        """Starts a service of Slurm's on a machine, with the munge that it speaks through."""
        own = machine.environment["HOME"].replace(str(self.home), f"{self.network.folder}/disk")
        munge = [f"--{kind}-file={own}/munge.{kind}" for kind in ("pid", "log", "seed")]
        for name in ("state", "spool"):
            (machine.disk / name).mkdir()
        answer = machine.run("munged", *munge, f"--key-file={self._key}", f"--socket={own}/munge.socket")
        assert answer.returncode == 0, answer.stderr
        return machine.start(machine.disk / f"{words[0]}.out", machine.disk / f"{words[0]}.err", *words)

    def asked(self, *words: str) -> str:
        """What a command on the login node prints; in the project's folder."""
        answer = self.login.run("env", "-C", str(self.project), *words)
        return answer.stdout if answer.returncode == 0 else f"{answer.returncode}: {answer.stdout}{answer.stderr}"

    def ray_log(self, job: Job) -> str:
        """What Ray said of itself in a job."""
        return self.project.joinpath(f"qsweep-{job.number}.ray.log").read_text()

    def lose(self, name: str) -> None:
        """A node's machine ends."""
        self.network.power_off(self.nodes.pop(name))

    def job(self, *words: str, options: tuple[str, ...] = ()) -> Job:
        """Hands in slurm.sh."""
        given = [f"--nodes={len(self.nodes)}", *options, "cluster/launch/slurm.sh"]
        return Job(self, self.asked("sbatch", "--parsable", *given, *words).strip())


@contextmanager
def slurm(nodes: int) -> Iterator[Slurm]:
    with namespaces.network() as network:
        yield Slurm(network, nodes)
