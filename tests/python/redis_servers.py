"""Real Redis servers for tests: started on free ports, with nothing kept on a disk, and stopped at the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BINARY = "redis-server"
PATIENCE = 30.0
SLOTS = 16_384


class Server:
    """One server process. `port` stays the same when it is started again."""

    def __init__(self, *options: str) -> None:
        self.options = options
        self.port = 0
        self._directory = tempfile.mkdtemp(prefix="checkrein-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        for attempt in range(20):
            self.port = _free_port()
            try:
                self.start()
            except RuntimeError:
                # Somebody else took the port meanwhile.
                if attempt == 19:
                    raise
            else:
                break

    @property
    def url(self) -> str:
        """Its address for clients."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if shutil.which(BINARY) is None:
            pytest.fail(f"{BINARY} is not installed: apt-get install redis-server", pytrace=False)
        command = [
            BINARY,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        command += ["--dir", self._directory, *self.options]
        log = open(Path(self._directory) / "log", "ab")  # noqa: SIM115 - the process has it
        self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (Path(self._directory) / "log").read_text(errors="replace")[-2_000:]
                self.stop()
                raise RuntimeError(f"{BINARY} did not start: {said}")
            time.sleep(0.01)

    def client(self, **options: Any) -> Any:
        """A `redis.Redis` on it."""
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def signal(self, number: int) -> None:
        """Send it a signal, as SIGSTOP to pause it."""
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """Have it take what it is sent and answer nothing; returns when it has stopped."""
        assert self._process is not None
        self.signal(signal.SIGSTOP)
        # The state after the name, which is in parentheses.
        while (
            "T"
            not in Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0].upper()
        ):
            time.sleep(0.001)

    def resume(self) -> None:
        """Have it go on."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill it: what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.send_signal(signal.SIGCONT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Kill it and remove what it wrote."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                said = connection.recv(64)
                # A server with a password answers too.
                return said.startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class Cluster:
    """Masters without replicas, the slots dealt out evenly."""

    def __init__(self, masters: int = 3) -> None:
        self.servers = [
            Server("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf") for _ in range(masters)
        ]
        for number, server in enumerate(self.servers):
            client = server.client()
            slots = range(number * SLOTS // masters, (number + 1) * SLOTS // masters)
            client.execute_command("CLUSTER", "ADDSLOTS", *slots)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        deadline = time.monotonic() + PATIENCE
        while not all(self._is_whole(server) for server in self.servers):
            if time.monotonic() > deadline:
                self.remove()
                raise RuntimeError("the cluster did not come together")
            time.sleep(0.05)

    @property
    def url(self) -> str:
        """The address of one of its nodes."""
        return self.servers[0].url

    def client(self, **options: Any) -> Any:
        """A `redis.cluster.RedisCluster` on it."""
        import redis.cluster

        return redis.cluster.RedisCluster(host="127.0.0.1", port=self.servers[0].port, **options)

    def remove(self) -> None:
        """Kill every node."""
        for server in self.servers:
            server.remove()

    def _is_whole(self, server: Server) -> bool:
        found = server.client(decode_responses=True).execute_command("CLUSTER INFO")
        text = (
            found if isinstance(found, str) else "\n".join(f"{key}:{value}" for key, value in found.items())
        )
        return "cluster_state:ok" in text and f"cluster_known_nodes:{len(self.servers)}" in text


def _free_port() -> int:
    """A port that is free, and whose Cluster bus (10,000 above) is free too."""
    while True:
        port = random.SystemRandom().randrange(20_000, 45_000)
        try:
            with socket.socket() as one, socket.socket() as other:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
        except OSError:
            continue
        return port


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """One server for all tests; each uses a prefix of its own, or flushes it."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def own_redis_server() -> Iterator[Server]:
    """A server of this test alone, to be killed, paused or filled."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Cluster]:
    """A Cluster of three masters for all tests."""
    cluster = Cluster()
    yield cluster
    cluster.remove()


def fresh_prefix(name: str = "test") -> str:
    """A prefix that no other test has."""
    return f"{name}-{os.urandom(6).hex()}"
