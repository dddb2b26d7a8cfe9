//! `highwater put` against the real server, and against servers that lie, refuse or die.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use nix::unistd::Pid;

use crate::support::{Client, Fixture, Launch, PATIENCE, Server, bytes_at, check_bytes, eventually, output};

const MB: u64 = 1 << 20;

/// A folder for the files, one for what the server has, and the state of the command.
struct Place {
    files: Fixture,
    stored: Fixture,
}

impl Place {
    fn new() -> Self {
        Place { files: Fixture::new(), stored: Fixture::new() }
    }

    /// A server that takes uploads at `/in`, with these keys, and serves them at `/media`.
    fn launch(&self, keys: &str) -> Launch {
        let dir = self.stored.path().display();
        Launch::routes().config(&format!(
            "[[route]]\nprefix = \"/in\"\nupload = {{ dir = \"{dir}\", names = \"client\", {keys} }}\n\
             [[route]]\nprefix = \"/media\"\nmedia.root = \"{dir}\"\n"
        ))
    }

    fn server(&self, keys: &str) -> Server {
        self.launch(keys).start()
    }

    fn state(&self) -> PathBuf {
        self.files.at("state/highwater")
    }

    fn states(&self) -> usize {
        fs::read_dir(self.state()).map_or(0, Iterator::count)
    }

    /// The command with these words, run by a shell in the folder of the files.
    fn command(&self, words: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &words.replace("PUT", &format!("exec {} put", env!("CARGO_BIN_EXE_highwater")))]);
        shell.current_dir(self.files.path()).env("XDG_STATE_HOME", self.files.at("state"));
        shell
    }

    #[track_caller]
    fn put(&self, words: &str) -> Output {
        output(&mut self.command(words), 6 * PATIENCE)
    }

    /// What it says when all went well.
    #[track_caller]
    fn done(&self, words: &str) -> String {
        let output = self.put(words);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What it says on standard error when something failed.
    #[track_caller]
    fn failed(&self, words: &str, code: i32) -> String {
        let output = self.put(words);
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        err(&output)
    }

    #[track_caller]
    fn check_stored(&self, name: &str, len: u64) {
        let bytes = fs::read(self.stored.at(name)).expect(name);
        assert_eq!(bytes.len() as u64, len, "{name}");
        check_bytes(0, &bytes);
    }

    /// The upload that a run under way has left in its state.
    #[track_caller]
    fn upload(&self) -> String {
        let state = fs::read_dir(self.state()).expect("a state").next().expect("a state").expect("an entry");
        let state = fs::read_to_string(state.path()).expect("a state");
        let url = state.split("\"upload\":\"").nth(1).expect("an upload").split('"').next().expect("an end");
        format!("/{}", url.splitn(4, '/').nth(3).expect("a path"))
    }

    /// Waits until the server has put so many bytes of an unfinished upload on its disk.
    #[track_caller]
    fn await_partial(&self, bytes: u64) {
        let longest = || {
            let entries = fs::read_dir(self.stored.at(".uploads")).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).max().unwrap_or(0)
        };
        eventually(3 * PATIENCE, || longest() >= bytes);
    }
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port that nobody listens on, as long as the socket is kept.
fn deaf_port() -> (OwnedFd, SocketAddr) {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
    let address: SockaddrIn = getsockname(socket.as_raw_fd()).expect("an address");
    (socket, SocketAddrV4::from(address).into())
}

/// That the upload of this path is the one that became the file.
#[track_caller]
fn expect_whole(address: SocketAddr, upload: &str, len: u64) {
    let mut client = Client::connect(address);
    let reply = client.request("HEAD", upload, "Tus-Resumable: 1.0.0\r\n").expect(200);
    assert_eq!(reply.field("Upload-Offset"), Some(len.to_string().as_str()));
}

#[test]
fn u4_a_whole_file_by_tus() {
    let place = Place::new();
    place.files.file("a b.mp4", 3 * MB);
    let server = place.server("");
    let said = place.done(&format!("PUT --tus 'a b.mp4' http://{}/in", server.address()));
    let url = format!("http://{}/media/a%20b.mp4  3.00 MiB in ", server.address());
    assert!(said.starts_with(&url) && said.ends_with("/s, sha256 ok\n"), "{said}");
    place.check_stored("a b.mp4", 3 * MB);
    assert_eq!(place.states(), 0);
    server.stop();
}

