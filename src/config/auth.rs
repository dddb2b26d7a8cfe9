//! Who may use a route: bearer tokens, keys of signed URLs, and a service that is asked.
//!
//! The configuration holds where the secrets are, never the secrets, so that it can be printed. Their files are read when the
//! configuration is checked, so that what is wrong in them is told before the server starts or reloads, and again by the
//! guard that uses them.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http::Method;

use super::address::{check_unix_path, host_and_port, resolve};
use crate::error::Error;
use crate::proto::signed_url;

/// The shortest token, in characters: one that is drawn at random can't be guessed.
const TOKEN_LEN: usize = 16;
/// The longest line of either file.
const LINE_LEN: usize = 512;
/// The longest file, in bytes.
const FILE_LEN: u64 = 1 << 20;
/// How long a service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that may be set.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The methods that a request can have here, but OPTIONS: a preflight carries nothing that could authorise it.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::TRACE];

/// What authorises a request to a route. Where several are given, any of them suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// A file of bearer tokens, one a line (RFC 6750).
    pub tokens: Option<PathBuf>,
    /// A file of keys for signed URLs, one a line. Any of them verifies; `highwater sign` signs with the first.
    pub signing_keys: Option<PathBuf>,
    /// A service that is asked about what neither of the others lets through.
    pub request: Option<RequestUrl>,
    /// How long it may take to answer. Default: 5 s.
    pub request_timeout: Duration,
    /// Which methods need authorisation; GET is also HEAD. `None` is every method but OPTIONS. Default: `None`.
    pub methods: Option<Vec<Method>>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        AuthConfig { tokens: None, signing_keys: None, request: None, request_timeout: TIMEOUT, methods: None }
    }
}

impl AuthConfig {
    /// Whether a request with this method needs authorisation.
    pub fn guards(&self, method: &Method) -> bool {
        match &self.methods {
            _ if *method == Method::OPTIONS => false,
            None => true,
            Some(methods) => methods.contains(if *method == Method::HEAD { &Method::GET } else { method }),
        }
    }

    /// Whether every value can be used, the files included.
    ///
    /// # Errors
    /// The first key that can't, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_presence()?;
        self.secrets()?;
        check_timeout(self.request_timeout).map_err(|wrong| format!("request_timeout: {wrong}"))?;
        let methods = self.methods.iter().flatten();
        let mut checked = methods.map(|method| parse_method(method.as_str()));
        checked.try_for_each(|method| method.map(drop)).map_err(|wrong| format!("methods: {wrong}"))
    }

    /// What the files hold now.
    ///
    /// # Errors
    /// `KEY: FILE:LINE: what is wrong and what to write instead`. No part of a secret is in it.
    pub(crate) fn secrets(&self) -> Result<Secrets, String> {
        let read = |key: &str, path: &Option<PathBuf>, read: fn(&Path) -> Result<Vec<String>, String>| {
            let lines = path.as_deref().map_or(Ok(Vec::new()), read);
            lines.map_err(|wrong| format!("{key}: {wrong}"))
        };
        let tokens = read("tokens", &self.tokens, read_tokens)?;
        Ok(Secrets { tokens, keys: read("signing_keys", &self.signing_keys, read_keys)? })
    }

    /// Whether anything can authorise.
    pub(super) fn check_presence(&self) -> Result<(), String> {
        if self.tokens.is_none() && self.signing_keys.is_none() && self.request.is_none() {
            return Err(String::from("auth lets nobody in: write tokens, signing_keys or request"));
        }
        if self.methods.as_ref().is_some_and(Vec::is_empty) {
            return Err(String::from("methods: none is guarded: write at least one, or leave it out for all"));
        }
        Ok(())
    }
}

/// What the files of an [`AuthConfig`] hold.
pub(crate) struct Secrets {
    /// Any of them is a token.
    pub tokens: Vec<String>,
    /// Any of them verifies a signed URL.
    pub keys: Vec<String>,
}

