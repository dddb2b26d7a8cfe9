//! The page of a listing, as people use it: in a browser, with a mouse, a keyboard and a finger.
//!
//! With `HIGHWATER_SCREENSHOTS=FOLDER` they leave pictures of what they see.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{
    Browser, CLIENT_PATIENCE, Fixture, Launch, Run, Screen, Server, bytes_at, check_bytes, eventually, installed, keys,
    logged, not_shown, upload_routes, url,
};

/// A folder, the server that lists it, and the browser that looks at it.
struct Stage {
    browser: Browser,
    server: Server,
    root: Fixture,
    work: Fixture,
}

impl Stage {
    /// The folder is served at `/`, and uploads to it go to `/up` with these keys. `None` where there is no browser.
    #[track_caller]
    fn set(root: Fixture, upload: &str) -> Option<Self> {
        let browser = Browser::open()?;
        let work = Fixture::new();
        let config = upload_routes(root.path(), upload);
        let launch = Launch::routes().config(&config).arg("--listing").arg("--log-format").arg("json");
        let server = launch.arg("--access-log").arg(work.at("access.log")).start();
        Some(Stage { browser, server, root, work })
    }

    /// Goes to a path of the server.
    #[track_caller]
    fn visit(&self, path: &str) {
        self.browser.visit(&url(&self.server, path));
    }

    /// The names that are to be seen, in their order.
    #[track_caller]
    fn names(&self) -> Vec<String> {
        let names = self
            .browser
            .run("return [...document.querySelectorAll('tbody tr:not([hidden]) a')].map(a => a.textContent)");
        names.as_array().expect("names").iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    /// Waits until exactly these are to be seen.
    #[track_caller]
    fn until_named(&self, expected: &[&str]) {
        eventually(CLIENT_PATIENCE, || self.names() == expected);
    }

    /// Clicks on the entry of this name.
    #[track_caller]
    fn open(&self, name: &str) {
        let found = self.browser.run_with(
            "const at = [...document.querySelectorAll('tbody a')].find(a => a.textContent === arguments[0]);
             document.querySelectorAll('[data-wanted]').forEach(other => other.removeAttribute('data-wanted'));
             at?.setAttribute('data-wanted', ''); return Boolean(at);",
            &json!([name]),
        );
        assert_eq!(found, true, "{name} is not listed");
        self.browser.click("[data-wanted]");
    }

    /// Waits until the player shows the file of this name.
    #[track_caller]
    fn until_playing(&self, name: &str) {
        let name = serde_json::to_string(name).expect("text");
        self.browser.until(&format!("document.querySelector('#player[open] h2')?.textContent === {name}"));
    }

    /// Where the player is, in seconds.
    #[track_caller]
    fn position(&self) -> f64 {
        self.browser.run("return document.querySelector('#player video').currentTime").as_f64().expect("a time")
    }

    /// The requests for this target, as it is logged.
    fn asked(&self, target: &str) -> Vec<Value> {
        let log = logged(&self.work.at("access.log"));
        log.into_iter().filter(|line| line["target"].as_str() == Some(target)).collect()
    }

    /// Ends it, and fails the test if anything was asked of others, or complained of.
    #[track_caller]
    fn strike(self) {
        self.browser.expect_no_complaint();
        let elsewhere = "return performance.getEntriesByType('resource').map(entry => entry.name).filter(name =>
            !name.startsWith(location.origin + '/') && !name.startsWith('data:'))";
        assert_eq!(self.browser.run(elsewhere), json!([]));
        self.server.stop();
    }
}

/// The sample that comes with the server: twelve seconds of H.264 and AAC.
fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("media/sample.mp4")
}

/// A folder with the sample under these names.
fn films(names: &[&str]) -> Fixture {
    let root = Fixture::new();
    for name in names {
        fs::copy(sample(), root.at(name)).expect("a copy of the sample");
    }
    root
}

/// Whether the browser plays the sample; if it does not, that is said.
fn plays(stage: &Stage) -> bool {
    let can = "return document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E, mp4a.40.2\"')";
    let plays = stage.browser.run(can) != "";
    if !plays {
        not_shown("this chromium has no H.264");
    }
    plays
}

