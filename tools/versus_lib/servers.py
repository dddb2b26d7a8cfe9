"""Who is asked: how each server is configured, started on one processor, and stopped by its own process and nothing else.

Servers that are not installed are named and left out.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from . import works

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
BASELINE = "nginx"
BODY_BUFFERS = {f"nginx-body-{length}": length for length in ("128k", "512k")}
CHUNKS = {f"nginx-{chunk}": chunk for chunk in ("64k", "256k", "512k")}
# Highwater taking uploads as its peers do, who make no digest.
NO_DIGEST = "highwater-no-digest"
SEND_PATHS = ("auto", "sendfile", "splice", "ring-splice", "read", "send-zc")

# The bare loops of benches/floor, and the rows that each serves.
FLOORS = {
    **dict.fromkeys(("ring", "ring-send", "monoio", "tokio-uring"), works.SMALL),
    **dict.fromkeys(("sendfile", "splice"), works.LARGE),
}

FLOOR_VERSION = "the bench `floor` of this tree"

# What tools/clients installs.
CLIENTS = REPOSITORY / "target/clients"
BUSBOY = CLIENTS / "node_modules/busboy/package.json"

# Where Debian puts it.
NCHAN = pathlib.Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

# Connections that a server is set up for, unless a scene asks for more.
CONNECTIONS = 8192

# Descriptors beside those of connections: listeners, files, rings.
DESCRIPTORS_SPARE = 512


class Missing(Exception):
    """The server can't be measured here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Site:
    """What a server is given: the files, and a directory of its own for whatever it writes."""

    root: pathlib.Path
    home: pathlib.Path
    # Where uploads go, on the file system of `home`.
    uploads: pathlib.Path
    port: int
    connections: int


@dataclasses.dataclass(frozen=True)
class Kind:
    name: str
    # Where the program is, or Missing.
    program: Callable[[], str]
    version: Callable[[str], str]
    command: Callable[[str, Site], list[str]]
    rows: frozenset[str]
    # Descriptors that it wants for a connection, beside some for itself.
    descriptors_each: int = 1

    @property
    def label(self) -> str:
        """Its name, where it may be here more than once: a server that takes uploads, or that many read from, has another configuration."""
        return label(self.name, next(iter(self.rows)))

    def connections_max(self, descriptors: int) -> int:
        return (descriptors - DESCRIPTORS_SPARE) // self.descriptors_each


def label(name: str, row: str) -> str:
    """What a server is called among all of them, by a row that it has."""
    for suffix, rows in {"uploads": works.UPLOADS, "events": works.EVENTS, "live": works.LIVE}.items():
        if row in rows:
            return f"{name}-{suffix}"
    return name


def nginx(chunk: str | None = None, aio: str | None = None) -> Callable[[str, Site], list[str]]:
    def command(program: str, site: Site) -> list[str]:
        return nginx_command(
            program,
            site,
            "  sendfile on;\n  tcp_nopush on;\n"
            "  open_file_cache max=1000 inactive=1h;\n  open_file_cache_valid 1h;\n"
            + (f"  sendfile_max_chunk {chunk};\n" if chunk else "")
            + (f"  aio {aio};\n" if aio else ""),
            f"root {site.root};",
        )

    return command


def nginx_uploads(body_buffer: str | None = None) -> Callable[[str, Site], list[str]]:
    """PUT by its dav module: the body goes to a temporary file, which is renamed."""

    def command(program: str, site: Site) -> list[str]:
        return nginx_command(
            program,
            site,
            "  client_max_body_size 0;\n" + (f"  client_body_buffer_size {body_buffer};\n" if body_buffer else ""),
            f"location {works.UPLOAD_PATH}/ {{ alias {site.uploads}/; dav_methods PUT DELETE; }}",
        )

    return command


def nchan(program: str, site: Site) -> list[str]:
    """A module of nginx for publishers and subscribers. Each topic keeps as many events as Highwater's does by default."""
    return nginx_command(
        program,
        site,
        "  nchan_shared_memory_size 256m;\n",
        "location ~ ^/events/([a-z-]+)$ { nchan_publisher; nchan_subscriber eventsource; nchan_channel_id $1; nchan_message_buffer_length 1000; }",
        f"load_module {NCHAN};\n",
    )


