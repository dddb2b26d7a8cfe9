//! Rates: that replies are whole and connections go on, that the kernel is told, and which files tell their bitrate. How fast
//! the kernel sends then is its own affair, and timing belongs in benches.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use highwater::proto::media_duration::Probe;

use crate::support::{
    Client, Fixture, Launch, PATIENCE, Server, check_bytes, eventually, installed, not_shown, output,
};

const LEN: u64 = 2_000_000;
/// How long a program may take that makes or reads a small file.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(60);

fn start(root: &Fixture, keys: &str) -> Server {
    Launch::routes().config(&format!("[[route]]\n[route.media]\nroot = {:?}\n{keys}", root.path())).start()
}

#[test]
fn paced_replies_are_whole_and_their_connection_goes_on() {
    let fixture = Fixture::with(&[("film.bin", LEN), ("small.bin", 1000)]);
    let both = "limit_rate = \"40MiB/s\"\nrate_burst = \"100KiB\"\nlimit_rate_address = \"60MiB/s\"";
    for (keys, paced) in [("limit_rate = \"40MiB/s\"\nrate_burst = \"100KiB\"", 3), (both, 6)] {
        let server = start(&fixture, keys);
        let mut client = server.connect();
        for _ in 0..2 {
            let reply = client.get("/film.bin", "").expect(200);
            assert_eq!(reply.body.len() as u64, LEN);
            check_bytes(0, &reply.body);
            check_bytes(0, &client.get("/small.bin", "").expect(200).body);
        }
        let reply = client.get("/film.bin", "Range: bytes=500000-999999\r\n").expect(206);
        assert_eq!(reply.body.len(), 500_000);
        check_bytes(500_000, &reply.body);
        check_bytes(9, &client.get("/film.bin", "Range: bytes=9-10000\r\n").expect(206).body);
        assert!(client.request("HEAD", "/film.bin", "").expect(200).body.is_empty());
        client.get("/missing", "").expect(404);
        // Without a rate for the address, what fits the burst is not held.
        assert_eq!(server.metric("paced_replies"), paced);
        server.stop();
    }
}

#[test]
fn a_paced_reply_over_a_unix_socket_is_whole() {
    let fixture = Fixture::with(&[("film.bin", LEN)]);
    let socket = fixture.at("socket");
    let keys = "limit_rate = \"4KiB/s\"\nrate_burst = 0\nlimit_rate_address = \"4KiB/s\"";
    let routes = format!("[[route]]\n[route.media]\nroot = {:?}\n{keys}", fixture.path());
    let listen = format!("unix:{}", socket.display());
    let server = Launch::routes().config(&routes).arg("--listen").arg(listen).start();
    // At that rate it would take minutes.
    let reply = Client::connect_unix(&socket).get("/film.bin", "").expect(200);
    assert_eq!(reply.body.len() as u64, LEN);
    check_bytes(0, &reply.body);
    server.stop();
}

#[test]
fn the_kernel_holds_a_reply_to_the_rate_and_the_next_one_to_none() {
    let Some(ss) = installed(&["ss"]) else { return };
    let fixture = Fixture::with(&[("film.bin", LEN), ("small.bin", 1000)]);
    let server = start(&fixture, "limit_rate = \"4MiB/s\"\nrate_burst = \"100KiB\"");
    let sockets = || {
        let of_server = format!("sport = :{}", server.address().port());
        let output = output(Command::new(&ss).args(["-tinH", &of_server]), PROGRAM_PATIENCE);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut client = Client::connect_narrow(server.address(), 16 << 10);
    client.get("/small.bin", "").expect(200);
    if !sockets().contains("pacing_rate ") {
        return not_shown("this ss shows no rates");
    }
    client.ask("GET", "/film.bin", "Range: bytes=0-299999\r\n");
    // In bits, behind the rate of the moment.
    eventually(PATIENCE, || sockets().contains("/33554432bps"));
    check_bytes(0, &client.reply().expect(206).body);
    client.get("/small.bin", "").expect(200);
    assert!(!sockets().contains("/33554432bps"), "{}", sockets());
    server.stop();
}

/// Makes a file of two seconds, or of what the arguments say.
#[track_caller]
fn encode(ffmpeg: &Path, to: &Path, arguments: &[&str]) -> bool {
    let inputs = "-nostdin -v error -y -f lavfi -i testsrc=size=64x64:rate=25:duration=2.4 \
                  -f lavfi -i sine=frequency=440:duration=2.4";
    let mut command = Command::new(ffmpeg);
    command.args(inputs.split_whitespace()).args(arguments).arg(to);
    let output = output(&mut command, PROGRAM_PATIENCE);
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("Unknown encoder"), "{}: {told}", to.display());
        not_shown(&format!("this ffmpeg can't write {}", to.display()));
    }
    output.status.success()
}

