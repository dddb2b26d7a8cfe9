//! The dashboard of the admin address: the stream of events as bytes, and the page in a browser.

use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::support::{Browser, Client, Fixture, Launch, PATIENCE, Screen, Server, eventually, keys};

/// Who watches, as raw bytes.
struct Watcher(Client);

impl Watcher {
    /// Asks for the stream and reads the reply's head.
    #[track_caller]
    fn of(server: &Server) -> Self {
        let mut client = Client::connect(server.admin());
        client.ask("GET", "/events", "");
        let head = client.head();
        assert_eq!(head.status, 200);
        let expected = [
            ("Content-Type", Some("text/event-stream")),
            ("Cache-Control", Some("no-cache, no-transform")),
            ("X-Accel-Buffering", Some("no")),
            ("Transfer-Encoding", Some("chunked")),
            ("Content-Length", None),
        ];
        expected.into_iter().for_each(|(name, value)| assert_eq!(head.field(name), value, "{name}"));
        Watcher(client)
    }

    /// The next chunk of the body; `None` at its end. Each event comes as a chunk of its own.
    #[track_caller]
    fn chunk(&mut self) -> Option<String> {
        let mut len = Vec::new();
        while !len.ends_with(b"\r\n") {
            len.extend(self.0.body(1));
        }
        let len = std::str::from_utf8(&len).expect("text").trim_end();
        let len = usize::from_str_radix(len, 16).expect("a length");
        let text = String::from_utf8(self.0.body(len)).expect("text");
        assert_eq!(self.0.body(2), b"\r\n");
        (len > 0).then_some(text)
    }

    /// The next snapshot's number, and the snapshot.
    #[track_caller]
    fn snapshot(&mut self) -> (u64, Value) {
        let text = self.chunk().expect("an event");
        let (id, data) = text.split_once('\n').expect("two lines");
        let data = data.strip_prefix("data: ").and_then(|data| data.strip_suffix("\n\n")).expect("one line of data");
        let id = id.strip_prefix("id: ").expect("a number").parse().expect("a number");
        (id, serde_json::from_str(data).expect("JSON"))
    }

    /// The first event: what does not change.
    #[track_caller]
    fn description(&mut self) -> Value {
        let text = self.chunk().expect("an event");
        let data = text.strip_prefix("event: server\nretry: 1000\ndata: ").expect("the server's description");
        serde_json::from_str(data.trim_end()).expect("JSON")
    }
}