def nginx_with_nchan() -> str:
    program = installed("nginx")()
    if not NCHAN.exists():
        raise Missing("not installed (apt-get install libnginx-mod-nchan)")
    return program


def nchan_version(program: str) -> str:
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], capture_output=True, text=True, check=False)
    return f"{printed('-v')(program)}, nchan {asked.stdout or 'unknown'}"


def nginx_command(program: str, site: Site, http: str, server: str, modules: str = "") -> list[str]:
    temporary = "".join(
        f"  {module}_temp_path {site.home}/{module};\n" for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = site.home / "nginx.conf"
    config.write_text(
        f"{modules}daemon off;\nworker_processes 1;\npid {site.home}/nginx.pid;\nerror_log {site.home}/error.log;\n"
        f"worker_rlimit_nofile {site.connections + DESCRIPTORS_SPARE};\nevents {{ worker_connections {site.connections}; }}\n"
        f"http {{\n{temporary}  access_log off;\n  keepalive_requests 1000000000;\n{http}"
        f"  server {{ listen 127.0.0.1:{site.port} reuseport backlog=4096; {server} }}\n}}\n"
    )
    return [program, "-p", str(site.home), "-e", str(site.home / "error.log"), "-c", str(config)]


def lighttpd(program: str, site: Site) -> list[str]:
    config = site.home / "lighttpd.conf"
    config.write_text(
        f'server.document-root = "{site.root}"\nserver.port = {site.port}\nserver.bind = "127.0.0.1"\n'
        f'server.errorlog = "{site.home}/error.log"\nserver.pid-file = "{site.home}/lighttpd.pid"\n'
        'server.network-backend = "sendfile"\nserver.event-handler = "linux-sysepoll"\n'
        f"server.max-fds = {2 * site.connections + DESCRIPTORS_SPARE}\nserver.max-connections = {site.connections}\n"
        # Its default closes an idle connection after 5 s, before 10,000 are measured.
        "server.max-keep-alive-requests = 65535\nserver.max-keep-alive-idle = 600\n"
        'mimetype.assign = ( "" => "application/octet-stream" )\n'
    )
    return [program, "-D", "-f", str(config)]


def h2o(program: str, site: Site) -> list[str]:
    config = site.home / "h2o.yaml"
    user = "user: root\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"listen: {{ host: 127.0.0.1, port: {site.port} }}\nnum-threads: 1\n{user}"
        f"pid-file: {site.home}/h2o.pid\nerror-log: {site.home}/error.log\nhttp1-request-timeout: 600\n"
        f"max-connections: {site.connections}\nhosts:\n  default:\n    paths:\n      /:\n        file.dir: {site.root}\n"
    )
    return [program, "-c", str(config)]


NODE_SERVER = """
const fs = require("node:fs"), http = require("node:http"), path = require("node:path");
const [root, port] = process.argv.slice(2);
const server = http.createServer((request, response) => {
  const file = path.join(root, path.basename(request.url));
  fs.stat(file, (error, stat) => {
    if (error) return response.writeHead(404, { "Content-Length": 0 }).end();
    const asked = /^bytes=(\\d+)-(\\d+)$/.exec(request.headers.range ?? "");
    const start = asked ? Number(asked[1]) : 0;
    const end = asked ? Math.min(Number(asked[2]), stat.size - 1) : stat.size - 1;
    const fields = { "Content-Length": end - start + 1, "Accept-Ranges": "bytes" };
    if (asked) fields["Content-Range"] = `bytes ${start}-${end}/${stat.size}`;
    response.writeHead(asked ? 206 : 200, fields);
    const stream = fs.createReadStream(file, { start, end });
    stream.pipe(response);
    response.on("close", () => stream.destroy());
  });
});
server.keepAliveTimeout = 0;
server.listen(Number(port), "127.0.0.1");
"""


def node(program: str, site: Site) -> list[str]:
    script = site.home / "server.js"
    script.write_text(NODE_SERVER)
    return [program, str(script), str(site.root), str(site.port)]


def node_script(name: str) -> Callable[[str, Site], list[str]]:
    return lambda program, site: [program, str(pathlib.Path(__file__).with_name(name)), str(site.port)]


def busboy(program: str, site: Site) -> list[str]:
    return [program, str(pathlib.Path(__file__).with_name("busboy.js")), str(CLIENTS), str(site.uploads), str(site.port)]


