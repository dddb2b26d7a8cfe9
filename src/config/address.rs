//! An address to listen on, as it is written in flags, variables and the file.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;

/// What fits in `sockaddr_un.sun_path` with the NUL that ends it (unix(7)).
const UNIX_PATH_LEN: usize = 107;

/// An address to listen on: `HOST:PORT`, `[::1]:PORT` or `unix:PATH`. Port 0 lets the kernel choose.
///
/// A name is resolved as it is parsed, which may block; its first IPv4 address is taken, or else its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A socket in the file system, at most 107 bytes of path.
    Unix(PathBuf),
}

impl Default for ListenAddress {
    /// `127.0.0.1:8080`: nobody else reaches a server that was only tried out.
    fn default() -> Self {
        ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Ok(address) = text.parse() {
            return Ok(ListenAddress::Tcp(address));
        }
        let (host, port) = host_and_port(text).map_err(Error::operator)?;
        resolve(host, port, "write one of this machine's addresses").map(ListenAddress::Tcp)
    }
}

impl ListenAddress {
    /// Whether the kernel chooses the port, so that two such addresses don't clash.
    pub(super) fn asks_for_any_port(&self) -> bool {
        matches!(self, ListenAddress::Tcp(address) if address.port() == 0)
    }

    /// The same address, a relative path taken from `dir`.
    pub(super) fn within(self, dir: &Path) -> Result<Self, String> {
        match self {
            ListenAddress::Unix(path) => {
                let path = super::absolute(dir, &path)?;
                check_unix_path(&path).map(|()| ListenAddress::Unix(path))
            }
            tcp => Ok(tcp),
        }
    }
}

fn unix(path: &str) -> Result<ListenAddress, Error> {
    if path.is_empty() {
        return Err(Error::operator("`unix:` names no socket: write unix:PATH"));
    }
    let path = PathBuf::from(path);
    check_unix_path(&path).map_err(Error::operator)?;
    Ok(ListenAddress::Unix(path))
}

pub(super) fn check_unix_path(path: &Path) -> Result<(), String> {
    match path.as_os_str().len() {
        0..=UNIX_PATH_LEN => Ok(()),
        len => Err(format!("a socket's path of {len} bytes is too long: write at most {UNIX_PATH_LEN}")),
    }
}

/// Splits `HOST:PORT`; what is commonly written instead gets an answer of its own.
pub(super) fn host_and_port(text: &str) -> Result<(&str, u16), String> {
    if let Some((_, rest)) = text.split_once("://") {
        return Err(format!("`{text}` is a URL: write only {}", rest.trim_end_matches('/')));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("`{text}` needs brackets and a port: write [{text}]:8080"));
    }
    let (host, port) = match text.rsplit_once(':') {
        _ if text.is_empty() => return Err(String::from("the address is empty: write HOST:PORT or unix:PATH")),
        _ if text.ends_with(']') => return Err(format!("`{text}` has no port: write {text}:8080")),
        None if text.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(format!(
                "`{text}` has no host: write 127.0.0.1:{text}, or 0.0.0.0:{text} to be reached from outside"
            ));
        }
        None => return Err(format!("`{text}` has no port: write {text}:8080")),
        Some(("" | "*", port)) => {
            return Err(format!(
                "`{text}` has no host: write 127.0.0.1:{port}, or 0.0.0.0:{port} to be reached from outside"
            ));
        }
        Some(parts) => parts,
    };
    match port.parse() {
        Ok(port) if !host.contains(['[', ']', ':', '/', ' ']) => Ok((host, port)),
        Ok(_) => Err(format!("`{host}` is not a host: write a name, an IPv4 address, or an IPv6 address in brackets")),
        Err(_) => Err(format!("`{port}` is not a port: write a number from 0 to 65535")),
    }
}

/// The first IPv4 address of a name, or else its first. It may block.
///
/// # Errors
/// When it has none, with what to do instead.
pub(super) fn resolve(host: &str, port: u16, instead: &str) -> Result<SocketAddr, Error> {
    let unknown = || Error::operator(format!("cannot resolve `{host}`: {instead}"));
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|error| unknown().because(error))?.collect();
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    address.copied().ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = text.parse::<ListenAddress>();
        let shown = parsed.map(|address| address.to_string()).map_err(|error| error.to_string());
        assert_eq!(shown, expected.map(String::from).map_err(String::from));
    }

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in
            ["127.0.0.1:8080", "0.0.0.0:0", "[::1]:443", "[::]:65535", "unix:/run/highwater.sock", "unix:here.sock"]
        {
            check(text, Ok(text));
        }
        check("localhost:8080", Ok("127.0.0.1:8080"));
    }

    #[test]
    fn a_wrong_address_is_told_what_to_write() {
        check("8080", Err("`8080` has no host: write 127.0.0.1:8080, or 0.0.0.0:8080 to be reached from outside"));
        check(":80", Err("`:80` has no host: write 127.0.0.1:80, or 0.0.0.0:80 to be reached from outside"));
        check("*:80", Err("`*:80` has no host: write 127.0.0.1:80, or 0.0.0.0:80 to be reached from outside"));
        check("127.0.0.1", Err("`127.0.0.1` has no port: write 127.0.0.1:8080"));
        check("localhost", Err("`localhost` has no port: write localhost:8080"));
        check("[::1]", Err("`[::1]` has no port: write [::1]:8080"));
        check("::1", Err("`::1` needs brackets and a port: write [::1]:8080"));
        check("127.0.0.1:65536", Err("`65536` is not a port: write a number from 0 to 65535"));
        check("127.0.0.1:http", Err("`http` is not a port: write a number from 0 to 65535"));
        check("http://127.0.0.1:80/", Err("`http://127.0.0.1:80/` is a URL: write only 127.0.0.1:80"));
        check("a:b:80", Err("`a:b` is not a host: write a name, an IPv4 address, or an IPv6 address in brackets"));
        check("", Err("the address is empty: write HOST:PORT or unix:PATH"));
        check("unix:", Err("`unix:` names no socket: write unix:PATH"));
    }

    #[test]
    fn a_socket_path_fits_the_kernel() {
        let longest = format!("unix:{}", "a".repeat(107));
        check(&longest, Ok(&longest));
        check(&format!("{longest}a"), Err("a socket's path of 108 bytes is too long: write at most 107"));
        let relative: ListenAddress = longest.parse().unwrap();
        let refusal = relative.within(Path::new("/run")).unwrap_err();
        assert_eq!(refusal, "a socket's path of 112 bytes is too long: write at most 107");
    }
}
