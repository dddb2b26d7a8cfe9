//! The command line, and the plan that it amounts to: raw arguments become one checked value, and nothing later asks twice.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::fan_out::{self, Medium, Options, Writing};
use crate::targets::{Choice, Target, Targets, check_path, expand, parse_list};
use crate::units;
use crate::upload::{Content, Form, Upload};
use crate::verify::{Verifier, local_path};

/// An HTTP/1.1 load generator for file servers: one thread, epoll, bodies discarded in the kernel.
///
/// Also for what is read while it is made, by many at once: server-sent events (--subscribe) and live media (--live).
///
/// Every reply is checked: status, framing, length, and Content-Range against the range that was asked for. With --verify the
/// bytes are compared too. A run without errors exits 0, one with errors 1, wrong use 2.
#[derive(Parser, Debug)]
#[command(name = "loadgen", version)]
pub struct Args {
    /// What to ask for: http://HOST:PORT/PATH; a path may hold patterns such as /f/{0..9999}. All name the same server.
    #[arg(required_unless_present_any = ["write_fixture", "hash"], value_name = "URL")]
    urls: Vec<String>,

    /// A file of paths (a path or a pattern a line, its length after it where known), asked for instead of the URL's own path.
    #[arg(long, value_name = "FILE")]
    paths: Option<PathBuf>,

    /// How many connections.
    #[arg(short, long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,

    /// How long to measure.
    #[arg(short, long, default_value = "10s", value_parser = units::duration)]
    duration: Duration,

    /// Run this long before measuring begins.
    #[arg(long, default_value = "0s", value_parser = units::duration)]
    warmup: Duration,

    /// End after this many requests, uploads, events or pieces, if that is earlier.
    #[arg(short = 'n', long, visible_aliases = ["uploads", "events"], value_name = "N")]
    requests: Option<u64>,

    /// Upload instead of asking: files named load-CONNECTION-NUMBER, to the URL's path or (put, chunked) under it. The figures of
    /// bodies are then those of the files' bytes.
    #[arg(long, value_name = "FORM", requires = "size", conflicts_with_all = DOWNLOADS_ONLY)]
    upload: Option<Form>,

    /// The length of each file that is uploaded.
    #[arg(long, value_name = "SIZE", value_parser = units::size, requires = "upload")]
    size: Option<u64>,

    #[command(flatten)]
    fan_out: Options,

    /// Ask for each file on a connection of its own (`Connection: close`).
    #[arg(long)]
    no_keep_alive: bool,

    /// Ask for random ranges of this many bytes, in random files.
    #[arg(long, value_name = "LEN", value_parser = units::size_above_0)]
    random_range: Option<u64>,

    /// The length of every file whose length is not given otherwise (a list, or --verify-root).
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    file_size: Option<u64>,

    /// A field to add to each request.
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    header: Vec<String>,

    /// Compare every byte with the rule that --write-fixture follows. With --upload: send what --write-fixture would write, instead
    /// of 256 KiB of it again and again, which costs the client much less; what has arrived can then be compared.
    #[arg(long, conflicts_with = "verify_root")]
    verify: bool,

    /// Compare every byte with the file of the same path under DIR.
    #[arg(long, value_name = "DIR")]
    verify_root: Option<PathBuf>,

    /// Each connection reads this many bytes of body a second and no more.
    #[arg(long, value_name = "BYTES", value_parser = units::size_above_0, conflicts_with_all = ["stall_after", "idle"])]
    rate: Option<u64>,

    /// Each connection stops reading once it has this much of a body (or what came with the head, if that is more), and stays.
    #[arg(long, value_name = "BYTES", value_parser = units::size, conflicts_with = "idle")]
    stall_after: Option<u64>,

    /// Each connection makes REQUESTS requests (none by default), then stays open without a word.
    #[arg(long, value_name = "REQUESTS", num_args = 0..=1, default_missing_value = "0", require_equals = true)]
    idle: Option<u64>,

    /// Open loop: R requests a second are due whether or not the server keeps up. Latency counts from the moment at which a
    /// request was due, so that a stall is charged to all who would have waited (no coordinated omission).
    #[arg(long, value_name = "R", value_parser = units::per_second, conflicts_with_all = ["stall_after", "idle"])]
    rps: Option<f64>,

    /// A request without any progress for this long is an error.
    #[arg(long, default_value = "30s", value_parser = units::duration)]
    timeout: Duration,

