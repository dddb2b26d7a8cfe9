"""Large files that are not in the page cache, and how fast the disk gives them.

Sparse files would be no reads at all, so the files are written in full, of bytes that do not compress. They are dropped from the
page cache before each use, and fincore(1) has to agree that nothing of them is left. What lies below the machine (the cache of a
hypervisor's host, of a disk array) is not in our hands: the rate that is reported is the one that this machine sees.
"""

import os
import pathlib
import shutil
import subprocess
import threading
import time

BLOCK_LEN = 8 << 20
READ_SECONDS = 2.0
READ_LEN = 1 << 20


class Warm(Exception):
    """There are no cold files here; the message says why."""


class ColdFiles:
    def __init__(self, root: pathlib.Path, count: int, length: int) -> None:
        self.paths = [root / f"cold{i}.bin" for i in range(count)]
        self.length = length
        wanted, free = count * length, shutil.disk_usage(root).free
        if shutil.which("fincore") is None:
            raise Warm("fincore is not installed (apt-get install util-linux-extra)")
        if free < wanted + (1 << 30):
            raise Warm(f"{wanted / 1e9:.1f} GB of real files are needed in {root}, {free / 1e9:.1f} GB are free (--scratch)")
        block = os.urandom(BLOCK_LEN)
        for path in self.paths:
            write(path, block, length)
        self.evict()

    def evict(self) -> None:
        for path in self.paths:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
        if left := self.resident():
            raise Warm(f"{left / 1e6:.0f} MB of the cold files stay in the page cache (--scratch names a folder on a disk)")

    def resident(self) -> int:
        command = ["fincore", "--bytes", "--noheadings", "--raw", "--output", "RES", *map(str, self.paths)]
        return sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))

    def gb_per_second(self) -> float:
        """All of them read at once through the page cache, as a server would, without one."""
        self.evict()
        begin = time.monotonic()
        taken = [0] * len(self.paths)

        def read(number: int) -> None:
            into = bytearray(READ_LEN)
            with self.paths[number].open("rb", buffering=0) as file:
                while time.monotonic() < begin + READ_SECONDS and (length := file.readinto(into)):
                    taken[number] += length

        threads = [threading.Thread(target=read, args=(number,)) for number in range(len(self.paths))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = sum(taken) / 1e9 / (time.monotonic() - begin)
        self.evict()
        return rate


def write(path: pathlib.Path, block: bytes, length: int) -> None:
    with path.open("wb", buffering=0) as file:
        left = length
        while left:
            left -= file.write(block[:left] if left < len(block) else block)
        # Pages that are not written back can't be dropped.
        os.fsync(file.fileno())
    path.chmod(0o644)