#[test]
fn a_search_is_a_key_away_and_marks_what_it_finds() {
    let root =
        Fixture::with(&[("Film 2.mp4", 10), ("Film 10.mp4", 5000), ("Caf\u{e9} Film.mp4", 20), ("notes.txt", 3)]);
    fs::create_dir(root.at("folder")).expect("a folder");
    let Some(stage) = Stage::set(root, "") else { return };
    stage.visit("");
    let browser = &stage.browser;
    // As people count, and folders first.
    assert_eq!(stage.names(), ["folder", "Caf\u{e9} Film.mp4", "Film 2.mp4", "Film 10.mp4", "notes.txt"]);
    assert_eq!(
        browser.run("return document.querySelector('#count').textContent"),
        "1 folder \u{b7} 4 files \u{b7} 4.9 KiB"
    );
    browser.press("/");
    browser.press("FILM cafe");
    stage.until_named(&["Caf\u{e9} Film.mp4"]);
    let marks = "return [...document.querySelectorAll('mark')].map(mark => mark.textContent)";
    assert_eq!(browser.run(marks), json!(["Caf\u{e9}", "Film"]));
    assert_eq!(browser.run("return document.querySelector('#count[role=status]').textContent"), "1 match of 5");
    browser.press("x");
    stage.until_named(&[]);
    browser.until("document.querySelector('.none').checkVisibility()");
    browser.press(keys::ESCAPE);
    stage.until_named(&["folder", "Caf\u{e9} Film.mp4", "Film 2.mp4", "Film 10.mp4", "notes.txt"]);
    assert_eq!(browser.run(marks), json!([]));
    // The largest first, then the smallest.
    browser.click("th:nth-child(2) button");
    stage.until_named(&["folder", "Film 10.mp4", "Caf\u{e9} Film.mp4", "Film 2.mp4", "notes.txt"]);
    assert_eq!(browser.run("return document.querySelector('th:nth-child(2)').ariaSort"), "descending");
    browser.click("th:nth-child(2) button");
    stage.until_named(&["folder", "notes.txt", "Film 2.mp4", "Caf\u{e9} Film.mp4", "Film 10.mp4"]);
    browser.click("[data-view=grid]");
    browser.until(
        "document.querySelector('[data-view=grid]').ariaPressed === 'true' && document.body.className === 'cards'",
    );
    // What was chosen is so the next time.
    browser.reload();
    browser.until("document.body.className === 'cards'");
    assert_eq!(stage.names()[1], "notes.txt");
    stage.open("folder");
    browser.until("document.querySelector('h1').textContent === 'folder'");
    assert_eq!(browser.run("return document.querySelector('.empty').checkVisibility()"), true);
    browser.screenshot("empty");
    browser.click("nav a");
    browser.until("document.querySelector('h1').textContent === 'Library'");
    stage.strike();
}

#[test]
fn a_click_plays_and_the_keyboard_does_all_the_rest() {
    let root = films(&["1 one.mp4", "2 two.mp4"]);
    fs::copy(sample().with_extension("vtt"), root.at("1 one.vtt")).expect("captions");
    root.text(
        "0 picture.svg",
        "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>",
    );
    let Some(stage) = Stage::set(root, "") else { return };
    stage.visit("");
    if !plays(&stage) {
        return;
    }
    let browser = &stage.browser;
    assert_eq!(stage.names(), ["0 picture.svg", "1 one.mp4", "2 two.mp4"], "captions stand with their film");
    stage.open("1 one.mp4");
    stage.until_playing("1 one.mp4");
    assert_eq!(browser.run("return location.hash"), "#1%20one.mp4");
    browser.until("document.querySelector('#player video').currentTime > 0.2");
    assert_eq!(browser.run("return document.querySelector('.place').textContent"), "2 of 3 in Library");
    // The browser's own controls would count each key a second time.
    browser.run("document.querySelector('#player video').focus()");
    browser.press(" ");
    browser.until("document.querySelector('#player video').paused");
    let before = stage.position();
    browser.press(keys::RIGHT);
    browser.until("!document.querySelector('#player video').seeking");
    assert!((stage.position() - before - 5.0).abs() < 0.1, "{before} {}", stage.position());
    browser.press_with(keys::SHIFT, keys::LEFT);
    assert_eq!(stage.position(), 0.0);
    browser.press(keys::DOWN);
    assert_eq!(browser.run("return document.querySelector('#player video').volume"), 0.95);
    browser.press(keys::UP);
    assert_eq!(browser.run("return document.querySelector('#player video').volume"), 1);
    browser.press("c");
    browser.until("document.querySelector('#player track').track.mode === 'showing' && document.querySelector('#player track').track.cues?.length > 3");
    browser.press("f");
    browser.until("document.fullscreenElement?.className === 'stage'");
    browser.press("f");
    browser.until("document.fullscreenElement === null");
    // A picture is shown, and the arrows step from it.
    browser.press("p");
    stage.until_playing("0 picture.svg");
    browser.until("document.querySelector('.stage > img').naturalWidth === 9");
    browser.press(keys::RIGHT);
    stage.until_playing("1 one.mp4");
    browser.until("document.querySelector('#player video').readyState > 2");
    // At the end it goes on with the next, from its beginning.
    browser.run("document.querySelector('#player video').currentTime = 11.5");
    stage.until_playing("2 two.mp4");
    browser.until("document.querySelector('#player video').currentTime > 0.1");
    assert_eq!(browser.run("return document.querySelector('#player .next').disabled"), true);
    browser.press(keys::ESCAPE);
    browser.until("!document.querySelector('#player').open && location.hash === ''");
    assert_eq!(browser.run("return document.querySelector('.stage').childElementCount"), 0, "nothing plays on");
    assert_eq!(browser.run("return document.activeElement.textContent"), "2 two.mp4");
    // Round the player by the Tab key, and not out of it.
    browser.press(keys::ENTER);
    stage.until_playing("2 two.mp4");
    for _ in 0..12 {
        browser.press(keys::TAB);
        assert_eq!(
            browser.run(
                "return document.activeElement === document.body || Boolean(document.activeElement.closest('#player'))"
            ),
            true
        );
    }
    browser.press(keys::ESCAPE);
    browser.until("!document.querySelector('#player').open && location.hash === ''");
    // From entry to entry and into one; the way back closes it.
    browser.press(keys::UP);
    assert_eq!(browser.run("return document.activeElement.textContent"), "1 one.mp4");
    browser.press(keys::ENTER);
    stage.until_playing("1 one.mp4");
    browser.back();
    browser.until("!document.querySelector('#player').open");
    assert_eq!(browser.run("return [location.hash, document.activeElement.textContent]"), json!(["", "1 one.mp4"]));
    stage.strike();
}

