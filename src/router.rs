//! Routes: which handler answers, by host and path prefix.
//!
//! The most specific wins: a route for the request's host before one for any host, and then the longest prefix. Prefixes end
//! at a segment's border: `/media` takes `/media` and `/media/a`, never `/mediator`. They are decoded, and a request may spell
//! them in any way that decodes to them: `/a b` takes `/a%20b`. A path that belongs to another route once its `.`, `..` and empty
//! segments are gone is refused: what is guarded at `/a` must not be reached as `//a` through the route around it.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use percent_encoding::percent_decode;

use crate::http::{Answer, Handler, MakeHandler, Request, Response, Worker};
use crate::proto::target;

/// Routes as the workers share them.
#[derive(Clone, Default)]
pub struct Routes(Vec<Route>);

#[derive(Clone)]
struct Route {
    host: Option<String>,
    prefix: String,
    handler: Arc<dyn MakeHandler>,
}

impl Routes {
    /// Adds a route. `host` is compared without case and port; `None` is any. `prefix` begins with `/` and is decoded.
    pub fn add(&mut self, host: Option<String>, prefix: &str, handler: Arc<dyn MakeHandler>) {
        // A slash at its beginning or end may be left out.
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            segments => format!("/{segments}"),
        };
        self.0.push(Route { host, prefix, handler });
    }
}

impl MakeHandler for Routes {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        let mut routes: Vec<LocalRoute> = self
            .0
            .iter()
            .map(|route| LocalRoute {
                host: route.host.clone(),
                prefix: route.prefix.clone(),
                handler: route.handler.make(worker),
            })
            .collect();
        routes.sort_by_key(|route| (route.host.is_none(), std::cmp::Reverse(route.prefix.len())));
        Rc::new(Router(routes))
    }
}

/// One worker's routes, most specific first.
struct Router(Vec<LocalRoute>);

struct LocalRoute {
    host: Option<String>,
    /// Decoded, without its last slash: the prefix of everything is empty.
    prefix: String,
    handler: Rc<dyn Handler>,
}

impl LocalRoute {
    fn is_for(&self, host: &str) -> bool {
        self.host.as_deref().is_none_or(|own| own.eq_ignore_ascii_case(host))
    }

    /// How many bytes of the path, as it was sent, are this route's own; `None` when the request is for another.
    fn takes(&self, host: &str, path: &str) -> Option<usize> {
        let len = spelled_len(path.as_bytes(), self.prefix.as_bytes()).filter(|_| self.is_for(host))?;
        matches!(path.as_bytes().get(len), None | Some(b'/')).then_some(len)
    }
}

/// How many bytes at the beginning of a path, as it was sent, spell a decoded prefix.
fn spelled_len(path: &[u8], prefix: &[u8]) -> Option<usize> {
    let mut at = 0;
    for &byte in prefix {
        let (spelled, len) = match *path.get(at)? {
            b'%' => (unescaped(path.get(at..at + 3)?)?, 3),
            plain => (plain, 1),
        };
        // An encoded slash parts no segments; the handler refuses it (P1).
        if spelled != byte || (len == 3 && byte == b'/') {
            return None;
        }
        at += len;
    }
    Some(at)
}

impl Router {
    /// Whether the route that takes a path as it was sent is also the one for what the path means.
    fn keeps(&self, index: usize, host: &str, path: &str) -> bool {
        // Other segments than these are their own meaning, however they are spelled.
        if !path.contains("//") && !path.contains("/.") && !path.contains("/%2") {
            return true;
        }
        // What no handler takes for a path leads to no other route either.
        let Ok(normal) = target::normalize(path) else { return true };
        let meant = self.0.iter().position(|route| route.is_for(host) && is_beneath(&route.prefix, &normal.path));
        meant == Some(index)
    }
}