def node_with_busboy() -> str:
    program = installed("node", "nodejs")()
    if not BUSBOY.exists():
        raise Missing("busboy is not installed (./tools/clients)")
    return program


def busboy_version(program: str) -> str:
    return f"{printed('--version')(program)}, busboy {json.loads(BUSBOY.read_text())['version']}"


def highwater(arguments: list[str]) -> Callable[[str, Site], list[str]]:
    def command(program: str, site: Site) -> list[str]:
        config = site.home / "highwater.toml"
        # As it comes, but for the crowds, which its default of 10,000 connections would turn away.
        config.write_text(f"[limits]\nconnections = {site.connections}\n" if site.connections > CONNECTIONS else "")
        fixed = ["--config", str(config), "--listen", f"127.0.0.1:{site.port}", "--workers", "1", "--access-log", "off"]
        return [program, "serve", str(site.root), *fixed, *arguments]

    return command


def highwater_uploads(arguments: list[str], **more: bool) -> Callable[[str, Site], list[str]]:
    def route(site: Site) -> str:
        upload = {"dir": str(site.uploads), "fsync": "none", "names": "client", "on_conflict": "replace", **more}
        # A JSON string is a TOML one too.
        table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in upload.items())
        return f'prefix = "{works.UPLOAD_PATH}"\nupload = {{ {table} }}\n'

    return highwater_route(arguments, route)


def highwater_events(arguments: list[str]) -> Callable[[str, Site], list[str]]:
    return highwater_route(arguments, lambda _: 'prefix = "/events"\nevents = { history_events = 1000 }\n')


def highwater_live(arguments: list[str]) -> Callable[[str, Site], list[str]]:
    return highwater_route(arguments, lambda site: f'prefix = "/live"\nmedia = {{ root = {json.dumps(str(site.uploads))} }}\nlive = {{}}\n')


def highwater_route(arguments: list[str], route: Callable[[Site], str]) -> Callable[[str, Site], list[str]]:
    def command(program: str, site: Site) -> list[str]:
        command = highwater(arguments)(program, site)
        config = site.home / "highwater.toml"
        config.write_text(f"{config.read_text()}[[route]]\n{route(site)}")
        return command

    return command


def floor(loop: str) -> Callable[[str, Site], list[str]]:
    return lambda program, site: [program, "serve", loop, "--listen", f"127.0.0.1:{site.port}", "--root", str(site.root)]


def fan_out_floor(program: str, site: Site) -> list[str]:
    return [program, "fan-out", "--listen", f"127.0.0.1:{site.port}"]


def kinds(binary: pathlib.Path, floor_binary: pathlib.Path | None, highwater_args: str) -> list[Kind]:
    """Every server that can be named. Without `floor_binary` cargo is asked for it."""
    arguments = shlex.split(highwater_args)
    ours = {"highwater": arguments}
    ours |= {send_path_name(path): [*arguments, "--send-path", path] for path in SEND_PATHS}
    nginx_rows = {BASELINE: (nginx(), works.ALL)}
    nginx_rows |= {name: (nginx(chunk=chunk), works.CHUNKED) for name, chunk in CHUNKS.items()}
    nginx_rows["nginx-aio"] = (nginx(aio="threads"), works.CHUNKED - {"fair"})
    puts = {BASELINE: nginx_uploads()} | {name: nginx_uploads(length) for name, length in BODY_BUFFERS.items()}
    of_floor = Floors().program if floor_binary is None else lambda: own_binary(floor_binary)
    return [
        *(Kind(name, lambda: own_binary(binary), printed("--version"), highwater(more), works.ALL) for name, more in ours.items()),
        *(Kind(name, installed("nginx"), printed("-v"), command, rows) for name, (command, rows) in nginx_rows.items()),
        Kind("highwater", lambda: own_binary(binary), printed("--version"), highwater_uploads(arguments), works.UPLOADS),
        Kind(NO_DIGEST, lambda: own_binary(binary), printed("--version"), highwater_uploads(arguments, sha256=False), works.UPLOADS),
        *(Kind(name, installed("nginx"), printed("-v"), command, frozenset({"upload-put"})) for name, command in puts.items()),
        Kind("node-busboy", node_with_busboy, busboy_version, busboy, frozenset({"upload-multipart"})),
        Kind("highwater", lambda: own_binary(binary), printed("--version"), highwater_events(arguments), works.EVENTS),
        Kind("highwater", lambda: own_binary(binary), printed("--version"), highwater_live(arguments), works.LIVE),
        Kind("node", installed("node", "nodejs"), printed("--version"), node_script("events.js"), works.EVENTS),
        Kind("node", installed("node", "nodejs"), printed("--version"), node_script("live.js"), works.LIVE),
        Kind("floor-send", of_floor, lambda _: FLOOR_VERSION, fan_out_floor, works.EVENTS - {"events-stalled"}),
        Kind("nchan", nginx_with_nchan, nchan_version, nchan, works.EVENTS),
        Kind("lighttpd", installed("lighttpd"), printed("-v"), lighttpd, works.ALL, descriptors_each=2),
        Kind("h2o", installed("h2o"), printed("-v"), h2o, works.LOOPS_ONLY | works.CROWDS),
        Kind("node", installed("node", "nodejs"), printed("--version"), node, works.LOOPS_ONLY),
        *(Kind(f"floor-{loop}", of_floor, lambda _: FLOOR_VERSION, floor(loop), rows) for loop, rows in FLOORS.items()),
    ]