    /// The seed of random ranges.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Measure the CPU time and the memory of this process over the run (repeat for several). Source: /proc/PID/stat, which
    /// counts all threads; the kernel's workers for an io_uring (io-wq, SQPOLL) are threads of the process and count too.
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Run on this processor only.
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,

    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,

    /// Measure what the SHA-256 of SIZE bytes in memory costs (with --cpu on that processor), and end.
    #[arg(long, value_name = "SIZE", value_parser = units::size_above_0, conflicts_with_all = ["urls", "write_fixture"])]
    hash: Option<u64>,

    /// Write a file of SIZE bytes for --verify, and end.
    #[arg(long, value_name = "FILE=SIZE", value_parser = fixture, exclusive = true)]
    write_fixture: Option<(PathBuf, u64)>,
}

/// What makes no sense for an upload.
const DOWNLOADS_ONLY: [&str; 7] = ["paths", "random_range", "file_size", "verify_root", "rate", "stall_after", "idle"];

/// What to do, checked.
#[derive(Debug)]
pub enum Task {
    /// Put load on a server.
    Load(Box<Plan>),
    /// Write what many read.
    FanOut(Box<fan_out::Plan>),
    /// Write a file of this length for `--verify`.
    WriteFixture(PathBuf, u64),
    /// Hash this many bytes.
    Hash {
        /// How many.
        len: u64,
        /// The processor to do it on.
        cpu: Option<usize>,
        /// The form of the result.
        output: Output,
    },
}

/// A run: every question answered.
#[derive(Debug)]
pub struct Plan {
    /// The server.
    pub address: SocketAddr,
    /// What is asked for.
    pub targets: Targets,
    /// The fields of each request and the empty line.
    pub fields: Vec<u8>,
    /// How many connections.
    pub connections: usize,
    /// How long to run before measuring.
    pub warmup: Duration,
    /// How long to measure.
    pub duration: Duration,
    /// How many requests at most.
    pub requests_max: u64,
    /// How connections behave.
    pub manner: Manner,
    /// What happens to a connection after a reply.
    pub reuse: Reuse,
    /// The expected bytes.
    pub verifier: Verifier,
    /// What is uploaded, where that is the work.
    pub upload: Option<Upload>,
    /// The bytes of what is uploaded.
    pub content: Content,
    /// How long a request may go without progress.
    pub timeout: Duration,
    /// The seed of random ranges.
    pub seed: u64,
    /// The server's processes.
    pub pids: Vec<u32>,
    /// The processor to run on.
    pub cpu: Option<usize>,
    /// The form of the result.
    pub output: Output,
}

/// How connections behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    /// The next request follows the last reply.
    ClosedLoop,
    /// Requests are due at this rate a second.
    OpenLoop(f64),
    /// As the closed loop, each body read at this many bytes a second.
    Paced(u64),
    /// One request; reading stops after this many bytes of body.
    Stall(u64),
    /// This many requests, then silence.
    Idle(u64),
}

/// What happens to a connection after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It carries the next request, unless the server closes it.
    KeepAlive,
    /// The request asked the server to close it.
    Close,
}

/// The form of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

impl Args {
    /// Checks what clap can't: one server, paths that can be sent, files that can be read.
    ///
    /// # Errors
    /// One line that says what to write instead.
    pub fn resolve(self) -> Result<Task, String> {
        if let Some((path, len)) = self.write_fixture {
            return Ok(Task::WriteFixture(path, len));
        }
        let output = if self.json { Output::Json } else { Output::Text };
        if let Some(len) = self.hash {
            return Ok(Task::Hash { len, cpu: self.cpu, output });
        }
        let urls = self.urls.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = urls.first() else { return Err("name a URL".to_string()) };
        if let Some(other) = urls.iter().find(|url| url.authority != first.authority) {
            return Err(format!("{} and {} are two servers; a run loads one", first.authority, other.authority));
        }
        let list = self.targets(&urls)?;
        if let Some(writing) = self.fan_out.writing(self.connections)? {
            return Ok(Task::FanOut(Box::new(self.fan_out(writing, first, list, output)?)));
        }
        Ok(Task::Load(Box::new(Plan {
            address: first.address()?,
            upload: self.upload(&list)?,
            content: if self.verify { Content::Rule } else { Content::Repeated },
            targets: Targets::new(list, self.random_range.map_or(Choice::InTurn, Choice::RandomRange))?,
            fields: self.fields(&first.authority),
            connections: self.connections as usize,
            warmup: self.warmup,
            duration: self.duration,
            requests_max: self.requests.unwrap_or(u64::MAX),
            manner: self.manner(),
            reuse: if self.no_keep_alive { Reuse::Close } else { Reuse::KeepAlive },
            verifier: match self.verify_root {
                Some(root) => Verifier::with_copies(root),
                // The replies to uploads are no files.
                None if self.verify && self.upload.is_none() => Verifier::Rule,
                None => Verifier::Off,
            },
            timeout: self.timeout,
            seed: self.seed,
            pids: self.pid,
            cpu: self.cpu,
            output,
        })))
    }

