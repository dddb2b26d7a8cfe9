"""The rows that store what they are sent.

What has arrived is removed again before anything else is measured, so that the disk holds one row's gigabyte at a time and the
kernel has nothing left to write back. A server's uploads go to a folder of its own.
"""

import filecmp
import json
import pathlib
import shutil
import subprocess

from .client import Client, pids
from .figures import of_upload
from .servers import Server
from .works import FILES, UPLOAD_SIZES, Work

# Large enough that every buffer on the way is filled many times.
VERIFIED = "100m.bin"
VERIFIED_COUNT = 2

HASHED = "1GB"


def measure(client: Client, server: Server, work: Work) -> dict:
    """One run: the row's files, once."""
    try:
        run = client.run(server, work.path, [*work.arguments, "-c", str(work.connections), "-d", "120s", *pids(server)])
    finally:
        clear(server.uploads)
    return of_upload(run)


def verify(client: Client, server: Server, work: Work, root: pathlib.Path) -> dict:
    """Some files, each byte of what has arrived compared; errors by name."""
    size = str(FILES[VERIFIED])
    arguments = ["--upload", work.form, "--size", size, "--uploads", str(VERIFIED_COUNT), "-c", str(VERIFIED_COUNT), "-d", "60s", "--verify"]
    try:
        errors = dict(client.run(server, work.path, arguments)["errors"])
        found = stored(server.uploads)
        if len(found) != VERIFIED_COUNT:
            errors["files"] = len(found)
        if differing := sum(not filecmp.cmp(path, root / VERIFIED, shallow=False) for path in found):
            errors["bytes"] = differing
        return errors
    finally:
        clear(server.uploads)


def stored(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that a user of the server would find; those under a name with a dot are the server's own."""
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def clear(folder: pathlib.Path) -> None:
    """Removes every file. Folders stay: the server may have them open."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def no_room(scratch: pathlib.Path) -> str | None:
    """Why there is no room for uploads, with as much again to spare."""
    wanted, free = 2 * max(count * length for count, length in UPLOAD_SIZES), shutil.disk_usage(scratch).free
    return f"{wanted / 1e9:.1f} GB are needed in {scratch}, {free / 1e9:.1f} GB are free (--scratch)" if free < wanted else None


def hash_ms_per_gb(loadgen: str, cpu: int) -> float:
    """What a SHA-256 costs by itself on this processor."""
    done = subprocess.run([loadgen, "--hash", HASHED, "--cpu", str(cpu), "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["cpu_ms_per_gb"]
