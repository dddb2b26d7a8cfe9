//! What is asked for: paths, written out or by a pattern, and byte ranges of them.

use std::ops::Range;

use crate::random::Random;

/// A pattern may not stand for more paths than this; each costs its request's bytes in memory.
pub const PATHS_MAX: usize = 1_000_000;

/// The paths to ask for, and how to choose among them.
#[derive(Clone, Debug)]
pub struct Targets {
    list: Vec<Target>,
    choice: Choice,
    next: usize,
}

/// One file on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path and query, as it stands in the request line.
    pub path: String,
    /// The file's length, where it is known.
    pub len: Option<u64>,
}

/// How the next request is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One path after the other, whole.
    InTurn,
    /// Any path, and in it any range of this many bytes.
    RandomRange(u64),
}

/// One request: which target, and which of its bytes (the whole of it where there is no range).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The target's place in the list.
    pub target: usize,
    /// The range asked for, half-open.
    pub range: Option<Range<u64>>,
}

impl Targets {
    /// # Errors
    /// The list is empty, or ranges are wanted of a target whose length is not known or is 0.
    pub fn new(list: Vec<Target>, choice: Choice) -> Result<Self, String> {
        if list.is_empty() {
            return Err("there is no path to ask for".to_string());
        }
        if let Choice::RandomRange(_) = choice
            && let Some(unknown) = list.iter().find(|target| target.len.unwrap_or(0) == 0)
        {
            return Err(format!(
                "{}: ranges need the file's length; give --file-size, or lengths in --paths",
                unknown.path
            ));
        }
        Ok(Targets { list, choice, next: 0 })
    }

    /// The path of a target.
    pub fn path(&self, target: usize) -> &str {
        &self.list[target].path
    }

    /// The length of a target, where it is known.
    pub fn len_of(&self, target: usize) -> Option<u64> {
        self.list[target].len
    }

    /// Chooses the next request.
    pub fn choose(&mut self, random: &mut Random) -> Request {
        match self.choice {
            Choice::InTurn => {
                let target = self.next;
                self.next = (self.next + 1) % self.list.len();
                Request { target, range: None }
            }
            Choice::RandomRange(wanted) => {
                let target = random.below(self.list.len() as u64) as usize;
                let file_len = self.list[target].len.unwrap_or(0);
                let len = wanted.min(file_len);
                let start = random.below(file_len - len + 1);
                Request { target, range: Some(start..start + len) }
            }
        }
    }

    /// Writes the request's head into `out`: the request line, the range, then `fields`, which ends with the empty line.
    pub fn write_head(&self, request: &Request, fields: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.path(request.target).as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(range) = &request.range {
            // Inclusive on the wire (RFC 9110 §14.1.2).
            out.extend_from_slice(format!("Range: bytes={}-{}\r\n", range.start, range.end - 1).as_bytes());
        }
        out.extend_from_slice(fields);
    }
}

/// Every path that `pattern` stands for: `/f/{0..99}.bin` is a hundred of them. Leading zeros set the width; several braces
/// multiply.
///
/// # Errors
/// A brace that is not `{FIRST..LAST}`, or more than [`PATHS_MAX`] paths.
pub fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let Some((before, rest)) = pattern.split_once('{') else { return Ok(vec![pattern.to_string()]) };
    let wrong = || format!("`{pattern}`: write {{FIRST..LAST}}, for instance /f/{{0..99}}.bin");
    let (inside, after) = rest.split_once('}').ok_or_else(wrong)?;
    let (first, last) = inside.split_once("..").ok_or_else(wrong)?;
    let (from, to): (usize, usize) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    let tails = expand(after)?;
    let count = to.checked_sub(from).and_then(|n| n.checked_add(1)).ok_or_else(wrong)?;
    if count.checked_mul(tails.len()).is_none_or(|all| all > PATHS_MAX) {
        return Err(format!("`{pattern}` stands for more than {PATHS_MAX} paths"));
    }
    let width = if first.starts_with('0') { first.len() } else { 0 };
    Ok((from..=to).flat_map(|n| tails.iter().map(move |tail| format!("{before}{n:0width$}{tail}"))).collect())
}

