//! The clients of tus that people have: each is cut in the middle of an upload and resumed by a second run, with the same server
//! and with one that was killed in between. One that is not installed shows nothing, which is said on standard error.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Fixture, Server, Uploads, bytes_at, check_bytes, installed, not_shown, output};

/// How long a client may take for all that it does.
const CLIENT_PATIENCE: Duration = Duration::from_secs(90);
const LEN: u64 = 20 << 20;
const CUT: u64 = 9 << 20;

/// A client of `tests/clients`, which takes the same arguments as the others.
struct Client {
    program: &'static str,
    script: &'static str,
    /// Where its library is, in `target/clients`.
    library: &'static str,
}

const JS: Client = Client { program: "node", script: "tus.mjs", library: "node_modules/tus-js-client" };
const PY: Client = Client { program: "python/bin/python", script: "tus_py.py", library: "python/bin/python" };

impl Client {
    /// The command, if it is all there.
    fn command(&self) -> Option<Command> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let clients = root.join("target/clients");
        if !clients.join(self.library).exists() {
            not_shown(&format!("{} is not installed (tools/clients)", self.library));
            return None;
        }
        let own = clients.join(self.program);
        let program = if own.exists() { own } else { installed(&[self.program])? };
        let mut command = Command::new(program);
        command.arg(root.join("tests/clients").join(self.script));
        Some(command)
    }
}

/// Runs it and returns what it says.
#[track_caller]
fn run(command: &mut Command, server: &Server, file: &Path, chunk_len: u64, more: &[&str]) -> String {
    let endpoint = format!("http://{}/up", server.address());
    command.arg(endpoint).arg(file).arg(chunk_len.to_string()).args(more);
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    let output = output(command, CLIENT_PATIENCE);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {told}", output.status);
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// A run that is cut, and one that goes on; with a server that is killed between them, or not.
#[track_caller]
fn check(client: &Client, chunk_len: u64, is_killed: bool) {
    let (Some(mut first), Some(mut second)) = (client.command(), client.command()) else { return };
    let fixture = Fixture::new();
    let file = fixture.text("film.bin", bytes_at(0, LEN as usize));
    let uploads = Uploads::new();
    let keys = "names = \"client\"";
    let mut server = uploads.serve(keys);
    let url = run(&mut first, &server, &file, chunk_len, &["--cut-after", &CUT.to_string()]);
    let location = url.strip_prefix(&format!("http://{}", server.address())).expect("an upload's URL").to_owned();
    if is_killed {
        server.signal(Signal::SIGKILL);
        server.wait();
        server = uploads.serve(keys);
    }
    let url = format!("http://{}{location}", server.address());
    let told = run(&mut second, &server, &file, chunk_len, &["--resume", &url]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let resumed_from = told["resumed_from"].as_u64().expect("an offset");
    // A kill may come before anything of a single request was written down; what was acknowledged was whole chunks.
    let least = CUT.checked_div(chunk_len).unwrap_or(0) * chunk_len;
    assert!((least..=CUT).contains(&resumed_from), "resumed from {resumed_from}");
    assert_eq!(told["size"], LEN);
    assert_eq!(uploads.files(), ["film.bin"]);
    let stored = fs::read(uploads.at("film.bin")).expect("the file");
    assert_eq!(stored.len() as u64, LEN);
    check_bytes(0, &stored);
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u4_tus_js_client_is_cut_and_resumes() {
    for chunk_len in [0, 1 << 20] {
        check(&JS, chunk_len, false);
    }
}

#[test]
fn u4_tus_js_client_resumes_with_a_server_that_was_killed() {
    for chunk_len in [0, 1 << 20] {
        check(&JS, chunk_len, true);
    }
}

#[test]
fn u4_tuspy_is_cut_and_resumes() {
    for chunk_len in [0, 1 << 20] {
        check(&PY, chunk_len, false);
    }
}

#[test]
fn u4_tuspy_resumes_with_a_server_that_was_killed() {
    for chunk_len in [0, 1 << 20] {
        check(&PY, chunk_len, true);
    }
}
