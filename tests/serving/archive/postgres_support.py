"""A PostgreSQL server of the tests' own, on a free port of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs until `stop`."""

    url: str
    data: Path
    control: list[str]
    options: str

    def start(self) -> bool:
        log = str(self.data.parent / "log")
        command = [*self.control, "-l", log, "-o", self.options, "start"]
        # Not captured: the server would hold the pipes open.
        run = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.data.parent
        )
        return run.returncode == 0

    def stop(self) -> None:
        """As by a loss of power."""
        if (self.data / "postmaster.pid").exists():
            command = [*self.control, "-m", "immediate", "stop"]
            subprocess.run(command, capture_output=True, cwd=self.data.parent, check=True)


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A new server; skips, with the reason, where none can be started."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed")
    as_user: list[str] = []
    if os.geteuid() == 0:
        # It refuses to run as root.
        known = subprocess.run(["id", "postgres"], capture_output=True).returncode == 0
        if not shutil.which("runuser") or not known:
            pytest.skip("PostgreSQL must not run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    home = Path(tempfile.mkdtemp(prefix="stillwatch-pg-"))
    try:
        if as_user:
            shutil.chown(home, "postgres")
        folder, data = str(programs[-1].parent), home / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        make = [
            *as_user, f"{folder}/initdb", "-D", str(data), "-A", "trust", "-U", "stillwatch",
            "--no-sync", "-E", "UTF8", "--locale=C",
        ]  # fmt: skip
        if subprocess.run(make, capture_output=True, cwd=home).returncode:
            pytest.skip("initdb cannot be run here")
        server = Server(
            f"postgresql://stillwatch@127.0.0.1:{port}/postgres",
            data,
            [*as_user, f"{folder}/pg_ctl", "-D", str(data), "-w"],
            f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={home}",
        )
        if not server.start():
            pytest.skip("PostgreSQL cannot be started here")
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
