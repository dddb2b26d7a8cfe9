//! A browser that a test drives: headless Chromium, by chromedriver over plain HTTP and JSON (W3C WebDriver). It clicks and types
//! as people do, so what works here works with a mouse and a keyboard; and it can be looked at.
//!
//! Nothing is shared between browsers: each has a driver, a profile and a group of processes of its own, which end with it. Where
//! `HIGHWATER_SCREENSHOTS` names a folder, [`Browser::screenshot`] leaves pictures there, and else does nothing.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use ureq::Agent;

use super::{CLIENT_PATIENCE, Fixture, LOOK, PATIENCE, Process, installed};

/// How WebDriver names an element in JSON (W3C WebDriver §12.2).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys that are no characters, as [`Browser::press`] takes them (W3C WebDriver §17.4.2).
pub mod keys {
    pub const TAB: &str = "\u{e004}";
    pub const ENTER: &str = "\u{e007}";
    pub const SHIFT: &str = "\u{e008}";
    pub const ESCAPE: &str = "\u{e00c}";
    pub const LEFT: &str = "\u{e012}";
    pub const UP: &str = "\u{e013}";
    pub const RIGHT: &str = "\u{e014}";
    pub const DOWN: &str = "\u{e015}";
}

/// What a browser looks like from the page's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// A window of 1280 by 800.
    Desktop,
    /// A telephone of 390 by 844, with a finger.
    Phone,
}

/// One browser with one tab.
pub struct Browser {
    agent: Agent,
    /// Where its session is.
    session: String,
    browser: Option<Pid>,
    /// Ends after the session.
    _driver: Process,
    _profile: Fixture,
}

impl Browser {
    /// Starts one; `None` where it is not installed, which is said on standard error.
    #[track_caller]
    pub fn open() -> Option<Self> {
        let chromium = installed(&["chromium", "chromium-browser", "google-chrome"])?;
        let chromedriver = installed(&["chromedriver"])?;
        let profile = Fixture::new();
        let (driver, address) = start_driver(&chromedriver, &profile);
        let config = Agent::config_builder().timeout_global(Some(CLIENT_PATIENCE)).proxy(None);
        let agent: Agent = config.http_status_as_error(false).build().into();
        let opened = ask(&agent, "POST", &format!("{address}/session"), &capabilities(&chromium, &profile));
        let session = opened["sessionId"].as_str().expect("a session");
        let session = format!("{address}/session/{session}");
        let browser = opened["capabilities"]["goog:processID"].as_i64();
        let browser = browser.map(|id| Pid::from_raw(i32::try_from(id).expect("a process id")));
        let browser = Browser { agent, session, browser, _driver: driver, _profile: profile };
        browser.look_as(Screen::Desktop);
        Some(browser)
    }

    /// Shows the page from now on as on this screen.
    #[track_caller]
    pub fn look_as(&self, screen: Screen) {
        let (width, height, scale, is_phone) = match screen {
            Screen::Desktop => (1280, 800, 1, false),
            Screen::Phone => (390, 844, 2, true),
        };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let touch = json!({ "enabled": is_phone, "maxTouchPoints": if is_phone { 5 } else { 1 } });
        self.devtools("Emulation.setTouchEmulationEnabled", &touch);
    }

    /// Says from now on what its user prefers: `[("prefers-color-scheme", "dark")]`.
    #[track_caller]
    pub fn prefer(&self, features: &[(&str, &str)]) {
        let features: Vec<Value> =
            features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Opens an address, and returns when the page and what it needs at once are loaded.
    #[track_caller]
    pub fn visit(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// Loads the page again.
    #[track_caller]
    pub fn reload(&self) {
        self.post("refresh", &json!({}));
    }

    /// Goes back, as with the button.
    #[track_caller]
    pub fn back(&self) {
        self.post("back", &json!({}));
    }

    /// What a script returns in the page: statements with `return`, and a promise is waited for. The page's own policy for
    /// scripts does not concern it.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.run_with(script, &json!([]))
    }

    /// The same, with `arguments` in it.
    #[track_caller]
    pub fn run_with(&self, script: &str, arguments: &Value) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// Waits until an expression is true in the page, in JavaScript's sense, and returns what it is.
    #[track_caller]
    pub fn until(&self, expression: &str) -> Value {
        let script = format!("const value = {expression}; return [Boolean(value), value];");
        let end = Instant::now() + CLIENT_PATIENCE;
        loop {
            let mut told = self.run(&script);
            if told[0] == true {
                return told[1].take();
            }
            assert!(Instant::now() < end, "never true: {expression}; the console: {:?}", self.console());
            std::thread::sleep(LOOK);
        }
    }

    /// Clicks into the middle of the first element that this selector finds, scrolled into sight. Fails the test if something
    /// else is on top of it.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    /// Types into the first element that this selector finds. A file input gets paths, with a line feed between them.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("element/{element}/value"), &json!({ "text": text }));
    }