def send_path_name(path: str) -> str:
    """The server that is Highwater with this send path."""
    return f"highwater-{path}"


def own_binary(binary: pathlib.Path) -> str:
    if not os.access(binary, os.X_OK):
        raise Missing(f"{binary} is not there (cargo build --release --workspace)")
    return str(binary)


def installed(program: str, package: str | None = None) -> Callable[[], str]:
    def find() -> str:
        # Debian keeps daemons in sbin, which is not in every user's PATH.
        found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
        if found is None:
            raise Missing(f"not installed (apt-get install {package or program})")
        return found

    return find


class Floors:
    """The executable of benches/floor, whose name only cargo knows; asked for once, and built if it has to be."""

    def __init__(self) -> None:
        self._found: str | Missing | None = None

    def program(self) -> str:
        if self._found is None:
            self._found = self._ask()
        if isinstance(self._found, Missing):
            raise self._found
        return self._found

    def _ask(self) -> str | Missing:
        print("asking cargo for the bench `floor`, which may have to be built", file=sys.stderr, flush=True)
        command = ["cargo", "bench", "--bench", "floor", "--no-run", "--message-format=json"]
        try:
            done = subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except OSError as error:
            return Missing(f"cargo: {error.strerror}")
        if done.returncode:
            return Missing(next((line for line in done.stderr.splitlines() if line.startswith("error")), "it does not build"))
        for line in done.stdout.splitlines():
            message = json.loads(line)
            if message.get("target", {}).get("name") == "floor" and message.get("executable"):
                return message["executable"]
        return Missing("cargo names no executable for it")


def printed(flag: str) -> Callable[[str], str]:
    def version(program: str) -> str:
        done = subprocess.run([program, flag], capture_output=True, text=True, timeout=20, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0].removeprefix("nginx version: ").partition(" - ")[0] if lines else "unknown"

    return version


class Server:
    """A running server. Ending it ends its process, which ends what that started."""

    def __init__(self, kind: Kind, root: pathlib.Path, home: pathlib.Path, cpu: int, connections: int = CONNECTIONS) -> None:
        program = kind.program()
        self.kind = kind
        self.name = kind.name
        self.version = kind.version(program)
        home.mkdir(mode=0o755)
        self.uploads = home / "uploads"
        self.uploads.mkdir()
        # nginx's worker is not root.
        self.uploads.chmod(0o777)
        site = Site(root, home, self.uploads, free_port(), connections)
        self.port = site.port
        self.address = f"127.0.0.1:{site.port}"
        self.log = home / "output.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                kind.command(program, site),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )
        try:
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and self.process.poll() is None:
            if answers(self.address):
                return
            time.sleep(0.05)
        output = " ".join(self.log.read_text(errors="replace").split())
        raise Missing(f"it did not start: {output[:300] or 'no output'}")

    def pids(self) -> list[int]:
        """The process and all its descendants: nginx works in a child."""
        parents: dict[int, list[int]] = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents.setdefault(int(after_name[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found.extend(parents.get(pid, []))
        return found

    def stop(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
