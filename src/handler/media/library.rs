//! The page of a listing: a media library for people, and for programs that walk it (rclone, `wget -r`, lftp).
//!
//! Every entry is one plain relative `<a href>` in a row of a table, so the page works without its script, and the script finds all
//! that it needs in the rows. Style and script stand in the page itself: a path of their own would be taken from the media's. The
//! policy names both by their hashes, so nothing else runs or is loaded from elsewhere, whatever a file is called. What is the
//! same on every page is sent from the binary, around the rows, and counts for no listing.
//!
//! Rejected: `'unsafe-inline'` and an escape that has to be right, a framework and a build step for a page that has one table, and an
//! icon in each row, which would double the bytes of ten thousand of them.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;

use super::listing::{Entry, EntryKind, Escaped, Href, HumanLen, HumanUtc, Listing, Utc, slash_of, sorted};
use crate::config::UploadPlace;
use crate::http::page::Page;
use crate::http::{Body, Response, Segment};
use crate::proto::content_types::ContentTypes;
use crate::proto::target;

/// Where the rows of a folder go in the page.
const ROWS: &str = "<!--rows-->\n";

/// What is the same on every page: before the rows, behind them, and what the browser is held to.
struct Frame {
    page: Page,
    before: Bytes,
    behind: Bytes,
}

static FRAME: LazyLock<Frame> = LazyLock::new(|| {
    let (template, style) = (include_str!("library/page.html"), include_str!("library/page.css"));
    let sources = "img-src 'self' data:; media-src 'self'; connect-src 'self'";
    let page = Page::new(template, style, include_str!("library/page.js"), sources);
    let (before, behind) = page.around(ROWS);
    Frame { page, before, behind }
});

/// A reply with the whole page around its rows.
pub fn response(rows: Bytes) -> Response {
    let Frame { page, before, behind } = &*FRAME;
    page.response_with(Body::Segments(vec![before.clone().into(), Segment::Bytes(rows), behind.clone().into()]))
}

/// The rows of the directory `path`, decoded, with a slash at its start and its end. With `upload`, the address of this directory
/// where files are uploaded, the page lets people do so.
pub fn rows<'a>(
    path: &'a [u8],
    listing: &'a Listing,
    types: &'a ContentTypes,
    upload: Option<&'a str>,
) -> impl fmt::Display + 'a {
    Rows { path: String::from_utf8_lossy(path), listing, types, upload }
}

/// Where files are uploaded for the directory `path` of the media's root, without slashes at its ends; the nearest of these places.
pub fn upload_url(places: &[UploadPlace], path: &[u8]) -> Option<String> {
    let beneath = |place: &UploadPlace| match path.strip_prefix(&*place.folder)? {
        rest if place.folder.is_empty() || rest.is_empty() => Some(rest.to_vec()),
        rest => rest.strip_prefix(b"/").map(<[u8]>::to_vec),
    };
    let places = places.iter().filter_map(|place| Some((place, beneath(place)?)));
    let (place, rest) = places.max_by_key(|(place, _)| place.folder.len())?;
    let segments = rest.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
    Some(segments.fold(format!("{}/", place.url), |url, segment| format!("{url}{}/", target::encode_segment(segment))))
}

struct Rows<'a> {
    path: Cow<'a, str>,
    listing: &'a Listing,
    types: &'a ContentTypes,
    upload: Option<&'a str>,
}

impl fmt::Display for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = match self.path.rsplit('/').find(|segment| !segment.is_empty()) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Borrowed("Library"),
        };
        write!(f, "<title>{}</title>\n</head>\n<body>\n", Escaped(&title))?;
        write!(f, "<header><h1>{}</h1></header>\n<main", Escaped(&self.path))?;
        if let Some(url) = self.upload {
            write!(f, " data-upload=\"{}\"", Escaped(url))?;
        }
        f.write_str(
            ">\n<table>\n<thead><tr><th scope=\"col\">Name</th><th scope=\"col\" class=\"n\">Size</th>\
             <th scope=\"col\" class=\"n\">Modified (UTC)</th></tr></thead>\n<tbody>\n",
        )?;
        if self.path != "/" {
            f.write_str("<tr class=\"up\"><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n")?;
        }
        for entry in sorted(&self.listing.entries) {
            row(f, entry, self.types)?;
        }
        f.write_str("</tbody>\n</table>\n")?;
        if self.listing.entries.is_empty() {
            f.write_str("<p class=\"empty\">This folder is empty.</p>\n")?;
        }
        if self.listing.truncated {
            f.write_str("<p class=\"cut\">There are too many entries: not all of them are listed.</p>\n")?;
        }
        f.write_str("</main>\n")
    }
}

