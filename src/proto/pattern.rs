//! Patterns for the paths of files, as a route's Cache-Control table names them: `*.m3u8`, `live/**`, `/index.html`.
//!
//! | pattern | stands for |
//! |---|---|
//! | `*` | any run of bytes within a segment, also none |
//! | `?` | one character within a segment |
//! | `**` as a whole segment | any number of directories, also none; at the end, everything beneath |
//! | anything else | itself |
//!
//! A pattern without a slash is held against the file's name wherever it lies; with one, against the whole path from
//! the root of the route. Nothing else is special, so that every name without a star or a question mark can be written
//! as it is.
//!
//! Matching is the greedy walk with one way back, for the segments of a path and again for the bytes of a segment: the
//! last star takes one more and the walk goes on from there. Its steps are at most the product of both lengths. A
//! regular expression was rejected: operators would have to escape every dot.

use std::fmt;

/// A pattern for paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Box<[Segment]>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// See [`PatternError`]; its text says what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.trim_matches('/').is_empty() {
            return Err(PatternError::Empty);
        }
        let mut segments = Vec::new();
        if !text.contains('/') {
            segments.push(Segment::Directories);
        }
        for segment in text.strip_prefix('/').unwrap_or(text).split('/') {
            segments.push(match segment {
                "" => return Err(PatternError::EmptySegment),
                "**" => Segment::Directories,
                _ if segment.contains("**") => return Err(PatternError::PartOfSegment),
                _ => Segment::Name(segment.as_bytes().into()),
            });
        }
        if segments.last() == Some(&Segment::Directories) {
            segments.push(Segment::Name(b"*"[..].into()));
        }
        Ok(Pattern { segments: segments.into() })
    }

    /// Whether it stands for `path`: segments with one slash between them, none at either end.
    ///
    /// Takes at most the product of both lengths in steps, and no memory.
    pub fn matches(&self, path: &[u8]) -> bool {
        let (mut pattern, mut rest) = (&self.segments[..], Some(path));
        let mut way_back: Option<(&[Segment], &[u8])> = None;
        loop {
            let step = match (pattern, rest) {
                ([], None) => return true,
                ([Segment::Directories, after @ ..], Some(here)) => {
                    way_back = Some((after, here));
                    Some((after, rest))
                }
                ([Segment::Name(name), after @ ..], Some(here)) => {
                    let (segment, behind) = split_first(here);
                    matches_name(name, segment).then_some((after, behind))
                }
                _ => None,
            };
            (pattern, rest) = match (step, way_back) {
                (Some(next), _) => next,
                (None, Some((after, from))) => {
                    let Some(from) = split_first(from).1 else { return false };
                    way_back = Some((after, from));
                    (after, Some(from))
                }
                (None, None) => return false,
            };
        }
    }
}

/// Why a pattern is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// There is nothing in it to match.
    Empty,
    /// Two slashes in a row, or one at the end: only files are matched.
    EmptySegment,
    /// `**` with something beside it in its segment.
    PartOfSegment,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternError::Empty => "the pattern is empty; write \"**\" for every file",
            PatternError::EmptySegment => {
                "the pattern has nothing before or behind a slash; write \"dir/**\" for every file beneath dir"
            }
            PatternError::PartOfSegment => {
                "\"**\" stands for whole directories; write \"**/*.ts\", or a single \"*\" within a name"
            }
        })
    }
}

impl std::error::Error for PatternError {}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `**`.
    Directories,
    /// A name that may have `*` and `?` in it.
    Name(Box<[u8]>),
}

/// The first segment, and what is behind its slash.
fn split_first(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'/', path) {
        Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        None => (path, None),
    }
}

/// Whether a segment of a pattern stands for a segment of a path.
fn matches_name(mut pattern: &[u8], mut name: &[u8]) -> bool {
    let mut way_back: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match (pattern, name) {
            ([], []) => return true,
            ([b'*', after @ ..], _) => {
                way_back = Some((after, name));
                Some((after, name))
            }
            ([b'?', after @ ..], [_, ..]) => Some((after, behind_character(name))),
            ([wanted, after @ ..], [byte, behind @ ..]) if wanted == byte => Some((after, behind)),
            _ => None,
        };
        (pattern, name) = match (step, way_back) {
            (Some(next), _) => next,
            (None, Some((after, [_, from @ ..]))) => {
                way_back = Some((after, from));
                (after, from)
            }
            (None, _) => return false,
        };
    }
}