#[test]
fn several_files_and_one_that_fails_does_not_keep_the_others_back() {
    let place = Place::new();
    for (name, len) in [("a", 0), ("b", 1), ("c", MB)] {
        place.files.file(name, len);
    }
    let server = place.server("");
    let output = place.put(&format!("PUT --chunk-size 300KiB a gone b c http://{}/in/", server.address()));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().filter(|line| line.ends_with("sha256 ok")).count(), 3, "{said}");
    let errors = err(&output);
    assert!(errors.starts_with("gone: No such file") && errors.contains("3 of 4 files, 1.00 MiB in "), "{errors}");
    [("a", 0), ("b", 1), ("c", MB)].into_iter().for_each(|(name, len)| place.check_stored(name, len));
    server.stop();
}

#[test]
fn standard_input_by_tus_and_by_put() {
    let place = Place::new();
    place.files.file("a", 3 * MB);
    let server = place.server("");
    let address = server.address();
    place.done(&format!("PUT --tus --chunk-size 1MiB --name tus - http://{address}/in < a"));
    place.check_stored("tus", 3 * MB);
    place.done(&format!("PUT --no-tus --name put - http://{address}/in < a"));
    place.check_stored("put", 3 * MB);
    place.done(&format!("PUT --name none - http://{address}/in < /dev/null"));
    place.check_stored("none", 0);
    server.stop();
}

#[test]
fn u4_an_upload_goes_on_when_the_server_comes_back_from_its_death() {
    let place = Place::new();
    place.files.file("a", 50 * MB);
    // Of this address nobody else takes a port while the server is dead.
    let launch = |address: &str| place.launch("fsync = \"none\"").without_listen().arg("--listen").arg(address);
    let mut server = launch("127.83.0.1:0").start();
    let address = server.address();
    let words = format!("PUT --chunk-size 2MiB --limit-rate 25MiB/s a http://{address}/in");
    let mut command = place.command(&words);
    let run = thread::spawn(move || output(&mut command, 6 * PATIENCE));
    place.await_partial(10 * MB);
    server.signal(Signal::SIGKILL);
    server.wait();
    let upload = place.upload();
    drop(server);
    // The kernel takes a dead ring apart, and closes what it holds, after the process is gone.
    eventually(PATIENCE, || TcpListener::bind(address).is_ok());
    let again = launch(&address.to_string()).start();
    let output = run.join().expect("it has ended");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("; again in "), "it has noticed nothing: {}", err(&output));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("sha256 ok\n"));
    place.check_stored("a", 50 * MB);
    expect_whole(address, &upload, 50 * MB);
    assert_eq!(place.states(), 0);
    again.stop();
}

#[test]
fn u4_the_next_run_goes_on_after_ctrl_c() {
    let place = Place::new();
    place.files.file("a", 20 * MB);
    let server = place.server("fsync = \"none\"");
    let words = format!("PUT --chunk-size 1MiB --limit-rate RATE a http://{}/in", server.address());
    let mut run = place
        .command(&words.replace("RATE", "5MiB/s"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    place.await_partial(3 * MB);
    kill(Pid::from_raw(i32::try_from(run.id()).expect("a process id")), Signal::SIGINT).expect("it runs");
    assert!(!run.wait().expect("a child").success());
    let upload = place.upload();
    place.done(&words.replace("RATE", "1GiB/s"));
    place.check_stored("a", 20 * MB);
    expect_whole(server.address(), &upload, 20 * MB);
    assert_eq!(place.states(), 0);
    server.stop();
}

/// A proxy that turns over a bit of what clients send, behind so many bytes of a connection.
fn flipping_proxy(server: SocketAddr, behind: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(server).expect("the server");
            let (mut from_server, mut to_client) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from_server, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Write);
            });
            thread::spawn(move || flip(client, upstream, behind));
        }
    });
    address
}