    /// Presses keys one after the other, wherever the focus is; [`keys`] names those that are no characters.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let action = |kind: &str, key: char| json!({ "type": kind, "value": key.to_string() });
        let strokes: Vec<Value> = keys.chars().flat_map(|key| [action("keyDown", key), action("keyUp", key)]).collect();
        self.strike(strokes);
    }

    /// Presses a key while another is held: `(keys::SHIFT, keys::TAB)`.
    #[track_caller]
    pub fn press_with(&self, held: &str, key: &str) {
        let action = |kind: &str, key: &str| json!({ "type": kind, "value": key });
        self.strike(vec![action("keyDown", held), action("keyDown", key), action("keyUp", key), action("keyUp", held)]);
    }

    #[track_caller]
    fn strike(&self, strokes: Vec<Value>) {
        self.post("actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] }));
    }

    /// What its console has said since it was asked last, a line each, with the level before it. What the page or the browser
    /// complains of is `SEVERE` or `WARNING`.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({ "type": "browser" }));
        let line = |entry: &Value| {
            format!("{} {}", entry["level"].as_str().unwrap_or_default(), entry["message"].as_str().unwrap_or_default())
        };
        entries.as_array().expect("a list").iter().map(line).collect()
    }

    /// Fails the test if the console has complained of something since it was asked last.
    #[track_caller]
    pub fn expect_no_complaint(&self) {
        let said = self.console();
        assert!(!said.iter().any(|line| line.starts_with("SEVERE") || line.starts_with("WARNING")), "{said:#?}");
    }

    /// Leaves a picture of what is to be seen as `NAME.png` in the folder that `HIGHWATER_SCREENSHOTS` names, if it does.
    #[track_caller]
    pub fn screenshot(&self, name: &str) {
        let Some(folder) = env::var_os("HIGHWATER_SCREENSHOTS") else { return };
        let picture = self.get("screenshot");
        let picture = STANDARD.decode(picture.as_str().expect("a picture")).expect("base64");
        fs::create_dir_all(&folder).expect("a folder for pictures");
        fs::write(Path::new(&folder).join(format!("{name}.png")), picture).expect("a picture");
    }

    /// A command of the DevTools protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        ask(&self.agent, "POST", &format!("{}/{path}", self.session), body)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        ask(&self.agent, "GET", &format!("{}/{path}", self.session), &Value::Null)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // In order, the browser ends with its session. It has left the driver's group of processes, so where that fails it is ended
        // by its number, which is its own as long as the driver, its parent, runs.
        let ended = self.agent.delete(&self.session).call();
        if ended.is_err()
            && let Some(browser) = self.browser
        {
            let _ = kill(browser, Signal::SIGKILL);
        }
    }
}

/// Starts chromedriver on a port that the kernel chooses; where it answers.
#[track_caller]
fn start_driver(chromedriver: &Path, profile: &Fixture) -> (Process, String) {
    let said = profile.at("chromedriver.out");
    let mut command = Command::new(chromedriver);
    command.arg("--port=0").env("HOME", profile.path()).env("TMPDIR", profile.path());
    let file = File::create(&said).expect("a file for its output");
    let mut driver = Process::spawn(command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null()));
    let end = Instant::now() + 3 * PATIENCE;
    loop {
        let lines = BufReader::new(File::open(&said).expect("its output")).lines().map_while(Result::ok);
        let port = lines.into_iter().find_map(|line| {
            line.split_once("was started successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
        });
        if let Some(port) = port {
            return (driver, format!("http://127.0.0.1:{port}"));
        }
        assert!(driver.ended().is_none() && Instant::now() < end, "chromedriver does not start");
        std::thread::sleep(LOOK);
    }
}

/// What is asked of a new session.
fn capabilities(chromium: &Path, profile: &Fixture) -> Value {
    let arguments = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --no-proxy-server \
        --disable-background-networking --disable-component-update --disable-sync --mute-audio --hide-scrollbars";
    let mut arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    arguments.push(format!("--user-data-dir={}", profile.at("profile").display()));
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": { "binary": chromium, "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL" },
        // A dialog of the page's fails the next command, which says its text. Leaving a page is not asked about.
        "unhandledPromptBehavior": { "default": "dismiss and notify", "beforeUnload": "accept" },
    } } })
}

/// One command and its answer.
#[track_caller]
fn ask(agent: &Agent, method: &str, url: &str, body: &Value) -> Value {
    let answered = if method == "GET" { agent.get(url).call() } else { agent.post(url).send(body.to_string()) };
    let mut reply = answered.unwrap_or_else(|error| panic!("the driver does not answer {url}: {error}"));
    let text = reply.body_mut().with_config().limit(64 << 20).read_to_string().expect("an answer of text");
    let mut answer: Value = serde_json::from_str(&text).expect("an answer of JSON");
    let (kind, message) = (&answer["value"]["error"], &answer["value"]["message"]);
    assert!(reply.status().is_success(), "{kind} to {url} {body}: {message}");
    answer["value"].take()
}
