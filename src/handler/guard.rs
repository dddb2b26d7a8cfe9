//! The guard: authorisation in front of any handler.
//!
//! A request that needs it, in this order, and the first that says yes suffices:
//! 1. a bearer token of the file (RFC 6750);
//! 2. the signature in its query (`proto::signed_url`);
//! 3. the service, which is asked by a sub-request: 2xx lets the request pass.
//!
//! Then the request goes on as it came, its body untouched: a refusal comes before `100 Continue` (F8). Files are read when the
//! guard is made, and it is made anew at a reload, so nothing is opened or resolved while requests wait.
//!
//! A reply to a request that had to be authorised is never repeated without asking again ([`Response::which_holds`]): the next
//! who sends the same bytes may be too late. Refusals carry the route's CORS fields, or a page would see a failure instead of
//! the status (H2).

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{Method, StatusCode};

use crate::config::{AuthConfig, RequestPlace, RequestUrl};
use crate::driver::op::RemoteAddress;
use crate::error::Error;
use crate::http::client::{self, NoReply, ReplyHead, RequestLines};
use crate::http::{Answer, Handler, MakeHandler, Request, Response, Worker};
use crate::limits::Limits;
use crate::proto::bearer::{self, TokenDigest};
use crate::proto::cors::Cors;
use crate::proto::fields::Fields;
use crate::proto::signed_url::{self, Key};
use crate::proto::tus;

/// What a challenge says that it is about.
const REALM: &str = "highwater";

/// A handler that answers those who may ask, and refuses the others.
#[derive(Clone)]
pub struct Guard {
    policy: Arc<Policy>,
    handler: Arc<dyn MakeHandler>,
}

/// The reply to who may not ask.
type Refused = Box<Response>;

/// Who may ask.
struct Policy {
    config: AuthConfig,
    tokens: Vec<TokenDigest>,
    keys: Vec<Key>,
    service: Option<Service>,
    cors: Option<Cors>,
}

/// What is asked about requests.
struct Service {
    address: RemoteAddress,
    url: RequestUrl,
    timeout: Duration,
}

impl Guard {
    /// A guard in front of a handler. Reads the files of tokens and keys.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration, or in which line of a file, can't be used.
    pub fn new(config: AuthConfig, handler: impl MakeHandler + 'static) -> Result<Self, Error> {
        Guard::around(config, Arc::new(handler), None)
    }

    /// The same, of a handler that is shared. `cors` is what the pages of other sites may do with it.
    ///
    /// # Errors
    /// As [`Guard::new`].
    pub(crate) fn around(config: AuthConfig, handler: Arc<dyn MakeHandler>, cors: Option<Cors>) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        let secrets = config.secrets().map_err(Error::operator)?;
        let tokens = secrets.tokens.iter().map(|token| TokenDigest::of(token.as_bytes())).collect();
        // The configuration has let only what parses through.
        let keys = secrets.keys.iter().filter_map(|key| Key::new(key.as_bytes())).collect();
        let service = config.request.as_ref().map(|url| Service::new(url, config.request_timeout)).transpose()?;
        Ok(Guard { policy: Arc::new(Policy { config, tokens, keys, service, cors }), handler })
    }
}

impl MakeHandler for Guard {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        let (policy, handler) = (self.policy.clone(), self.handler.make(worker));
        Rc::new(Guarded { policy, handler, worker: worker.clone() })
    }
}

/// One worker's guard and what is behind it.
struct Guarded {
    policy: Arc<Policy>,
    handler: Rc<dyn Handler>,
    worker: Rc<Worker>,
}

impl Handler for Guarded {
    fn call(&self, request: Request) -> Answer {
        if !self.policy.concerns(request.method(), request.fields()) {
            return self.handler.call(request);
        }
        let refusal = match self.policy.check(&request, &self.worker) {
            Ok(()) => return self.handler.call(request).unrepeated(),
            Err(refusal) => refusal,
        };
        if self.policy.service.is_none() {
            return self.policy.share(&request, *refusal).into();
        }
        let (policy, handler, worker) = (self.policy.clone(), self.handler.clone(), self.worker.clone());
        Answer::Later(Box::pin(async move {
            if let Err(refusal) = policy.ask(&request, &worker).await {
                return policy.share(&request, *refusal);
            }
            handler.call(request).unrepeated().response().await
        }))
    }
}

