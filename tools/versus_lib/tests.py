"""What versus computes and writes, without a server: python3 -m unittest discover -s tools -p tests.py"""

import pathlib
import tempfile
import tomllib
import unittest
import unittest.mock

from versus_lib import fan_out, figures, report, servers, uploads
from versus_lib.memory import settled, tcp_pages
from versus_lib.servers import BODY_BUFFERS, FLOORS, Kind, Site, kinds
from versus_lib.works import ALL, CPU, EVENTS, FAN_OUT, FILES, LIVE, LIVE_RATES, LONG_EVENTS, REQUESTS, UPLOAD_FORMS, UPLOADS, Work, works


def run(**changed: object) -> dict:
    plain = {name: 1.0 for name in (
        "requests_per_second", "gb_per_second", "cpu_us_per_request", "cpu_ms_per_gb", "p50_us", "p99_us", "p99_9_us", "client_share", "server_share"
    )}
    return plain | {"errors": {}} | changed


def row(figure=REQUESTS, title: str = "1 KiB file", name: str = "1k", **servers: float | None) -> dict:
    """A row in which each server was measured once, at this value of the figure."""
    work = Work(name, title, (figure,), "/1k.bin", 32)
    return figures.row(work, {server.replace("_", "-"): [run(**{figure.key: value})] for server, value in servers.items()})


def result(*rows: dict, **changed: object) -> dict:
    part = {"date": "2026-01-01", "command": "./tools/versus", "load_before": 0.0, "server_cpu": 0, "client_cpu": 1, "rounds": 1,
            "seconds": 1.0, "minutes": 1.0}
    machine = {"processor": "p", "processors": 2, "memory_gib": 1.0, "kernel": "k", "system": "s", "virtual": True}
    versions = {name: "1" for one in rows for name in one["summaries"]}
    return {"parts": [part], "machine": machine, "versions": versions, "left_out": {}, "disk": None, "hash_ms_per_gb": None, "rows": list(rows)} | changed


class Medians(unittest.TestCase):
    def test_the_median_is_of_each_figure_and_the_spread_of_the_rows_own(self) -> None:
        runs = [run(requests_per_second=rate, p99_us=p99, errors={"reset": 1}) for rate, p99 in ((100.0, 9.0), (300.0, None), (200.0, 5.0))]
        summary = figures.summarise(runs, REQUESTS)
        self.assertEqual((summary["requests_per_second"], summary["p99_us"], summary["spread"]), (200.0, 7.0, 1.0))
        self.assertEqual(summary["errors"], {"reset": 3})


class Ratios(unittest.TestCase):
    def against(self, figure, **servers: float | None) -> dict:
        return row(figure, **servers)["against"]["highwater"][0]

    def test_above_one_is_better_whichever_way_the_figure_goes(self) -> None:
        self.assertEqual(self.against(REQUESTS, highwater=300.0, nginx=200.0)["nginx"]["ratio"], 1.5)
        self.assertEqual(self.against(CPU, highwater=200.0, nginx=300.0)["nginx"]["ratio"], 1.5)

    def test_the_best_chunk_and_the_best_floor_are_taken(self) -> None:
        of = {"highwater": 100.0, "nginx": 80.0, "nginx_64k": 50.0, "nginx_512k": 40.0, "nginx_aio": 1.0, "floor_splice": 25.0, "floor_sendfile": 20.0}
        found = self.against(CPU, **of)
        self.assertEqual(found["best_chunk"], {"server": "nginx-512k", "ratio": 0.4})
        self.assertEqual(found["floor"], {"server": "floor-sendfile", "ratio": 0.2})
        self.assertEqual(self.against(REQUESTS, **of)["best_chunk"], {"server": "nginx-64k", "ratio": 2.0})

    def test_without_chunks_nginx_is_its_best_chunk_and_without_a_floor_there_is_none(self) -> None:
        found = self.against(REQUESTS, highwater=300.0, nginx=200.0)
        self.assertEqual(found["best_chunk"], {"server": "nginx", "ratio": 1.5})
        self.assertEqual(found["floor"], {"server": None, "ratio": None})

    def test_what_was_not_measured_has_no_ratio(self) -> None:
        self.assertIsNone(self.against(CPU, highwater=None, nginx=3.0)["nginx"]["ratio"])
        self.assertIsNone(self.against(CPU, highwater=3.0, nginx=0.0)["nginx"]["ratio"])

    def test_the_plot_gets_what_the_tables_have(self) -> None:
        plotted = figures.ratios([row(highwater=300.0, nginx=200.0), row(title="no baseline", highwater=1.0)])
        servers = [{"server": "highwater", "ratio": 1.5}, {"server": "nginx", "ratio": 1.0}]
        self.assertEqual(plotted, [{"title": "1 KiB file", "figure": "requests/s", "servers": servers}])