fn flip(mut client: TcpStream, mut upstream: TcpStream, behind: usize) {
    let (mut buffer, mut passed) = (vec![0; 65536], 0);
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if (passed..passed + count).contains(&behind) {
            buffer[behind - passed] ^= 1;
        }
        passed += count;
        if upstream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = upstream.shutdown(Shutdown::Write);
}

#[test]
fn a_byte_that_changed_on_the_way_is_reported() {
    let place = Place::new();
    place.files.file("a", 3 * MB);
    let server = place.server("on_conflict = \"replace\"");
    let proxy = flipping_proxy(server.address(), 2 * MB as usize);
    for protocol in ["--tus", "--no-tus"] {
        let errors = place.failed(&format!("PUT {protocol} a http://{proxy}/in"), 1);
        assert!(errors.starts_with("a: sha256 mismatch: sent "), "{protocol}: {errors}");
        assert_eq!(place.states(), 0);
    }
    server.stop();
}

#[test]
fn a_route_that_resumes_nothing_gets_a_put() {
    let place = Place::new();
    place.files.file("a", 3 * MB);
    let server = place.server("resumable = false");
    let said = place.done(&format!("PUT a http://{}/in", server.address()));
    assert!(said.ends_with("sha256 ok\n"), "{said}");
    place.check_stored("a", 3 * MB);
    assert!(place.failed(&format!("PUT --tus --name b a http://{}/in", server.address()), 1).starts_with("a: "));
    server.stop();
}

#[test]
fn a_digest_that_the_server_does_not_name_is_told_so() {
    let place = Place::new();
    place.files.file("a", 10);
    let server = place.server("sha256 = false, on_conflict = \"replace\"");
    for protocol in ["--tus", "--no-tus"] {
        let said = place.done(&format!("PUT {protocol} a http://{}/in", server.address()));
        assert!(said.ends_with("sha256 not named by the server\n"), "{said}");
    }
    server.stop();
}

#[test]
fn refusals_are_told_in_the_servers_words() {
    let place = Place::new();
    place.files.file("a", 30 * MB);
    place.files.file("b", 10);
    let server = place.server("file_len = \"1MiB\"");
    let to = format!("http://{}/in", server.address());
    assert_eq!(place.failed(&format!("PUT a {to}"), 1), "a: the server takes 1048576 bytes at most\n");
    let limit = "413 Payload Too Large: A file may have 1048576 bytes at most (LIMIT_FILE_SIZE)\n";
    assert_eq!(place.failed(&format!("PUT --no-tus a {to}"), 1), format!("a: {limit}"));
    // In the middle of a body whose length nobody knew.
    assert_eq!(place.failed(&format!("PUT --no-tus --name c - {to} < a"), 1), format!("-: {limit}"));
    place.done(&format!("PUT b {to}"));
    let taken = "b: 409 Conflict: There is a file of this name already (NAME_TAKEN)\n";
    for protocol in ["--tus", "--no-tus"] {
        let errors = place.failed(&format!("PUT {protocol} b {to}"), 1);
        assert_eq!(errors.lines().last(), taken.lines().last(), "{errors}");
    }
    server.stop();
}

/// What a server does with a connection behind its reply, with most of the request unread.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Closes it, which resets it.
    Closes,
    /// Nothing at all.
    Sleeps,
}

/// A server that reads the head of each request and so many bytes behind it, and says this.
fn rude_server(reads: usize, says: &'static str, then: Then) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let mut asleep = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("a head");
                head.push(byte[0]);
            }
            client.read_exact(&mut vec![0; reads]).expect("a body");
            client.write_all(says.as_bytes()).expect("a reader");
            match then {
                Then::Closes => drop(client),
                Then::Sleeps => asleep.push(client),
            }
        }
    });
    address
}