/// What is behind the first character: a byte, and those that continue it in UTF-8.
fn behind_character(name: &[u8]) -> &[u8] {
    let continues = |byte: &u8| byte & 0xc0 == 0x80;
    let len = name.iter().skip(1).take(3).take_while(|&byte| continues(byte)).count() + 1;
    &name[len..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let parsed = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for path in matching {
            assert!(parsed.matches(path.as_bytes()), "{pattern} should match {path}");
        }
        for path in others {
            assert!(!parsed.matches(path.as_bytes()), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn h3_without_a_slash_the_name_decides() {
        check("*.m3u8", &["a.m3u8", "x/y/a.m3u8", ".m3u8"], &["a.m3u8.gz", "a.m3u8/b", "a.M3U8", "m3u8", ""]);
        check("index.html", &["index.html", "a/index.html"], &["xindex.html", "index.html/a", "indexxhtml"]);
        check("seg-?.ts", &["seg-1.ts", "a/seg-x.ts", "seg-\u{e9}.ts"], &["seg-.ts", "seg-12.ts", "seg/1.ts"]);
        check("*", &["a", "a/b"], &[]);
        check("**", &["a", "a/b/c"], &[]);
        check("[a]{b}\\", &["[a]{b}\\", "x/[a]{b}\\"], &["a", "ab"]);
    }

    #[test]
    fn h3_with_a_slash_the_path_decides() {
        check("/index.html", &["index.html"], &["a/index.html"]);
        check("live/*.ts", &["live/a.ts"], &["live/b/a.ts", "x/live/a.ts", "live/a.tsx", "live", "a.ts"]);
        check("/live/*.ts", &["live/a.ts"], &["x/live/a.ts"]);
        check("a/?/c", &["a/b/c"], &["a//c", "a/bb/c", "a/b/c/d", "a/b"]);
        check("*/*", &["a/b"], &["a", "a/b/c"]);
    }

    #[test]
    fn h3_two_stars_cross_directories() {
        check("live/**", &["live/a", "live/a/b"], &["live", "x/live/a", "lively/a"]);
        check("**/*.ts", &["a.ts", "x/a.ts", "x/y/a.ts"], &["a.mp4", "a.ts/b"]);
        check("a/**/z", &["a/z", "a/b/z", "a/b/c/z", "a/z/z"], &["a", "z", "a/b", "a/z/b", "b/a/z"]);
        check("a/**/b/**/c", &["a/b/c", "a/x/b/y/c", "a/b/b/c/c"], &["a/c/b", "a/b", "a/b/c/d"]);
        check("**/**/a", &["a", "x/y/a"], &["b"]);
        check("**/a/*/b", &["a/a/x/b", "a/x/a/y/b"], &["a/x/y/b", "a/b"]);
    }

    #[test]
    fn h3_stars_go_back() {
        check("a*b*c", &["abc", "aXbYc", "abcbc", "aabbcc"], &["acb", "ab", "abcd"]);
        check("*aab", &["aaaab", "aab"], &["aaba", "ab"]);
        check("*?", &["a", "ab"], &[]);
        check("?*?", &["ab", "abc"], &["a"]);
    }

    #[test]
    fn h3_what_is_refused() {
        for (pattern, expected) in [
            ("", PatternError::Empty),
            ("/", PatternError::Empty),
            ("//", PatternError::Empty),
            ("a/", PatternError::EmptySegment),
            ("a//b", PatternError::EmptySegment),
            ("//a", PatternError::EmptySegment),
            ("**.ts", PatternError::PartOfSegment),
            ("a/b**/c", PatternError::PartOfSegment),
            ("***", PatternError::PartOfSegment),
        ] {
            assert_eq!(Pattern::parse(pattern), Err(expected), "{pattern}");
        }
    }

    #[test]
    fn h3_hard_cases_end_soon() {
        let stars = "*a".repeat(100) + "b";
        assert!(!Pattern::parse(&stars).unwrap().matches("a".repeat(4000).as_bytes()));
        let deep = "**/a/".repeat(100) + "b";
        assert!(!Pattern::parse(&deep).unwrap().matches("a/".repeat(2000).trim_end_matches('/').as_bytes()));
    }

    /// The definition, without care for time: every way a star can be taken is tried.
    fn matches_by_definition(pattern: &[&str], path: &[&str]) -> bool {
        fn name(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern, text) {
                ([], []) => true,
                ([b'*', after @ ..], _) => (0..=text.len()).any(|taken| name(after, &text[taken..])),
                ([b'?', after @ ..], [_, behind @ ..]) => name(after, behind),
                ([p, after @ ..], [t, behind @ ..]) => p == t && name(after, behind),
                _ => false,
            }
        }
        match (pattern, path) {
            ([], []) => true,
            (["**"], _) => !path.is_empty(),
            (["**", after @ ..], _) => (0..=path.len()).any(|taken| matches_by_definition(after, &path[taken..])),
            ([p, after @ ..], [t, behind @ ..]) => {
                name(p.as_bytes(), t.as_bytes()) && matches_by_definition(after, behind)
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn h3_greedy_walk_agrees_with_the_definition(
            pattern in proptest::collection::vec("\\*\\*|[ab?]{1,2}|[ab]?\\*[ab]?|\\*[ab]\\*", 1..6),
            path in proptest::collection::vec("[ab]{1,3}", 1..7),
        ) {
            let text = format!("/{}", pattern.join("/"));
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let segments: Vec<&str> = path.iter().map(String::as_str).collect();
            let expected = matches_by_definition(&pattern, &segments);
            prop_assert_eq!(Pattern::parse(&text).unwrap().matches(path.join("/").as_bytes()), expected, "{}", text);
        }
    }
}
