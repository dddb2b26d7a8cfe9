//! Clients as people have them: how they are run, and what the server's log says of what they asked.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Fixture, Server, output};

/// How long a client may take for all that it does.
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(90);

/// A client's run: a folder to work in, and no configuration but the test's.
pub struct Run(pub Command);

impl Run {
    /// Of this program, with these arguments.
    pub fn of(program: &Path, dir: &Fixture, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        Run(command)
    }

    /// Runs it to its end, within [`CLIENT_PATIENCE`].
    #[track_caller]
    pub fn output(mut self) -> Output {
        output(&mut self.0, CLIENT_PATIENCE)
    }

    /// Runs it, and fails the test unless it succeeds. What it wrote to standard output is the result.
    #[track_caller]
    pub fn succeed(self) -> Vec<u8> {
        let shown = format!("{:?}", self.0);
        let output = self.output();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{shown} ended with {}: {told}", output.status);
        output.stdout
    }
}

/// Where a path of this server is.
pub fn url(server: &Server, path: &str) -> String {
    format!("http://{}/{path}", server.address())
}

/// The requests in an access log of JSON lines, of which the last may not be whole yet.
pub fn logged(path: &Path) -> Vec<Value> {
    let log = fs::read_to_string(path).unwrap_or_default();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