#[test]
fn a_film_goes_on_where_it_was_left() {
    let Some(stage) = Stage::set(films(&["film.mp4", "other.mp4"]), "") else { return };
    // A link to it opens it.
    stage.visit("#film.mp4");
    if !plays(&stage) {
        return;
    }
    let browser = &stage.browser;
    stage.until_playing("film.mp4");
    browser.until("document.querySelector('#player video').readyState > 0");
    assert_eq!(browser.run("return document.querySelector('.resumed').hidden"), true);
    browser.run("const video = document.querySelector('#player video'); video.pause(); video.currentTime = 7");
    browser.until("Object.values(JSON.parse(localStorage['highwater:positions'] ?? '{}'))[0] === 7");
    browser.reload();
    stage.until_playing("film.mp4");
    browser.until("document.querySelector('.resumed').checkVisibility()");
    assert_eq!(browser.run("return document.querySelector('.resumed span').textContent"), "Resumed at 0:07");
    assert!(stage.position() >= 7.0);
    browser.click(".resumed button");
    browser
        .until("document.querySelector('#player video').currentTime < 3 && document.querySelector('.resumed').hidden");
    // Near the end there is nothing to come back to, and many positions are not kept.
    browser.run(
        "localStorage['highwater:positions'] = JSON.stringify(Object.fromEntries(
            Array.from({ length: 300 }, (_, index) => [`/${index}`, 60])));
         const video = document.querySelector('#player video'); video.pause(); video.currentTime = 8",
    );
    let kept = "Object.keys(JSON.parse(localStorage['highwater:positions']))";
    browser.until(&format!("{kept}.includes('/film.mp4') && {kept}.length === 200 && {kept}[0] === '/101'"));
    browser.run("document.querySelector('#player video').currentTime = 11");
    browser.until(&format!("!{kept}.includes('/film.mp4')"));
    browser.press(keys::ESCAPE);
    browser.until("!document.querySelector('#player').open && location.hash === ''");
    stage.strike();
}

#[test]
fn names_with_markup_are_shown_and_not_run() {
    let names =
        ["<img src=x onerror=alert(1)>.mp4", "<script>alert(1)<!--.txt", "\"quoted\" & 'quoted'.mp4", "&lt;b&gt;.mp4"];
    let root = films(&names);
    fs::create_dir(root.at("<svg onload=alert(1)>")).expect("a folder");
    fs::copy(sample(), root.at("<svg onload=alert(1)>").join("a.mp4")).expect("a copy");
    let Some(stage) = Stage::set(root, "") else { return };
    stage.visit("");
    let browser = &stage.browser;
    let listed = stage.names();
    for name in names.iter().chain(&["<svg onload=alert(1)>"]) {
        assert!(listed.iter().any(|listed| listed == name), "{name}: {listed:?}");
    }
    browser.press("/");
    browser.press("<img SRC");
    stage.until_named(&[names[0]]);
    assert_eq!(browser.run("return document.querySelector('mark').textContent"), "<img");
    browser.press(keys::ESCAPE);
    stage.open(names[0]);
    stage.until_playing(names[0]);
    browser.press("n");
    browser.press("p");
    stage.until_playing(names[0]);
    // The address of a page is no markup either.
    browser.press(keys::ESCAPE);
    browser.until("!document.querySelector('#player').open");
    stage.open("<svg onload=alert(1)>");
    browser.until("document.querySelector('h1').textContent === '<svg onload=alert(1)>'");
    assert_eq!(browser.run("return document.title"), "<svg onload=alert(1)>");
    assert_eq!(browser.run("return document.querySelectorAll('h1 *, td svg, td script, td img:not(.art)').length"), 0);
    // What is not the page's own is not run, and that is the browser's word.
    browser.expect_no_complaint();
    browser.run("document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = true' }))");
    assert_eq!(browser.run("return window.ran ?? null"), Value::Null);
    assert!(browser.console().iter().any(|line| line.contains("Content Security Policy")));
    stage.strike();
}