    fn fan_out(self, writing: Writing, url: &Url, list: Vec<Target>, output: Output) -> Result<fan_out::Plan, String> {
        let paths: Vec<String> = list.into_iter().map(|target| target.path).collect();
        let (writer, write_paths) = match &writing.publish_to {
            Some(to) => {
                let to = Url::parse(to)?;
                let paths = expand(&to.path)?;
                (to, paths)
            }
            None => (url.clone(), paths.clone()),
        };
        if paths.len() != write_paths.len() || paths.is_empty() {
            return Err(format!(
                "{} paths are read and {} are written to; both are the same",
                paths.len(),
                write_paths.len()
            ));
        }
        if writing.medium == Medium::Live && paths.len() > 1 {
            return Err("one encoder writes to one path".to_string());
        }
        let accept = if writing.medium == Medium::Events { "Accept: text/event-stream\r\n" } else { "" };
        Ok(fan_out::Plan {
            address: url.address()?,
            write_address: writer.address()?,
            fields: [accept.as_bytes(), &self.fields(&url.authority)].concat(),
            write_fields: self.fields(&writer.authority),
            paths,
            write_paths,
            readers: self.connections as usize,
            writing,
            warmup: self.warmup,
            duration: self.duration,
            units_max: self.requests.unwrap_or(u64::MAX),
            timeout: self.timeout,
            pids: self.pid,
            cpu: self.cpu,
            output,
        })
    }

    fn manner(&self) -> Manner {
        match (self.rps, self.rate, self.stall_after, self.idle) {
            (Some(per_second), ..) => Manner::OpenLoop(per_second),
            (_, Some(bytes_per_second), ..) => Manner::Paced(bytes_per_second),
            (_, _, Some(bytes), _) => Manner::Stall(bytes),
            (.., Some(requests)) => Manner::Idle(requests),
            _ => Manner::ClosedLoop,
        }
    }

    fn upload(&self, targets: &[Target]) -> Result<Option<Upload>, String> {
        let (Some(form), Some(len)) = (self.upload, self.size) else { return Ok(None) };
        match targets {
            _ if form == Form::Tus && self.no_keep_alive => {
                Err("a tus upload is two requests on one connection; leave out --no-keep-alive".to_string())
            }
            [target] => Ok(Some(Upload { form, len, prefix: target.path.clone() })),
            _ => Err("uploads go to one path".to_string()),
        }
    }

    fn targets(&self, urls: &[Url]) -> Result<Vec<Target>, String> {
        let mut list = match &self.paths {
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
                parse_list(&text).map_err(|e| format!("{}: {e}", file.display()))?
            }
            None => {
                let mut list = Vec::new();
                for url in urls {
                    list.extend(expand(&url.path)?.into_iter().map(|path| Target { path, len: None }));
                }
                list
            }
        };
        if let Some(root) = &self.verify_root
            && let Some(target) = list.iter().find(|target| target.path.contains('%'))
        {
            return Err(format!("{}: copies under {} are found by plain names only", target.path, root.display()));
        }
        for target in list.iter_mut().filter(|target| target.len.is_none()) {
            target.len = self.file_size.or_else(|| {
                let copy = local_path(self.verify_root.as_deref()?, &target.path);
                std::fs::metadata(copy).ok().map(|metadata| metadata.len())
            });
        }
        Ok(list)
    }

    fn fields(&self, authority: &str) -> Vec<u8> {
        let mut fields = format!("Host: {authority}\r\n");
        if self.no_keep_alive {
            fields.push_str("Connection: close\r\n");
        }
        for field in &self.header {
            fields.push_str(field);
            fields.push_str("\r\n");
        }
        fields.push_str("\r\n");
        fields.into_bytes()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    authority: String,
    path: String,
}

