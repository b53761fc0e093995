"""Installs programs of other languages and starts hubs, for the tests of clients.

`clients/interop/test` and `clients/tokens/test` use it. Both have the same layout: their programs are in `node/` (with
`package.json` and its lock file next to the test), `python/`, `go/` and `java/`, each with exact versions.
"""

import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys

# The Node that is installed where the machine's is too old.
NODE = "node@24.21.0"
GO_AT_LEAST = (1, 23)
JAVA_AT_LEAST = 11
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy-dependencies"
WAIT_S = 60
TEST = f"clients/{pathlib.Path(sys.argv[0]).resolve().parent.name}"


def say(text):
    print(f"{TEST}: {text}", flush=True)


def fail(text):
    raise SystemExit(f"{TEST}: {text}")


def run(*command, **options):
    """Runs a program and returns what it printed. Its messages are shown only if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    if ended.returncode != 0:
        fail(f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def numbers(text):
    """The first version number in a text, as integers."""
    found = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


# Installation: one function per language. It returns how to start a program, how to tell a library's version, and the
# name of the runtime; or a string, the reason, if the language is not there. `test` is the folder of the test.


def install_node(test, folder, node_at_least):
    place = folder / "node"
    shutil.copytree(test / "node", place)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(test / name, place)
    path = os.environ["PATH"]
    if not shutil.which("npm"):
        fail("no npm: install Node and npm")
    if numbers(run("node", "--version"))[:2] < node_at_least:
        run("npm", "install", "--prefix", folder / "newer", "--no-audit", "--no-fund", NODE)
        path = f"{folder}/newer/node_modules/.bin:{path}"
    environment = {**os.environ, "PATH": path}
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=place, env=environment)
    node = shutil.which("node", path=path)
    runtime = f"Node {run(node, '--version').strip().lstrip('v')}"

    def version(package):
        return json.loads((place / "node_modules" / package / "package.json").read_text())["version"]

    return lambda program: [node, place / program], version, runtime


def install_python(test, folder, _):
    place = folder / "python"
    run(sys.executable, "-m", "venv", place)
    python = place / "bin/python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "-r", test / "python/requirements.txt")

    def version(package):
        return run(python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))").strip()

    return lambda program: [python, "-B", test / "python" / program], version, f"Python {sys.version.split()[0]}"


def install_go(test, folder, _):
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        return "there is no Go"
    found = run(go, "version", env={**os.environ, "GOTOOLCHAIN": "local"}).split()[2].removeprefix("go")
    if numbers(found) < GO_AT_LEAST:
        return f"Go {found} is older than {'.'.join(map(str, GO_AT_LEAST))}"
    binary = folder / "go-program"
    run(go, "build", "-o", binary, ".", cwd=test / "go", env={**os.environ, "GOTOOLCHAIN": "local"})

    def version(package):
        return re.search(rf"dep\s+{package}\s+v(\S+)", run(go, "version", "-m", binary))[1]

    return lambda program: [binary], version, f"Go {found}"


def install_java(test, folder, _):
    java, javac, maven = (shutil.which(name) for name in ("java", "javac", "mvn"))
    if not java or not javac:
        return "there is no JDK"
    found = run(javac, "-version").split()[-1]
    if numbers(found) < (JAVA_AT_LEAST,):
        return f"Java {found} is older than {JAVA_AT_LEAST}"
    path = str(folder / "java")
    if (test / "java/pom.xml").is_file():
        if not maven:
            return "there is no Maven"
        # Maven writes into the folder of the POM.
        (folder / "maven").mkdir()
        shutil.copy(test / "java/pom.xml", folder / "maven")
        run(maven, "--batch-mode", "--quiet", MAVEN_COPY, f"-DoutputDirectory={folder}/jars", cwd=folder / "maven")
        path += f"{os.pathsep}{folder}/jars/*"
    run(javac, "-encoding", "UTF-8", "-cp", path, "-d", folder / "java", *(test / "java").glob("*.java"))

    def version(package):
        jars = (folder / "jars").glob(f"{package.split(':')[-1]}-*.jar")
        return next((jar.stem.removeprefix(f"{package.split(':')[-1]}-") for jar in jars), found)

    runtime = f"Java {found}" if (folder / "jars").is_dir() else "the JDK"
    return lambda program: [java, "-Xshare:auto", "-cp", path, program], version, runtime


INSTALLERS = {"node": install_node, "python": install_python, "go": install_go, "java": install_java}


def find_hub():
    """The program of the hub, or `None`."""
    root = pathlib.Path(__file__).resolve().parents[1]
    built = [root / "target" / kind / "recado" for kind in ("release", "debug")]
    return os.environ.get("RECADO_HUB_BIN") or next((str(path) for path in built if path.is_file()), None)


def free_port():
    """A port below those that outgoing connections use, so that a restarted hub can have it again."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Hub:
    """A hub with a private PostgreSQL. It can be killed and started again, also on another port."""

    def __init__(self, binary, folder, **settings):
        self._binary, self._folder = binary, folder
        # A hub that runs as root lets another user run its PostgreSQL, which needs to enter the folder.
        os.chmod(folder, 0o755)
        foreign, ours = ("RECADO_", "WS_", "DATABASE_", "PORT"), ("RECADO_POSTGRES_BIN", "RECADO_POSTGRES_USER")
        kept = {name: value for name, value in os.environ.items() if name in ours or not name.startswith(foreign)}
        # Heartbeats and pings come within the test, and a stop does not take long.
        self.environment = {
            **kept,
            "RECADO_DATA_DIR": f"{folder}/hub",
            "RECADO_LOG": "warn",
            "WS_HEARTBEAT_INTERVAL": "2s",
            "RECADO_DRAIN_WINDOW": "1s",
            **settings,
        }
        self._process = None
        self.port = free_port()

    def start(self, port=None, **settings):
        """Starts the hub and waits until it serves."""
        with open(f"{self._folder}/hub.log", "a", encoding="utf-8") as log:
            environment = {**self.environment, "PORT": str(port or self.port), **settings}
            self._process = subprocess.Popen(
                [self._binary, "serve"], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if not self._process.stdout.readline().startswith("ready "):
            raise AssertionError(f"the hub did not start:\n{self.log()}")
        self._serving = port or self.port

    def log(self):
        return pathlib.Path(self._folder, "hub.log").read_text(encoding="utf-8")

    def end(self, how):
        """Ends the hub by a signal. After SIGKILL its PostgreSQL goes on."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(WAIT_S)
            self._process.stdout.close()

    def stop(self):
        """Stops the hub and its PostgreSQL."""
        if self._process is None:
            return
        if self._process.poll() is not None:
            self.start()
        self.end(signal.SIGTERM)

    def token(self, *arguments):
        return run(self._binary, "token", *arguments, env=self.environment).strip()

    def answer(self, method, path, token, body=None):
        """Makes a request and returns the status and the text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._serving, timeout=WAIT_S)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        is_json = answer.getheader("Content-Type", "").split("+")[-1].endswith("json")
        connection.close()
        return answer.status, json.loads(text) if is_json else text

    def request(self, method, path, token, body=None):
        """Makes a request that must succeed, and returns the body."""
        status, body = self.answer(method, path, token, body)
        if status not in (200, 201):
            raise AssertionError(f"{method} {path}: {status} {body}")
        return body