#[test]
fn files_are_uploaded_with_progress_and_play() {
    let Some(stage) = Stage::set(films(&["taken.mp4"]), "upload_rate = \"4MiB/s\"") else { return };
    fs::create_dir(stage.root.at("in side")).expect("a folder");
    let (name, len) = ("d\u{ed}a <b>\"1\" #?%.bin", 12_000_000);
    let long = stage.work.text(name, bytes_at(0, len));
    let film = stage.work.at("film.mp4");
    fs::copy(sample(), &film).expect("a copy of the sample");
    let path = |path: &Path| path.to_str().expect("a path of text").to_owned();
    stage.visit("in%20side/");
    let browser = &stage.browser;
    browser.type_into(".pick", &[path(&long), path(&film)].join("\n"));
    // Some of it has been sent, and not all.
    browser.until("document.querySelector('#uploads').checkVisibility()");
    browser.until("(bar => bar.value > 0 && bar.value < 0.9)(document.querySelector('#uploads li progress'))");
    browser.until("/^Uploading \\d of 2 · \\d+ %$/.test(document.querySelector('#uploads .sum').textContent)");
    assert_eq!(
        browser.run("return !dispatchEvent(new Event('beforeunload', { cancelable: true }))"),
        true,
        "it asks first"
    );
    browser.screenshot("upload");
    browser.until("document.querySelector('#uploads .sum').textContent === '2 files uploaded'");
    stage.until_named(&[name, "film.mp4"]);
    assert_eq!(browser.run("return !dispatchEvent(new Event('beforeunload', { cancelable: true }))"), false);
    let stored = fs::read(stage.root.at("in side").join(name)).expect("the file");
    assert_eq!(stored.len(), len);
    check_bytes(0, &stored);
    browser.until("document.querySelector('.len')?.textContent.endsWith('0:12')");
    browser.click("#uploads .away");
    browser.until("document.querySelector('#uploads').hidden");
    if plays(&stage) {
        stage.open("film.mp4");
        browser.until("document.querySelector('#player video')?.currentTime > 0.1");
        browser.press(keys::ESCAPE);
    }
    stage.strike();
}

#[test]
fn what_is_dropped_is_uploaded_and_a_refusal_is_told_in_words() {
    let Some(stage) = Stage::set(films(&["taken.mp4"]), "upload_rate = \"1MiB/s\"") else { return };
    stage.visit("");
    let browser = &stage.browser;
    let drop = |event: &str, files: &str| {
        browser.run(&format!(
            "const dataTransfer = new DataTransfer();
             for (const [name, len] of {files}) dataTransfer.items.add(new File([new Uint8Array(len)], name));
             document.querySelector('tbody').dispatchEvent(new DragEvent('{event}', {{ dataTransfer, bubbles: true, cancelable: true }}))"
        ));
    };
    let files = "[['taken.mp4', 9], ['new.txt', 9], ['long.bin', 30000000], ['waits.bin', 9], ['too.bin', 9]]";
    drop("dragenter", files);
    browser.until("document.querySelector('#drop').checkVisibility()");
    assert_eq!(
        browser.run("return document.querySelector('#drop').textContent.trim()"),
        "Drop files to upload them to \u{201c}Library\u{201d}"
    );
    drop("drop", files);
    browser.until("document.querySelector('#drop').hidden");
    browser.until("document.querySelectorAll('#uploads li.done').length === 3");
    let line = |name: &str| {
        format!(
            "[...document.querySelectorAll('#uploads li')].find(line => line.querySelector('b').textContent === '{name}')"
        )
    };
    assert_eq!(
        browser.run(&format!("return {}.querySelector('p').textContent", line("taken.mp4"))),
        "There is a file of this name already."
    );
    browser.until(&format!("{}.querySelector('progress').value > 0", line("long.bin")));
    // One that is not wanted any more is taken back, and the server keeps nothing of it.
    browser.run(&format!("{}.querySelector('button').click()", line("long.bin")));
    stage.until_named(&["new.txt", "taken.mp4", "too.bin", "waits.bin"]);
    browser.until("document.querySelector('#uploads .sum').textContent === '3 files uploaded · 1 failed'");
    assert!(!stage.root.at("long.bin").exists());
    // Once the name is free, another try succeeds.
    fs::remove_file(stage.root.at("taken.mp4")).expect("the file that had the name");
    browser.click("#uploads li.failed button");
    browser.until("document.querySelectorAll('#uploads li.done').length === 4");
    assert_eq!(fs::metadata(stage.root.at("taken.mp4")).expect("the file").len(), 9);
    // The one refusal is what the browser itself complains of.
    let said = browser.console();
    assert!(said.iter().all(|line| line.contains("409 (Conflict)")), "{said:?}");
    stage.strike();
}