impl Url {
    fn parse(url: &str) -> Result<Url, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| format!("`{url}`: write http://HOST:PORT/PATH"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || !authority.bytes().all(|b| b.is_ascii_graphic() && b != b'@' && b != b'?') {
            return Err(format!("`{url}`: write http://HOST:PORT/PATH"));
        }
        let path = if path.is_empty() { "/" } else { path };
        check_path(path)?;
        Ok(Url { authority: authority.to_string(), path: path.to_string() })
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let has_port = self.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { self.authority.clone() } else { format!("{}:80", self.authority) };
        let mut addresses = with_port.to_socket_addrs().map_err(|e| format!("{}: {e}", self.authority))?;
        addresses.next().ok_or_else(|| format!("{}: no address", self.authority))
    }
}

fn field(text: &str) -> Result<String, String> {
    let name = text.split_once(':').map(|(name, _)| name).unwrap_or_default();
    let is_token =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if is_token && !text.bytes().any(|b| b.is_ascii_control()) {
        Ok(text.to_string())
    } else {
        Err("write NAME: VALUE".to_string())
    }
}

fn fixture(text: &str) -> Result<(PathBuf, u64), String> {
    let (path, len) = text.rsplit_once('=').ok_or("write FILE=SIZE")?;
    Ok((PathBuf::from(path), units::size(len)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fan_out::Rate;
    use clap::CommandFactory;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let arguments = ["loadgen"].iter().chain(arguments);
        match Args::try_parse_from(arguments).map_err(|e| e.to_string())?.resolve()? {
            Task::Load(plan) => Ok(*plan),
            other => Err(format!("{other:?}")),
        }
    }

    #[track_caller]
    fn refuse(arguments: &[&str], words: &str) {
        let message = plan(arguments).unwrap_err();
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn the_interface_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let plan = plan(&["http://127.0.0.1:8080/a"]).unwrap();
        assert_eq!(plan.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(plan.fields, b"Host: 127.0.0.1:8080\r\n\r\n");
        assert_eq!((plan.connections, plan.manner, plan.reuse), (32, Manner::ClosedLoop, Reuse::KeepAlive));
        assert!(plan.verifier.is_off());
    }

    #[test]
    fn manners() {
        let manner = |option: &str| plan(&["http://127.0.0.1/", option]).unwrap().manner;
        assert_eq!(manner("--rps=100"), Manner::OpenLoop(100.0));
        assert_eq!(manner("--rate=64KiB"), Manner::Paced(65_536));
        assert_eq!(manner("--stall-after=0"), Manner::Stall(0));
        assert_eq!(manner("--idle"), Manner::Idle(0));
        assert_eq!(manner("--idle=3"), Manner::Idle(3));
    }

    #[test]
    fn uploads() {
        let made = plan(&["http://127.0.0.1:1/up", "--upload=tus", "--size=5GiB", "--uploads=3"]).unwrap();
        assert_eq!(made.upload, Some(Upload { form: Form::Tus, len: 5 << 30, prefix: "/up".to_string() }));
        assert_eq!((made.requests_max, made.content), (3, Content::Repeated));
        let checked = plan(&["http://127.0.0.1/", "--upload=put", "--size=0", "--verify"]).unwrap();
        assert!(checked.verifier.is_off() && checked.content == Content::Rule);
        refuse(&["http://127.0.0.1/", "--upload=put"], "--size");
        refuse(&["http://127.0.0.1/", "--size=1"], "--upload");
        refuse(&["http://127.0.0.1/{0..1}", "--upload=put", "--size=1"], "one path");
        refuse(&["http://127.0.0.1/", "--upload=put", "--size=1", "--rate=1"], "cannot be used");
        refuse(&["http://127.0.0.1/", "--upload=tus", "--size=1", "--no-keep-alive"], "--no-keep-alive");
        refuse(&["http://127.0.0.1/", "--hash=1GB"], "cannot be used");
        refuse(&["--hash=1GB"], "Hash { len: 1000000000, cpu: None, output: Text }");
    }

    #[test]
    fn one_writes_and_many_read() {
        let plan = |arguments: &[&str]| {
            let arguments = ["loadgen", "http://127.0.0.1:1/e/{0..3}", "-c", "9"].iter().chain(arguments);
            match Args::try_parse_from(arguments).map_err(|e| e.to_string())?.resolve()? {
                Task::FanOut(plan) => Ok(*plan),
                other => Err(format!("{other:?}")),
            }
        };
        let refuse = |arguments: &[&str], words: &str| {
            let message = plan(arguments).unwrap_err();
            assert!(message.contains(words), "{message}");
        };
        let events = plan(&["--subscribe", "--events=7", "--stalled-readers=4"]).unwrap();
        let writing = Writing {
            medium: Medium::Events,
            rate: Rate::Closed { in_flight: 1 },
            unit_len: 1024,
            publish_to: None,
            late: 0,
            stalled: 4,
        };
        assert_eq!((events.writing, events.units_max, events.readers), (writing, 7, 9));
        assert_eq!((events.paths.len(), &events.paths), (4, &events.write_paths));
        assert_eq!(events.fields, b"Accept: text/event-stream\r\nHost: 127.0.0.1:1\r\n\r\n");
        let elsewhere =
            plan(&["--subscribe", "--publish-rate=100", "--publish-to=http://127.0.0.1:2/p/{1..4}"]).unwrap();
        assert_eq!((elsewhere.writing.rate, elsewhere.write_address.port()), (Rate::PerSecond(100.0), 2));
        assert_eq!(elsewhere.write_paths[3], "/p/4");
        refuse(&["--subscribe", "--publish-to=http://127.0.0.1:2/p"], "4 paths are read and 1 are written to");
        let many = plan(&["--subscribe", "--in-flight=16"]).unwrap();
        assert_eq!(many.writing.rate, Rate::Closed { in_flight: 16 });
        refuse(&["--subscribe", "--in-flight=2", "--publish-rate=1"], "cannot be used");
        refuse(&["--subscribe", "--live=1kB"], "cannot be used");
        refuse(&["--subscribe", "--stall-after=1"], "cannot be used");
        refuse(&["--subscribe", "--event-size=33"], "from 34 bytes");
        refuse(&["--live=1MB"], "one encoder");
        refuse(&["--publish-rate=1"], "--subscribe");
        refuse(&["--stalled-readers=1"], "--stall-after");
    }

    #[test]
    fn an_encoder_has_a_rate_of_bytes() {
        let arguments =
            ["loadgen", "http://127.0.0.1:1/v", "-c", "9", "--live=500kB", "--piece-size=2kB", "--late-readers=2"];
        let Task::FanOut(plan) = Args::try_parse_from(arguments).unwrap().resolve().unwrap() else {
            panic!("no encoder")
        };
        assert_eq!((plan.writing.rate, plan.writing.unit_len, plan.writing.late), (Rate::PerSecond(250.0), 2000, 2));
        let too_many = [&arguments[..], &["--stalled-readers=8"]].concat();
        assert!(Args::try_parse_from(too_many).unwrap().resolve().unwrap_err().contains("9 connections"));
    }

    #[test]
    fn urls() {
        let url = |text: &str| Url::parse(text).map(|url| (url.authority, url.path));
        assert_eq!(url("http://h"), Ok(("h".into(), "/".into())));
        assert_eq!(url("http://[::1]:80/a?b"), Ok(("[::1]:80".into(), "/a?b".into())));
        for wrong in ["h/a", "https://h/", "http://", "http://u@h/", "http://h/a b", "http://h/ä"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Url::parse("http://[::1]/").unwrap().address(), Ok("[::1]:80".parse().unwrap()));
    }

    #[test]
    fn wrong_use_is_told() {
        refuse(&[], "URL");
        refuse(&["http://127.0.0.1:1/", "http://127.0.0.1:2/"], "two servers");
        refuse(&["http://127.0.0.1/", "--random-range=1KiB"], "--file-size");
        refuse(&["http://127.0.0.1/", "--random-range=0"], "at least 1");
        refuse(&["http://127.0.0.1/", "--rate=1", "--idle"], "cannot be used");
        refuse(&["http://127.0.0.1/", "--header=X Y: 1"], "NAME: VALUE");
        refuse(&["http://127.0.0.1/", "--rps=-1"], "between");
        refuse(&["http://127.0.0.1/", "--connections=0"], "1..");
        refuse(&["http://127.0.0.1/", "--paths=/nonexistent"], "/nonexistent");
    }

    #[test]
    fn lengths_come_from_the_copies() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"0123456789").unwrap();
        let root = format!("--verify-root={}", dir.path().display());
        assert!(plan(&["http://127.0.0.1/f", "--random-range=4", &root]).is_ok());
        refuse(&["http://127.0.0.1/missing", "--random-range=4", &root], "/missing");
        refuse(&["http://127.0.0.1/%66", &root], "plain names");
    }
}