/// The targets that a list names: a path (or a pattern) a line, with the file's length after white space where it is known; lines
/// that are empty or begin with `#` are passed over.
///
/// # Errors
/// Names the line that is wrong.
pub fn parse_list(text: &str) -> Result<Vec<Target>, String> {
    let mut list = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split_ascii_whitespace();
        let Some(pattern) = words.next().filter(|word| !word.starts_with('#')) else { continue };
        let len = words.next().map(crate::units::size).transpose().map_err(|e| format!("line {number}: {e}"))?;
        let paths = check_path(pattern).and_then(|()| expand(pattern)).map_err(|e| format!("line {number}: {e}"))?;
        list.extend(paths.into_iter().map(|path| Target { path, len }));
        if list.len() > PATHS_MAX {
            return Err(format!("line {number}: more than {PATHS_MAX} paths"));
        }
    }
    Ok(list)
}

/// Whether a path can stand in a request line as it is.
///
/// # Errors
/// Says what a path looks like.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(format!("`{path}`: a path begins with / and has no spaces or characters outside ASCII; write those as %XX"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, expected: &[&str]) {
        assert_eq!(expand(pattern).unwrap(), expected);
    }

    #[test]
    fn patterns() {
        check("/plain", &["/plain"]);
        check("/f/{8..10}", &["/f/8", "/f/9", "/f/10"]);
        check("/f/{08..10}.bin", &["/f/08.bin", "/f/09.bin", "/f/10.bin"]);
        check("/{0..1}/{0..1}", &["/0/0", "/0/1", "/1/0", "/1/1"]);
        check("/{3..3}", &["/3"]);
        for wrong in ["/{", "/{1}", "/{1..}", "/{2..1}", "/{a..b}", "/{0..18446744073709551615}", "/{0..9999}{0..9999}"]
        {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists() {
        let target = |path: &str, len| Target { path: path.to_string(), len };
        let list = parse_list("# files\n/a 10\n\n  /b/{0..1}\t1KiB\n/c\n").unwrap();
        assert_eq!(
            list,
            [target("/a", Some(10)), target("/b/0", Some(1024)), target("/b/1", Some(1024)), target("/c", None)]
        );
        assert!(parse_list("/a\nb\n").unwrap_err().starts_with("line 2"));
        assert!(parse_list("/a ten\n").unwrap_err().starts_with("line 1"));
    }

    #[test]
    fn ranges_lie_inside_the_file() {
        let list = vec![Target { path: "/f".into(), len: Some(10) }, Target { path: "/g".into(), len: Some(3) }];
        let mut targets = Targets::new(list, Choice::RandomRange(4)).unwrap();
        let mut random = Random::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let request = targets.choose(&mut random);
            let range = request.range.unwrap();
            seen.insert((request.target, range.start, range.end));
        }
        let expected = (0..=6).map(|start| (0, start, start + 4)).chain([(1, 0, 3)]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn requests_on_the_wire() {
        let list = ["/a", "/b"].map(|path| Target { path: path.into(), len: Some(10) }).to_vec();
        let mut targets = Targets::new(list.clone(), Choice::InTurn).unwrap();
        let mut random = Random::new(1);
        let mut out = Vec::new();
        let mut lines = Vec::new();
        for _ in 0..3 {
            let request = targets.choose(&mut random);
            targets.write_head(&request, b"Host: h\r\n\r\n", &mut out);
            lines.push(String::from_utf8(out.clone()).unwrap());
        }
        let line = |path| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(lines, [line("/a"), line("/b"), line("/a")]);
        targets.write_head(&Request { target: 0, range: Some(5..8) }, b"\r\n", &mut out);
        assert_eq!(out, b"GET /a HTTP/1.1\r\nRange: bytes=5-7\r\n\r\n");
    }

    #[test]
    fn ranges_need_lengths() {
        let unknown = vec![Target { path: "/f".into(), len: None }];
        assert!(Targets::new(unknown.clone(), Choice::RandomRange(4)).is_err());
        assert!(Targets::new(unknown, Choice::InTurn).is_ok());
        assert!(Targets::new(Vec::new(), Choice::InTurn).is_err());
    }
}
