//! Clients as people have them: what the strict client of the other modules can't know is how theirs behave.
//!
//! One that is not installed shows nothing, which is said on standard error. One that is there has to succeed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{
    CLIENT_PATIENCE, Fixture, Launch, Process, Run, Server, bytes_at, eventually, installed, logged, not_shown, url,
};

#[track_caller]
fn check_same_file(got: &Path, expected: &Path) {
    let [mut got_file, mut expected_file] = [got, expected].map(|path| File::open(path).expect("both files"));
    let (mut got_bytes, mut expected_bytes) = (Vec::new(), Vec::new());
    got_file.read_to_end(&mut got_bytes).expect("the file that came");
    expected_file.read_to_end(&mut expected_bytes).expect("the file that was asked for");
    assert_eq!(got_bytes.len(), expected_bytes.len(), "{}", got.display());
    let differs = got_bytes.iter().zip(&expected_bytes).position(|(got, expected)| got != expected);
    assert_eq!(differs, None, "the offset of the first wrong byte of {}", got.display());
}

/// Whether a part of this target was sent that begins at `offset` or behind it.
fn sent_from(log: &[Value], target: &str, offset: u64) -> bool {
    log.iter().filter(|line| line["target"] == target && line["status"] == 206).any(|line| {
        let range = line["range"].as_str().and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
        range.is_some_and(|(first, _)| first.parse::<u64>().is_ok_and(|first| first >= offset))
    })
}

const LEN: u64 = 3_000_000;

#[test]
fn curl_fetches_whole_files_and_ranges() {
    let Some(curl) = installed(&["curl"]) else { return };
    let (fixture, work) = (Fixture::with(&[("clip.mp4", LEN)]), Fixture::new());
    let server = Server::start(fixture.path());
    let target = url(&server, "clip.mp4");
    let fetch = |arguments: &[&str]| {
        Run::of(&curl, &work, &[&["-q", "-sS", "--fail"], arguments, &[target.as_str()]].concat()).succeed()
    };
    let all = bytes_at(0, LEN as usize);
    assert!(fetch(&[]) == all);
    assert!(fetch(&["--http1.0"]) == all);
    assert!(fetch(&["--http1.0", "-H", "Connection: keep-alive"]) == all);
    assert!(fetch(&["--limit-rate", "20M"]) == all);
    assert_eq!(fetch(&["-r", "1000-1999"]), all[1000..2000]);
    assert_eq!(fetch(&["-r", "0-0"]), all[..1]);
    assert_eq!(fetch(&["-r", "-700"]), all[all.len() - 700..]);
    assert_eq!(fetch(&["-r", "2000000-"]), all[2_000_000..]);
    let several = fetch(&["-r", "0-9,1000000-1000009"]);
    assert_eq!(several.windows(10).filter(|window| *window == &all[..10]).count(), 1);
    assert_eq!(several.windows(10).filter(|window| *window == &all[1_000_000..1_000_010]).count(), 1);
    let head = String::from_utf8(fetch(&["-I"])).expect("a head");
    assert!(head.contains("200 OK") && head.to_ascii_lowercase().contains(&format!("content-length: {LEN}")), "{head}");
    // A second time: not modified, and nothing is sent.
    let etag = work.at("etag");
    let etag = etag.to_str().expect("a path of text");
    fetch(&["--etag-save", etag, "-o", "first"]);
    assert_eq!(fetch(&["--etag-compare", etag, "-w", "%{http_code}", "-o", "second"]), b"304");
    let missing = Run::of(&curl, &work, &["-q", "-sS", "--fail", &url(&server, "missing.mp4")]).output();
    assert_eq!(missing.status.code(), Some(22), "a 404 is one for curl too");
    server.stop();
}

