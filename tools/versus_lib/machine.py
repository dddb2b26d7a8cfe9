"""Where it was measured, and what this machine allows."""

import os
import pathlib
import platform
import resource


def describe() -> dict:
    system = platform.freedesktop_os_release() if pathlib.Path("/etc/os-release").exists() else {}
    memory_kib = int(field("/proc/meminfo", "MemTotal").split()[0])
    return {
        "processor": field("/proc/cpuinfo", "model name"),
        "processors": os.cpu_count(),
        "memory_gib": round(memory_kib / (1 << 20), 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "system": system.get("PRETTY_NAME", "unknown"),
        "virtual": "hypervisor" in field("/proc/cpuinfo", "flags").split(),
    }


def field(path: str, name: str) -> str:
    for line in pathlib.Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def raise_descriptors(wanted: int) -> int:
    """How many descriptors a process that is started from here may have: `wanted`, or what the system allows.

    The hard limit can be raised by root only; lighttpd's worker takes what it is given, and nginx's asks for itself.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limits in ((wanted, max(hard, wanted)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            break
        except (ValueError, OSError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