impl Policy {
    /// Whether the request needs authorisation: for its method, or for the one that it asks to be taken for (tus).
    fn concerns(&self, method: &Method, fields: &Fields) -> bool {
        let overriding = tus::overriding_method(method, fields);
        self.config.guards(method) || overriding.is_some_and(|overriding| self.config.guards(&overriding))
    }

    /// Whether the request itself shows that it may pass; else how it is refused, should nobody else vouch for it.
    fn check(&self, request: &Request, worker: &Worker) -> Result<(), Refused> {
        let by_token = bearer::check(request.fields(), &self.tokens);
        let now = worker.wall_clock().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let by_link = || signed_url::verify(&self.keys, request.method(), request.path(), request.query(), now);
        let by_link = if self.keys.is_empty() { Err(signed_url::Refusal::Missing) } else { by_link() };
        let (by_token, by_link) = match (by_token, by_link) {
            (Ok(()), _) | (_, Ok(())) => return Ok(()),
            (Err(by_token), Err(by_link)) => (by_token, by_link),
        };
        let takes_no_token = self.tokens.is_empty();
        if by_link != signed_url::Refusal::Missing || takes_no_token {
            return Err(Box::new(refusal(by_link.status(), &by_link)));
        }
        let refusal = refusal(by_token.status(), &by_token);
        Err(Box::new(refusal.field("WWW-Authenticate", by_token.challenge(REALM))))
    }

    /// Whether the service lets the request pass.
    async fn ask(&self, request: &Request, worker: &Worker) -> Result<(), Refused> {
        let Some(service) = &self.service else { return Ok(()) };
        let lines = service.lines(request)?;
        let Some(_share) = worker.auth_requests.take(1) else {
            let why = "Too many requests wait for their authorisation.";
            return Err(Box::new(Response::text(StatusCode::SERVICE_UNAVAILABLE, why).field("Retry-After", "1")));
        };
        match client::ask(&worker.runtime, &service.address, lines, service.timeout).await {
            Ok(reply) => verdict(reply).map_err(|status| {
                tracing::warn!(service = %service.url, %status, "the authorisation service answered neither yes nor no");
                Box::new(unanswered(StatusCode::BAD_GATEWAY))
            })?,
            Err(NoReply::Late) => {
                tracing::warn!(service = %service.url, "the authorisation service did not answer in time");
                Err(Box::new(unanswered(StatusCode::GATEWAY_TIMEOUT)))
            }
            Err(NoReply::Broken(error)) => {
                tracing::warn!(service = %service.url, error = error.report(), "the authorisation service gave no answer");
                Err(Box::new(unanswered(StatusCode::BAD_GATEWAY)))
            }
        }
    }

    /// The same refusal, with what other sites' pages may do with it.
    fn share(&self, request: &Request, refusal: Response) -> Response {
        refusal.fields(self.cors.iter().flat_map(|cors| cors.reply_fields(request.fields())))
    }
}

impl Service {
    fn new(url: &RequestUrl, timeout: Duration) -> Result<Self, Error> {
        let address = match &url.at {
            RequestPlace::Tcp(address) => RemoteAddress::tcp(*address),
            RequestPlace::Unix(path) => RemoteAddress::unix(path)
                .map_err(|error| Error::operator(format!("{} can't be connected to", path.display())).because(error))?,
        };
        Ok(Service { address, url: url.clone(), timeout })
    }

    /// What it is asked: who the client says that it is, and what it wants.
    fn lines(&self, request: &Request) -> Result<RequestLines, Refused> {
        let mut lines = RequestLines::get(&self.url.target, &self.url.host);
        lines.field("X-Original-URI", request.target().as_bytes());
        let overriding = tus::overriding_method(request.method(), request.fields());
        let method = overriding.as_ref().unwrap_or(request.method());
        lines.field("X-Original-Method", method.as_str().as_bytes());
        if let Some(peer) = request.peer() {
            lines.field("X-Forwarded-For", peer.ip().to_canonical().to_string().as_bytes());
        }
        let repeated = repeated(request.fields())?;
        repeated.into_iter().for_each(|(name, value)| lines.field(name, value));
        Ok(lines)
    }
}