#[test]
fn curl_resumes() {
    let Some(curl) = installed(&["curl"]) else { return };
    let (fixture, work) = (Fixture::with(&[("clip.mp4", LEN)]), Fixture::new());
    let server = Server::start(fixture.path());
    for held in [1, 1_000_000, LEN as usize - 1] {
        work.text("clip.mp4", bytes_at(0, held));
        let (to, write_out) = (url(&server, "clip.mp4"), "%{size_download}");
        let told = Run::of(&curl, &work, &["-q", "-sS", "--fail", "-C", "-", "-O", "-w", write_out, &to]).succeed();
        check_same_file(&work.at("clip.mp4"), &fixture.at("clip.mp4"));
        assert_eq!(String::from_utf8_lossy(&told), (LEN - held as u64).to_string(), "only what was missing is sent");
    }
    assert_eq!(server.responses(206), 3);
    server.stop();
}

#[test]
fn curl_fetches_many_at_once() {
    let Some(curl) = installed(&["curl"]) else { return };
    let names: Vec<String> = (0..24).map(|n| format!("segment{n}.ts")).collect();
    let (fixture, work) = (Fixture::new(), Fixture::new());
    // Lengths about the edges of one send and of one high water mark.
    let lens = [0, 1, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145, 1_000_000];
    names.iter().zip(lens.iter().cycle()).for_each(|(name, len)| drop(fixture.file(name, *len)));
    let server = Launch::of(fixture.path()).arg("--workers").arg("2").start();
    let target = url(&server, "segment[0-23].ts");
    let arguments = ["-q", "-sS", "--fail", "-Z", "--parallel-max", "12", "-o", "segment#1.ts", &target];
    Run::of(&curl, &work, &arguments).succeed();
    for name in &names {
        // curl makes no file where there is nothing to write.
        if fs::metadata(fixture.at(name)).expect("a file").len() > 0 {
            check_same_file(&work.at(name), &fixture.at(name));
        }
    }
    server.stop();
}

#[test]
fn wget_fetches_resumes_and_walks_a_listing() {
    let Some(wget) = installed(&["wget"]) else { return };
    let files = [("a b.mp4", LEN), ("día/1.ts", 100_000), ("día/2.ts", 1), ("deep/er/x#y?.ts", 70_000)];
    let (fixture, work) = (Fixture::with(&files), Fixture::new());
    let server = Launch::of(fixture.path()).arg("--listing").start();
    let options = ["--no-config", "-nv", "--tries=1", "--timeout=20", "--restrict-file-names=nocontrol"];
    let fetch = |arguments: &[&str]| drop(Run::of(&wget, &work, &[&options[..], arguments].concat()).succeed());
    fetch(&["-O", "whole", &url(&server, "a%20b.mp4")]);
    check_same_file(&work.at("whole"), &fixture.at("a b.mp4"));
    work.text("a b.mp4", bytes_at(0, 2_000_000));
    fetch(&["-c", &url(&server, "a%20b.mp4")]);
    check_same_file(&work.at("a b.mp4"), &fixture.at("a b.mp4"));
    assert_eq!(server.responses(206), 1);
    fetch(&["-r", "-np", "-nH", "--reject", "index.html", "-P", "mirror", &url(&server, "")]);
    for (name, _) in files {
        check_same_file(&work.at("mirror").join(name), &fixture.at(name));
    }
    server.stop();
}

#[test]
fn aria2c_fetches_over_many_connections() {
    let Some(aria2c) = installed(&["aria2c"]) else { return };
    const LEN: u64 = 64 << 20;
    let (fixture, work) = (Fixture::with(&[("film.mp4", LEN)]), Fixture::new());
    let server = Launch::of(fixture.path()).arg("--workers").arg("2").start();
    let target = url(&server, "film.mp4");
    // Slowed down a little, or the first connections have it all before the last are made.
    let arguments = [
        "--no-conf",
        "-q",
        "-x",
        "16",
        "-s",
        "16",
        "-k",
        "1M",
        "--file-allocation=none",
        "--max-overall-download-limit=96M",
        &target,
    ];
    Run::of(&aria2c, &work, &arguments).succeed();
    check_same_file(&work.at("film.mp4"), &fixture.at("film.mp4"));
    // The first connection asks for the whole file, to learn what the server can do.
    assert!(server.responses(206) >= 8, "it has asked for {} parts", server.responses(206));
    server.stop();
}