/// A service on `http://HOST:PORT/PATH`, or on a Unix socket as `http+unix:SOCKET:/PATH`.
///
/// A name is resolved as it is parsed, which may block; its first IPv4 address is taken, or else its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestUrl {
    text: String,
    /// Where it is.
    pub(crate) at: RequestPlace,
    /// What the Host field says.
    pub(crate) host: String,
    /// Path and query, as they are asked for.
    pub(crate) target: String,
}

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestPlace {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for RequestUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for RequestUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(Error::operator(format!("{text:?} has a blank or a control character in it: encode it")));
        }
        if let Some(rest) = text.strip_prefix("http+unix:") {
            return on_unix(text, rest);
        }
        if text.starts_with("https:") {
            let why = "https is not spoken to other services: write http://HOST:PORT/PATH, of a service or a proxy on this \
                       machine or a network that can be trusted";
            return Err(Error::operator(why));
        }
        let rest = text.strip_prefix("http://").ok_or_else(|| not_a_url(text))?;
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let target = checked_target(text, target)?;
        if authority.contains('@') {
            return Err(Error::operator("a password in the address is not sent: write http://HOST:PORT/PATH"));
        }
        let with_port = if has_port(authority) { authority.to_owned() } else { format!("{authority}:80") };
        let at = match with_port.parse() {
            Ok(address) => address,
            Err(_) => {
                let (host, port) = host_and_port(&with_port).map_err(Error::operator)?;
                resolve(host, port, "write the name or the address of the service")?
            }
        };
        let (at, host) = (RequestPlace::Tcp(at), authority.to_owned());
        Ok(RequestUrl { text: text.to_owned(), at, host, target })
    }
}

/// What follows the brackets of an IPv6 address, or the name, is a port.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
}

fn not_a_url(text: &str) -> Error {
    Error::operator(format!("`{text}` is not an address: write http://HOST:PORT/PATH or http+unix:SOCKET:/PATH"))
}

fn checked_target(text: &str, target: &str) -> Result<String, Error> {
    match target {
        "" => Ok(String::from("/")),
        _ if target.contains('#') => Err(Error::operator(format!("`{text}` has a fragment: write it without"))),
        _ if target.starts_with('?') => Ok(format!("/{target}")),
        _ => Ok(target.to_owned()),
    }
}

fn on_unix(text: &str, rest: &str) -> Result<RequestUrl, Error> {
    let (socket, target) = rest.split_once(":/").ok_or_else(|| not_a_url(text))?;
    if !socket.starts_with('/') {
        return Err(Error::operator(format!(
            "`{socket}` is not an absolute path: write http+unix:/PATH/TO/SOCKET:/PATH"
        )));
    }
    let socket = PathBuf::from(socket);
    check_unix_path(&socket).map_err(Error::operator)?;
    let target = checked_target(text, &format!("/{target}"))?;
    let (at, host) = (RequestPlace::Unix(socket), String::from("localhost"));
    Ok(RequestUrl { text: text.to_owned(), at, host, target })
}

/// The tokens of a file.
///
/// # Errors
/// `FILE:LINE: what is wrong and what to write instead`. No part of a token is in it.
pub(super) fn read_tokens(path: &Path) -> Result<Vec<String>, String> {
    read_lines(path, check_token)
}

/// The keys of a file, as they are written.
///
/// # Errors
/// `FILE:LINE: what is wrong and what to write instead`. No part of a key is in it.
pub(crate) fn read_keys(path: &Path) -> Result<Vec<String>, String> {
    read_lines(path, check_key)
}

/// The lines of a file of secrets that are neither blank nor comments.
fn read_lines(path: &Path, check: fn(&str) -> Result<(), String>) -> Result<Vec<String>, String> {
    let shown = path.display();
    let cannot = |why: &dyn fmt::Display| format!("{shown} cannot be read ({why}): write the path of a file that can");
    let len = fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if len > FILE_LEN {
        return Err(format!("{shown} has {len} bytes: write at most {FILE_LEN}"));
    }
    let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
    let mut secrets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        check(line).map_err(|wrong| format!("{shown}:{}: {wrong}", index + 1))?;
        secrets.push(line.to_owned());
    }
    if secrets.is_empty() {
        return Err(format!(
            "{shown} has no line but comments: write at least one, such as `openssl rand -hex 32` makes"
        ));
    }
    Ok(secrets)
}

