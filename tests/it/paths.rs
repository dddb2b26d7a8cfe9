//! P1–P4: which file a target names, and which it never does.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::support::{Client, Fixture, Launch, PATIENCE, Server, bytes_at, check_bytes, eventually, not_shown};

/// A user that owns nothing.
const NOBODY: u32 = 65534;

#[track_caller]
fn check_text(client: &mut Client, target: &str, expected: &str) {
    let reply = client.get(target, "");
    assert_eq!((reply.status(), reply.text()), (200, expected), "{target}");
}

#[track_caller]
fn check_status(client: &mut Client, target: &str, expected: &[u16]) {
    let reply = client.get(target, "");
    assert!(expected.contains(&reply.status()), "{target}: {} {}", reply.status(), reply.text());
}

#[test]
fn p1_a_path_is_decoded_once() {
    let fixture = Fixture::new();
    for name in
        ["a", "%61", "a b", "100%", "a+b", "a;b=c", "a:b", "a?b", "a#b", "ä", "日本", "a\\b", "~a", "a&b='c\"", "+"]
    {
        fixture.text(name, name);
    }
    fs::write(fixture.path().join(OsStr::from_bytes(b"\xff\xfe")), "no UTF-8").expect("a file");
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for (target, name) in [
        ("/a", "a"),
        ("/%61", "a"),
        ("/a?query", "a"),
        ("/a?%zz", "a"),
        ("/a?/../../b", "a"),
        ("/%2561", "%61"),
        ("/a%20b", "a b"),
        ("/100%25", "100%"),
        ("/a+b", "a+b"),
        ("/a%2Bb", "a+b"),
        ("/a%2bb", "a+b"),
        ("/+", "+"),
        ("/a;b=c", "a;b=c"),
        ("/a%3Bb%3Dc", "a;b=c"),
        ("/a:b", "a:b"),
        ("/a%3Fb", "a?b"),
        ("/a%23b", "a#b"),
        ("/%C3%A4", "ä"),
        ("/%c3%a4", "ä"),
        ("/ä", "ä"),
        ("/%E6%97%A5%E6%9C%AC", "日本"),
        ("/a\\b", "a\\b"),
        ("/a%5Cb", "a\\b"),
        ("/~a", "~a"),
        ("/%7Ea", "~a"),
        ("/a&b='c%22", "a&b='c\""),
        ("/%FF%FE", "no UTF-8"),
        ("/%ff%fe", "no UTF-8"),
    ] {
        check_text(&mut client, target, name);
    }
    check_status(&mut client, "/%252561", &[404]);
    check_status(&mut client, "/%E4", &[404]);
    server.stop();
}

#[test]
fn p1_what_no_name_can_hold_is_400() {
    let fixture = Fixture::with(&[("a.bin", 10), ("sub/b.bin", 10)]);
    fs::write(fixture.path().join("line\nbreak"), "x").expect("a file");
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for target in [
        "/%00",
        "/a.bin%00",
        "/a.bin%00.txt",
        "/%00/../a.bin",
        "/sub%2fb.bin",
        "/sub%2Fb.bin",
        "/%2f",
        "/%2F%2Fetc",
        "/%",
        "/%4",
        "/a.bin%",
        "/a.bin%2",
        "/%zz",
        "/%u0041",
        "/%+1",
        "/%-1",
        "/line%0Abreak",
        "/%0d%0a",
        "/%01",
        "/%1f",
        "/%7f",
        "/%09",
    ] {
        check_status(&mut client, target, &[400]);
    }
    check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    server.stop();
}

