//! Uploads by clients as people have them. One that is not installed shows nothing, which is said on standard error.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{
    CLIENT_PATIENCE, Fixture, Launch, Process, Run, Server, bytes_at, check_stored, eventually, installed, logged,
    not_shown, upload_routes, url,
};

/// Lengths about the edges of one upload buffer and one high water mark, and longer than what sockets hold.
const LENS: [usize; 6] = [0, 1, 65_536, 262_143, 262_145, 8_000_000];

#[track_caller]
fn serve(folder: &Fixture, keys: &str) -> Server {
    Launch::routes().config(&upload_routes(folder.path(), keys)).start()
}

/// What a reply says in JSON.
#[track_caller]
fn told(reply: &[u8]) -> Value {
    serde_json::from_slice(reply).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(reply)))
}

/// `curl` with these arguments, which has to succeed: its JSON.
#[track_caller]
fn curl(program: &Path, work: &Fixture, arguments: &[&str]) -> Value {
    told(&Run::of(program, work, &[&["-q", "-sS", "--fail-with-body"], arguments].concat()).succeed())
}

#[test]
fn curl_puts_files_with_their_length_and_in_chunks() {
    let Some(program) = installed(&["curl"]) else { return };
    let (folder, work) = (Fixture::new(), Fixture::new());
    let server = serve(&folder, "");
    for len in LENS {
        let content = bytes_at(0, len);
        work.text("clip.mp4", &content);
        let put = |target: &str, arguments: &[&str]| {
            let target = url(&server, target);
            let reply = curl(&program, &work, &[arguments, &[&target]].concat());
            check_stored(folder.path(), &reply["files"][0], &content)
        };
        assert_eq!(put("up/", &["-T", "clip.mp4"]), "clip.mp4", "curl adds the file's name");
        fs::remove_file(folder.at("clip.mp4")).expect("what was stored");
        put(&format!("up/length-{len}"), &["-T", "clip.mp4"]);
        // Of nothing, curl 7.88 sends no last chunk.
        if len > 0 {
            put(&format!("up/chunks-{len}"), &["-T", "clip.mp4", "-H", "Transfer-Encoding: chunked"]);
        }
        put(&format!("up/old-{len}"), &["-T", "clip.mp4", "--http1.0"]);
        put(&format!("up/post-{len}"), &["--data-binary", "@clip.mp4", "-H", "Content-Type: video/mp4"]);
        put("up/", &["--data-binary", "@clip.mp4"]);
        put(&format!("up/waits-{len}"), &["-T", "clip.mp4", "-H", "Expect: 100-continue", "--expect100-timeout", "60"]);
    }
    server.stop();
}

#[test]
fn curl_puts_what_it_is_piped() {
    let Some(program) = installed(&["curl"]) else { return };
    let (folder, work) = (Fixture::new(), Fixture::new());
    let server = serve(&folder, "");
    let content = bytes_at(0, 3_000_000);
    work.text("clip.mp4", &content);
    let script = "cat clip.mp4 | \"$0\" -q -sS --fail-with-body -T - \"$1\"";
    let arguments = ["-c", script, program.to_str().expect("a path of text"), &url(&server, "up/piped")];
    let reply = told(&Run::of(Path::new("/bin/sh"), &work, &arguments).succeed());
    assert_eq!(check_stored(folder.path(), &reply["files"][0], &content), "piped");
    server.stop();
}

#[test]
fn curl_reads_why_it_is_refused_and_sends_no_body_then() {
    let Some(program) = installed(&["curl"]) else { return };
    let (folder, work) = (Fixture::with(&[("taken", 1)]), Fixture::new());
    let server = serve(&folder, "file_len = \"4MiB\"");
    let [short, long] = [("short.mp4", 3_000_000), ("long.mp4", 8_000_000)].map(|(name, len)| work.file(name, len));
    let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "60"];
    for (target, file, code) in [
        ("up/new", &long, "LIMIT_FILE_SIZE"),
        ("up/taken", &short, "NAME_TAKEN"),
        ("up/no/where", &short, "NO_DIRECTORY"),
    ] {
        let (target, file) = (url(&server, target), file.to_str().expect("a path of text"));
        let arguments = [&["-q", "-sS", "-w", "\n%{size_upload}", "-T", file][..], &expect, &[&target]].concat();
        let said = String::from_utf8(Run::of(&program, &work, &arguments).succeed()).expect("text");
        let (reply, sent) = said.rsplit_once('\n').expect("two lines");
        assert_eq!(told(reply.as_bytes())["error"]["code"], code);
        assert_eq!(sent, "0", "of the body, as it was not asked for");
    }
    server.stop();
}