#[test]
fn a_folder_without_uploads_offers_none() {
    let root = Fixture::with(&[("box/a.bin", 1), ("out/a.bin", 1)]);
    let Some(browser) = Browser::open() else { return };
    let config = format!(
        "[[route]]\nprefix = \"/send\"\nupload = {{ dir = {:?} }}\n[[route]]\nmedia = {{ root = {:?}, listing = true }}\n",
        root.at("box"),
        root.path()
    );
    let server = Launch::routes().config(&config).start();
    for (path, offered, place) in
        [("", false, Value::Null), ("out/", false, Value::Null), ("box/", true, "/send/".into())]
    {
        browser.visit(&url(&server, path));
        assert_eq!(browser.run("return document.querySelector('.add').checkVisibility()"), offered, "{path}");
        assert_eq!(browser.run("return document.querySelector('main').dataset.upload ?? null"), place, "{path}");
    }
    browser.expect_no_complaint();
    server.stop();
}

/// Counts, before any other script runs, how many files are asked for their duration at a time.
const COUNT_QUESTIONS: &str = "window.most = 0; let now = 0; const real = fetch; window.fetch = (...all) => {
    now += 1; most = Math.max(most, now); return real(...all).finally(() => now -= 1); };";

#[test]
fn durations_are_asked_for_what_is_in_sight_two_at_a_time_and_once() {
    const FILMS: usize = 200;
    let root = films(&[]);
    for number in 0..FILMS {
        fs::hard_link(sample(), root.at(&format!("{number}.mp4")))
            .or_else(|_| fs::copy(sample(), root.at(&format!("{number}.mp4"))).map(drop))
            .expect("a film");
    }
    root.text("none.mp4", "no film");
    let Some(stage) = Stage::set(root, "") else { return };
    let browser = &stage.browser;
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": COUNT_QUESTIONS }));
    stage.visit("");
    browser.until("document.querySelectorAll('.len').length > 5");
    browser.press("/");
    browser.press("none");
    let asked = || stage.asked("/none.mp4?info").len();
    eventually(CLIENT_PATIENCE, || asked() == 1);
    browser.press(keys::ESCAPE);
    browser.press("199");
    browser.until("document.querySelector('tr:not([hidden]) .len')?.textContent.endsWith('0:12')");
    browser.press(keys::ESCAPE);
    browser.press("none");
    stage.until_named(&["none.mp4"]);
    assert_eq!(browser.run("return most"), 2);
    assert_eq!(asked(), 1, "what has none is not asked again");
    let all = logged(&stage.work.at("access.log"));
    let questions =
        all.iter().filter(|line| line["target"].as_str().is_some_and(|target| target.ends_with("?info"))).count();
    assert!(questions < FILMS / 2, "{questions} of {FILMS} were asked, though few are in sight");
    stage.strike();
}

#[test]
fn on_a_phone_nothing_is_cut_off_and_a_finger_has_room() {
    let root =
        films(&["A film with a long name that goes on and on, as they do when nobody has to type them, part 1.mp4"]);
    root.text(&format!("{}.txt", "long".repeat(50)), "x");
    fs::create_dir(root.at("folder")).expect("a folder");
    let Some(stage) = Stage::set(root, "") else { return };
    let browser = &stage.browser;
    browser.look_as(Screen::Phone);
    let small =
        "return [...document.querySelectorAll('button, a, input')].filter(one => one.checkVisibility()).map(one => {
        const target = one.closest('tbody tr') ?? one;
        const { width, height } = target.getBoundingClientRect();
        return width < 44 || height < 44 ? `${one.outerHTML.slice(0, 80)} ${width} × ${height}` : '';
    }).filter(Boolean)";
    for (scheme, view) in [("light", "list"), ("dark", "grid")] {
        browser.prefer(&[("prefers-color-scheme", scheme)]);
        stage.visit("");
        browser.click(&format!("[data-view={view}]"));
        assert_eq!(
            browser.run("return [document.documentElement.scrollWidth, innerWidth]"),
            json!([390, 390]),
            "{view}"
        );
        assert_eq!(browser.run(small), json!([]), "{view}");
        stage.open(&stage.names()[1]);
        browser.until("document.querySelector('#player').open");
        assert_eq!(browser.run("return document.querySelector('#player').scrollWidth"), 390);
        assert_eq!(browser.run(small), json!([]), "the player");
        browser.click("#player .leave");
        browser.until("!document.querySelector('#player').open");
    }
    stage.strike();
}

