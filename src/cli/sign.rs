//! `highwater sign`: a URL that opens what is guarded, for a while.
//!
//! The key comes from the file that the server has, so that nobody has to write a secret where other users of the machine can
//! read it: on a command line.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Environment, Given};
use crate::config;
use crate::error::Error;
use crate::limits::Unit;
use crate::proto::signed_url::{self, Access, Key};

/// What may be said, as it was written.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// File of keys, as signing_keys of the route; the first one signs [default: what HIGHWATER_KEY_FILE names]
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// For how long the URL is valid, like 15m or 1h
    #[arg(long, value_name = "TIME")]
    expires: String,
    /// Sign for writing (POST, PUT, PATCH, DELETE) instead of reading (GET, HEAD)
    #[arg(long)]
    write: bool,
    /// What is signed: http://HOST/PATH or /PATH; with a slash at its end, all that is beneath it
    url: String,
}

impl Arguments {
    /// The signed URL, valid from this time on.
    ///
    /// # Errors
    /// The operator's: wrong use, or a file of keys that can't be used.
    pub(super) fn run(&self, environment: &Environment<'_>, now: SystemTime) -> Result<String, Error> {
        let missing = || Error::operator("no key: name the file with --key-file");
        let file = Given::one("key-file", &self.key_file, environment)?.ok_or_else(missing)?;
        let keys = config::read_keys(Path::new(&file.text)).map_err(|what| file.wrong(what))?;
        let key = keys.first().and_then(|key| Key::new(key.as_bytes())).ok_or_else(missing)?;
        let access = if self.write { Access::Write } else { Access::Read };
        sign(&self.url, &key, access, expiry(now, self.lifetime()?))
    }

    fn lifetime(&self) -> Result<Duration, Error> {
        let wrong = |what: String| Error::operator(format!("--expires: {what}"));
        match Unit::Time.parse(&self.expires) {
            Ok(0) => Err(wrong(String::from("`0` is over at once: write a time like 1h"))),
            Ok(milliseconds) => Ok(Duration::from_millis(milliseconds)),
            Err(invalid) => Err(wrong(invalid.to_string())),
        }
    }
}

/// The second at which it is over, rounded up.
fn expiry(now: SystemTime, lifetime: Duration) -> u64 {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).saturating_add(lifetime);
    since_epoch.as_secs() + u64::from(since_epoch.subsec_nanos() > 0)
}

fn sign(url: &str, key: &Key, access: Access, expires: u64) -> Result<String, Error> {
    let wrong = |what: &str| Error::operator(format!("{url:?} {what}"));
    if url.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(wrong("has a blank or another character in it that no URL has: write it percent-encoded"));
    }
    if url.contains('#') {
        return Err(wrong("has a fragment: write it without"));
    }
    let server_len = match url.find("://") {
        Some(at) => at + 3 + url[at + 3..].find(['/', '?']).unwrap_or(url.len() - at - 3),
        None => 0,
    };
    let (server, target) = url.split_at(server_len);
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if !path.starts_with('/') {
        return Err(wrong("has no path: write http://HOST/PATH or /PATH"));
    }
    let signed = signed_url::sign(key, access, path, expires, query).map_err(|refusal| match refusal {
        signed_url::Refusal::Malformed => wrong("is signed already: write it without expires, prefix and signature"),
        refusal => wrong(&format!("can't be signed: {refusal}")),
    })?;
    Ok(format!("{server}{path}?{signed}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NOW: Duration = Duration::from_millis(1_999_999_000_500);

    fn arguments(url: &str) -> Arguments {
        Arguments { key_file: None, expires: String::from("15m"), write: false, url: url.to_owned() }
    }

    #[track_caller]
    fn check(arguments: &Arguments, expected: Result<&str, &str>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, format!("# ours\n{SECRET}\nfedcba9876543210fedcba9876543210\n")).unwrap();
        let environment = |name: &str| (name == "HIGHWATER_KEY_FILE").then(|| OsString::from(&file));
        let signed = arguments.run(&environment, UNIX_EPOCH + NOW).map_err(|error| error.report());
        assert_eq!(
            signed.map(|url| url.rsplit_once('=').unwrap().0.to_owned()),
            match expected {
                Ok(url) => Ok(format!("{url}signature")),
                Err(refusal) => Err(refusal.to_owned()),
            }
        );
    }

    #[test]
    fn the_server_and_the_spelling_stay() {
        check(&arguments("/a%20b/c.mp4"), Ok("/a%20b/c.mp4?expires=1999999901&"));
        check(&arguments("https://m.example:8443/a?b=c"), Ok("https://m.example:8443/a?b=c&expires=1999999901&"));
        check(&arguments("http://m.example/live/"), Ok("http://m.example/live/?expires=1999999901&prefix=/live/&"));
    }

    #[test]
    fn what_is_signed_is_let_through_by_the_first_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, format!("{SECRET}\nfedcba9876543210fedcba9876543210\n")).unwrap();
        for (write, method) in [(false, http::Method::GET), (true, http::Method::PUT)] {
            let key_file = Some(file.to_str().unwrap().to_owned());
            let arguments = Arguments { key_file, write, ..arguments("http://m.example/a?b") };
            let signed = arguments.run(&|_| None, UNIX_EPOCH + NOW).unwrap();
            let query = signed.strip_prefix("http://m.example/a?").unwrap();
            let verify =
                |secret: &[u8], now| signed_url::verify(&[Key::new(secret).unwrap()], &method, "/a", Some(query), now);
            assert_eq!(verify(SECRET.as_bytes(), 1_999_999_900), Ok(()));
            assert_eq!(verify(SECRET.as_bytes(), 1_999_999_901), Err(signed_url::Refusal::Expired));
            assert_eq!(verify(b"fedcba9876543210fedcba9876543210", 0), Err(signed_url::Refusal::Invalid));
        }
    }

    #[test]
    fn wrong_use_is_one_line_that_says_what_to_write() {
        let refused = |url, what| check(&arguments(url), Err(what));
        refused("a/b", "\"a/b\" has no path: write http://HOST/PATH or /PATH");
        refused("http://a", "\"http://a\" has no path: write http://HOST/PATH or /PATH");
        refused("http://a?b", "\"http://a?b\" has no path: write http://HOST/PATH or /PATH");
        refused("/a#b", "\"/a#b\" has a fragment: write it without");
        let blank = "\"/a b\" has a blank or another character in it that no URL has: write it percent-encoded";
        refused("/a b", blank);
        refused("/a%2fb", "\"/a%2fb\" can't be signed: the path has an encoded slash in it");
        let twice = "\"/a?expires=1\" is signed already: write it without expires, prefix and signature";
        refused("/a?expires=1", twice);
        let with = |expires: &str| Arguments { expires: expires.to_owned(), ..arguments("/a") };
        check(&with("0"), Err("--expires: `0` is over at once: write a time like 1h"));
        check(&with("60"), Err("--expires: `60` has no unit: write 60s or 60ms"));
        let no_key = arguments("/a").run(&|_| None, UNIX_EPOCH).unwrap_err().report();
        assert_eq!(no_key, "no key: name the file with --key-file");
        let gone = Arguments { key_file: Some(String::from("/gone")), ..arguments("/a") };
        let gone = gone.run(&|_| None, UNIX_EPOCH).unwrap_err().report();
        assert!(gone.starts_with("--key-file: /gone cannot be read (No such file"), "{gone}");
    }
}