/// A token is what a client can send: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="` (RFC 6750 §2.1).
fn check_token(token: &str) -> Result<(), String> {
    let may_stand = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    if !token.trim_end_matches('=').bytes().all(may_stand) {
        return Err(String::from("a token has only letters, digits and -._~+/ in it, and = at its end"));
    }
    check_len("token", token, TOKEN_LEN)
}

fn check_key(key: &str) -> Result<(), String> {
    if key.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(String::from("a key has only visible ASCII characters in it, and no blank"));
    }
    check_len("key", key, signed_url::MIN_SECRET_LEN)
}

fn check_len(what: &str, secret: &str, least: usize) -> Result<(), String> {
    match secret.len() {
        len if len < least => Err(format!("a {what} of {len} characters can be guessed: write at least {least}")),
        len if len > LINE_LEN => Err(format!("a {what} of {len} characters is too long: write at most {LINE_LEN}")),
        _ => Ok(()),
    }
}

pub(super) fn check_timeout(timeout: Duration) -> Result<(), String> {
    if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
        return Err(format!("{timeout:?} is out of bounds: write 1ms to 1m"));
    }
    Ok(())
}

/// A method that can be guarded.
///
/// # Errors
/// What to write instead.
pub(super) fn parse_method(name: &str) -> Result<Method, String> {
    if name == "OPTIONS" {
        return Err(String::from("OPTIONS is never guarded, as a preflight carries no authorisation: leave it out"));
    }
    if name == "HEAD" {
        return Err(String::from("HEAD is guarded with GET: write GET"));
    }
    let known = METHODS.iter().find(|method| method.as_str() == name);
    known.cloned().ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(Method::as_str).filter(|name| *name != "HEAD").collect();
        format!("`{name}` is not a method: write some of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_url(text: &str, expected: Result<(&str, &str, &str), &str>) {
        let parsed = text.parse::<RequestUrl>();
        let found = parsed.as_ref().map(|url| {
            assert_eq!(url.to_string(), text);
            let at = match &url.at {
                RequestPlace::Tcp(address) => address.to_string(),
                RequestPlace::Unix(path) => path.display().to_string(),
            };
            (at, url.host.clone(), url.target.clone())
        });
        let expected = expected.map(|(at, host, target)| (at.to_owned(), host.to_owned(), target.to_owned()));
        assert_eq!(found.map_err(ToString::to_string), expected.map_err(String::from), "{text}");
    }

    #[test]
    fn a_service_is_an_address_and_a_path() {
        check_url("http://127.0.0.1:9000/check?a=b", Ok(("127.0.0.1:9000", "127.0.0.1:9000", "/check?a=b")));
        check_url("http://127.0.0.1", Ok(("127.0.0.1:80", "127.0.0.1", "/")));
        check_url("http://[::1]/a", Ok(("[::1]:80", "[::1]", "/a")));
        check_url("http://[::1]:9?a", Ok(("[::1]:9", "[::1]:9", "/?a")));
        check_url("http://localhost:9/", Ok(("127.0.0.1:9", "localhost:9", "/")));
        check_url("http+unix:/run/a.sock:/check", Ok(("/run/a.sock", "localhost", "/check")));
    }

    #[test]
    fn a_wrong_address_of_a_service_is_told_what_to_write() {
        let no_tls = "https is not spoken to other services: write http://HOST:PORT/PATH, of a service or a proxy on this \
                      machine or a network that can be trusted";
        check_url("https://a.example/check", Err(no_tls));
        let not_one =
            |text| format!("`{text}` is not an address: write http://HOST:PORT/PATH or http+unix:SOCKET:/PATH");
        check_url("127.0.0.1:9000/check", Err(&not_one("127.0.0.1:9000/check")));
        check_url("http+unix:/run/a.sock", Err(&not_one("http+unix:/run/a.sock")));
        check_url("http://127.0.0.1:x/", Err("`x` is not a port: write a number from 0 to 65535"));
        check_url("http://127.0.0.1/#a", Err("`http://127.0.0.1/#a` has a fragment: write it without"));
        check_url("http://u:p@127.0.0.1/", Err("a password in the address is not sent: write http://HOST:PORT/PATH"));
        check_url(
            "http://127.0.0.1/a b",
            Err("\"http://127.0.0.1/a b\" has a blank or a control character in it: encode it"),
        );
        check_url(
            "http://127.0.0.1/\r\nX:y",
            Err("\"http://127.0.0.1/\\r\\nX:y\" has a blank or a control character in it: encode it"),
        );
        check_url("http+unix:a.sock:/", Err("`a.sock` is not an absolute path: write http+unix:/PATH/TO/SOCKET:/PATH"));
    }

    #[track_caller]
    fn check_tokens(text: &str, expected: Result<&[&str], &str>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        fs::write(&path, text).unwrap();
        let read = read_tokens(&path).map_err(|wrong| wrong.replace(dir.path().to_str().unwrap(), ""));
        assert_eq!(read, expected.map(|all| all.iter().map(|t| (*t).into()).collect()).map_err(String::from));
    }

    #[test]
    fn tokens_are_lines_beside_comments_and_blanks() {
        let text = "# ours\r\n\r\n  0123456789abcdef \n\nABCDEFGHIJKL-._~+/==\n";
        check_tokens(text, Ok(&["0123456789abcdef", "ABCDEFGHIJKL-._~+/=="]));
    }

    #[test]
    fn a_wrong_token_is_told_with_its_line_and_is_not_shown() {
        let short = "/t:3: a token of 15 characters can be guessed: write at least 16";
        check_tokens("# a\n0123456789abcdef\n123456789abcdef\n", Err(short));
        let odd = "/t:1: a token has only letters, digits and -._~+/ in it, and = at its end";
        check_tokens("0123456789 abcdef", Err(odd));
        check_tokens("0123456789=abcdef", Err(odd));
        let long = "/t:1: a token of 513 characters is too long: write at most 512";
        check_tokens(&"a".repeat(513), Err(long));
        let none = "/t has no line but comments: write at least one, such as `openssl rand -hex 32` makes";
        check_tokens("# nobody\n", Err(none));
        check_tokens(&"#\n".repeat(1 << 19 | 1), Err("/t has 1048578 bytes: write at most 1048576"));
    }

    #[test]
    fn a_key_may_have_any_visible_character() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        fs::write(&path, "0123456789abcdef0123456789abcde!\n").unwrap();
        assert_eq!(read_keys(&path), Ok(vec![String::from("0123456789abcdef0123456789abcde!")]));
        let shown = path.display();
        let refusals = [
            ("0123456789abcde", "a key of 15 characters can be guessed: write at least 16"),
            ("0123456789 abcdef", "a key has only visible ASCII characters in it, and no blank"),
        ];
        for (text, refusal) in refusals {
            fs::write(&path, text).unwrap();
            assert_eq!(read_keys(&path), Err(format!("{shown}:1: {refusal}")));
        }
    }

    #[test]
    fn get_is_also_head_and_options_is_never_guarded() {
        let config = |methods| AuthConfig { methods, ..AuthConfig::default() };
        let all = config(None);
        assert!(METHODS.iter().all(|method| all.guards(method)) && !all.guards(&Method::OPTIONS));
        let some = config(Some(vec![Method::GET]));
        assert_eq!([Method::GET, Method::HEAD, Method::POST].map(|m| some.guards(&m)), [true, true, false]);
        let writes = config(Some(vec![Method::POST]));
        assert_eq!([Method::GET, Method::HEAD, Method::POST].map(|m| writes.guards(&m)), [false, false, true]);
    }
}
