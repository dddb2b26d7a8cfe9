//! Live media by programs as people have them: ffmpeg puts, and curl, ffmpeg, ffplay and ffprobe read. One that is not installed
//! shows nothing, which is said on standard error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{
    Browser, CLIENT_PATIENCE, Fixture, Launch, PATIENCE, Process, Run, Server, eventually, installed, names_in,
    not_shown, output, url,
};

#[track_caller]
fn serve(folder: &Fixture, keys: &str) -> Server {
    let root = folder.path().display();
    let config = format!("[[route]]\n[route.media]\nroot = \"{root}\"\n[route.live]\n{keys}");
    Launch::routes().config(&config).arg("--workers").arg("2").start()
}

/// A picture and a tone for so many seconds, at the pace of a camera where it is wanted, coded and put. It ends before that where it
/// is told so ([`end`]).
fn encode(program: &Path, pace: &[&str], seconds: &str, coding: &[&str], target: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-loglevel", "error"]).args(pace);
    command.args(["-f", "lavfi", "-i", "testsrc=size=320x180:rate=25"]).args(pace);
    command.args(["-f", "lavfi", "-i", "sine=frequency=440", "-t", seconds]).args(coding);
    command.args(["-method", "PUT", target]).stdin(Stdio::piped());
    command
}

/// Longer than anything that waits for an encoder's reader may take: it goes on until it is told to end.
const ON: &str = "300";

/// Tells an encoder to end in order.
#[track_caller]
fn end(encoder: &mut Process) {
    encoder.type_into("q");
    eventually(CLIENT_PATIENCE, || encoder.ended().is_some_and(|status| status.success()));
}

/// Waits until all that an ended encoder has put is there: it does not wait for the last replies. `last` is in its list then.
#[track_caller]
fn all_is_put(server: &Server, list: &Path, last: &str) {
    eventually(PATIENCE, || {
        fs::read_to_string(list).is_ok_and(|list| list.contains(last)) && server.metric("live_streams") == 0
    });
}

#[track_caller]
fn nothing_is_left_over(folder: &Fixture) {
    eventually(PATIENCE, || {
        names_in(folder.path()).iter().all(|name| !name.contains("incomplete") && !name.starts_with(".live"))
    });
}

const H264: [&str; 10] = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25", "-c:a", "aac"];

/// How a file is made that can be read from its first byte on: its extension and the arguments.
fn codings() -> [(&'static str, Vec<&'static str>); 3] {
    let mp4 = ["-movflags", "frag_keyframe+empty_moov+default_base_moof", "-f", "mp4"];
    let webm = "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 300k -g 25 -c:a libopus -f webm";
    [
        ("mp4", [&H264[..], &mp4].concat()),
        ("ts", [&H264[..], &["-f", "mpegts"]].concat()),
        ("webm", webm.split(' ').collect()),
    ]
}