fn row(f: &mut fmt::Formatter<'_>, entry: &Entry, types: &ContentTypes) -> fmt::Result {
    let (name, slash) = (String::from_utf8_lossy(&entry.name), slash_of(entry));
    let kind = match entry.kind {
        EntryKind::Directory => "folder",
        EntryKind::File => kind_of(&entry.name, types.of(&entry.name)),
    };
    write!(
        f,
        "<tr class=\"{kind}\"><td><a href=\"{}\">{}{slash}</a></td><td class=\"n\">",
        Href(entry),
        Escaped(&name)
    )?;
    match entry.kind {
        EntryKind::Directory => {}
        EntryKind::File => write!(f, "<data value=\"{}\">{}</data>", entry.len, HumanLen(entry.len))?,
    }
    let (machine, human) = (Utc(entry.modified), HumanUtc(entry.modified));
    writeln!(f, "</td><td class=\"n\"><time datetime=\"{machine}\">{human}</time></td></tr>")
}

/// What an entry is drawn as, and whether the player takes it: the class of its row.
fn kind_of(name: &[u8], content_type: &str) -> &'static str {
    let ends_in = |endings: &[&str]| {
        let ending = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        endings.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(ending))
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim_ascii_end();
    match essence {
        "application/vnd.apple.mpegurl" | "application/dash+xml" => "playlist",
        "text/vtt" | "application/x-subrip" => "captions",
        // No browser plays a piece of a stream by itself.
        "video/mp2t" => "part",
        _ if ends_in(&["m4s", "cmfv", "cmfa"]) => "part",
        _ if ends_in(&["zip", "gz", "xz", "zst", "bz2", "tar", "7z", "rar", "tgz", "iso"]) => "archive",
        _ => match essence.split('/').next().unwrap_or_default() {
            "video" => "video",
            "audio" => "audio",
            "image" => "image",
            "text" => "text",
            _ if ends_in(&["pdf", "json", "xml", "toml", "yaml", "epub", "odt", "docx"]) => "text",
            _ => "file",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::tests::{directory, file};
    use super::*;
    use proptest::prelude::*;

    fn page(path: &[u8], entries: impl Into<Vec<Entry>>) -> String {
        let listing = Listing { entries: entries.into(), truncated: false };
        rows(path, &listing, &ContentTypes::default(), None).to_string()
    }

    fn links(page: &str) -> Vec<&str> {
        page.split("<a href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn p4_links_are_plain_relative_and_exact() {
        let entries = [file("b c.mp4", 1), file("a:b?#%.ts", 2), file(b"\xff.ts", 3), directory("z"), directory("<y>")];
        let page = page(b"/x/", entries);
        assert_eq!(links(&page), ["../", "%3Cy%3E/", "z/", "a%3Ab%3F%23%25.ts", "b%20c.mp4", "%FF.ts"]);
        assert!(page.contains(">&lt;y&gt;/</a>") && page.contains(">\u{fffd}.ts</a>"));
    }

    #[test]
    fn p4_the_root_has_no_parent() {
        assert_eq!(links(&page(b"/", [])), Vec::<&str>::new());
        assert_eq!(links(&page(b"/a/", [])), ["../"]);
    }

    #[test]
    fn p4_what_is_the_same_on_every_page_links_nowhere() {
        for text in [&FRAME.before, &FRAME.behind] {
            let text = std::str::from_utf8(text).unwrap();
            assert!(!text.contains("<a") && !text.contains(" href=\"http") && !text.contains(" src="), "{text}");
        }
    }

    #[test]
    fn names_and_path_are_escaped() {
        let page = page(b"/<script>&\"'/", [file("<img src=x onerror='1'>&amp;\"", 1)]);
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert!(page.contains("<h1>/&lt;script&gt;&amp;&quot;&#39;/</h1>"));
        assert!(page.contains("<title>&lt;script&gt;&amp;&quot;&#39;</title>"));
        assert!(page.contains(">&lt;img src=x onerror=&#39;1&#39;&gt;&amp;amp;&quot;</a>"));
    }

    #[test]
    fn a_row_tells_kind_size_and_date() {
        assert!(page(b"/", [file("a.mkv", 1536)]).contains(
            "<tr class=\"video\"><td><a href=\"a.mkv\">a.mkv</a></td><td class=\"n\"><data value=\"1536\">1.5 KiB</data></td>\
             <td class=\"n\"><time datetime=\"1994-11-06T08:49:37Z\">1994-11-06 08:49</time></td></tr>"
        ));
        assert!(page(b"/", [directory("a.mkv")]).contains("<tr class=\"folder\">"));
    }

    #[test]
    fn an_entry_is_drawn_as_what_it_is_served_as() {
        let types = ContentTypes::new([("m4b".to_owned(), "video/x-own".to_owned())].into());
        for (name, expected) in [
            ("a.MP4", "video"),
            ("a.flac", "audio"),
            ("a.m4b", "video"),
            ("a.avif", "image"),
            ("a.m3u8", "playlist"),
            ("a.vtt", "captions"),
            ("a.ts", "part"),
            ("a.m4s", "part"),
            ("a.tar.gz", "archive"),
            ("a.txt", "text"),
            ("a.pdf", "text"),
            ("a", "file"),
            ("mp4", "file"),
        ] {
            assert_eq!(kind_of(name.as_bytes(), types.of(name.as_bytes())), expected, "{name}");
        }
    }

    /// The browser reads what stands between the tags; what it makes of them, its own tests and those of the page's maker tell.
    #[test]
    fn style_and_script_are_the_page_s_only_ones_and_read_as_they_are_written() {
        let Frame { page, before, behind } = &*FRAME;
        let html = String::from_utf8([&before[..], behind].concat()).unwrap();
        for (open, close) in [("<style>", "</style>"), ("<script>", "</script>")] {
            assert_eq!((html.matches(open).count(), html.matches(close).count()), (1, 1), "ended by what is in it");
            let text = html.split_once(open).unwrap().1.split_once(close).unwrap().0;
            // A parser of HTML changes these on the way.
            assert!(!text.contains(['\r', '\0']), "{open}");
        }
        assert!(!html.contains(" style=") && !html.contains(" onclick") && !page.policy.contains("unsafe"));
    }

    #[test]
    fn the_script_makes_no_markup_of_text() {
        for name in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http:",
            "https:",
        ] {
            assert!(!include_str!("library/page.js").contains(name), "{name}");
        }
    }

    #[test]
    fn uploads_go_to_the_nearest_place_above() {
        let place = |folder: &str, url: &str| UploadPlace { folder: folder.into(), url: url.to_owned() };
        let places = [place("", "/up"), place("in/box", "/box"), place("in/box/deep", "")];
        let of = |path: &[u8]| upload_url(&places, path);
        assert_eq!(of(b"").as_deref(), Some("/up/"));
        assert_eq!(of(b"a b/\xff").as_deref(), Some("/up/a%20b/%FF/"));
        assert_eq!(of(b"in/boxes").as_deref(), Some("/up/in/boxes/"));
        assert_eq!(of(b"in/box").as_deref(), Some("/box/"));
        assert_eq!(of(b"in/box/x").as_deref(), Some("/box/x/"));
        assert_eq!(of(b"in/box/deep/y").as_deref(), Some("/y/"));
        assert_eq!(upload_url(&places[1..], b"in"), None);
        assert_eq!(upload_url(&[], b""), None);
    }

    #[test]
    fn a_page_says_where_to_upload_and_that_it_is_empty() {
        let listing = Listing { entries: Vec::new(), truncated: true };
        let page = rows(b"/", &listing, &ContentTypes::default(), Some("/up/a&b/")).to_string();
        assert!(
            page.contains("<main data-upload=\"/up/a&amp;b/\">")
                && page.contains("is empty")
                && page.contains("not all")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn p4_any_name_stays_one_link(name in proptest::collection::vec(any::<u8>(), 1..30)) {
            let page = page(b"/", [file(name, 1)]);
            prop_assert_eq!(links(&page).len(), 1);
            prop_assert_eq!(page.matches('<').count(), super::tests::page(b"/", [file("a", 1)]).matches('<').count());
        }
    }
}