/// The sample that comes with the project.
fn media() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("media")
}

/// A server over the sample, and its access log.
fn serve_sample(work: &Fixture, root: &Path) -> (Server, PathBuf) {
    let log = work.at("access.log");
    let server = Launch::of(root).arg("--access-log").arg(&log).arg("--log-format").arg("json").start();
    (server, log)
}

#[test]
fn ffprobe_reads_the_sample() {
    let Some(ffprobe) = installed(&["ffprobe"]) else { return };
    let work = Fixture::new();
    let server = Server::start(media());
    for path in ["sample.mp4", "hls/index.m3u8"] {
        let arguments = ["-v", "error", "-show_entries", "format=duration:stream=codec_type", "-of", "json"];
        let told = Run::of(&ffprobe, &work, &[&arguments[..], &[&url(&server, path)]].concat()).succeed();
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        let duration: f64 = told["format"]["duration"].as_str().and_then(|text| text.parse().ok()).expect("a duration");
        assert!((duration - 12.0).abs() < 0.5, "{path} lasts {duration} s");
        let kinds: Vec<_> =
            told["streams"].as_array().expect("streams").iter().map(|stream| &stream["codec_type"]).collect();
        assert!(kinds.contains(&&Value::from("video")) && kinds.contains(&&Value::from("audio")), "{path}: {kinds:?}");
    }
    server.stop();
}

#[test]
fn ffmpeg_decodes_over_http_what_it_decodes_from_the_disk() {
    let Some(ffmpeg) = installed(&["ffmpeg"]) else { return };
    let work = Fixture::new();
    let (server, log) = serve_sample(&work, &media());
    // A checksum of every frame; errors are failures, and nothing may be said.
    let decode = |seek: &[&str], input: &str| {
        let arguments =
            [&["-nostdin", "-v", "warning", "-xerror"], seek, &["-i", input, "-f", "framecrc", "-"]].concat();
        let output = Run::of(&ffmpeg, &work, &arguments).output();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.is_empty(), "{input}: {} {told}", output.status);
        output.stdout
    };
    for (path, seek) in [
        ("sample.mp4", &[][..]),
        ("sample.mp4", &["-ss", "10.5"]),
        ("hls/index.m3u8", &[]),
        ("hls/index.m3u8", &["-ss", "9"]),
    ] {
        let local = media().join(path);
        let expected = decode(seek, local.to_str().expect("a path of text"));
        assert!(expected.split(|byte| *byte == b'\n').count() > 30, "there are frames");
        assert!(decode(seek, &url(&server, path)) == expected, "{path} {seek:?}");
    }
    eventually(CLIENT_PATIENCE, || sent_from(&logged(&log), "/sample.mp4", 1));
    server.stop();
}

/// What the browser does, and where it tells what came of it: the server's access log is the one place that both the page and
/// the test can reach without a protocol of its own.
const PROBE: &str = r#"<!doctype html>
<meta charset="utf-8">
<iframe src="index.html" width="800" height="600"></iframe>
<script>
const report = what => fetch('report?' + encodeURIComponent(what));
const heard = (target, name) => new Promise((resolve, reject) => {
  target.addEventListener(name, resolve, { once: true });
  target.addEventListener('error', () => reject(`no ${name}: ${target.error?.message}`), { once: true });
});
async function seek(video, time) {
  video.muted = true;
  if (video.readyState < HTMLMediaElement.HAVE_METADATA) await heard(video, 'loadedmetadata');
  await video.play();
  const seeked = heard(video, 'seeked');
  video.currentTime = time;
  await seeked;
  return video.currentTime;
}
async function probe() {
  const page = document.querySelector('iframe');
  await heard(page, 'load');
  const sample = page.contentDocument.querySelector('video');
  if (!sample.canPlayType('video/mp4; codecs="avc1.42E01E, mp4a.40.2"')) return 'unsupported';
  const times = [await seek(sample, 11)];
  if (location.search == '?long') {
    const long = document.createElement('video');
    long.preload = 'metadata';
    long.src = 'long.mp4';
    document.body.append(long);
    times.push(await seek(long, 450));
  }
  return 'at ' + times.join(' ');
}
probe().then(report, error => report('failed: ' + error));
</script>
"#;