#[test]
fn s1_the_stream_tells_what_the_server_is_and_then_a_snapshot_a_second() {
    let fixture = Fixture::with(&[("clip.mp4", 5000)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    (0..7).for_each(|_| drop(client.get("/clip.mp4", "").expect(200)));
    client.get("/none", "").expect(404);
    let mut watcher = Watcher::of(&server);
    let description = watcher.description();
    let family = |name: &str| {
        let families = description["server"]["families"].as_array().expect("a list");
        families.iter().position(|family| family["name"] == name).expect("a family")
    };
    assert_eq!(description["server"]["workers"], 1);
    let (first, snapshot) = watcher.snapshot();
    // The stream's own reply is one of them: its head goes out with the first event.
    assert_eq!(snapshot["responses"][1], 8);
    assert_eq!(snapshot["responses"][3], 1);
    assert_eq!(snapshot["families"][family("connections_idle")][0], 1);
    assert_eq!(snapshot["families"][family("connections_active")][0], 1);
    let times: u64 = snapshot["first_byte"]["counts"].as_array().expect("spans").iter().filter_map(Value::as_u64).sum();
    assert_eq!(times, 9);
    let (second, snapshot) = watcher.snapshot();
    assert_eq!((first, second), (1, 2));
    let busiest = &snapshot["busiest"];
    assert_eq!(*busiest, json!([{ "path": "/clip.mp4", "requests": 7, "bytes": 35_000 }]));
    server.stop();
}

/// The resident memory that is shown is the kernel's, and the ceiling is what `check` prints.
#[test]
fn memory_is_shown_against_the_sum_that_check_prints() {
    let fixture = Fixture::new();
    let server = Server::start(fixture.path());
    let mut watcher = Watcher::of(&server);
    let ceiling = watcher.description()["ceiling"].take();
    let ours = server.metric("memory_ceiling_bytes");
    assert_eq!(ceiling["bytes"].as_u64(), Some(ours));
    let sum = |terms: &Value| -> u64 {
        let terms = terms.as_array().expect("terms").iter();
        terms.map(|term| term[1].as_u64().expect("how many") * term[2].as_u64().expect("bytes")).sum()
    };
    assert_eq!(sum(&ceiling["process"]) + sum(&ceiling["worker"]), ours);
    let (_, snapshot) = watcher.snapshot();
    let resident = snapshot["resident"].as_u64().expect("memory");
    assert!(resident > 1 << 20 && resident < ours, "{resident}");
    server.stop();
}

/// The others show what keeps them busy although nothing else wakes them.
#[test]
fn the_busiest_files_of_all_workers_are_shown() {
    let fixture = Fixture::with(&[("clip.mp4", 100)]);
    let server = Launch::of(fixture.path()).arg("--workers").arg("2").start();
    // As many as leave no worker without one.
    for _ in 0..32 {
        server.connect().get("/clip.mp4", "").expect(200);
    }
    let mut watcher = Watcher::of(&server);
    watcher.description();
    eventually(PATIENCE, || {
        let (_, snapshot) = watcher.snapshot();
        let by_worker = snapshot["requests"].as_array().expect("a number for each worker");
        assert!(by_worker.iter().all(|n| n.as_u64() > Some(0)), "{by_worker:?}");
        snapshot["busiest"][0]["requests"] == 32
    });
    server.stop();
}

#[test]
fn paths_of_the_admin_address_and_refusals_are_no_busy_files() {
    let fixture = Fixture::with(&[("clip.mp4", 100)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    client.get("/none", "").expect(404);
    client.request("POST", "/clip.mp4", "Content-Length: 0\r\n").expect(405);
    client.get(&format!("/{}", "x".repeat(600)), "").expect(404);
    client.request("HEAD", "/clip.mp4", "").expect(200);
    server.metrics();
    let mut watcher = Watcher::of(&server);
    watcher.description();
    watcher.snapshot();
    let (_, snapshot) = watcher.snapshot();
    assert_eq!(snapshot["busiest"], json!([{ "path": "/clip.mp4", "requests": 1, "bytes": 0 }]));
    server.stop();
}

#[test]
fn the_stream_ends_when_the_server_drains() {
    let fixture = Fixture::new();
    let mut server = Server::start(fixture.path());
    let mut watcher = Watcher::of(&server);
    watcher.description();
    watcher.snapshot();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let end = std::iter::from_fn(|| watcher.chunk()).count();
    assert!(end < 3, "{end} more events");
    watcher.0.expect_close();
    assert!(server.wait().success());
}

#[test]
fn nothing_is_left_when_the_watchers_leave() {
    let fixture = Fixture::new();
    let server = Server::start(fixture.path());
    let at_rest = server.descriptors();
    for _ in 0..3 {
        let mut watchers: Vec<Watcher> = (0..5).map(|_| Watcher::of(&server)).collect();
        for watcher in &mut watchers {
            watcher.description();
            watcher.snapshot();
        }
        drop(watchers);
        server.expect_rest(at_rest);
    }
    server.stop();
}

#[test]
fn one_more_watcher_than_the_bound_is_refused_until_one_leaves() {
    const DASHBOARDS: usize = 16;
    let fixture = Fixture::new();
    let server = Server::start(fixture.path());
    let mut watchers: Vec<Watcher> = (0..DASHBOARDS).map(|_| Watcher::of(&server)).collect();
    let mut client = Client::connect(server.admin());
    assert_eq!(client.get("/events", "").expect(503).field("Retry-After"), Some("1"));
    // A HEAD request takes no seat.
    client.request("HEAD", "/healthz", "").expect(200);
    // All of them get the same; who came later may have begun with a later one.
    let mut snapshots: Vec<(u64, Value)> = watchers
        .iter_mut()
        .map(|watcher| {
            watcher.description();
            watcher.snapshot()
        })
        .collect();
    let newest = snapshots.iter().map(|(id, _)| *id).max();
    for (watcher, snapshot) in watchers.iter_mut().zip(&mut snapshots) {
        while Some(snapshot.0) < newest {
            *snapshot = watcher.snapshot();
        }
    }
    assert!(snapshots.iter().all(|snapshot| *snapshot == snapshots[0]));
    watchers.pop();
    eventually(PATIENCE, || {
        let mut client = Client::connect(server.admin());
        client.ask("GET", "/events", "");
        client.head().status == 200
    });
    drop(watchers);
    server.stop();
}

#[test]
fn the_page_runs_what_is_its_own_and_nothing_else() {
    let fixture = Fixture::new();
    let server = Server::start(fixture.path());
    let page = Client::connect(server.admin()).get("/", "").expect(200);
    assert_eq!(page.field("Content-Type"), Some("text/html; charset=utf-8"));
    let policy = page.field("Content-Security-Policy").expect("a policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    for event in [" onclick=", " onload=", " style=", "javascript:", "http://127", "https://"] {
        assert!(!page.text().contains(event), "{event}");
    }
    let mut client = Client::connect(server.admin());
    client.request("POST", "/", "Content-Length: 0\r\n").expect(405);
    client.request("POST", "/events", "Content-Length: 0\r\n").expect(405);
    assert_eq!(client.request("HEAD", "/events", "").expect(200).field("Content-Type"), Some("text/event-stream"));
    // It took no seat and no one watches.
    assert_eq!(server.held().tasks, 0);
    server.stop();
}

/// The markup in this name would run as soon as it were a page's.
const MARKUP: &str = "<img src=x onerror=window.ran=1>.mp4";

/// Opens the dashboard and waits until it is live and has drawn something.
#[track_caller]
fn open(browser: &Browser, admin: SocketAddr) {
    browser.visit(&format!("http://{admin}/"));
    browser.until("document.querySelector('#state').dataset.state == 'live'");
    browser.until("document.querySelector('#throughput .stroke').getAttribute('d').includes('L')");
}

/// Waits until so many more snapshots have come to the browser, by a stream beside the page's own.
#[track_caller]
fn let_pass(browser: &Browser, snapshots: u32) {
    let script = "return new Promise((passed) => {
        let left = arguments[0];
        const stream = new EventSource('/events');
        stream.onmessage = () => {
            left -= 1;
            if (left == 0) {
                stream.close();
                passed();
            }
        };
    })";
    browser.run_with(script, &json!([snapshots]));
}

/// What the row of the table of all counters says that begins with this name.
fn counted(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#counters tbody tr')].find((row) => row.cells[0].textContent == '{name}')?.cells[1].textContent"
    )
}

#[test]
fn the_page_shows_what_the_metrics_say_and_markup_in_a_name_as_text() {
    let Some(browser) = Browser::open() else { return };
    let fixture = Fixture::with(&[("clip.mp4", 5000), (MARKUP, 100)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for _ in 0..40 {
        client.get("/clip.mp4", "").expect(200);
    }
    for _ in 0..3 {
        client.get("/%3Cimg%20src=x%20onerror=window.ran=1%3E.mp4", "Range: bytes=0-9\r\n").expect(206);
    }
    client.get("/none", "").expect(404);
    open(&browser, server.admin());
    let busiest = "[...document.querySelectorAll('#busiest tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))";
    browser.until(&format!("{busiest}.length == 2"));
    let expected = json!([["/clip.mp4", "40", "195 KiB", "100 %"], [format!("/{MARKUP}"), "3", "30 B", "0.0 %"]]);
    assert_eq!(browser.run(&format!("return {busiest}")), expected);
    assert_eq!(browser.run("return [window.ran ?? null, document.images.length]"), json!([null, 0]));
    browser.click("#counters summary");
    assert_eq!(browser.until(&counted("ranges")), server.metric("ranges").to_string());
    browser.until(&format!("{} == '{}'", counted("files_stored"), server.metric("files_stored")));
    // What goes on while the page is open is seen by it, to the last request.
    for _ in 0..17 {
        client.get("/clip.mp4", "Range: bytes=0-9\r\n").expect(206);
    }
    browser.until(&format!("{} == '20'", counted("ranges")));
    browser.until(&format!("{busiest}[0][1] == '57'"));
    browser.expect_no_complaint();
    server.stop();
}

#[test]
fn every_chart_is_drawn_and_told_to_those_who_do_not_see_it() {
    let Some(browser) = Browser::open() else { return };
    let fixture = Fixture::with(&[("clip.mp4", 5000)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    open(&browser, server.admin());
    let drawn = "return ['throughput', 'requests', 'first-byte', 'connections', 'memory'].every((id) =>
        [...document.querySelectorAll(`#${id} .plot path`)].some((path) => path.getAttribute('d').split('L').length > 4))";
    eventually(3 * PATIENCE, || {
        client.get("/clip.mp4", "").expect(200);
        client.get("/none", "").expect(404);
        browser.run(drawn) == true
    });
    browser
        .until("[...document.querySelectorAll('#spread .bar')].some((bar) => Number(bar.getAttribute('height')) > 50)");
    browser.until("document.querySelectorAll('#workers .spark path').length == 2");
    // The ceiling's terms add up to the ceiling, and each chart has a table with rows.
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
    browser.until("[...document.querySelectorAll('details tbody')].every((body) => body.rows.length > 0)");
    let labels = "[...document.querySelectorAll('.plot')].every((plot) => plot.ariaLabel && plot.ariaValueText)";
    browser.until(labels);
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = false; })");
    // A cursor, by keyboard: in all charts at once, and told; no further back than there is something.
    browser.run("document.querySelector('#throughput .plot').focus()");
    browser.press(keys::LEFT);
    let times = "[...document.querySelectorAll('.at')].map((at) => at.textContent).filter((text) => /^\\d\\d:\\d\\d:\\d\\d$/.test(text)).length";
    browser.until(&format!("{times} == 5"));
    assert_eq!(browser.run("return document.activeElement.ariaValueNow"), "-1");
    browser.press_with(keys::SHIFT, keys::LEFT);
    (0..12).for_each(|_| browser.press_with(keys::SHIFT, keys::LEFT));
    let at = browser.run("return Number(document.activeElement.ariaValueNow)").as_i64().expect("a number");
    assert!(-60 < at && at < -1, "{at}");
    let told = browser.run("return document.activeElement.ariaValueText");
    assert!(!told.as_str().expect("a text").starts_with("no data"), "{told}");
    browser.press(keys::ESCAPE);
    browser.until(&format!("{times} == 0"));
    browser.expect_no_complaint();
    server.stop();
}

#[test]
fn space_pauses_and_goes_on_and_a_button_does_too() {
    let Some(browser) = Browser::open() else { return };
    let fixture = Fixture::new();
    let server = Server::start(fixture.path());
    open(&browser, server.admin());
    let drawn = "document.querySelector('#throughput .stroke').getAttribute('d') + document.querySelector('#facts').textContent";
    browser.press(" ");
    browser.until("document.querySelector('#state').dataset.state == 'paused'");
    let before = browser.run(&format!("return {drawn}"));
    let_pass(&browser, 3);
    // What draws it anew draws the same.
    browser.run("document.querySelector('#counters details').open = true");
    browser.until("document.querySelectorAll('#counters tbody tr').length > 0");
    assert_eq!(browser.run(&format!("return {drawn}")), before, "it stands still");
    browser.screenshot("dashboard-paused");
    browser.press(" ");
    browser.until("document.querySelector('#state').dataset.state == 'live'");
    browser.until(&format!("{drawn} != {before}"));
    browser.click("#pause");
    browser.until("document.querySelector('#pause').ariaPressed == 'true'");
    // The focus is on the button: space presses it once, and not the page as well.
    browser.press(" ");
    browser.until("document.querySelector('#pause').ariaPressed == 'false'");
    browser.expect_no_complaint();
    server.stop();
}

#[test]
fn the_page_is_dark_or_light_as_its_reader_prefers_and_fits_a_phone() {
    let Some(browser) = Browser::open() else { return };
    let fixture = Fixture::new();
    let long = format!("{}.mp4", "a-name-without-any-blank-".repeat(8));
    fixture.file(&long, 100);
    let server = Server::start(fixture.path());
    server.connect().get(&format!("/{long}"), "").expect(200);
    let ground = "return getComputedStyle(document.body).backgroundColor";
    browser.prefer(&[("prefers-color-scheme", "light")]);
    open(&browser, server.admin());
    browser.until("document.querySelectorAll('#busiest tbody tr').length == 1");
    let light = browser.run(ground);
    browser.screenshot("dashboard-light");
    browser.prefer(&[("prefers-color-scheme", "dark"), ("prefers-reduced-motion", "reduce")]);
    assert_ne!(browser.run(ground), light);
    assert_eq!(browser.run("return getComputedStyle(document.querySelector('.dot')).animationName"), "none");
    browser.screenshot("dashboard-dark");
    browser.look_as(Screen::Phone);
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
    let_pass(&browser, 2);
    assert_eq!(browser.run("return [innerWidth, document.documentElement.scrollWidth]"), json!([390, 390]));
    browser.screenshot("dashboard-phone");
    browser.expect_no_complaint();
    server.stop();
}

#[test]
fn the_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back() {
    let Some(browser) = Browser::open() else { return };
    let fixture = Fixture::with(&[("clip.mp4", 100)]);
    let launch = |admin: &str| Launch::of(fixture.path()).arg("--admin").arg(admin);
    // Of this address nobody else takes a port while the server is gone.
    let server = launch("127.83.0.4:0").start();
    let admin = server.admin();
    let mut client = server.connect();
    (0..500).for_each(|_| drop(client.get("/clip.mp4", "").expect(200)));
    drop(client);
    open(&browser, admin);
    browser.expect_no_complaint();
    let points = "document.querySelector('#connections .area').getAttribute('d').split('L').length";
    let before = browser.run(&format!("return {points}"));
    server.stop();
    browser.until("document.querySelector('#state').dataset.state == 'lost'");
    browser.screenshot("dashboard-lost");
    // The kernel closes what a ring holds after its process is gone.
    eventually(PATIENCE, || TcpListener::bind(admin).is_ok());
    let server = launch(&admin.to_string()).start();
    browser.until("document.querySelector('#state').dataset.state == 'live'");
    // It has kept what it had.
    browser.until(&format!("{points} > {before}"));
    server.connect().get("/clip.mp4", "").expect(200);
    browser.until("document.querySelectorAll('#busiest tbody tr').length == 1");
    // That the new process has counted less than the old one had is no negative rate, nor ever was.
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
    let cells = browser.until("[...document.querySelectorAll('#requests tbody td')].map((cell) => cell.textContent)");
    let cells = cells.as_array().expect("a table");
    assert!(cells.len() >= 4 && cells.iter().all(|cell| !cell.as_str().expect("a text").contains('-')), "{cells:?}");
    server.stop();
}

#[test]
fn a_page_that_finds_no_seat_asks_again() {
    const DASHBOARDS: usize = 16;
    let Some(browser) = Browser::open() else { return };
    let fixture = Fixture::new();
    let server = Server::start(fixture.path());
    let watchers: Vec<Watcher> = (0..DASHBOARDS).map(|_| Watcher::of(&server)).collect();
    browser.visit(&format!("http://{}/", server.admin()));
    browser.until("document.querySelector('#state').dataset.state == 'lost'");
    drop(watchers);
    browser.until("document.querySelector('#state').dataset.state == 'live'");
    server.stop();
}
