//! The server under test: the real binary as a child process, on ports that the kernel chose.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Client, PATIENCE, eventually};

/// How the server is started.
pub struct Launch {
    arguments: Vec<OsString>,
    config: Option<String>,
    listen: bool,
    descriptors: Option<u32>,
    user: Option<u32>,
    small_disk: Option<(PathBuf, u64)>,
}

impl Launch {
    /// `highwater serve ROOT`, one worker, a port that the kernel chooses, and an admin port.
    pub fn of(root: impl AsRef<Path>) -> Self {
        let mut launch = Launch::routes();
        launch.arguments.push(root.as_ref().into());
        launch
    }

    /// The same without a root: routes come from [`Launch::config`].
    pub fn routes() -> Self {
        Launch { arguments: Vec::new(), config: None, listen: true, descriptors: None, user: None, small_disk: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds the lines to the configuration file.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        let config = self.config.get_or_insert_default();
        config.push_str(toml);
        config.push('\n');
        self
    }

    /// Sets bounds: lines of `[limits]`. At most once, and before other tables.
    #[must_use]
    pub fn limits(self, toml: &str) -> Self {
        self.config(&format!("[limits]\n{toml}"))
    }

    /// Leaves it to the caller to say `--listen`.
    #[must_use]
    pub fn without_listen(mut self) -> Self {
        self.listen = false;
        self
    }

    /// Lets the process have only so many descriptors.
    #[must_use]
    pub fn descriptors(mut self, count: u32) -> Self {
        self.descriptors = Some(count);
        self
    }

    /// Runs it as another user, which only root may. Such a server can't read a configuration file.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Lets it find a file system of so many bytes at this folder, which nobody else sees and which ends with it; see
    /// [`Server::sees`]. `None` where the kernel lets nobody mount anything here.
    pub fn small_disk(mut self, folder: &Path, bytes: u64) -> Option<Self> {
        self.small_disk = Some((folder.to_owned(), bytes));
        let tried = self.on_small_disk("true").stdin(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success()).then_some(self)
    }

    /// A program on the small disk. Nothing is forked, so that the process id is the program's.
    fn on_small_disk(&self, program: &str) -> Command {
        let Some((folder, bytes)) = &self.small_disk else { return Command::new(program) };
        let mut unshare = Command::new("unshare");
        // Where the user is not root already, it is in a namespace of its own.
        unshare.args(if nix::unistd::geteuid().is_root() { &["-m"][..] } else { &["-r", "-m"] });
        let mount = format!("mount -t tmpfs -o size={bytes} tmpfs \"$0\" && exec \"$@\"");
        unshare.args(["sh", "-c", &mount]).arg(folder).arg(program);
        unshare
    }

    /// Starts it and waits until it accepts.
    #[track_caller]
    pub fn start(self) -> Server {
        let dir = TempDir::new().expect("a temporary directory");
        let config_path = dir.path().join("highwater.toml");
        let mut command = self.command(&config_path);
        let mut child = command.spawn().expect("the binary starts");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("its standard output"));
        let out = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let err = {
            let (log, mut stderr) = (log.clone(), child.stderr.take().expect("its standard error"));
            thread::spawn(move || {
                let mut some = [0; 4096];
                while let Ok(len @ 1..) = stderr.read(&mut some) {
                    let text = String::from_utf8_lossy(&some[..len]);
                    log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
                }
            })
        };
        let mut server = Server {
            child,
            ended: None,
            addresses: Vec::new(),
            unix_paths: Vec::new(),
            admin: None,
            lines,
            log,
            readers: vec![out, err],
            dir,
        };
        server.await_ready();
        server
    }

