"""What is asked for and what is compared: a row of the comparison is a work, and its figures say which way is better."""

import dataclasses

LARGE_LEN = 100_000_000

# What every server serves. `loadgen --write-fixture` writes them, so that each byte can be compared.
FILES = {"1k.bin": 1 << 10, "16k.bin": 16 << 10, "64k.bin": 64 << 10, "1m.bin": 1 << 20, "100m.bin": LARGE_LEN}

RANDOM_RANGE = ("--random-range", "1MiB", "--file-size", str(LARGE_LEN))


@dataclasses.dataclass(frozen=True)
class Figure:
    """A key of a row's summaries that servers are compared by."""

    key: str
    label: str
    more_is_better: bool

    def ratio(self, ours: float | None, other: float | None) -> float | None:
        """Above 1 where ours is better."""
        if not ours or not other:
            return None
        return ours / other if self.more_is_better else other / ours


REQUESTS = Figure("requests_per_second", "requests/s", True)
CPU = Figure("cpu_ms_per_gb", "CPU ms/GB", False)
P99 = Figure("p99_us", "p99 us", False)
DELIVERIES = Figure("deliveries_per_second", "deliveries/s", True)
CPU_EACH = Figure("cpu_us_per_delivery", "CPU us/delivery", False)
GROWTH = Figure("resident_growth_bytes", "resident bytes more", False)