#[track_caller]
fn succeed(mut command: Command) -> String {
    let output = output(&mut command, CLIENT_PATIENCE);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?} ended with {}: {told}", output.status);
    assert!(told.trim().is_empty(), "{command:?} says: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How long a medium is, in seconds.
#[track_caller]
fn duration(ffprobe: &Path, url: &str) -> f64 {
    let mut command = Command::new(ffprobe);
    command.args(["-loglevel", "error", "-show_entries", "format=duration", "-of", "csv=p=0", url]);
    succeed(command).trim().parse().expect("a duration")
}

/// A program that reads a URL to its end, and has to end well and say nothing.
fn reader(program: &Path, url: &str) -> Command {
    let mut command = Command::new(program);
    if program.ends_with("ffplay") {
        command.args(["-loglevel", "error", "-nodisp", "-autoexit", "-fast", url]);
        command.env("SDL_VIDEODRIVER", "dummy").env("SDL_AUDIODRIVER", "dummy");
    } else {
        command.args(["-nostdin", "-loglevel", "error", "-i", url, "-f", "null", "-"]);
    }
    command.stdin(Stdio::null());
    command
}

#[test]
fn ffmpeg_puts_a_file_that_is_watched_while_it_is_made() {
    let (Some(ffmpeg), Some(ffprobe), Some(curl)) =
        (installed(&["ffmpeg"]), installed(&["ffprobe"]), installed(&["curl"]))
    else {
        return;
    };
    let players: Vec<PathBuf> = [Some(ffmpeg.clone()), installed(&["ffplay"])].into_iter().flatten().collect();
    let (folder, work) = (Fixture::new(), Fixture::new());
    let server = serve(&folder, "");
    for (extension, coding) in codings() {
        let target = url(&server, &format!("show/{extension}/film.{extension}"));
        let mut encoder = Process::spawn(&mut encode(&ffmpeg, &["-re"], ON, &coding, &target));
        eventually(PATIENCE, || server.metric("live_streams") == 1);
        // Its first second, which a player has before there is an end that it could look at.
        let mut early = Command::new(&ffmpeg);
        early.args(["-nostdin", "-loglevel", "error", "-analyzeduration", "500000", "-i", &target]);
        early.args(["-t", "1", "-f", "null", "-"]).stdin(Stdio::null());
        succeed(early);
        eventually(PATIENCE, || server.metric("live_readers") == 0);
        std::thread::scope(|threads| {
            let target = &target;
            for player in &players {
                threads.spawn(move || succeed(reader(player, target)));
            }
            let copy = format!("copy.{extension}");
            let run = Run::of(&curl, &work, &["-q", "-sS", "--fail", "-o", &copy, target]);
            threads.spawn(move || run.succeed());
            // They all watch it while it is made.
            eventually(CLIENT_PATIENCE, || server.metric("live_readers") == players.len() as u64 + 1);
            end(&mut encoder);
        });
        eventually(PATIENCE, || server.metric("live_streams") + server.metric("live_readers") == 0);
        let made = fs::read(folder.at(&format!("show/{extension}/film.{extension}"))).expect("the whole file");
        let copy = fs::read(work.at(&format!("copy.{extension}"))).expect("curl's copy");
        assert!(made == copy, "curl has {} bytes of {}", copy.len(), made.len());
        // An ordinary file, of which a player asks for ranges.
        assert!(duration(&ffprobe, &target) > 1.0, "{extension}");
        players.iter().for_each(|player| drop(succeed(reader(player, &target))));
    }
    assert_eq!(names_in(folder.path()).len(), 3);
    server.stop();
}

#[test]
fn ffmpeg_puts_segments_and_playlists_and_deletes_what_has_left_them() {
    let (Some(ffmpeg), Some(ffprobe)) = (installed(&["ffmpeg"]), installed(&["ffprobe"])) else { return };
    let folder = Fixture::new();
    let server = serve(&folder, "delete = true");
    for (segments, kept) in [("mpegts", &["-hls_list_size", "0"][..]), ("fmp4", &["-hls_list_size", "0"])] {
        let directory = format!("show/{segments}");
        let target = url(&server, &format!("{directory}/live.m3u8"));
        let hls = ["-f", "hls", "-hls_time", "1", "-hls_segment_type", segments];
        let mut encoder =
            Process::spawn(&mut encode(&ffmpeg, &["-re"], "5", &[&H264[..], &hls, kept].concat(), &target));
        eventually(PATIENCE, || folder.at(&format!("{directory}/live.m3u8")).exists());
        // A player that joins now, and stays until the end.
        succeed(reader(&ffmpeg, &target));
        eventually(PATIENCE, || encoder.ended().is_some_and(|status| status.success()));
        all_is_put(&server, &folder.at(&format!("{directory}/live.m3u8")), "#EXT-X-ENDLIST");
        assert!((4.5..5.5).contains(&duration(&ffprobe, &target)), "{segments}");
    }
    let target = url(&server, "short/live.m3u8");
    let hls = "-f hls -hls_time 1 -hls_list_size 2 -hls_delete_threshold 1 -hls_flags delete_segments";
    let coding = [&H264[..], &hls.split(' ').collect::<Vec<_>>()].concat();
    succeed(encode(&ffmpeg, &[], "10", &coding, &target));
    all_is_put(&server, &folder.at("short/live.m3u8"), "#EXT-X-ENDLIST");
    eventually(PATIENCE, || {
        let names = names_in(folder.path());
        (3..=5).contains(&names.iter().filter(|name| name.starts_with("short/")).count())
    });
    nothing_is_left_over(&folder);
    server.stop();
}

/// Segments in pieces as they are coded, which players read before they are whole (DASH of low latency).
#[test]
fn ffmpeg_puts_dash_of_low_latency() {
    let (Some(ffmpeg), Some(ffprobe)) = (installed(&["ffmpeg"]), installed(&["ffprobe"])) else { return };
    let folder = Fixture::new();
    let server = serve(&folder, "delete = true");
    let target = url(&server, "show/live.mpd");
    let dash = "-f dash -seg_duration 4 -frag_duration 0.2 -frag_type duration -streaming 1 -ldash 1 -use_template 1";
    let coding = [&H264[..], &dash.split(' ').collect::<Vec<_>>()].concat();
    // It warns that it has no rename, which is what a playlist that is replaced whole does not need.
    let mut encoder = Process::spawn(encode(&ffmpeg, &["-re"], ON, &coding, &target).stderr(Stdio::null()));
    // A segment is watched while it is made, and comes in more than one piece; whichever is found first.
    let mut reader = server.connect();
    let (mut segment, mut pieces) = (1, 0);
    let target_of = |segment: u32| format!("/show/chunk-stream0-{segment:05}.m4s");
    eventually(CLIENT_PATIENCE, || {
        let reply = reader.get(&target_of(segment), "Range: bytes=0-0\r\n");
        let is_whole =
            reply.status() == 206 && reply.field("Content-Range").is_some_and(|range| !range.ends_with("/*"));
        segment += u32::from(is_whole);
        reply.status() == 206 && !is_whole
    });
    reader.ask("GET", &target_of(segment), "");
    assert_eq!(reader.head().field("Content-Type"), Some("video/mp4"));
    while !reader.chunk().expect("the whole segment").is_empty() {
        pieces += 1;
    }
    assert!(pieces > 2, "{pieces} pieces");
    end(&mut encoder);
    all_is_put(&server, &folder.at("show/live.mpd"), "type=\"static\"");
    assert!(duration(&ffprobe, &target) > 3.5);
    nothing_is_left_over(&folder);
    server.stop();
}

/// A page with hls.js, from another origin than the stream's.
fn player_page() -> Option<(Fixture, Server)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = root.join("target/clients/node_modules/hls.js/dist/hls.min.js");
    if !library.exists() {
        not_shown("hls.js is not installed (tools/clients)");
        return None;
    }
    let site = Fixture::new();
    for (from, name) in [(library, "hls.min.js"), (root.join("tests/clients/hls.html"), "hls.html")] {
        fs::copy(from, site.at(name)).expect("a file of the page");
    }
    let server = Server::start(site.path());
    Some((site, server))
}

