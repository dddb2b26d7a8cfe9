//! Uploads against a script: each request has to be the one that stands there, and is answered with what stands beside it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use sha2::{Digest, Sha256};

use super::client::{Broken, Exchange};
use super::drive::{Drive, Uploaded};
use super::progress::View;
use super::reply::Reply;
use super::source::Source;
use super::state::StateFile;
use super::upload::{Ask, Content, Plan, Protocol};
use super::url::Url;

const ANY_TUS: &str = "Tus-Resumable: 1.0.0\nTus-Extension: creation,creation-defer-length";
const CREATED: &str = "Tus-Resumable: 1.0.0\nLocation: /in/.uploads/1";

/// What a request is answered with.
enum Then {
    /// A status, and fields in lines; `@` stands for the digest of the content.
    Reply(u16, String),
    /// The same, with a body.
    Says(u16, &'static str, String),
    /// So many bytes of the body are taken, then the connection breaks.
    Break(usize),
}

fn say(status: u16, fields: &str) -> Then {
    Then::Reply(status, fields.to_owned())
}

/// One upload of [`content`], and what is expected of it.
struct Script {
    expected: VecDeque<(&'static str, Then)>,
    waits: Vec<Duration>,
    received: Vec<u8>,
}

impl Exchange for Script {
    fn exchange(&mut self, ask: &Ask, body: &mut dyn Read) -> Result<Reply, Broken> {
        let (expected, then) = self.expected.pop_front().unwrap_or_else(|| panic!("one too many: {}", line(ask)));
        assert_eq!(line(ask), expected, "with {} more to come", self.expected.len());
        if let Then::Break(most) = then {
            let count = body.take(most as u64).read_to_end(&mut self.received).unwrap();
            assert_eq!(count, most, "bytes of the body");
            return Err(Broken::Passing(String::from("it broke")));
        }
        if let Content::Bytes { offset, len } = ask.content {
            self.received.truncate(offset as usize);
            let count = body.read_to_end(&mut self.received).map_err(|error| Broken::Passing(error.to_string()))?;
            assert!(len.is_none_or(|len| len == count as u64), "{count} bytes of {len:?}");
        }
        let (status, fields, text) = match then {
            Then::Reply(status, fields) => (status, fields, String::new()),
            Then::Says(status, fields, text) => (status, fields.to_owned(), text),
            Then::Break(_) => unreachable!("handled above"),
        };
        let fields = fields.replace('@', &STANDARD.encode(Sha256::digest(content())));
        let fields = fields.lines().map(|line| line.split_once(": ").unwrap());
        let fields = fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Ok(Reply { status: StatusCode::from_u16(status).unwrap(), fields, body: text.into_bytes() })
    }

    fn wait(&mut self, time: Duration) {
        self.waits.push(time);
    }
}

/// A request in one line: method, path, what tus says in fields, and its bytes.
fn line(ask: &Ask) -> String {
    let url = ask.url.to_string();
    let mut line = format!("{} {}", ask.method, url.strip_prefix("http://h").unwrap_or(&url));
    for (name, value) in ask.fields.iter().filter(|(name, _)| name.starts_with("Upload-") && *name != "Upload-Metadata")
    {
        line.push_str(&format!(" {name}={value}"));
    }
    match ask.content {
        Content::None | Content::Bytes { len: Some(0), .. } => {}
        Content::Bytes { offset, len: Some(len) } => line.push_str(&format!(" {offset}+{len}")),
        Content::Bytes { offset, len: None } => line.push_str(&format!(" {offset}+")),
    }
    line
}

fn content() -> Vec<u8> {
    (0..100u8).collect()
}

/// An upload to http://h/in as a.bin.
struct Case {
    plan: Plan,
    source: Source,
    state: Option<StateFile>,
}

impl Case {
    fn of(source: Source) -> Self {
        let plan = Plan {
            base: Url::parse("http://h/in").unwrap(),
            name: b"a.bin".to_vec(),
            media_type: "application/octet-stream",
            protocol: Protocol::Any,
            piece_len: None,
            retries: 3,
            rewinds: source.rewinds(),
        };
        Case { plan, source, state: None }
    }

    fn file() -> Self {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &content()).unwrap();
        Case::of(Source::file(file, 100))
    }