@dataclasses.dataclass(frozen=True)
class Work:
    """A row: one closed loop, or (where `path` is empty) the scene of that name."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    path: str = ""
    connections: int = 0
    arguments: tuple[str, ...] = ()
    # How files are uploaded, where that is the work.
    form: str = ""
    # The least that it takes to say something, where that is more than the others get.
    seconds: float = 0.0

    @property
    def is_scene(self) -> bool:
        return not self.path

    @property
    def is_upload(self) -> bool:
        return bool(self.form)

    @property
    def is_fan_out(self) -> bool:
        return self.name in FAN_OUT


# name, title, figure, path, arguments of loadgen, numbers of connections
LOOPS = [
    ("1k", "1 KiB file", REQUESTS, "/1k.bin", (), [32]),
    ("16k", "16 KiB file", REQUESTS, "/16k.bin", (), [32]),
    ("64k", "64 KiB file", REQUESTS, "/64k.bin", (), [32]),
    ("range", "random 1 MiB range of a 100 MB file", CPU, "/100m.bin", RANDOM_RANGE, [32]),
    ("1m", "1 MiB file", CPU, "/1m.bin", (), [32]),
    ("100m", "100 MB file", CPU, "/100m.bin", (), [8, 32, 128]),
    ("connect", "1 KiB file, a new connection for each", REQUESTS, "/1k.bin", ("--no-keep-alive",), [32]),
]

SCENES = [
    Work("mixed", "16 KiB hot files beside 8 readers of cold files at 300 MB/s each", (REQUESTS, P99)),
    Work("idle", "10,000 idle connections, and 1,000 active ones beside them",
         (Figure("idle_resident_bytes", "resident bytes of an idle connection", False), REQUESTS, P99)),
    Work("stopped", "4,000 clients that stopped in a 100 MB file",
         (Figure("held_bytes", "resident + slab bytes of a client", False),
          Figure("held_bytes_few", "the same with 200 clients", False))),
    Work("fair", "one reader of a 100 MB file at full speed beside 1,000 at 1 MB/s",
         (Figure("fast_gb_per_second", "GB/s of the fast one", True),
          Figure("slow_kept_share", "slow ones that kept their pace", True))),
]

UPLOAD_PATH = "/up"
# Connections, and the length of the one file that each of them uploads: a gigabyte in all.
UPLOAD_SIZES = [(8, 128_000_000), (1, 1_000_000_000)]
UPLOAD_FORMS = {"upload-multipart": ("multipart", "form"), "upload-put": ("put", "PUT"), "upload-tus": ("tus", "tus")}

# What is read while it is made. `loadgen` writes it too; every row is checked, each event and each piece at each reader.
EVENTS_PATH = "/events/topic"
LIVE_PATH = "/live/video"
SUBSCRIBERS = 10_000
SUBSCRIBERS_PACED = 1_000
IN_FLIGHT = 16
READERS = 200
# An event is sent in one piece; so long a one that 400 of them are more than the kernel holds for a reader that has stopped.
LONG_EVENT, LONG_EVENTS = "16KiB", 400
# Megabits a second, and the piece that an encoder makes of them at once.
LIVE_RATES = {4: 10_000, 20: 16_384}

# The names of `fan_out`.
EVENTS = frozenset({"events", "events-many", "events-latency", "events-stalled"})
LIVE = frozenset({*(f"live-{rate}" for rate in LIVE_RATES), "live-stalled"})
FAN_OUT = EVENTS | LIVE


def fan_out(divisor: int = 1) -> list[Work]:
    """One writes and many read, `divisor` times fewer than usual."""
    many, paced, readers = (count // divisor for count in (SUBSCRIBERS, SUBSCRIBERS_PACED, READERS))
    live = [
        Work(f"live-{rate}", f"{rate} Mbit/s of live media to {readers} readers", (P99, CPU_EACH), "", readers, encoder(rate), seconds=3.0)
        for rate in LIVE_RATES
    ]
    fastest = max(LIVE_RATES)
    return [
        Work("events", f"1 KiB events to {many:,} subscribers, each as soon as all have the last",
             (DELIVERIES, CPU_EACH, Figure("resident_bytes_each", "resident bytes of a subscriber", False)), "", many, ("--subscribe",), seconds=3.0),
        Work("events-many", f"1 KiB events to {many:,} subscribers, up to {IN_FLIGHT} on their way", (DELIVERIES, CPU_EACH), "", many,
             ("--subscribe", "--in-flight", str(IN_FLIGHT)), seconds=3.0),
        Work("events-latency", f"100 events of 1 KiB a second to {paced:,} subscribers", (P99, CPU_EACH), "", paced,
             ("--subscribe", "--publish-rate", "100"), seconds=3.0),
        Work("events-stalled", f"{LONG_EVENTS} events of 16 KiB to {paced:,} subscribers, of whom half have stopped", (GROWTH, DELIVERIES), "", paced,
             ("--subscribe", "--event-size", LONG_EVENT, "--events", str(LONG_EVENTS), "--stalled-readers", str(paced // 2)), seconds=60.0),
        *live,
        Work("live-stalled", f"{fastest} Mbit/s of live media to {readers} readers, of whom half have stopped", (GROWTH, P99), "", readers,
             (*encoder(fastest), "--stalled-readers", str(readers // 2)), seconds=5.0),
    ]


def encoder(megabits: int) -> tuple[str, ...]:
    return ("--live", str(megabits * 1_000_000 // 8), "--piece-size", str(LIVE_RATES[megabits]))


SMALL = frozenset({"1k", "16k"})
LARGE = frozenset({"64k", "range", "1m", "100m"})
# Replies that are shorter than the smallest sendfile_max_chunk are sent in one piece by every setting of it.
CHUNKED = frozenset({"range", "1m", "100m", "mixed", "fair"})
ALL = frozenset({name for name, *_ in LOOPS} | {scene.name for scene in SCENES})
# What is kept for the common servers; Node and the like are too slow for a crowd to say anything.
LOOPS_ONLY = frozenset(name for name, *_ in LOOPS)
CROWDS = frozenset({"idle", "stopped"})
# Not in ALL: the servers of these rows have a configuration of their own.
UPLOADS = frozenset(UPLOAD_FORMS)


def works(connections: list[int] | None = None, fan_out_divisor: int = 1) -> list[Work]:
    """Every row. The small files have 32 connections, the large one few and many; `connections` replaces that for all.

    `fan_out_divisor` makes the rows small in which one writes and many read."""
    loops = [
        Work(name, f"{title}, {count} connections", (figure,), path, count, arguments)
        for name, title, figure, path, arguments, usual in LOOPS
        for count in connections or usual
    ]
    uploads = [
        Work(name, f"{title} upload, {count} x {length // 1_000_000} MB", (CPU,), UPLOAD_PATH, count,
             ("--upload", form, "--size", str(length), "--uploads", str(count)), form)
        for name, (form, title) in UPLOAD_FORMS.items()
        for count, length in UPLOAD_SIZES
    ]
    return loops + SCENES + uploads + fan_out(fan_out_divisor)