/// Whether a normal path, without its first slash, lies in a prefix.
fn is_beneath(prefix: &str, path: &[u8]) -> bool {
    let Some(prefix) = prefix.strip_prefix('/') else { return true };
    path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

impl Handler for Router {
    fn call(&self, request: Request) -> Answer {
        let host = request.authority().map_or("", host_of);
        let taken = |(index, route): (usize, &LocalRoute)| Some((index, route.takes(host, request.path())?));
        match self.0.iter().enumerate().find_map(taken) {
            Some((index, len)) if self.keeps(index, host, request.path()) => {
                self.0[index].handler.call(request.routed(len))
            }
            Some(_) => Response::text(StatusCode::BAD_REQUEST, "The path leads to another route.").into(),
            None if request.path() == "*" => {
                Response::new(StatusCode::NO_CONTENT).field("Allow", "GET, HEAD, OPTIONS").into()
            }
            None => Response::text(StatusCode::NOT_FOUND, "Nothing is served here.").into(),
        }
    }
}

/// The byte that an escape of three bytes stands for.
fn unescaped(escape: &[u8]) -> Option<u8> {
    percent_decode(escape).next().filter(|_| escape[1..].iter().all(u8::is_ascii_hexdigit))
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.starts_with('[') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_host(authority: &str, expected: &str) {
        assert_eq!(host_of(authority), expected);
    }

    #[test]
    fn an_authority_loses_its_port_only() {
        check_host("example.org:8080", "example.org");
        check_host("example.org", "example.org");
        check_host("[::1]:80", "[::1]");
        check_host("[::1]", "[::1]");
        check_host("example.org:", "example.org");
    }

    struct Nothing;
    impl Handler for Nothing {
        fn call(&self, _: Request) -> Answer {
            Response::new(StatusCode::OK).into()
        }
    }

    #[track_caller]
    fn check_takes(prefix: &str, path: &str, expected: Option<usize>) {
        let route = LocalRoute { host: None, prefix: prefix.into(), handler: Rc::new(Nothing) };
        assert_eq!(route.takes("any", path), expected, "{prefix} {path}");
    }

    #[test]
    fn a_prefix_ends_at_a_segments_border() {
        check_takes("", "/", Some(0));
        check_takes("/media", "/media", Some(6));
        check_takes("/media", "/media/a", Some(6));
        check_takes("/media", "/mediator", None);
        check_takes("/media", "/", None);
        check_takes("", "*", None);
    }

    #[track_caller]
    fn check_keeps(path: &str, expected: bool) {
        let route = |prefix: &str| LocalRoute { host: None, prefix: prefix.into(), handler: Rc::new(Nothing) };
        let router = Router(vec![route("/a/b"), route("/a"), route("")]);
        let index = router.0.iter().position(|route| route.takes("any", path).is_some()).unwrap();
        assert_eq!(router.keeps(index, "any", path), expected, "{path}");
    }

    #[test]
    fn a_path_that_means_another_routes_is_refused() {
        for path in ["/", "/a", "/a/b", "/a/b/c", "/c//d", "/c/../d", "/a/./c", "/a//", "/a/c/../d", "/%61/b/.x", "/.a"]
        {
            check_keeps(path, true);
        }
        for path in
            ["//a", "/./a", "/%2e/a/x", "/c/../a", "/c/%2E./a/b", "/a//b", "/a/./b", "/a/../c", "/a/b/..", "//a/b"]
        {
            check_keeps(path, false);
        }
        // The handler refuses these, whichever it is.
        for path in ["/../a", "/c%2F..%2Fa", "//a/%zz"] {
            check_keeps(path, true);
        }
    }

    #[test]
    fn a_prefix_means_the_same_with_or_without_its_outer_slashes() {
        struct Never;
        impl MakeHandler for Never {
            fn make(&self, _: &Rc<Worker>) -> Rc<dyn Handler> {
                Rc::new(Nothing)
            }
        }
        for (written, meant) in [("media", "/media"), ("/media/", "/media"), ("/", ""), ("", ""), ("a/b", "/a/b")] {
            let mut routes = Routes::default();
            routes.add(None, written, Arc::new(Never));
            assert_eq!(routes.0[0].prefix, meant, "{written}");
        }
    }

    #[test]
    fn a_prefix_is_decoded_and_a_path_may_spell_it_in_any_way() {
        check_takes("/a b", "/a%20b/c", Some(6));
        check_takes("/media", "/%6Dedi%61", Some(10));
        check_takes("/media", "/media%2Fa", None);
        check_takes("/a/b", "/a%2Fb", None);
        check_takes("/media", "/medi%6", None);
        check_takes("/media", "/medi%zz", None);
        check_takes("/media", "/medi", None);
        check_takes("/é", "/%C3%A9", Some(7));
    }
}