#[test]
fn p1_nothing_above_the_root_is_reached() {
    let outer = Fixture::new();
    outer.text("secret", "secret");
    outer.text("root-secret/secret", "secret");
    outer.text("root/a", "a");
    outer.text("root/sub/b", "b");
    for hidden in [false, true] {
        let config =
            format!("[[route]]\nmedia = {{ root = {:?}, hidden = {hidden}, listing = true }}", outer.at("root"));
        let server = Launch::routes().config(&config).start();
        let mut client = server.connect();
        for target in [
            "/..",
            "/../",
            "/../secret",
            "/%2e%2e/secret",
            "/%2E%2e/secret",
            "/.%2e/secret",
            "/sub/../../secret",
            "/sub/../..",
            "/./../secret",
            "//../secret",
            "/sub//../../secret",
            "/../root/a",
            "/../root-secret/secret",
            "/..%2fsecret",
            "/..%5csecret",
            "/..\\secret",
            "/sub/..%2f..%2fsecret",
            "/%252e%252e/secret",
            "/..;/secret",
            "/.../secret",
            "/../../../../../../../../etc/passwd",
            "/..%00/secret",
            "/proc/self/environ",
            "/%c0%ae%c0%ae/secret",
        ] {
            check_status(&mut client, target, &[400, 404]);
        }
        for (target, text) in
            [("/./a", "a"), ("/sub/../a", "a"), ("/sub/./b", "b"), ("/%2e/a", "a"), ("/sub/%2e%2e/a", "a")]
        {
            check_text(&mut client, target, text);
        }
        server.stop();
    }
}

#[test]
fn p1_symlinks_are_followed_inside_the_root_only() {
    let outer = Fixture::new();
    outer.text("secret", "secret");
    outer.text("elsewhere/secret", "secret");
    outer.text("root/a", "a");
    outer.text("root/sub/b", "b");
    let link = |target: &Path, name: &str| symlink(target, outer.at("root").join(name)).expect("a link");
    link(Path::new("a"), "to-a");
    link(Path::new("to-a"), "to-to-a");
    link(Path::new("sub/b"), "to-b");
    link(Path::new("../a"), "sub/up");
    link(Path::new("sub"), "to-sub");
    link(&outer.at("secret"), "absolute");
    link(Path::new("../secret"), "relative");
    link(Path::new("../../secret"), "sub/relative");
    link(&outer.at("elsewhere"), "absolute-folder");
    link(Path::new("../elsewhere"), "relative-folder");
    link(Path::new(".."), "above");
    link(Path::new("../root/a"), "out-and-in");
    link(Path::new("/"), "everything");
    link(Path::new("gone"), "dangling");
    link(Path::new("loop"), "loop");
    link(Path::new("/proc/self/fd/0"), "magic");
    let server = Launch::of(outer.at("root")).arg("--listing").start();
    let mut client = server.connect();
    for (target, text) in
        [("/to-a", "a"), ("/to-to-a", "a"), ("/to-b", "b"), ("/sub/up", "a"), ("/to-sub/b", "b"), ("/to-sub/up", "a")]
    {
        check_text(&mut client, target, text);
    }
    for target in [
        "/absolute",
        "/relative",
        "/sub/relative",
        "/absolute-folder",
        "/absolute-folder/",
        "/absolute-folder/secret",
        "/relative-folder",
        "/relative-folder/",
        "/relative-folder/secret",
        "/above",
        "/above/",
        "/above/secret",
        "/out-and-in",
        "/everything/",
        "/everything/etc/passwd",
        "/dangling",
        "/loop",
        "/loop/",
        "/magic",
        "/to-sub/relative",
    ] {
        check_status(&mut client, target, &[404]);
    }
    let page = client.get("/", "").expect(200);
    for name in ["absolute", "relative", "above", "everything", "dangling", "loop", "magic", "out-and-in"] {
        assert!(!page.text().contains(&format!("\"{name}")), "{name} is listed: {}", page.text());
    }
    server.stop();
}