/// What the probe tells of a real file, in seconds.
fn duration(path: &Path) -> Option<f64> {
    let file = fs::read(path).expect("a file");
    let mut probe = Probe::new(file.len() as u64);
    while let Some((offset, len)) = probe.wanted() {
        probe.feed(&file[offset as usize..offset as usize + len]);
    }
    probe.duration().map(|duration| duration.as_secs_f64())
}

/// Files as encoders write them; each with the arguments, and whether it tells its duration.
const ENCODED: &[(&str, &[&str], bool)] = &[
    ("plain.mp4", &["-c:v", "mpeg4", "-c:a", "aac"], true),
    ("fast.mp4", &["-c:v", "mpeg4", "-c:a", "aac", "-movflags", "+faststart"], true),
    ("plain.mov", &["-c:v", "mpeg4", "-c:a", "aac"], true),
    ("audio.m4a", &["-vn", "-c:a", "aac"], true),
    ("plain.mkv", &["-c:v", "mpeg4", "-c:a", "aac"], true),
    ("plain.webm", &["-c:v", "libvpx", "-c:a", "libvorbis"], true),
    ("live.webm", &["-c:v", "libvpx", "-an", "-live", "1", "-f", "webm"], false),
    ("audio.wav", &["-vn"], true),
    ("large.wav", &["-vn", "-rf64", "always"], true),
    ("constant.mp3", &["-vn", "-c:a", "libmp3lame", "-b:a", "96k", "-write_xing", "0"], true),
    ("variable.mp3", &["-vn", "-c:a", "libmp3lame", "-q:a", "4", "-metadata", "title=A title"], true),
    ("low.mp3", &["-vn", "-c:a", "libmp3lame", "-ar", "22050", "-ac", "1"], true),
    ("fragments.mp4", &["-c:v", "mpeg4", "-an", "-movflags", "frag_keyframe+empty_moov"], false),
    ("audio.ogg", &["-vn", "-c:a", "libvorbis"], false),
    ("audio.flac", &["-vn"], false),
];

#[test]
fn files_as_encoders_write_them_tell_their_duration() {
    let Some(ffmpeg) = installed(&["ffmpeg"]) else { return };
    let work = Fixture::new();
    for (name, arguments, tells) in ENCODED {
        let path = work.at(name);
        if !encode(&ffmpeg, &path, arguments) {
            continue;
        }
        match duration(&path) {
            // Encoders pad sound to whole frames.
            Some(told) => assert!(*tells && (told - 2.4).abs() < 0.1, "{name} tells {told} s"),
            None => assert!(!tells, "{name} tells nothing"),
        }
    }
    // The one that comes with the server, of which the players in other tests are sure.
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("media/sample.mp4");
    assert!(duration(&sample).is_some_and(|seconds| (10.0..60.0).contains(&seconds)), "{:?}", duration(&sample));
}

#[test]
fn a_media_file_is_held_to_its_bitrate_and_another_is_not() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("media/sample.mp4");
    let content = fs::read(&sample).expect("the sample");
    let fixture = Fixture::with(&[("noise.bin", LEN)]);
    fixture.text("sample.mp4", &content);
    // So large a factor that the test does not wait. Each time the file is known a little better: opened, then open.
    let server = start(&fixture, "rate_from = \"bitrate\"\nrate_factor = 100\nrate_burst = \"16KiB\"");
    let mut client = server.connect();
    for round in 1..4 {
        assert!(client.get("/sample.mp4", "").expect(200).body == content);
        assert_eq!(server.metric("paced_replies"), round);
        assert_eq!(client.get("/noise.bin", "").expect(200).body.len() as u64, LEN);
        assert_eq!(server.metric("paced_replies"), round);
    }
    server.stop();
}