#[test]
fn an_early_refusal_is_heard_though_the_connection_is_reset_or_stuck() {
    let place = Place::new();
    place.files.file("a", 30 * MB);
    let text = "HTTP/1.1 507 Insufficient Storage\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nDisk full";
    for then in [Then::Closes, Then::Sleeps] {
        let to = format!("http://{}/in", rude_server(100_000, text, then));
        let expected = "507 Insufficient Storage: Disk full\n";
        assert_eq!(place.failed(&format!("PUT --no-tus a {to}"), 1), format!("a: {expected}"), "{then:?}");
        let stream = place.failed(&format!("PUT --no-tus --name b - {to} < a"), 1);
        assert_eq!(stream, format!("-: {expected}"), "{then:?}");
    }
}

#[test]
fn tokens_and_signed_urls_open_what_is_guarded() {
    let place = Place::new();
    place.files.file("a", 3 * MB);
    let secret = "0123456789abcdef0123456789abcdef";
    let [tokens, keys] = ["tokens", "keys"].map(|name| place.files.text(name, format!("{secret}\n")));
    let (dir, tokens, keys) = (place.stored.path().display(), tokens.display(), keys.display());
    let server = Launch::routes()
        .config(&format!(
            "[[route]]\nprefix = \"/in\"\nupload = {{ dir = \"{dir}\", names = \"client\" }}\n\
             auth = {{ tokens = \"{tokens}\", signing_keys = \"{keys}\" }}\n"
        ))
        .start();
    let to = format!("http://{}/in/", server.address());
    assert!(place.failed(&format!("PUT a {to}"), 1).starts_with("a: 401 Unauthorized"));
    place.done(&format!("PUT --token-file tokens --name by-file a {to}"));
    place.done(&format!("PUT --token {secret} --no-tus --name by-flag a {to}"));
    let binary = env!("CARGO_BIN_EXE_highwater");
    let signed = format!("$({binary} sign --key-file keys --expires 1h --write {to})");
    place.done(&format!("PUT --tus --name by-url a \"{signed}\""));
    place.done(&format!("PUT --no-tus --name by-put a \"{signed}\""));
    ["by-file", "by-flag", "by-url", "by-put"].into_iter().for_each(|name| place.check_stored(name, 3 * MB));
    server.stop();
}

#[test]
fn wrong_use_is_one_line_and_sends_nothing() {
    let place = Place::new();
    place.files.file("a", 1);
    for (words, expected) in [
        ("PUT a https://127.0.0.1/in", "`https://127.0.0.1/in`: https is not spoken, as there is no TLS in this build"),
        ("PUT a 127.0.0.1/in", "`127.0.0.1/in` is no URL: write http://HOST:PORT/PATH"),
        ("PUT - http://127.0.0.1/in", "-: standard input has no name: write --name"),
        ("PUT --name b a a http://127.0.0.1/in", "--name: there are several files: put them one by one"),
        ("PUT --name ../b a http://127.0.0.1/in", "--name: `../b` is no file's name"),
        ("PUT --token-file gone a http://127.0.0.1/in", "--token-file: gone cannot be read: No such file"),
        ("PUT --retries -1 a http://127.0.0.1/in", ""),
    ] {
        let errors = place.failed(words, 2);
        assert!(errors.starts_with(expected) && errors.lines().count() == 1, "{words}: {errors}");
    }
}

#[test]
fn quiet_says_nothing_but_what_failed() {
    let place = Place::new();
    place.files.text("a", bytes_at(0, 10));
    place.files.text("b", bytes_at(0, 10));
    let server = place.server("");
    let output = place.put(&format!("PUT --quiet a b http://{}/in", server.address()));
    assert_eq!((output.status.code(), output.stdout.len(), err(&output).as_str()), (Some(0), 0, ""));
    let gone = place.failed(&format!("PUT --quiet --retries 1 gone http://{}/in", server.address()), 1);
    assert!(gone.starts_with("gone: No such file"), "{gone}");
    server.stop();
}

#[test]
fn a_server_that_is_not_there_is_given_up() {
    let place = Place::new();
    place.files.file("a", 1);
    let (_kept, address) = deaf_port();
    let errors = place.failed(&format!("PUT --retries 1 a http://{address}/in"), 1);
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines[0].ends_with("; again in 0.2 s") && lines[1].ends_with("(given up after 1 retry)"), "{errors}");
}