    fn stream(window_len: u64) -> Self {
        Case::of(Source::stream(Box::new(io::Cursor::new(content())), window_len))
    }

    fn plan(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        change(&mut self.plan);
        self
    }

    /// Runs it; every line of the script has to be used, and what the script's server has is the content if it went well.
    #[track_caller]
    fn run(mut self, script: Vec<(&'static str, Then)>) -> (Result<Uploaded, String>, Vec<Duration>) {
        let mut script = Script { expected: script.into(), waits: Vec::new(), received: Vec::new() };
        let view = View::new(true, 1, None);
        let drive = Drive {
            exchange: &mut script,
            source: &mut self.source,
            state: self.state,
            pace: None,
            view: view.file("a.bin", None),
            name: "a.bin",
        };
        let result = drive.run(self.plan);
        assert_eq!(script.expected.len(), 0, "lines that were not used, after {result:?}");
        if result.as_ref().is_ok_and(|uploaded| uploaded.sent >= 100) {
            assert_eq!(script.received, content());
        }
        (result, script.waits)
    }

    #[track_caller]
    fn check(self, url: &str, sent: u64, is_checked: bool, script: Vec<(&'static str, Then)>) -> Vec<Duration> {
        let (result, waits) = self.run(script);
        assert_eq!(result, Ok(Uploaded { url: url.to_owned(), size: 100, sent, is_checked }));
        waits
    }

    #[track_caller]
    fn refuse(self, expected: &str, script: Vec<(&'static str, Then)>) {
        assert_eq!(self.run(script).0, Err(expected.to_owned()));
    }
}

fn last(offset: u64) -> Then {
    say(204, &format!("Upload-Offset: {offset}\nContent-Location: /m/a.bin\nRepr-Digest: sha-256=:@:"))
}

#[test]
fn u4_a_file_is_created_appended_and_done() {
    let waits = Case::file().check(
        "http://h/m/a.bin",
        100,
        true,
        vec![
            ("OPTIONS /in", say(204, ANY_TUS)),
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", last(100)),
        ],
    );
    assert_eq!(waits, []);
}

#[test]
fn u4_pieces_follow_the_servers_offset() {
    Case::file().plan(|plan| plan.piece_len = Some(40)).check(
        "http://h/m/a.bin",
        120,
        true,
        vec![
            ("OPTIONS /in", say(200, ANY_TUS)),
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+40", say(204, "Upload-Offset: 40")),
            // Half of it is taken only.
            ("PATCH /in/.uploads/1 Upload-Offset=40 40+40", say(204, "Upload-Offset: 60")),
            ("PATCH /in/.uploads/1 Upload-Offset=60 60+40", last(100)),
        ],
    );
}

#[test]
fn the_digest_is_asked_for_when_the_last_reply_has_none() {
    let begin = || {
        vec![
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", say(204, "Upload-Offset: 100")),
        ]
    };
    let tus = || Case::file().plan(|plan| plan.protocol = Protocol::Tus);
    let mut script = begin();
    script.push(("HEAD /in/.uploads/1", say(200, "Upload-Offset: 100\nRepr-Digest: sha-256=:@:")));
    tus().check("http://h/in/.uploads/1", 100, true, script);
    for answer in [say(200, "Upload-Offset: 100"), say(404, "")] {
        let mut script = begin();
        script.push(("HEAD /in/.uploads/1", answer));
        tus().check("http://h/in/.uploads/1", 100, false, script);
    }
}

#[test]
fn u4_after_a_break_it_goes_on_where_the_server_is() {
    let waits = Case::file().plan(|plan| plan.retries = 5).check(
        "http://h/m/a.bin",
        150,
        true,
        vec![
            ("OPTIONS /in", Then::Break(0)),
            ("OPTIONS /in", say(204, ANY_TUS)),
            ("POST /in Upload-Length=100", Then::Break(0)),
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", Then::Break(70)),
            ("HEAD /in/.uploads/1", Then::Break(0)),
            ("HEAD /in/.uploads/1", say(503, "Retry-After: 7")),
            ("HEAD /in/.uploads/1", say(200, "Upload-Offset: 50\nUpload-Length: 100")),
            ("PATCH /in/.uploads/1 Upload-Offset=50 50+50", Then::Break(30)),
            ("HEAD /in/.uploads/1", say(200, "Upload-Offset: 50\nUpload-Length: 100")),
            ("PATCH /in/.uploads/1 Upload-Offset=50 50+50", last(100)),
        ],
    );
    let ms = Duration::from_millis;
    // Bytes that have arrived give the retries back.
    assert_eq!(waits, [ms(250), ms(500), ms(1000), ms(2000), ms(7000), ms(250)]);
}

#[test]
fn a_server_that_has_lost_bytes_gets_them_again() {
    Case::file().plan(|plan| plan.piece_len = Some(60)).check(
        "http://h/m/a.bin",
        160,
        true,
        vec![
            ("OPTIONS /in", say(204, ANY_TUS)),
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+60", say(204, "Upload-Offset: 60")),
            ("PATCH /in/.uploads/1 Upload-Offset=60 60+40", Then::Break(10)),
            ("HEAD /in/.uploads/1", say(200, "Upload-Offset: 10\nUpload-Length: 100")),
            ("PATCH /in/.uploads/1 Upload-Offset=10 10+60", say(204, "Upload-Offset: 70")),
            ("PATCH /in/.uploads/1 Upload-Offset=70 70+30", last(100)),
        ],
    );
}

#[test]
fn retries_end_and_the_last_reason_is_told() {
    let script = |times: usize| {
        let mut script = vec![("OPTIONS /in", say(204, ANY_TUS)), ("POST /in Upload-Length=100", say(201, CREATED))];
        script.push(("PATCH /in/.uploads/1 Upload-Offset=0 0+100", Then::Break(70)));
        script.extend((0..times).map(|_| ("HEAD /in/.uploads/1", Then::Break(0))));
        script
    };
    Case::file().refuse("it broke (given up after 3 retries)", script(3));
    Case::file().plan(|plan| plan.retries = 1).refuse("it broke (given up after 1 retry)", script(1));
    Case::file().plan(|plan| plan.retries = 0).refuse("it broke (given up after 0 retries)", script(0));
}

#[test]
fn u4_another_offset_than_believed_is_asked_for() {
    Case::file().check(
        "http://h/m/a.bin",
        120,
        true,
        vec![
            ("OPTIONS /in", say(204, ANY_TUS)),
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", say(409, "")),
            ("HEAD /in/.uploads/1", say(200, "Upload-Offset: 80\nUpload-Length: 100")),
            ("PATCH /in/.uploads/1 Upload-Offset=80 80+20", last(100)),
        ],
    );
}

#[test]
fn u4_an_upload_that_is_gone_starts_anew() {
    for status in [404, 410] {
        Case::file().check(
            "http://h/m/a.bin",
            200,
            true,
            vec![
                ("OPTIONS /in", say(204, ANY_TUS)),
                ("POST /in Upload-Length=100", say(201, CREATED)),
                ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", say(status, "")),
                ("POST /in Upload-Length=100", say(201, "Location: http://h/in/.uploads/2")),
                ("PATCH /in/.uploads/2 Upload-Offset=0 0+100", last(100)),
            ],
        );
    }
}

#[test]
fn offsets_that_make_no_sense_are_not_believed() {
    for answer in ["Upload-Offset: 101", "Upload-Offset: 0", "Upload-Offset: x", "X: y"] {
        Case::file().plan(|plan| plan.retries = 0).refuse(
            "the server does not say that it has more now (given up after 0 retries)",
            vec![
                ("OPTIONS /in", say(204, ANY_TUS)),
                ("POST /in Upload-Length=100", say(201, CREATED)),
                ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", say(204, answer)),
            ],
        );
    }
}

#[test]
fn another_digest_than_what_was_sent_is_a_failure() {
    let (ours, theirs) = (Sha256::digest(content()), [7; 32]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected = format!("sha256 mismatch: sent {}, the server has {}", hex(&ours), hex(&theirs));
    let wrong = format!("Upload-Offset: 100\nRepr-Digest: sha-256=:{}:", STANDARD.encode(theirs));
    Case::file().refuse(
        &expected,
        vec![
            ("OPTIONS /in", say(204, ANY_TUS)),
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", say(204, &wrong)),
        ],
    );
    let json = format!(r#"{{"files":[{{"url":"/m/a","sha256":"{}"}}]}}"#, hex(&theirs));
    let case = Case::file().plan(|plan| plan.protocol = Protocol::Put);
    case.refuse(&expected, vec![("PUT /in/a.bin 0+100", Then::Says(201, "", json))]);
}

fn stored() -> Then {
    let digest: String = Sha256::digest(content()).iter().map(|byte| format!("{byte:02x}")).collect();
    Then::Says(201, "", format!(r#"{{"files":[{{"url":"/m/a.bin","sha256":"{digest}"}}]}}"#))
}

#[test]
fn a_server_without_tus_gets_a_put() {
    for options in
        [say(204, "Allow: POST"), say(404, ""), say(401, ""), say(204, "Tus-Resumable: 1.0.0\nTus-Extension: x")]
    {
        let script = vec![("OPTIONS /in", options), ("PUT /in/a.bin 0+100", stored())];
        Case::file().check("http://h/m/a.bin", 100, true, script);
    }
    let script = vec![("PUT /in/a.bin 0+100", say(201, "Location: /in/a.bin"))];
    Case::file().plan(|plan| plan.protocol = Protocol::Put).check("http://h/in/a.bin", 100, false, script);
    let script = vec![("PUT /in/a.bin?s=1 0+100", say(204, ""))];
    let case = Case::file().plan(|plan| plan.protocol = Protocol::Put);
    let case = case.plan(|plan| plan.base = Url::parse("http://h/in?s=1").unwrap());
    case.check("http://h/in/a.bin", 100, false, script);
}

#[test]
fn where_options_is_not_known_the_post_tells() {
    let post = "POST /in Upload-Length=100";
    let script = vec![("OPTIONS /in", say(405, "")), (post, say(405, "")), ("PUT /in/a.bin 0+100", stored())];
    Case::file().check("http://h/m/a.bin", 100, true, script);
    let patch = "PATCH /in/.uploads/1 Upload-Offset=0 0+100";
    let script = vec![("OPTIONS /in", say(501, "")), (post, say(201, CREATED)), (patch, last(100))];
    Case::file().check("http://h/m/a.bin", 100, true, script);
    let script = vec![("OPTIONS /in", say(405, "")), (post, say(403, "Tus-Resumable: 1.0.0"))];
    Case::file().refuse("403 Forbidden", script);
}

#[test]
fn a_put_of_a_file_is_tried_again_and_one_of_a_stream_is_not() {
    let put = |case: Case| case.plan(|plan| plan.protocol = Protocol::Put);
    let name = "PUT /in/a.bin 0+100";
    let script = vec![(name, Then::Break(70)), (name, say(503, "")), (name, stored())];
    put(Case::file()).check("http://h/m/a.bin", 270, true, script);
    put(Case::stream(30)).check("http://h/m/a.bin", 100, true, vec![("PUT /in/a.bin 0+", stored())]);
    let script = vec![("PUT /in/a.bin 0+", Then::Break(70))];
    put(Case::stream(30)).refuse("it broke; what was sent can't be read again", script);
}

#[test]
fn what_is_refused_for_good_is_not_tried_again() {
    let full = r#"{"error":{"code":"STORAGE_FULL","message":"There is no room for the upload."}}"#;
    let expected = "507 Insufficient Storage: There is no room for the upload (STORAGE_FULL)";
    let say_full = || Then::Says(507, "Tus-Resumable: 1.0.0", full.to_owned());
    let (options, post) = ("OPTIONS /in", "POST /in Upload-Length=100");
    Case::file().refuse(expected, vec![(options, say(204, ANY_TUS)), (post, say_full())]);
    let patch = "PATCH /in/.uploads/1 Upload-Offset=0 0+100";
    Case::file().refuse(expected, vec![(options, say(204, ANY_TUS)), (post, say(201, CREATED)), (patch, say_full())]);
    let too_long = say(204, &format!("{ANY_TUS}\nTus-Max-Size: 99"));
    Case::file().refuse("the server takes 99 bytes at most", vec![(options, too_long)]);
}

#[test]
fn u4_a_stream_tells_its_length_at_the_end() {
    let (options, post) = ("OPTIONS /in", "POST /in Upload-Defer-Length=1");
    let script = vec![
        (options, say(204, ANY_TUS)),
        (post, say(201, CREATED)),
        ("PATCH /in/.uploads/1 Upload-Offset=0 0+50", Then::Break(20)),
        ("HEAD /in/.uploads/1", say(200, "Upload-Offset: 10\nUpload-Defer-Length: 1")),
        ("PATCH /in/.uploads/1 Upload-Offset=10 10+40", say(204, "Upload-Offset: 50")),
        ("PATCH /in/.uploads/1 Upload-Offset=50 Upload-Length=100 50+50", Then::Break(50)),
        ("HEAD /in/.uploads/1", say(200, "Upload-Offset: 90\nUpload-Length: 100")),
        ("PATCH /in/.uploads/1 Upload-Offset=90 90+10", last(100)),
    ];
    Case::stream(50).check("http://h/m/a.bin", 120, true, script);
    // What fits in a window has a known length.
    let patch = "PATCH /in/.uploads/1 Upload-Offset=0 0+100";
    let script =
        vec![(options, say(204, ANY_TUS)), ("POST /in Upload-Length=100", say(201, CREATED)), (patch, last(100))];
    Case::stream(100).check("http://h/m/a.bin", 100, true, script);
    let script =
        vec![(options, say(204, "Tus-Resumable: 1.0.0\nTus-Extension: creation")), ("PUT /in/a.bin 0+", stored())];
    Case::stream(50).check("http://h/m/a.bin", 100, true, script);
}

#[test]
fn a_stream_goes_no_further_back_than_its_window() {
    let begin = || {
        vec![
            ("POST /in Upload-Defer-Length=1", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+50", say(204, "Upload-Offset: 50")),
            ("PATCH /in/.uploads/1 Upload-Offset=50 Upload-Length=100 50+50", Then::Break(20)),
        ]
    };
    let tus = || Case::stream(50).plan(|plan| plan.protocol = Protocol::Tus);
    let mut script = begin();
    script.push(("HEAD /in/.uploads/1", say(200, "Upload-Offset: 49\nUpload-Defer-Length: 1")));
    tus().refuse("it can't be read: what was sent can't be read again", script);
    let mut script = begin();
    script.push(("HEAD /in/.uploads/1", say(404, "")));
    tus().refuse("404 Not Found; what was sent can't be read again", script);
}

#[test]
fn u4_nothing_is_whole_at_once() {
    let empty = |source: Source, script: Vec<(&'static str, Then)>| {
        let (result, _) = Case::of(source).plan(|plan| plan.protocol = Protocol::Tus).run(script);
        let url = String::from("http://h/m/a.bin");
        assert_eq!(result, Ok(Uploaded { url, size: 0, sent: 0, is_checked: true }));
    };
    let digest = STANDARD.encode(Sha256::digest(b""));
    let whole = format!("{CREATED}\nContent-Location: /m/a.bin\nRepr-Digest: sha-256=:{digest}:");
    let file = || Source::file(tempfile::tempfile().unwrap(), 0);
    empty(file(), vec![("POST /in Upload-Length=0", say(201, &whole))]);
    empty(Source::stream(Box::new(io::empty()), 10), vec![("POST /in Upload-Length=0", say(201, &whole))]);
    let later = format!("Upload-Offset: 0\nContent-Location: /m/a.bin\nRepr-Digest: sha-256=:{digest}:");
    let script = vec![("POST /in Upload-Length=0", say(201, CREATED)), ("HEAD /in/.uploads/1", say(200, &later))];
    empty(file(), script);
}

#[test]
fn the_query_of_a_signed_url_goes_along() {
    Case::file().plan(|plan| plan.base = Url::parse("http://h/in/?s=1").unwrap()).check(
        "http://h/m/a.bin",
        100,
        true,
        vec![
            ("OPTIONS /in/?s=1", say(204, ANY_TUS)),
            ("POST /in/?s=1 Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1?s=1 Upload-Offset=0 0+100", last(100)),
        ],
    );
}

#[test]
fn that_all_bytes_are_there_is_not_believed_to_be_the_end() {
    let begin = || {
        vec![
            ("POST /in Upload-Length=100", say(201, CREATED)),
            ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", Then::Break(100)),
            ("HEAD /in/.uploads/1", say(200, "Upload-Offset: 100\nUpload-Length: 100")),
        ]
    };
    let tus = || Case::file().plan(|plan| plan.protocol = Protocol::Tus);
    let nothing = "PATCH /in/.uploads/1 Upload-Offset=100";
    let mut script = begin();
    script.push((nothing, last(100)));
    tus().check("http://h/m/a.bin", 100, true, script);
    let taken = r#"{"error":{"code":"NAME_TAKEN","message":"There is a file of this name already."}}"#;
    let mut script = begin();
    script.push((nothing, Then::Says(409, "", taken.to_owned())));
    script.push(("HEAD /in/.uploads/1", say(200, "Upload-Offset: 100\nUpload-Length: 100")));
    tus().refuse("409 Conflict: There is a file of this name already (NAME_TAKEN)", script);
}

/// A file on a disk, whose uploads leave a state.
struct Kept(tempfile::TempDir);

impl Kept {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.bin"), content()).unwrap();
        Kept(dir)
    }

    fn case(&self) -> Case {
        let path = self.0.path().join("a.bin");
        let mut case = Case::of(Source::file(File::open(&path).unwrap(), 100));
        let metadata = fs::metadata(&path).unwrap();
        case.state = Some(StateFile::new(&self.folder(), &case.plan.base, b"a.bin", &path, &metadata));
        case.plan(|plan| plan.retries = 0)
    }

    fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("state")
    }

    fn states(&self) -> usize {
        fs::read_dir(self.folder()).map_or(0, Iterator::count)
    }

    /// A first run that breaks off.
    fn broken(&self) {
        let patch = ("PATCH /in/.uploads/1 Upload-Offset=0 0+100", Then::Break(70));
        let begin = [("OPTIONS /in", say(204, ANY_TUS)), ("POST /in Upload-Length=100", say(201, CREATED))];
        assert!(self.case().run(begin.into_iter().chain([patch]).collect()).0.is_err());
        assert_eq!(self.states(), 1);
    }
}

#[test]
fn the_next_run_goes_on_and_leaves_nothing() {
    let kept = Kept::new();
    kept.broken();
    let head = say(200, "Upload-Offset: 70\nUpload-Length: 100");
    let script = vec![("HEAD /in/.uploads/1", head), ("PATCH /in/.uploads/1 Upload-Offset=70 70+30", last(100))];
    kept.case().check("http://h/m/a.bin", 30, true, script);
    assert_eq!(kept.states(), 0);
}

#[test]
fn the_next_run_finds_the_upload_gone_or_another_and_starts_anew() {
    for answer in
        [say(404, ""), say(410, ""), say(200, "Upload-Offset: 70\nUpload-Length: 99"), say(200, "Upload-Offset: 101")]
    {
        let kept = Kept::new();
        kept.broken();
        let script = vec![
            ("HEAD /in/.uploads/1", answer),
            ("POST /in Upload-Length=100", say(201, "Location: .uploads/2")),
            ("PATCH /.uploads/2 Upload-Offset=0 0+100", last(100)),
        ];
        kept.case().check("http://h/m/a.bin", 100, true, script);
        assert_eq!(kept.states(), 0);
    }
}

#[test]
fn the_next_run_finds_it_whole() {
    let kept = Kept::new();
    kept.broken();
    let head = "Upload-Offset: 100\nUpload-Length: 100\nRepr-Digest: sha-256=:@:\nContent-Location: /m/a.bin";
    kept.case().check("http://h/m/a.bin", 0, true, vec![("HEAD /in/.uploads/1", say(200, head))]);
    assert_eq!(kept.states(), 0);
}

#[test]
fn a_refused_probe_keeps_the_state_for_a_better_token() {
    let kept = Kept::new();
    kept.broken();
    kept.case().refuse("401 Unauthorized", vec![("HEAD /in/.uploads/1", say(401, ""))]);
    assert_eq!(kept.states(), 1);
}

#[test]
fn a_file_that_changes_under_way_is_found_by_its_digest() {
    let kept = Kept::new();
    kept.broken();
    let case = kept.case();
    let path: &Path = &kept.0.path().join("a.bin");
    let mut changed = content();
    changed[3] = 0;
    fs::write(path, changed).unwrap();
    let head = say(200, "Upload-Offset: 70\nUpload-Length: 100");
    let script = vec![("HEAD /in/.uploads/1", head), ("PATCH /in/.uploads/1 Upload-Offset=70 70+30", last(100))];
    assert!(case.run(script).0.unwrap_err().starts_with("sha256 mismatch"));
}