#[test]
fn chromium_plays_and_seeks() {
    let Some(chromium) = installed(&["chromium", "chromium-browser", "google-chrome"]) else { return };
    let (root, work) = (Fixture::new(), Fixture::new());
    for name in ["index.html", "style.css", "icon.svg", "sample.mp4", "sample.vtt"] {
        fs::copy(media().join(name), root.at(name)).expect("a copy of the sample");
    }
    root.text("probe.html", PROBE);
    // The sample is so short that a browser has all of it before it seeks. The same clip forty times is not.
    let looped = installed(&["ffmpeg"]).inspect(|ffmpeg| {
        let (sample, long) = (media().join("sample.mp4"), root.at("long.mp4"));
        let paths = [&sample, &long].map(|path| path.to_str().expect("a path of text"));
        let copy = ["-c", "copy", "-movflags", "+faststart", paths[1]];
        Run::of(
            ffmpeg,
            &work,
            &[&["-nostdin", "-v", "error", "-stream_loop", "39", "-i", paths[0]], &copy[..]].concat(),
        )
        .succeed();
    });
    let (server, log) = serve_sample(&work, root.path());
    let profile = format!("--user-data-dir={}", work.at("profile").display());
    let page = url(&server, if looped.is_some() { "probe.html?long" } else { "probe.html" });
    let mut arguments: Vec<&str> = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync \
        --autoplay-policy=no-user-gesture-required --remote-debugging-port=0"
        .split_whitespace()
        .collect();
    arguments.extend([&profile, &page].map(String::as_str));
    let told = File::create(work.at("chromium.log")).expect("a file for its output");
    let mut run = Run::of(&chromium, &work, &arguments);
    let mut browser = Process::spawn(run.0.stdout(Stdio::null()).stderr(told));
    let mut report = None;
    eventually(CLIENT_PATIENCE, || {
        assert!(browser.ended().is_none(), "the browser has ended: {:?}", fs::read_to_string(work.at("chromium.log")));
        report = logged(&log).iter().find_map(|line| {
            let what = line["target"].as_str()?.strip_prefix("/report?")?;
            Some(what.replace("%20", " ").replace("%3A", ":"))
        });
        report.is_some()
    });
    drop(browser);
    let report = report.expect("it has come");
    if report == "unsupported" {
        return not_shown("this chromium has no H.264");
    }
    let times = report.strip_prefix("at ").unwrap_or_else(|| panic!("the browser says: {report}"));
    let times: Vec<f64> = times.split(' ').map(|time| time.parse().expect("a time")).collect();
    assert!((11.0..=12.0).contains(&times[0]), "the sample is at {times:?}");
    assert_eq!(times.len(), if looped.is_some() { 2 } else { 1 });
    // Both are logged when they end, which may be with the browser. A browser asks for ranges from the first request on.
    eventually(CLIENT_PATIENCE, || sent_from(&logged(&log), "/sample.mp4", 0));
    if let Some(time) = times.get(1) {
        assert!((450.0..460.0).contains(time), "the long clip is at {times:?}");
        // 450 of 480 seconds, at an even rate of bits.
        let len = fs::metadata(root.at("long.mp4")).expect("the long clip").len();
        eventually(CLIENT_PATIENCE, || sent_from(&logged(&log), "/long.mp4", len / 10 * 8));
    }
    server.stop();
}