/// The fields that a service judges by.
fn repeated(fields: &Fields) -> Result<Vec<(&'static str, &[u8])>, Refused> {
    let Ok(authorization) = fields.get_single("Authorization") else {
        // Which one counts, two servers may decide in two ways.
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, &"the Authorization field comes more than once")));
    };
    let cookies = fields.get_all("Cookie").map(|value| ("Cookie", value));
    let all: Vec<_> = authorization.map(|value| ("Authorization", value)).into_iter().chain(cookies).collect();
    // Each with its colon, blank and line end.
    let len: usize = all.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    if len > Limits::SUBREQUEST_FIELDS_LEN {
        let why = "Authorization and Cookie are too long together.";
        return Err(Box::new(Response::text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why)));
    }
    Ok(all)
}

/// What a reply of the service means; `Err` is a status that means nothing here.
fn verdict(reply: ReplyHead) -> Result<Result<(), Refused>, StatusCode> {
    match reply.status {
        status if status.is_success() => Ok(Ok(())),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let refused = refusal(status, &"authorisation is needed");
            let challenged = |refused: Response, value: Vec<u8>| refused.field("WWW-Authenticate", value);
            Ok(Err(Box::new(reply.challenges.into_iter().fold(refused, challenged))))
        }
        status => Err(status),
    }
}

/// A refusal, as a sentence. It holds for this client only, and not for long.
fn refusal(status: StatusCode, why: &dyn std::fmt::Display) -> Response {
    let mut why = why.to_string();
    if let Some(first) = why.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Response::text(status, why + ".").field("Cache-Control", "no-store")
}

fn unanswered(status: StatusCode) -> Response {
    Response::text(status, "Whether this request may pass can't be told now.").field("Cache-Control", "no-store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_verdict(status: u16, expected: Result<Option<u16>, u16>) {
        let reply = ReplyHead { status: StatusCode::from_u16(status).unwrap(), challenges: vec![b"Basic".to_vec()] };
        let found = verdict(reply).map(|passes| passes.err().map(|response| response.status().as_u16()));
        assert_eq!(found.map_err(|status| status.as_u16()), expected);
    }

    #[test]
    fn a_service_says_yes_or_no_or_nothing() {
        [200, 204, 299].into_iter().for_each(|status| check_verdict(status, Ok(None)));
        [401, 403].into_iter().for_each(|status| check_verdict(status, Ok(Some(status))));
        [302, 304, 400, 404, 407, 500, 503].into_iter().for_each(|status| check_verdict(status, Err(status)));
    }

    /// A POST may say that it is a DELETE; what guards one guards the other.
    #[test]
    fn a_method_that_is_taken_for_another_is_guarded_as_that() {
        let config = AuthConfig { methods: Some(vec![Method::DELETE]), ..AuthConfig::default() };
        let policy = Policy { config, tokens: Vec::new(), keys: Vec::new(), service: None, cors: None };
        for (method, overriding, expected) in [
            (Method::DELETE, "", true),
            (Method::POST, "", false),
            (Method::POST, "DELETE", true),
            (Method::POST, "PATCH", false),
            (Method::GET, "DELETE", false),
        ] {
            let fields = Fields::from_pairs([("X-HTTP-Method-Override", overriding)]);
            assert_eq!(policy.concerns(&method, &fields), expected, "{method} {overriding}");
        }
    }

    #[test]
    fn what_a_service_is_told_is_bounded_and_means_one_thing() {
        let check = |pairs: Vec<(&str, &str)>| {
            let fields = Fields::from_pairs(pairs);
            repeated(&fields).map(|all| all.len()).map_err(|response| response.status().as_u16())
        };
        assert_eq!(check(vec![("Connection", "x"), ("X-Forwarded-For", "1.2.3.4")]), Ok(0));
        assert_eq!(check(vec![("cookie", "a=b"), ("authorization", "Basic x"), ("Cookie", "c=d")]), Ok(3));
        assert_eq!(check(vec![("Authorization", "Basic x"), ("Authorization", "Basic y")]), Err(400));
        let longest = "a".repeat(Limits::SUBREQUEST_FIELDS_LEN - "Cookie: \r\n".len());
        assert_eq!(check(vec![("Cookie", &longest)]), Ok(1));
        assert_eq!(check(vec![("Cookie", &format!("{longest}a"))]), Err(431));
    }
}
