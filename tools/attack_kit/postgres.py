"""Starts a PostgreSQL server for the attacks on a Unix socket, and queries it through psql."""

import glob
import os
import pwd
import shutil
import subprocess


def programs():
    """The folder of initdb, pg_ctl and psql."""
    found = os.environ.get("RECADO_POSTGRES_BIN")
    candidates = [found] if found else sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    on_path = shutil.which("postgres")
    if on_path and not found:
        candidates.append(os.path.dirname(os.path.realpath(on_path)))
    for folder in candidates:
        if os.access(os.path.join(folder, "initdb"), os.X_OK):
            return folder
    raise SystemExit("attacks: no PostgreSQL server programs found; set RECADO_POSTGRES_BIN to their folder")


class Postgres:
    """One server. `recado` is its superuser; every login from this machine is trusted."""

    def __init__(self, folder, *options):
        self.bin = programs()
        self.folder = folder
        self.socket = os.path.join(folder, "socket")
        self.data = os.path.join(folder, "data")
        self.databases = 0
        os.makedirs(self.socket)
        self.user = None
        if os.getuid() == 0:
            # PostgreSQL refuses to run as root.
            for name in ("postgres", "nobody"):
                try:
                    self.user = pwd.getpwnam(name)
                    break
                except KeyError:
                    continue
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
            os.chown(self.socket, self.user.pw_uid, self.user.pw_gid)
        os.chmod(folder, 0o755)
        self.run("initdb", "-D", self.data, "-U", "recado", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        # fsync stays on: the hub refuses a server without it, and one attack tests exactly that.
        self.options = f"-c listen_addresses= -c unix_socket_directories={self.socket} -c max_connections=300 " + " ".join(options)
        self.start()

    def run(self, program, *arguments):
        """Runs one of the server's programs as the server's user."""
        settings = {} if self.user is None else {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        subprocess.run(
            [os.path.join(self.bin, program), *arguments],
            check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, **settings,
        )

    def start(self):
        self.run("pg_ctl", "-D", self.data, "-l", os.path.join(self.folder, "log"), "-w", "-o", self.options, "start")

    def stop(self, mode="immediate"):
        self.run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def database(self):
        """Creates an empty database and returns its name."""
        self.databases += 1
        name = f"attack_{self.databases}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def url(self, database, user="recado", **parameters):
        more = "".join(f"&{key}={value}" for key, value in parameters.items())
        return f"postgres:///{database}?host={self.socket}&user={user}{more}"

    def arguments(self, database, user):
        return [os.path.join(self.bin, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.socket, "-U", user, "-d", database]

    def sql(self, statement, database="postgres", user="recado", seconds=30):
        """The output of a statement. Raises CalledProcessError, with psql's message in `stderr`, when it fails."""
        done = subprocess.run(
            self.arguments(database, user), input=statement, capture_output=True, text=True, check=True, timeout=seconds,
        )
        return done.stdout.strip()

    def session(self, database, user, statement):
        """A session that runs `statement` and stays open until `close()` is called on the returned value."""
        process = subprocess.Popen(
            self.arguments(database, user), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        process.stdin.write(statement + ";\n\\echo held\n")
        process.stdin.flush()
        while True:
            line = process.stdout.readline()
            if line.strip() == "held" or line == "":
                break
        return Session(process)


class Session:
    def __init__(self, process):
        self.process = process

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)