class Merging(unittest.TestCase):
    def test_a_later_row_takes_the_place_of_an_earlier_one(self) -> None:
        one = result(row(highwater=1.0, nginx=1.0), row(title="b", highwater=2.0), left_out={"lighttpd": "missing"})
        two = result(row(highwater=3.0, nginx=1.0, lighttpd=1.0))
        merged = figures.merge([one, two])
        self.assertEqual({r["title"]: r["summaries"]["highwater"]["requests_per_second"] for r in merged["rows"]}, {"1 KiB file": 3.0, "b": 2.0})
        self.assertEqual(merged["left_out"], {})
        self.assertEqual(len(merged["parts"]), 2)
        self.assertEqual(merged["ratios"][0]["servers"][0], {"server": "highwater", "ratio": 3.0})

    def test_two_machines_or_versions_are_not_one_result(self) -> None:
        one = result(row(highwater=1.0))
        with self.assertRaisesRegex(ValueError, "two machines"):
            figures.merge([one, one | {"machine": {}}])
        with self.assertRaisesRegex(ValueError, "two versions of highwater"):
            figures.merge([one, one | {"versions": {"highwater": "2"}}])

    def test_a_report_lacks_rows_that_nobody_measured_or_left_out(self) -> None:
        titles = [work.title for work in works()]
        rows = [row(title=title, highwater=1.0) for title in titles[2:]]
        self.assertEqual(figures.lacking(result(*rows, left_out={titles[0]: "no disk"})), [titles[1]])