#[test]
fn hls_js_in_a_browser_plays_what_ffmpeg_is_just_putting() {
    let (Some(ffmpeg), Some((_site, page))) = (installed(&["ffmpeg"]), player_page()) else { return };
    let Some(browser) = Browser::open() else { return };
    let folder = Fixture::new();
    let config =
        format!("[[route]]\nmedia = {{ root = {:?}, cors = [\"*\"] }}\nlive = {{ delete = true }}", folder.path());
    let server = Launch::routes().config(&config).arg("--workers").arg("2").start();
    for segments in ["mpegts", "fmp4"] {
        let target = url(&server, &format!("{segments}/live.m3u8"));
        let hls =
            format!("-f hls -hls_time 1 -hls_list_size 6 -hls_segment_type {segments} -hls_flags delete_segments");
        let coding = [&H264[..], &hls.split(' ').collect::<Vec<_>>()].concat();
        let mut encoder = Process::spawn(&mut encode(&ffmpeg, &["-re"], ON, &coding, &target));
        eventually(PATIENCE, || folder.at(&format!("{segments}/live.m3u8")).exists());
        browser.visit(&format!("{}?stream={target}", url(&page, "hls.html")));
        // While it is made: the picture moves, by playlists that are asked for again and segments that are.
        browser.until("video.currentTime > 3 && said.playlists > 2 && said.fragments > 2");
        browser.screenshot(&format!("hls-{segments}"));
        let played = browser.run("return video.currentTime").as_f64().expect("a time");
        end(&mut encoder);
        browser.until("said.ended");
        let said = browser.run("return said");
        assert_eq!(said["errors"], serde_json::json!([]), "{segments}");
        let at = browser.run("return video.currentTime").as_f64().expect("a time");
        assert!(at > played, "{segments}: to its end, from {played} on to {at}");
    }
    browser.expect_no_complaint();
    eventually(PATIENCE, || server.metric("live_streams") + server.metric("live_readers") == 0);
    server.stop();
    page.stop();
}