#[test]
fn p1_a_file_is_no_folder() {
    let fixture = Fixture::with(&[("a.bin", 10)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for target in ["/a.bin/", "/a.bin/b", "/a.bin//", "/a.bin/."] {
        check_status(&mut client, target, &[404]);
    }
    check_status(&mut client, &format!("/{}", "n".repeat(300)), &[404]);
    check_status(&mut client, &format!("/{}", "n/".repeat(3000)), &[404]);
    server.stop();
}

#[test]
fn p1_only_regular_files_are_opened() {
    let fixture = Fixture::with(&[("a.bin", 10)]);
    mkfifo(&fixture.at("fifo"), Mode::S_IRWXU).expect("a FIFO");
    let _socket = UnixListener::bind(fixture.at("socket")).expect("a socket");
    let mut special = vec!["fifo", "socket"];
    // Only root can make a device.
    if mknod(&fixture.at("device"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).is_ok() {
        special.push("device");
    }
    let server = Launch::of(fixture.path()).arg("--listing").start();
    let mut others = server.connect();
    others.get("/a.bin", "").expect(200);
    for name in &special {
        for target in [format!("/{name}"), format!("/{name}/"), format!("/{name}/x")] {
            // A server that waits for the other end of a FIFO answers neither.
            let mut client = server.connect();
            client.ask("GET", &target, "");
            check_bytes(0, &others.get("/a.bin", "").expect(200).body);
            assert_eq!(client.reply().status(), 404, "{target}");
        }
    }
    let page = others.get("/", "").expect(200);
    assert!(special.iter().all(|name| !page.text().contains(&format!("\"{name}"))), "{}", page.text());
    server.stop();
}

#[test]
fn p1_dotfiles_are_hidden_unless_switched_on() {
    let fixture = Fixture::new();
    let hidden = [".a", ".git/config", "sub/.b", "...", "..c", ".well-known/x"];
    for name in hidden {
        fixture.text(name, name);
    }
    fixture.text("sub/visible.", "visible.");
    let server = Launch::of(fixture.path()).arg("--listing").start();
    let mut client = server.connect();
    for target in [
        "/.a",
        "/%2ea",
        "/%2Ea",
        "/.git",
        "/.git/",
        "/.git/config",
        "/%2egit/config",
        "/sub/.b",
        "/sub/../.a",
        "/...",
        "/..c",
        "/.none",
    ] {
        check_status(&mut client, target, &[404]);
    }
    check_text(&mut client, "/sub/visible.", "visible.");
    let page = client.get("/", "").expect(200);
    assert_eq!(links(page.text()), ["sub/"]);
    server.stop();

    let config = format!("[[route]]\nmedia = {{ root = {:?}, hidden = true, listing = true }}", fixture.path());
    let server = Launch::routes().config(&config).start();
    let mut client = server.connect();
    for name in hidden {
        check_text(&mut client, &format!("/{name}"), name);
    }
    assert!(client.get("/", "").expect(200).text().contains("href=\".git/\""));
    check_status(&mut client, "/../x", &[400, 404]);
    server.stop();
}

#[test]
fn p1_an_unreadable_file_is_refused_and_harms_nobody() {
    let fixture = Fixture::with(&[("a.bin", 10), ("unreadable", 10), ("closed/b", 10)]);
    fs::set_permissions(fixture.path(), Permissions::from_mode(0o755)).expect("an open folder");
    fs::set_permissions(fixture.at("unreadable"), Permissions::from_mode(0o000)).expect("a closed file");
    fs::set_permissions(fixture.at("closed"), Permissions::from_mode(0o000)).expect("a closed folder");
    let mut launch = Launch::of(fixture.path()).arg("--listing");
    // Root reads everything, so that the server has to be someone else.
    if fs::read(fixture.at("unreadable")).is_ok() {
        let probe = Command::new(env!("CARGO_BIN_EXE_highwater"))
            .arg("--version")
            .uid(NOBODY)
            .gid(NOBODY)
            .stdout(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            not_shown("this user reads every file, and no other can run the binary");
            return;
        }
        launch = launch.user(NOBODY);
    }
    let server = launch.start();
    let mut client = server.connect();
    for target in ["/unreadable", "/closed/", "/closed/b"] {
        check_status(&mut client, target, &[403, 404]);
    }
    check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    // What is opened to readers is served.
    fs::set_permissions(fixture.at("unreadable"), Permissions::from_mode(0o644)).expect("an open file");
    eventually(PATIENCE, || client.get("/unreadable", "").status() == 200);
    fs::set_permissions(fixture.at("closed"), Permissions::from_mode(0o755)).expect("an open folder");
    server.stop();
}

/// Puts a link in the place of another in one step, as a deployment does.
fn swap(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    symlink(target, &new).expect("a link");
    fs::rename(&new, link).expect("a link in the place of another");
}

#[test]
fn p2_the_root_may_be_a_link_that_is_swapped() {
    let outer = Fixture::new();
    let numbers: Vec<String> = (0..500).map(|number| format!("sub/{number}")).collect();
    for version in ["one", "two"] {
        for name in numbers.iter().map(String::as_str).chain(["a", "b"]) {
            outer.text(&format!("{version}/{name}"), version);
        }
    }
    outer.text("one/only-one", "one");
    outer.text("two/only-two", "two");
    outer.file("one/large.bin", 4 << 20);
    let root = outer.at("root");
    symlink(outer.at("one"), &root).expect("a link");
    let server = Server::start(&root);
    let mut client = server.connect();
    for name in ["a", "b", "only-one"] {
        check_text(&mut client, &format!("/{name}"), "one");
    }
    check_status(&mut client, "/only-two", &[404]);
    let mut under_way = Client::connect_narrow(server.address(), 4096);
    under_way.ask("GET", "/large.bin", "");
    assert_eq!(under_way.head().status, 200);

    swap(&root, &outer.at("two"));
    // Until the swap is seen, files of the old tree are opened, the last of them a moment before.
    let mut opened = numbers.iter().cycle();
    let mut last = "b";
    eventually(PATIENCE, || {
        let seen = client.get("/a", "").expect(200).text() == "two";
        if !seen {
            last = opened.next().expect("a cycle");
            client.get(&format!("/{last}"), "").expect(200);
        }
        seen
    });
    // Once one file is the new tree's, all are: nothing that was open before is mixed in.
    for name in [last, "b", "only-two"] {
        check_text(&mut client, &format!("/{name}"), "two");
    }
    check_status(&mut client, "/only-one", &[404]);
    // What was under way goes on as it began.
    check_bytes(0, &under_way.body(4 << 20));

    swap(&root, &outer.at("one"));
    eventually(PATIENCE, || client.get("/a", "").expect(200).text() == "one");
    check_text(&mut client, "/only-one", "one");
    server.stop();
}

#[test]
fn p2_a_root_that_is_away_for_a_while_comes_back() {
    let outer = Fixture::new();
    outer.text("root/a", "before");
    let server = Server::with_limits(outer.at("root"), "open_file_valid = \"10ms\"");
    let mut client = server.connect();
    check_text(&mut client, "/a", "before");
    fs::rename(outer.at("root"), outer.at("away")).expect("a folder by another name");
    eventually(PATIENCE, || client.get("/a", "").status() != 200);
    outer.text("root/a", "after");
    eventually(PATIENCE, || client.get("/a", "").status() == 200);
    check_text(&mut client, "/a", "after");
    server.stop();
}

/// The path that a browser goes to from `from` by a relative reference (RFC 3986 §5.2), which has to be relative.
#[track_caller]
fn resolve(from: &str, reference: &str) -> String {
    let path = from.split('?').next().expect("a path");
    let first = reference.split(['/', '?']).next().expect("a segment");
    assert!(!reference.starts_with(['/', '\\']) && !first.contains(':'), "{reference:?} may lead to another host");
    assert!(reference.bytes().all(|b| b.is_ascii_graphic() && b != b'\\'), "{reference:?} is no reference");
    let folder = &path[..=path.rfind('/').expect("a slash")];
    format!("{folder}{reference}")
}

#[test]
fn p3_a_folder_without_its_slash_redirects_to_itself_and_nowhere_else() {
    let fixture = Fixture::new();
    let folders = [
        "sub",
        "sub/deep",
        "evil.example",
        "\\evil.example",
        "https:",
        "javascript:alert(1)",
        "a b",
        "ä",
        "?",
        "#",
        "%2f",
        "@evil.example",
    ];
    for folder in folders {
        fixture.text(&format!("{folder}/index.html"), folder);
    }
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for (target, folder) in [
        ("/sub", "sub"),
        ("/sub?query=/../x&y=http://evil.example", "sub"),
        ("/sub?", "sub"),
        ("/sub/deep", "sub/deep"),
        ("/./sub", "sub"),
        ("/sub/../sub", "sub"),
        ("//sub", "sub"),
        ("///sub//deep", "sub/deep"),
        ("/evil.example", "evil.example"),
        ("//evil.example", "evil.example"),
        ("///evil.example", "evil.example"),
        ("/.//evil.example", "evil.example"),
        ("//evil.example?/", "evil.example"),
        ("/\\evil.example", "\\evil.example"),
        ("/%5Cevil.example", "\\evil.example"),
        ("/https:", "https:"),
        ("/javascript:alert(1)", "javascript:alert(1)"),
        ("/a%20b", "a b"),
        ("/%C3%A4", "ä"),
        ("/ä", "ä"),
        ("/%3F", "?"),
        ("/%23", "#"),
        ("/%252f", "%2f"),
        ("/@evil.example", "@evil.example"),
    ] {
        let reply = client.get(target, "").expect(301);
        let location = reply.field("Location").unwrap_or_else(|| panic!("{target}: {:?}", reply.head)).to_owned();
        let (_, query) = target.split_once('?').unwrap_or((target, ""));
        assert_eq!(location.split_once('?').map_or("", |(_, query)| query), query, "{target} → {location}");
        check_text(&mut client, &resolve(target, &location), folder);
    }
    // An absolute target is redirected no differently.
    client.send("GET http://evil.example/sub HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().expect(301).field("Location"), Some("sub/"));
    server.stop();
}

#[test]
fn p3_the_prefix_of_a_route_is_a_folder_too() {
    let fixture = Fixture::new();
    fixture.text("index.html", "here");
    fixture.text("sub/index.html", "below");
    let config = format!("[[route]]\nprefix = \"/vod/x\"\nmedia = {{ root = {:?} }}", fixture.path());
    let server = Launch::routes().config(&config).start();
    let mut client = server.connect();
    for (target, text) in [("/vod/x", "here"), ("/vod/x?q", "here"), ("/vod/x/sub", "below")] {
        let location = client.get(target, "").expect(301).field("Location").expect("a place").to_owned();
        check_text(&mut client, &resolve(target, &location), text);
    }
    for target in ["/vod/xy", "/vod", "/", "/vod/x/../../vod/x/"] {
        check_status(&mut client, target, &[400, 404]);
    }
    server.stop();
}

/// The targets of a page's links, which have to be plain.
#[track_caller]
fn links(page: &str) -> Vec<String> {
    let links: Vec<String> = page
        .split("<a href=\"")
        .skip(1)
        .map(|rest| rest.split_once('"').expect("the end of a link").0.to_owned())
        .collect();
    for link in &links {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%/".contains(&b);
        assert!(link.bytes().all(plain), "{link} is not percent-encoded");
    }
    assert_eq!(page.matches("<a").count(), links.len(), "a link of another form: {page}");
    links
}

#[test]
fn p4_a_walk_over_the_links_finds_every_file() {
    let fixture = Fixture::new();
    let folders: [&[u8]; 6] = [b"", b"sub/", b"sub/deeper/", b"a b&c/", b"javascript:alert(1)/", b"\xfe\xff/"];
    let names: [&[u8]; 19] = [
        b"plain.mp4",
        b"<img src=x onerror=alert(1)>",
        b"\"><script>alert(1)<",
        b"'quoted'",
        b"&amp;",
        b"100%",
        b"%41",
        b"a?b=c",
        b"a#b",
        b"a:b",
        b"a\\b",
        b"a+b c",
        b"-",
        b"~",
        "日本 ä".as_bytes(),
        b"\xff\xfe\x80",
        b"http:",
        b"?",
        b"{{x}}",
    ];
    let long = [b'n'; 255];
    let mut expected = BTreeSet::new();
    for folder in folders {
        for name in names.iter().copied().chain([&long[..]]) {
            let path = [folder, name].concat();
            let at = fixture.path().join(OsStr::from_bytes(&path));
            fs::create_dir_all(at.parent().expect("a folder")).expect("a folder");
            fs::write(at, &path).expect("a file");
            expected.insert(path);
        }
        // Neither can be asked for.
        fs::write(fixture.path().join(OsStr::from_bytes(&[folder, b"line\nbreak"].concat())), "x").expect("a file");
        fs::write(fixture.path().join(OsStr::from_bytes(&[folder, b".hidden"].concat())), "x").expect("a file");
    }
    fs::create_dir(fixture.at("empty")).expect("a folder");
    let server = Launch::of(fixture.path()).arg("--listing").start();
    let mut client = server.connect();
    let (mut found, mut folders) = (BTreeSet::new(), vec!["/".to_owned()]);
    while let Some(folder) = folders.pop() {
        let page = client.get(&folder, "").expect(200);
        assert_eq!(page.field("Content-Type"), Some("text/html; charset=utf-8"));
        let listed = page.text().split_once("<main").and_then(|(_, rest)| rest.split_once("</main>")).expect("rows").0;
        for markup in ["<img", "<script", "onerror=alert(1)>\"", "{{x}}\""] {
            assert!(!listed.contains(markup), "{markup}: {listed}");
        }
        let json = client.get(&folder, "Accept: application/json\r\n").expect(200);
        let json: serde_json::Value = serde_json::from_slice(&json.body).expect("JSON");
        let hrefs: Vec<&str> =
            json["entries"].as_array().expect("entries").iter().map(|e| e["href"].as_str().expect("a link")).collect();
        let links: Vec<String> = links(page.text()).into_iter().filter(|link| link != "../").collect();
        assert_eq!(links, hrefs, "{folder}");
        for link in links {
            let target = resolve(&folder, &link);
            if link.ends_with('/') {
                folders.push(target);
            } else {
                let content = client.get(&target, "").expect(200).body;
                assert!(found.insert(content), "{target} is linked twice");
            }
        }
    }
    let missing: Vec<_> = expected.difference(&found).map(|path| String::from_utf8_lossy(path)).collect();
    assert!(missing.is_empty(), "not found: {missing:?}");
    assert_eq!(found, expected);
    server.stop();
}

#[test]
fn p4_a_listing_is_off_by_default_and_bounded() {
    let fixture = Fixture::new();
    for number in 0..50 {
        fixture.text(&format!("sub/{number}"), "x");
    }
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    check_status(&mut client, "/", &[404]);
    check_status(&mut client, "/sub/", &[404]);
    server.stop();

    let server = Launch::of(fixture.path()).arg("--listing").limits("listing_entries = 20").start();
    let mut client = server.connect();
    let page = client.get("/sub/", "").expect(200);
    assert_eq!(links(page.text()).iter().filter(|link| *link != "../").count(), 20);
    // A reader of either form can tell that there is more.
    assert!(page.text().contains("not all of them are listed"), "{}", page.text());
    let json = client.get("/sub/", "Accept: application/json\r\n").expect(200);
    let json: serde_json::Value = serde_json::from_slice(&json.body).expect("JSON");
    assert_eq!(
        (json["entries"].as_array().map(Vec::len), &json["truncated"]),
        (Some(20), &serde_json::Value::Bool(true))
    );
    server.stop();
}

#[test]
fn p1_one_path_is_one_file_whatever_its_spelling() {
    let fixture = Fixture::with(&[("sub/a.bin", 100_000)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    let first = client.get("/sub/a.bin", "").expect(200);
    for target in
        ["/sub/a.bin?x", "/%73ub/%61.bin", "/./sub/a.bin", "/sub/../sub/a.bin", "http://other.example/sub/a.bin"]
    {
        let reply = client.get(target, "Range: bytes=99990-\r\n").expect(206);
        assert_eq!(reply.field("ETag"), first.field("ETag"), "{target}");
        assert_eq!(reply.body, bytes_at(99_990, 10), "{target}");
    }
    server.stop();
}