class Servers(unittest.TestCase):
    def test_every_row_has_highwater_and_nginx_and_every_floor_a_row(self) -> None:
        by_name = by_label()
        for name in ("highwater", "highwater-splice", "highwater-send-zc", "nginx"):
            self.assertEqual({work.name for work in works()} - UPLOADS - FAN_OUT, by_name[name].rows)
        self.assertTrue(all(by_name[f"floor-{loop}"].rows and by_name[f"floor-{loop}"].rows < ALL for loop in FLOORS))

    def test_who_takes_uploads_is_a_server_by_itself(self) -> None:
        self.assertEqual({work.name for work in works() if work.is_upload}, UPLOADS)
        rows = {label: kind.rows for label, kind in by_label().items() if kind.rows & UPLOADS}
        puts = {f"{name}-uploads": frozenset({"upload-put"}) for name in ("nginx", *BODY_BUFFERS)}
        ours = {"highwater-uploads": UPLOADS, "highwater-no-digest-uploads": UPLOADS}
        self.assertEqual(rows, puts | ours | {"node-busboy-uploads": frozenset({"upload-multipart"})})

    def test_the_configurations_for_uploads(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            home = pathlib.Path(folder)
            site = Site(home / "root", home, home / "uploads", 8080, 100)

            def written(label: str, name: str) -> str:
                by_label()[label].command("program", site)
                return (home / name).read_text()

            ours = tomllib.loads(written("highwater-uploads", "highwater.toml"))
            upload = {"dir": f"{home}/uploads", "fsync": "none", "names": "client", "on_conflict": "replace"}
            self.assertEqual(ours, {"route": [{"prefix": "/up", "upload": upload}]})
            bare = tomllib.loads(written("highwater-no-digest-uploads", "highwater.toml"))
            self.assertEqual(bare["route"][0]["upload"], upload | {"sha256": False})
            tuned = written("nginx-body-512k-uploads", "nginx.conf")
            for expected in ("client_max_body_size 0;", "client_body_buffer_size 512k;", f"client_body_temp_path {home}/client_body;",
                             f"location /up/ {{ alias {home}/uploads/; dav_methods PUT DELETE; }}"):
                self.assertIn(expected, tuned)
            self.assertNotIn("client_body_buffer_size", written("nginx-uploads", "nginx.conf"))

    def test_without_busboy_node_is_missing_and_the_way_to_it_is_named(self) -> None:
        with unittest.mock.patch.object(servers, "BUSBOY", pathlib.Path("/nonexistent")), self.assertRaisesRegex(servers.Missing, "tools/clients|apt-get"):
            by_label()["node-busboy-uploads"].program()


def by_label() -> dict[str, Kind]:
    return {kind.label: kind for kind in kinds(pathlib.Path("highwater"), None, "")}


class Uploads(unittest.TestCase):
    def test_every_upload_row_sends_a_gigabyte_once(self) -> None:
        for work in (work for work in works() if work.is_upload):
            options = dict(zip(work.arguments[::2], work.arguments[1::2]))
            count, length = int(options["--uploads"]), int(options["--size"])
            self.assertEqual((options["--upload"], count), (UPLOAD_FORMS[work.name][0], work.connections))
            self.assertTrue(0.9e9 < count * length < 1.1e9)

    def test_nginx_in_its_best_setting_pays_for_the_hash_too(self) -> None:
        one = row(CPU, name="upload-put", highwater=800.0, nginx=600.0, nginx_body_512k=300.0)
        found = figures.beside_uploads(one, "highwater", 700.0)
        self.assertEqual(found["nginx_and_hash"], {"server": "nginx-body-512k", "value": 1000.0, "ratio": 1.25})
        self.assertEqual(found["node"], {"value": None, "ratio": None})
        form = row(CPU, name="upload-multipart", highwater=800.0, node_busboy=1600.0)
        self.assertEqual(figures.beside_uploads(form, "highwater", 700.0)["node"], {"value": 1600.0, "ratio": 2.0})
        # Without Highwater, or a hash, there is nothing to compare.
        self.assertIsNone(figures.beside_uploads(one, "highwater-splice", 700.0)["nginx_and_hash"]["ratio"])
        self.assertIsNone(figures.beside_uploads(one, "highwater", None)["nginx_and_hash"]["value"])

    def test_the_report_has_a_table_of_uploads(self) -> None:
        waits = {"reply_p50_us": 1000.0, "reply_p99_us": 2000.0, "reply_max_us": 3000.0, "resident_growth_bytes": 1 << 20, "resident_peak_bytes": 2 << 20}
        work = next(work for work in works() if work.name == "upload-put")
        runs = {name: [run(cpu_ms_per_gb=cost, **waits)] for name, cost in (("highwater", 800.0), ("highwater-no-digest", 250.0), ("nginx", 300.0))}
        told = figures.merge([result(figures.row(work, runs), hash_ms_per_gb=700.0)])
        text = report.markdown(told, "b.svg")
        self.assertIn("| PUT upload, 8 x 128 MB | 800 | - | - | 1,000 | 1.25 | nginx |", text)
        self.assertIn("| highwater | 1.000 | 800.0 | 1.000 | 2.000 | 3.000 | 1.0 | 2.0 | - | client-bound |", text)
        self.assertIn("| PUT upload, 8 x 128 MB | 250 | - | - | 300 | 1.20 | nginx |", text)
        self.assertIn("700.0 ms/GB", text)
        self.assertNotIn("### Uploads", report.markdown(figures.merge([result(row(highwater=1.0, nginx=1.0))]), "b.svg"))

    def test_a_server_that_is_left_out_for_uploads_is_named_until_it_is_measured(self) -> None:
        one = result(row(highwater=1.0, nginx=1.0), left_out={"nginx-uploads": "no dav module"})
        self.assertEqual(figures.merge([one])["left_out"], {"nginx-uploads": "no dav module"})
        put = row(CPU, title="PUT", name="upload-put", nginx=1.0)
        self.assertEqual(figures.merge([one, result(put)])["left_out"], {})

    def verified(self, *arrived: tuple[str, bytes]) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / uploads.VERIFIED).write_bytes(b"expected")
            into = root / "uploads"
            (into / ".uploads").mkdir(parents=True)
            for name, content in (*arrived, (".uploads/unfinished", b"exp")):
                (into / name).write_bytes(content)
            client = unittest.mock.Mock(run=lambda *_: {"errors": {}})
            work = next(work for work in works() if work.is_upload)
            errors = uploads.verify(client, unittest.mock.Mock(uploads=into), work, root)
            self.assertEqual(list(into.rglob("*")), [into / ".uploads"])
            return errors

    def test_what_has_arrived_is_compared_and_removed(self) -> None:
        self.assertIn(uploads.VERIFIED, FILES)
        self.assertEqual(self.verified(("a", b"expected"), ("b", b"expected")), {})
        self.assertEqual(self.verified(("a", b"expected"), ("b", b"expectee")), {"bytes": 1})
        self.assertEqual(self.verified(("a", b"expected")), {"files": 1})