#[test]
fn curl_sends_forms() {
    let Some(program) = installed(&["curl"]) else { return };
    let (folder, work) = (Fixture::new(), Fixture::new());
    let server = serve(&folder, "names = \"client\"");
    let target = url(&server, "up");
    for len in LENS {
        let (film, clip) = (bytes_at(0, len), bytes_at(1, 5000));
        work.text("film.mp4", &film);
        work.text("clip.mp4", &clip);
        let name = format!("d\u{ed}a \"{len}\" \u{65e5}\u{672c}.mp4");
        let named = format!("b=@film.mp4;type=video/mp4;filename=\"d\u{ed}a \\\"{len}\\\" \u{65e5}\u{672c}.mp4\"");
        for (round, more) in [&[][..], &["-H", "Transfer-Encoding: chunked"]].into_iter().enumerate() {
            let clip_name = format!("a=@clip.mp4;filename={len}-{round}.mp4");
            let parts = ["-F", "title=Graub\u{fc}nden", "-F", &clip_name, "-F", &named, "-F", "empty="];
            let reply = curl(&program, &work, &[&parts, more, &[&target]].concat());
            check_stored(folder.path(), &reply["files"][0], &clip);
            assert_eq!(check_stored(folder.path(), &reply["files"][1], &film), name);
            let fields = serde_json::json!([
                { "name": "title", "value": "Graub\u{fc}nden" }, { "name": "empty", "value": "" }
            ]);
            assert_eq!(reply["fields"], fields);
            fs::remove_file(folder.at(&name)).expect("what was stored");
        }
    }
    server.stop();
}

/// The interpreter into which `tools/clients` has put its packages; without it, the first that has this one anyway.
fn python(package: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/python/bin/python");
    let work = Fixture::new();
    let has =
        |program: &PathBuf| Run::of(program, &work, &["-c", &format!("import {package}")]).output().status.success();
    let found = Some(own).filter(|own| own.is_file()).or_else(|| installed(&["python3"]))?;
    let found = Some(found).filter(has);
    if found.is_none() {
        not_shown(&format!("{package} is not installed: tools/clients does it"));
    }
    found
}

/// A file that comes with the tests.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[test]
fn requests_sends_forms() {
    let Some(python) = python("requests") else { return };
    let (folder, work) = (Fixture::new(), Fixture::new());
    let server = serve(&folder, "names = \"client\"");
    for len in LENS {
        let (a, b) = (bytes_at(0, 4097), bytes_at(1, len));
        let first = format!("first-{len}.bin");
        work.text(&first, &a);
        work.text("second", &b);
        let name = format!("d\u{ed}a \"\u{f1}\" {len}.mp4");
        let (script, target) = (script("form.py"), url(&server, "up/"));
        let arguments = [script.to_str().expect("text"), &target, &first, "second", "--file-name", &name];
        let said = told(&Run::of(&python, &work, &arguments).succeed());
        assert_eq!(said["status"], 201, "{said}");
        assert_eq!(check_stored(folder.path(), &said["reply"]["files"][0], &a), first);
        assert_eq!(check_stored(folder.path(), &said["reply"]["files"][1], &b), name);
        let fields = serde_json::json!([
            { "name": "title", "value": "Ferien in Graub\u{fc}nden" },
            { "name": "empty", "value": "" },
            { "name": "lines", "value": "one\r\ntwo\r\n--three--" },
        ]);
        assert_eq!(said["reply"]["fields"], fields);
    }
    server.stop();
}

/// What the form's page makes a file of.
fn page_bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn chromium_submits_a_form() {
    let Some(chromium) = installed(&["chromium", "chromium-browser", "google-chrome"]) else { return };
    const LEN: usize = 3_000_000;
    let (folder, pages, work) = (Fixture::new(), Fixture::new(), Fixture::new());
    fs::copy(script("form.html"), pages.at("form.html")).expect("the page");
    let log = work.at("access.log");
    // A page of the site's own lies where clients can't put pages, and so is free to run scripts.
    let routes = upload_routes(folder.path(), "names = \"client\"");
    let routes = format!("{routes}[[route]]\nprefix = \"/pages\"\n[route.media]\nroot = {:?}\n", pages.path());
    let launch = Launch::routes().config(&routes);
    let server = launch.arg("--access-log").arg(&log).arg("--log-format").arg("json").start();
    let name = "d\u{ed}a \"1\" \u{65e5}\u{672c}.bin";
    let query = format!("pages/form.html?action=/up&size={LEN}&name=d%C3%ADa%20%221%22%20%E6%97%A5%E6%9C%AC.bin");
    let (page, profile) = (url(&server, &query), format!("--user-data-dir={}", work.at("profile").display()));
    let mut arguments: Vec<&str> = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --remote-debugging-port=0"
        .split_whitespace()
        .collect();
    arguments.extend([&profile, &page].map(String::as_str));
    let said = File::create(work.at("chromium.log")).expect("a file for its output");
    let mut run = Run::of(&chromium, &work, &arguments);
    let mut browser = Process::spawn(run.0.stdout(Stdio::null()).stderr(said));
    let mut report = None;
    eventually(CLIENT_PATIENCE, || {
        assert!(browser.ended().is_none(), "the browser has ended: {:?}", fs::read_to_string(work.at("chromium.log")));
        report = logged(&log).iter().find_map(|line| {
            let what = line["target"].as_str()?.strip_prefix("/pages/report?")?;
            Some(percent_encoding::percent_decode_str(what).decode_utf8().expect("text").into_owned())
        });
        report.is_some()
    });
    drop(browser);
    let reply = told(report.expect("it has come").as_bytes());
    assert_eq!(check_stored(folder.path(), &reply["files"][0], &page_bytes(LEN)), name);
    assert_eq!((&reply["files"][0]["field"], reply["files"].as_array().map(Vec::len)), (&"file".into(), Some(1)));
    let fields = serde_json::json!([
        { "name": "title", "value": "Ferien in Graub\u{fc}nden" },
        { "name": "lines", "value": "one\r\ntwo" },
    ]);
    assert_eq!(reply["fields"], fields, "the input in which nothing was chosen is neither a field nor a file");
    server.stop();
}
