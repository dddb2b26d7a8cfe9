//! Programs that run beside a test: they end with it, and within a bound.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::eventually;

/// The first of these commands that is installed; if none is, a line says that the test shows nothing about it.
pub fn installed(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found =
        env::split_paths(&path).find_map(|dir| names.iter().map(|name| dir.join(name)).find(|path| path.is_file()));
    if found.is_none() {
        not_shown(&format!("{} is not installed", names[0]));
    }
    found
}

/// Says that the calling test, or a part of it, can't show what it is for.
pub fn not_shown(why: &str) {
    // Not `eprintln!`, which is captured and kept back when the test passes.
    let _ = writeln!(io::stderr(), "not shown, as {why}: {}", thread::current().name().unwrap_or_default());
}

/// A program. When it is dropped while it runs, it ends with all that it has started.
pub struct Process(Child);

impl Process {
    /// Starts it, in a process group of its own.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        Process(command.process_group(0).spawn().expect("an installed program starts"))
    }

    /// Its end, if it has come to it.
    #[track_caller]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child")
    }

    /// Types something, where its standard input is a pipe.
    #[track_caller]
    pub fn type_into(&mut self, keys: &str) {
        self.0.stdin.as_mut().expect("a pipe").write_all(keys.as_bytes()).expect("it runs and reads");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The number of one that has ended may be another's by now.
        if let Ok(None) = self.0.try_wait() {
            let group = i32::try_from(self.0.id()).expect("a process id");
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

/// Runs a program to its end, which has to come within `patience`, and takes what it says.
#[track_caller]
pub fn output(command: &mut Command, patience: Duration) -> Output {
    let mut process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let stdout = read_aside(process.0.stdout.take().expect("its standard output"));
    let stderr = read_aside(process.0.stderr.take().expect("its standard error"));
    let mut status = None;
    eventually(patience, || {
        status = process.ended();
        status.is_some()
    });
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().expect("what it said"));
    Output { status: status.expect("it has ended"), stdout, stderr }
}

fn read_aside(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("a pipe");
        all
    })
}