FAN_OUT_RUN = {
    "deliveries_per_second": 250_000.0, "gb_per_second": 0.25, "written": 30, "unwritten": 0,
    "latency_us": {"p50": 10_000.0, "p99": 20_000.0, "p99_9": 30_000.0, "max": 40_000.0}, "spread_us": {"p50": 15_000.0},
    "readers": {"asked": 10_000, "joined": 10_000, "late": 0, "stalled": 3, "stalled_dropped": 4, "retries": 0},
    "server": {"cpu_share": 0.9, "cpu_us_per_delivery": 4.0, "resident_bytes_per_reader": 2048.0, "resident_max_bytes_per_reader": 3072.0,
               "resident_growth_bytes": 1 << 20},
    "client": {"cpu_share": 0.5}, "errors": {},
}


class FanOut(unittest.TestCase):
    def rows(self, name: str, **servers: dict) -> dict:
        work = next(work for work in works() if work.name == name)
        return figures.row(work, {server: [fan_out.of_fan_out(FAN_OUT_RUN) | changed] for server, changed in servers.items()})

    def test_every_row_has_highwater_and_its_peers(self) -> None:
        self.assertEqual({work.name for work in works() if work.is_fan_out}, FAN_OUT)
        rows = {label: kind.rows for label, kind in by_label().items() if kind.rows & FAN_OUT}
        self.assertEqual(rows.pop("floor-send-events"), EVENTS - {"events-stalled"})
        self.assertEqual(rows, {"highwater-events": EVENTS, "node-events": EVENTS, "nchan-events": EVENTS, "highwater-live": LIVE, "node-live": LIVE})

    def test_the_quick_rows_are_the_same_with_fewer_readers_and_say_so(self) -> None:
        usual, quick = ([work for work in works(fan_out_divisor=divisor) if work.is_fan_out] for divisor in (1, 10))
        self.assertEqual([work.name for work in usual], [work.name for work in quick])
        for one, other in zip(usual, quick):
            self.assertIn(one.name, report.SCENE_COLUMNS)
            self.assertEqual(one.connections, 10 * other.connections)
            self.assertIn(f"{other.connections:,}", other.title)
            self.assertNotEqual(one.title, other.title)

    def test_half_of_the_readers_stop_and_are_sent_more_than_the_kernel_holds(self) -> None:
        for work in (work for work in works() if work.name.endswith("-stalled")):
            options = dict(zip(work.arguments, work.arguments[1:]))
            self.assertEqual(2 * int(options["--stalled-readers"]), work.connections)
            sent = LONG_EVENTS * (16 << 10) if work.name in EVENTS else int(options["--live"]) * work.seconds
            self.assertGreater(sent, 6e6)
        self.assertEqual({rate: dict(zip(work.arguments, work.arguments[1:]))["--live"] for rate in LIVE_RATES for work in works()
                          if work.name == f"live-{rate}"}, {4: "500000", 20: "2500000"})

    def test_a_run_is_made_flat(self) -> None:
        flat = fan_out.of_fan_out(FAN_OUT_RUN)
        self.assertEqual((flat["p99_us"], flat["spread_us"], flat["stalled"], flat["stalled_dropped"]), (20_000.0, 15_000.0, 7, 4))
        self.assertEqual((flat["resident_bytes_each"], flat["resident_bytes_each_after"]), (2048.0, 3072.0))
        nothing = fan_out.of_fan_out(FAN_OUT_RUN | {"latency_us": None, "spread_us": None})
        self.assertEqual((nothing["p99_us"], nothing["spread_us"]), (None, None))

    def test_the_report_has_highwater_beside_its_peers(self) -> None:
        events = self.rows("events", highwater={}, node={"cpu_us_per_delivery": 16.0, "deliveries_per_second": 50_000.0}, nchan={"resident_bytes_each": 1024.0})
        live = self.rows("live-20", highwater={}, node={"p99_us": 30_000.0, "errors": {"missing": 2}})
        text = report.markdown(figures.merge([result(events, live)]), "b.svg")
        self.assertIn("| row | figure | highwater | node | ratio | nchan | ratio |", text)
        many, fast = events["title"], live["title"]
        for expected in (f"| {many} | deliveries/s | 250,000 | 50,000 | 5.00 | 250,000 | 1.00 |", f"| {many} | CPU us/delivery | 4 | 16 | 4.00 | 4 | 1.00 |",
                         f"| {many} | resident bytes of a subscriber | 2,048 | 2,048 | 1.00 | 1,024 | 0.50 |", f"| {fast} | p99 us | 20,000 | 30,000 | 1.50 | - | - |",
                         "| highwater | 250,000 | 4.00 | 10.000 | 20.000 | 30.000 | 40.000 | 15.000 | 2.00 | 3.00 | - |  |", "| missing: 2 |"):
            self.assertIn(expected, text)
        self.assertNotIn("### Highwater against the others", text)
        self.assertNotIn("### Events and live media", report.markdown(figures.merge([result(row(highwater=1.0, nginx=1.0))]), "b.svg"))

    def test_the_configurations(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            home = pathlib.Path(folder)
            site = Site(home / "root", home, home / "uploads", 8080, 16_384)

            def written(label: str, name: str) -> str:
                by_label()[label].command("program", site)
                return (home / name).read_text()

            limits = {"connections": 16_384}
            events = tomllib.loads(written("highwater-events", "highwater.toml"))
            self.assertEqual(events, {"limits": limits, "route": [{"prefix": "/events", "events": {"history_events": 1000}}]})
            live = tomllib.loads(written("highwater-live", "highwater.toml"))
            self.assertEqual(live, {"limits": limits, "route": [{"prefix": "/live", "media": {"root": f"{home}/uploads"}, "live": {}}]})
            nchan = written("nchan-events", "nginx.conf")
            self.assertTrue(nchan.startswith(f"load_module {servers.NCHAN};\n"))
            self.assertIn("nchan_message_buffer_length 1000;", nchan)

    def test_without_its_module_nchan_is_missing_and_the_way_to_it_is_named(self) -> None:
        with unittest.mock.patch.object(servers, "NCHAN", pathlib.Path("/nonexistent")), self.assertRaisesRegex(servers.Missing, "apt-get install"):
            by_label()["nchan-events"].program()


class Looking(unittest.TestCase):
    def test_what_grows_is_looked_at_until_it_stays(self) -> None:
        seen = iter([0, 50, 100, 100, 100, 7])
        with unittest.mock.patch("time.sleep"):
            self.assertEqual(settled(lambda: next(seen)), 100)

    def test_tcp_memory_is_in_the_line_of_tcp(self) -> None:
        self.assertEqual(tcp_pages("sockets: used 9\nTCP: inuse 4 orphan 0 tw 0 alloc 9 mem 17\nUDP: inuse 1 mem 5\n"), 17)


class Document(unittest.TestCase):
    def written(self, before: str, section: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "document.md"
            path.write_text(before)
            report.write_section(path, section)
            return path.read_text()

    def test_only_what_stands_between_the_marks_is_replaced(self) -> None:
        section = f"{report.BEGIN_MARK}\nnew\n{report.END_MARK}\n"
        self.assertEqual(self.written(f"a\n{section.replace('new', 'old')}b\n", section), f"a\n{section}b\n")
        self.assertEqual(self.written("a\n", section), f"a\n\n{section}")
        with self.assertRaises(SystemExit):
            self.written(f"a\n{report.BEGIN_MARK}\n", section)

    def test_every_row_gets_its_table_and_highwater_its_comparison(self) -> None:
        text = report.markdown(figures.merge([result(row(highwater=300.0, nginx=200.0), left_out={"h2o": "not installed"})]), "b.svg")
        for expected in ("| 1 KiB file | requests/s | 300 | 1.50 | 1.50 | - | - | nginx |", "### 1 KiB file", "(b.svg)", "- highwater, nginx: 1", "h2o: not measured, not installed"):
            self.assertIn(expected, text)


if __name__ == "__main__":
    unittest.main()