/// The contrast of each text with what is behind it, where it is less than WCAG 2.2 asks for (1.4.3); pictures aside.
const TOO_FAINT: &str = "
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const paint = (...colours) => {
        canvas.fillStyle = '#fff'; canvas.fillRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const bright = colour => colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) {
        const own = node.parentElement;
        if (!node.data.trim() || !own.checkVisibility() || own.closest('.vh, script, template, :disabled')) continue;
        const behind = [];
        for (let above = own; above; above = above.parentElement) behind.unshift(getComputedStyle(above).backgroundColor);
        behind.unshift(getComputedStyle(document.body).backgroundColor);
        const [text, ground] = [paint(...behind, getComputedStyle(own).color), paint(...behind)].map(bright);
        const contrast = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
        if (contrast < 4.5) faint.push(`${node.data.trim()}: ${contrast.toFixed(2)}`);
    }
    return faint";

#[test]
fn text_can_be_read_in_both_schemes_and_at_twice_the_size() {
    let root = Fixture::with(&[("film.mp4", 10), ("notes.txt", 10), ("film.vtt", 9), ("sub/x.zip", 10)]);
    let Some(stage) = Stage::set(root, "") else { return };
    let browser = &stage.browser;
    for scheme in ["light", "dark"] {
        browser.prefer(&[("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]);
        stage.visit("sub/");
        assert_eq!(browser.run(TOO_FAINT), json!([]), "{scheme}");
        stage.visit("");
        browser.press("/");
        browser.press("film");
        browser.until("document.querySelector('mark')");
        assert_eq!(browser.run(TOO_FAINT), json!([]), "{scheme}, a search");
        browser.press(keys::ESCAPE);
        stage.open("film.mp4");
        browser.until("document.querySelector('.trouble')");
        assert_eq!(browser.run(TOO_FAINT), json!([]), "{scheme}, the player");
        browser.press(keys::ESCAPE);
        browser.until("!document.querySelector('#player').open");
    }
    // At 200 %, a window of 1280 is one of 640.
    let metrics = json!({ "width": 640, "height": 400, "deviceScaleFactor": 2, "mobile": false });
    browser.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    assert_eq!(browser.run("return document.documentElement.scrollWidth"), 640);
    stage.strike();
}

#[test]
fn five_thousand_entries_are_searched_while_one_types() {
    let root = Fixture::new();
    for number in 0..5000 {
        File::create(root.at(&format!("Episode {number}.mkv"))).expect("a file");
    }
    let Some(stage) = Stage::set(root, "") else { return };
    stage.visit("");
    let browser = &stage.browser;
    assert_eq!(browser.run("return document.querySelectorAll('tbody tr').length"), 5000);
    browser.screenshot("many");
    browser.press("/");
    browser.press("episode 499");
    browser.until("document.querySelectorAll('tbody tr:not([hidden])').length === 15");
    assert_eq!(stage.names()[..2], ["Episode 499.mkv", "Episode 1499.mkv"]);
    browser.press(keys::DOWN);
    browser.press(keys::DOWN);
    assert_eq!(browser.run("return document.activeElement.textContent"), "Episode 1499.mkv");
    stage.strike();
}

/// A scene of a sun over the sea: colours of the sky above and at the horizon, of the sea there and below, and of the sun; and where
/// the horizon is and the sun, in hundredths of the picture.
struct Scene {
    name: &'static str,
    minutes: u32,
    colours: [u32; 5],
    horizon: u32,
    sun: (u32, u32),
}

const SCENES: [Scene; 6] = [
    Scene {
        name: "Harbour Lights",
        minutes: 102,
        colours: [0x0f2d4a, 0xf0a868, 0x3c5a78, 0x0c2238, 0xfff0d2],
        horizon: 62,
        sun: (66, 54),
    },
    Scene {
        name: "North of Noon",
        minutes: 117,
        colours: [0x7fb4c8, 0xf4ecd2, 0x2f7f86, 0x0f4550, 0xfffdf0],
        horizon: 48,
        sun: (30, 24),
    },
    Scene {
        name: "Salt and Iron",
        minutes: 90,
        colours: [0x3a1f2e, 0xd8623a, 0x6a2f34, 0x241420, 0xffd9a0],
        horizon: 70,
        sun: (50, 66),
    },
    Scene {
        name: "The Long Tide",
        minutes: 131,
        colours: [0x0c1424, 0x3b4f78, 0x18233c, 0x080e1a, 0xf2f4ff],
        horizon: 56,
        sun: (74, 22),
    },
    Scene {
        name: "Estuary",
        minutes: 24,
        colours: [0xb9c8ba, 0xefe6cc, 0x8fa896, 0x4d6a5c, 0xfff8e0],
        horizon: 44,
        sun: (38, 36),
    },
    Scene {
        name: "Winter Passage",
        minutes: 98,
        colours: [0x5a6f92, 0xe6d3dc, 0x7d8ca8, 0x36476a, 0xfff4f4],
        horizon: 66,
        sun: (22, 50),
    },
];

impl Scene {
    /// What ffmpeg draws of it, one channel a line.
    fn drawing(&self) -> String {
        let channel = |shift: u32| {
            let [top, low, near, far, sun] = self.colours.map(|colour| colour >> shift & 0xff);
            let (horizon, (x, y)) = (format!("H*{}/100", self.horizon), self.sun);
            let sky = format!("({top}+({low}-{top})*pow(Y/({horizon}),1.4))");
            let lit = format!("lt(hypot(X-W*{x}/100,Y-H*{y}/100),H*9/100)");
            let path = format!("lt(abs(X-W*{x}/100),(H*7/100+(Y-{horizon})*0.35)*(0.55+0.45*sin(Y*0.42)))");
            let sea = format!("({near}+({far}-{near})*(Y-{horizon})/(H-{horizon}))");
            format!("if(lt(Y,{horizon}),if({lit},{sun},{sky}),if({path},{sea}+({sun}-{sea})*0.45,{sea}))")
        };
        format!("format=gbrp,geq=r='{}':g='{}':b='{}'", channel(16), channel(8), channel(0))
    }
}

/// Makes the folder that the documents show: films with their pictures, as long and as large as films are, of which only the shortest
/// is more than a still.
fn documented(ffmpeg: &Path, work: &Fixture) -> Fixture {
    let root = Fixture::new();
    for scene in &SCENES {
        let make = |input: &str, filter: &str, name: &str, more: &[&str]| {
            let output = root.at(&format!("{}.{name}", scene.name));
            let given = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", input, "-vf", filter];
            Run::of(ffmpeg, work, &[&given, more, &[output.to_str().expect("text")]].concat()).succeed();
            output
        };
        make("color=s=800x500:r=1", &scene.drawing(), "jpg", &["-frames:v", "1", "-q:v", "3"]);
        let film = make(
            "color=s=64x36:r=1",
            "null",
            "mp4",
            &[
                "-t",
                &(scene.minutes * 60 + scene.horizon % 60).to_string(),
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-movflags",
                "+faststart",
            ],
        );
        pad(&film, u64::from(scene.minutes) * 14_680_064);
    }
    for name in ["Series", "Albums", "Home videos", "Shorts"] {
        fs::create_dir(root.at(name)).expect("a folder");
    }
    root
}

/// Makes a film as long as it would be, by a free box at its end (ISO/IEC 14496-12, 8.1.2) that is a hole.
fn pad(film: &Path, len: u64) {
    let mut file = File::options().append(true).open(film).expect("the film");
    let free = len - file.metadata().expect("its length").len();
    let head = [&1_u32.to_be_bytes()[..], b"free", &free.to_be_bytes()].concat();
    file.write_all(&head).and_then(|()| file.set_len(len)).expect("a longer film");
}

/// The pictures of the documents: `HIGHWATER_SCREENSHOTS=docs cargo test --test it library::pictures` makes them anew. They are
/// committed with a palette, by `convert docs/library.png -strip -colors 256 PNG8:docs/library.png`.
#[test]
fn pictures_of_the_documents() {
    if std::env::var_os("HIGHWATER_SCREENSHOTS").is_none() {
        return;
    }
    let Some(ffmpeg) = installed(&["ffmpeg"]) else { return };
    let work = Fixture::new();
    let Some(stage) = Stage::set(documented(&ffmpeg, &work), "") else { return };
    let browser = &stage.browser;
    let complete = "document.querySelectorAll('.len').length === 6
        && [...document.querySelectorAll('img.art')].every(image => image.complete)";
    browser.look_as(Screen::Desktop);
    browser.prefer(&[("prefers-color-scheme", "light")]);
    stage.visit("");
    browser.click("[data-view=grid]");
    browser.until(complete);
    browser.screenshot("library");
    browser.prefer(&[("prefers-color-scheme", "dark")]);
    browser.look_as(Screen::Phone);
    browser.click("[data-view=list]");
    browser.until(complete);
    browser.screenshot("library-phone");
    stage.strike();
}

#[test]
fn why_a_file_is_not_shown_is_told() {
    let root = Fixture::with(&[("gone.mp4", 10), ("away.png", 10), ("strange.mp4", 10)]);
    let Some(stage) = Stage::set(root, "") else { return };
    stage.visit("");
    for name in ["gone.mp4", "away.png"] {
        fs::remove_file(stage.root.at(name)).expect("a file less");
        // The server may believe for a moment that it is there.
        eventually(CLIENT_PATIENCE, || stage.server.connect().get(&format!("/{name}"), "").status() == 404);
    }
    for (name, words) in [
        ("gone.mp4", "This file is not there any more."),
        ("away.png", "This file is not there any more."),
        ("strange.mp4", "This browser can\u{2019}t show this file. Download it instead."),
    ] {
        stage.open(name);
        let words = serde_json::to_string(words).expect("text");
        stage.browser.until(&format!("document.querySelector('#player[open] .trouble')?.textContent === {words}"));
        stage.browser.press(keys::ESCAPE);
        stage.browser.until("!document.querySelector('#player').open");
    }
    // The browser complains of what is not there, and so shall it.
    stage.server.stop();
}

#[test]
fn the_next_film_is_the_next_one_also_after_an_upload() {
    let Some(stage) = Stage::set(films(&["1.mp4", "2.mp4", "3.mp4"]), "upload_rate = \"1MiB/s\"") else { return };
    let long = stage.work.text("z.bin", bytes_at(0, 3_000_000));
    stage.visit("");
    if !plays(&stage) {
        return;
    }
    let browser = &stage.browser;
    browser.type_into(".pick", long.to_str().expect("text"));
    stage.open("2.mp4");
    stage.until_playing("2.mp4");
    browser.until("document.querySelector('#player video').readyState > 2");
    browser.until("document.querySelector('#uploads .sum').textContent === '1 file uploaded'");
    stage.until_named(&["1.mp4", "2.mp4", "3.mp4", "z.bin"]);
    browser.run("document.querySelector('#player video').currentTime = 11.7");
    browser.until("document.querySelector('#player[open] h2')?.textContent !== '2.mp4'");
    assert_eq!(browser.run("return document.querySelector('#player[open] h2').textContent"), "3.mp4");
    stage.strike();
}

#[test]
fn the_keyboard_stays_where_it_is_when_an_upload_ends() {
    let Some(stage) = Stage::set(films(&["1.mp4", "2.mp4", "3.mp4"]), "upload_rate = \"1MiB/s\"") else { return };
    let long = stage.work.text("z.bin", bytes_at(0, 2_000_000));
    stage.visit("");
    let browser = &stage.browser;
    browser.type_into(".pick", long.to_str().expect("text"));
    browser.run("[...document.querySelectorAll('tbody a')].find(a => a.textContent === '2.mp4').focus()");
    browser.until("document.querySelector('#uploads .sum').textContent === '1 file uploaded'");
    stage.until_named(&["1.mp4", "2.mp4", "3.mp4", "z.bin"]);
    assert_eq!(browser.run("return document.activeElement.textContent"), "2.mp4");
    stage.strike();
}

#[test]
fn enter_that_ends_a_composition_opens_nothing() {
    let Some(stage) = Stage::set(films(&["1.mp4", "2.mp4"]), "") else { return };
    stage.visit("");
    let browser = &stage.browser;
    browser.press("/");
    let key = "{ key: 'Enter', isComposing: true, keyCode: 229, bubbles: true, cancelable: true }";
    browser.run(&format!("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key}))"));
    assert_eq!(browser.run("return document.querySelector('#player').open"), false);
    stage.strike();
}

#[test]
fn a_page_that_was_uploaded_runs_nothing() {
    let Some(stage) = Stage::set(films(&["1.mp4"]), "") else { return };
    stage.visit("");
    let browser = &stage.browser;
    let page = stage.work.text("index.html", "<title>mine</title><script>document.title = 'ran'</script>");
    browser.type_into(".pick", page.to_str().expect("text"));
    browser.until("document.querySelector('#uploads .sum').textContent === '1 file uploaded'");
    eventually(CLIENT_PATIENCE, || {
        stage.visit("");
        browser.run("return document.title") != "Library"
    });
    assert_eq!(browser.run("return document.title"), "mine");
    drop(stage);
}