    fn command(&self, config_path: &Path) -> Command {
        let mut arguments: Vec<OsString> = vec!["serve".into()];
        let given = |flag: &str| self.arguments.iter().any(|argument| argument == flag);
        if !given("--workers") {
            arguments.extend(["--workers".into(), "1".into()]);
        }
        if self.listen {
            arguments.extend(["--listen".into(), "127.0.0.1:0".into()]);
        }
        if !given("--admin") {
            arguments.extend(["--admin".into(), "127.0.0.1:0".into()]);
        }
        if let Some(config) = &self.config {
            fs::write(config_path, config).expect("a configuration file");
            arguments.extend(["--config".into(), config_path.into()]);
        }
        arguments.extend(self.arguments.iter().cloned());
        let binary = env!("CARGO_BIN_EXE_highwater");
        let mut command = match self.descriptors {
            None => self.on_small_disk(binary),
            // The shell becomes the server, so that its process id is the server's.
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {count}; exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        let outside = std::env::vars_os().map(|(name, _)| name);
        for name in outside.filter(|name| name.to_string_lossy().starts_with("HIGHWATER_")) {
            command.env_remove(name);
        }
        if let Some(id) = self.user {
            command.uid(id).gid(id);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A server that runs. It is killed when it is dropped; [`Server::stop`] ends it in order.
pub struct Server {
    child: Child,
    ended: Option<ExitStatus>,
    addresses: Vec<SocketAddr>,
    unix_paths: Vec<PathBuf>,
    admin: Option<SocketAddr>,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    dir: TempDir,
}

/// What the server holds now, the asking itself left out. A server at rest holds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub connections_idle: u64,
    pub connections_active: u64,
    pub transfers: u64,
    pub receive_buffers: u64,
    pub transfer_buffers: u64,
    pub upload_buffers: u64,
    pub tasks: u64,
}

impl Server {
    /// Serves this folder, see [`Launch::of`].
    #[track_caller]
    pub fn start(root: impl AsRef<Path>) -> Self {
        Launch::of(root).start()
    }

    /// Serves this folder within these bounds: lines of `[limits]`.
    #[track_caller]
    pub fn with_limits(root: impl AsRef<Path>, limits: &str) -> Self {
        Launch::of(root).limits(limits).start()
    }

    /// Where it listens: the first TCP address.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        *self.addresses.first().expect("a TCP address")
    }

    /// All Unix sockets for clients, in order.
    pub fn unix_paths(&self) -> &[PathBuf] {
        &self.unix_paths
    }

    /// All TCP addresses for clients, in order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it answers metrics.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin address")
    }

    /// A new connection to it.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A path as this server sees it.
    pub fn sees(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.pid().to_string()).join("root").join(path)
    }

