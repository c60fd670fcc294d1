"""MLflow as a team runs it, on this machine: the server of `serve.sh` with PostgreSQL, an S3 server and a password."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow_servers import answers, free_port, wait_until
from object_stores import ObjectStore
from werkzeug.security import generate_password_hash

SERVE = Path(__file__).parents[1] / "cluster" / "launch" / "mlflow" / "serve.sh"
DEADLINE_SECONDS = 400.0


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs: Debian's newest, else where initdb is; skips the test without one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    there = str(found[-1]) if found else shutil.which("initdb")
    if there is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return Path(there).parent


def _owner() -> str | None:
    """Whose processes PostgreSQL's are: it refuses to run as root. None: this process's own user."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@dataclass(frozen=True)
class Database:
    """A PostgreSQL server with the user and the database `mlflow`."""

    programs: Path
    port: int
    password: str

    def dump(self) -> str:
        """All that it holds, as SQL."""
        return self._asked("pg_dump", "mlflow")

    def change(self, statement: str) -> None:
        """Runs a statement of SQL."""
        self._asked("psql", "--dbname=mlflow", f"--command={statement}")

    def _asked(self, program: str, *words: str) -> str:
        command = [str(self.programs / program), "--host=127.0.0.1", f"--port={self.port}", "--username=mlflow", *words]
        environment = {**os.environ, "PGPASSWORD": self.password}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@contextmanager
def postgres() -> Iterator[Database]:
    """A new PostgreSQL server, which asks for a password, for as long as the block runs."""
    programs, owner = postgres_programs(), _owner()
    # Not pytest's folder: another user's processes may not enter it.
    folder = Path(tempfile.mkdtemp(prefix="qsweep-postgres-"))
    database = Database(programs, free_port(), secrets.token_hex(12))
    password = folder / "password"
    password.write_text(database.password)
    how: dict[str, Any] = {"cwd": folder}
    if owner is not None:
        for path in (folder, password):
            shutil.chown(path, owner)
        how |= {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []}
    data = folder / "data"
    words = f"--username mlflow --pwfile {password} --auth scram-sha-256 --no-sync --encoding UTF8".split()
    made = subprocess.run([programs / "initdb", "--pgdata", data, *words], capture_output=True, text=True, **how)
    assert made.returncode == 0, made.stderr
    words = f"-p {database.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off".split()
    with (folder / "log").open("ab") as log:
        running: subprocess.Popen[bytes] = subprocess.Popen(
            [programs / "postgres", "-D", data, *words], stdout=log, stderr=log, **how
        )
    try:
        ready = [str(programs / "pg_isready"), "--host", "127.0.0.1", "--port", str(database.port)]
        wait_until(lambda: not subprocess.run(ready, capture_output=True).returncode, running, folder / "log")
        environment = {**os.environ, "PGPASSWORD": database.password}
        words = f"--host 127.0.0.1 --port {database.port} --username mlflow mlflow".split()
        subprocess.run([str(programs / "createdb"), *words], env=environment, check=True)
        yield database
    finally:
        running.send_signal(signal.SIGQUIT)  # at once
        running.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Stack:
    """A running MLflow server and what is behind it."""

    uri: str
    credentials: dict[str, str]
    """The environment of those who talk to it."""
    secrets: tuple[str, ...]
    """What must be written nowhere: the passwords of the server's users, of its database and of its bucket."""
    database: Database
    objects: ObjectStore
    log: Path


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """MLflow's server as `serve.sh` starts it, for as long as the block runs; `folder` takes its log."""
    admin, session, bucket = (secrets.token_hex(12) for _ in range(3))
    with ExitStack() as left:
        database, objects, port = left.enter_context(postgres()), ObjectStore(), free_port()
        left.callback(objects.stop)
        objects.start()
        objects.make_bucket()
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "mlflow",
            "AWS_SECRET_ACCESS_KEY": bucket,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(folder),
            "MLFLOW_S3_ENDPOINT_URL": objects.endpoint,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "DATABASE_HOST": "127.0.0.1",
            "DATABASE_PORT": str(database.port),
            "DATABASE_PASSWORD": database.password,
            "ARTIFACTS": objects.uri,
            "ALLOWED_HOSTS": "127.0.0.1:*",
            "LISTEN_PORT": str(port),
            "WORKERS": "1",
            "MLFLOW_AUTH_ADMIN_PASSWORD": admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": session,
        }
        log = folder / "server.log"
        with log.open("ab") as told:
            running = subprocess.Popen(
                ["sh", SERVE], stdout=told, stderr=told, env=environment, cwd=folder, start_new_session=True
            )
        uri = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: answers(uri), running, log, DEADLINE_SECONDS)
            # The server hashes the password again for each request, which takes 0.14 s of a processor as it is made.
            light = generate_password_hash(admin, "pbkdf2:sha256:1")
            database.change(f"UPDATE users SET password_hash = '{light}'")
            credentials = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": admin}
            yield Stack(uri, credentials, (admin, session, bucket, database.password), database, objects, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