    /// A line of its `/proc/PID/status` in bytes, such as `VmRSS` or `VmHWM`.
    #[track_caller]
    pub fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        let value = status.lines().find_map(|own| own.strip_prefix(line)?.strip_prefix(':'));
        let kilobytes = value.and_then(|value| value.trim().strip_suffix(" kB")).expect("a line in kB");
        1024 * kilobytes.parse::<u64>().expect("a number")
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("highwater.toml")
    }

    /// The next line of its standard output, behind those that said where it listens.
    #[track_caller]
    pub fn next_line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line on standard output")
    }

    /// What it has logged on standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A metric by its name without `highwater_` and `_total`, over all workers and labels. A name may carry a label:
    /// `responses{code="404"}`. What has no sample yet is 0.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        sample(&self.metrics(), name)
    }

    /// Replies with this status so far.
    #[track_caller]
    pub fn responses(&self, status: u16) -> u64 {
        self.metric(&format!("responses{{code=\"{status}\"}}"))
    }

    /// All metrics, as Prometheus text.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let mut client = Client::connect(self.admin());
        let reply = client.get("/metrics", "Connection: close\r\n").expect(200);
        client.expect_close();
        reply.text().to_owned()
    }

    /// What it holds now.
    #[track_caller]
    pub fn held(&self) -> Held {
        let metrics = self.metrics();
        let read = |name| sample(&metrics, name);
        // Asking takes a connection, its task, the buffer that the request came in, and a reply.
        let beside_this = |name| read(name).saturating_sub(1);
        Held {
            connections_idle: read("connections_idle"),
            connections_active: beside_this("connections_active"),
            transfers: beside_this("transfers"),
            receive_buffers: beside_this("receive_buffers_in_use"),
            transfer_buffers: read("transfer_buffers_in_use"),
            upload_buffers: read("upload_buffers_in_use"),
            tasks: beside_this("tasks"),
        }
    }

    /// Descriptors that it has open.
    #[track_caller]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    /// The lengths of the files without a name that it has open in a folder: uploads under way.
    #[track_caller]
    pub fn drafts(&self, folder: &Path) -> Vec<u64> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs");
        let open = open.map(|entry| entry.expect("a descriptor").path());
        let is_draft = |path: &PathBuf| {
            // One that has been closed meanwhile is none.
            let names = fs::read_link(path).unwrap_or_default();
            names.starts_with(folder) && names.to_string_lossy().ends_with("(deleted)")
        };
        open.filter(is_draft).filter_map(|path| Some(fs::metadata(path).ok()?.len())).collect()
    }

    /// Processor time that it has used so far, in user and kernel mode.
    #[track_caller]
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server runs");
        // Behind the name in brackets, which may hold blanks, come the fields from the third on (proc_pid_stat(5)).
        let fields = stat.rsplit_once(')').expect("a name in brackets").1;
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
        let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().expect("ticks a second");
        Duration::from_secs_f64(ticks as f64 / a_second as f64)
    }

    /// Waits until it holds nothing, and no more than so many descriptors.
    #[track_caller]
    pub fn expect_rest(&self, descriptors: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (open, held) = (self.descriptors(), self.held());
            if held == Held::default() && open <= descriptors {
                return;
            }
            assert!(Instant::now() < end, "the server still has {held:?}, and {open} descriptors of {descriptors}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the server runs");
    }

    /// Whether it still runs.
    #[track_caller]
    pub fn runs(&mut self) -> bool {
        self.ended = self.ended.or(self.child.try_wait().expect("a child"));
        self.ended.is_none()
    }

    /// Waits for its end, which someone has asked for.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually(PATIENCE, || !self.runs());
        self.ended.expect("it has ended")
    }

    /// Ends it in order: it has to exit with status 0, and must not have panicked on the way.
    #[track_caller]
    pub fn stop(mut self) {
        assert!(self.runs(), "the server has ended before it was asked to");
        self.signal(Signal::SIGTERM);
        self.ended();
    }

    /// Waits for its end, which someone has asked for, and which has to be as [`Server::stop`] has it.
    #[track_caller]
    pub fn ended(mut self) {
        let status = self.wait();
        self.readers.drain(..).for_each(|reader| reader.join().expect("a reader"));
        assert_eq!(status.code(), Some(0), "the server ended with {status}");
        let log = self.log();
        assert!(!log.contains("panicked") && !log.contains("driver invariant"), "the server panicked");
    }

    #[track_caller]
    fn await_ready(&mut self) {
        while self.admin.is_none() {
            let line = match self.lines.recv_timeout(3 * PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("the server says nothing"),
                Err(RecvTimeoutError::Disconnected) => panic!("the server has not started"),
            };
            if let Some(address) = line.strip_prefix("listening on http://") {
                self.addresses.push(address.parse().expect("an address"));
            } else if let Some(address) = line.strip_prefix("admin on http://") {
                self.admin = Some(address.parse().expect("an address"));
            } else {
                let path = line.strip_prefix("listening on unix:").unwrap_or_else(|| panic!("an unknown line: {line}"));
                self.unix_paths.push(path.into());
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It may have ended by itself meanwhile; then there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- the server's log\n{}---", self.log());
        }
    }
}

/// The sum of a metric's samples in this Prometheus text, see [`Server::metric`].
#[track_caller]
pub fn sample(metrics: &str, name: &str) -> u64 {
    let (family, labels) = match name.split_once('{') {
        Some((family, labels)) => (family, Some(labels.trim_end_matches('}'))),
        None => (name, None),
    };
    let of_family = |line: &&str| {
        let own = line.split(['{', ' ']).next().unwrap_or_default();
        let own = own.strip_prefix("highwater_").unwrap_or(own);
        own == family || own.strip_suffix("_total") == Some(family)
    };
    let mut known = false;
    let mut sum = 0;
    for line in metrics.lines().filter(|line| !line.starts_with('#')).filter(of_family) {
        known = true;
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        if labels.is_none_or(|labels| series.contains(labels)) {
            sum += value.parse::<f64>().expect("a value") as u64;
        }
    }
    assert!(known || labels.is_some(), "there is no metric `{name}`");
    sum
}
