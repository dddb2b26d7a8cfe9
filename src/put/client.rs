//! One request and its reply, by ureq: a body of known length or in chunks, and an early reply to it.
//!
//! Before a body that is worth it the server is asked by `Expect: 100-continue` whether it wants it (RFC 9110 §10.1.1); after a
//! second without an answer it is sent. What the server says in the middle of a body is heard by [`super::connection`].

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use http::Request;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, AsSendBody, Error, SendBody, Timeout};

use super::connection::{Answered, ListeningConnector};
use super::reply::Reply;
use super::upload::{Ask, Content};
use super::url::Url;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a server may take no byte of a body, or send none of a reply's.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a server may think about what it has received: a large file may have to reach its disk first.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);

/// What is read of a reply's body.
const MAX_REPLY_LEN: u64 = 64 << 10;

/// What is sent and hashed at once.
const SEND_LEN: usize = 256 << 10;

/// The shortest body that is asked for permission.
const EXPECT_LEN: u64 = 64 << 10;

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Broken {
    /// It may be another time.
    Passing(String),
    /// It will be so again.
    Lasting(String),
}

/// The way to a server; a script in tests.
pub(super) trait Exchange {
    /// Sends the request, with this body if it has one, and takes the reply.
    fn exchange(&mut self, ask: &Ask, body: &mut dyn Read) -> Result<Reply, Broken>;

    /// Lets time pass.
    fn wait(&mut self, time: Duration);
}

/// Sends requests over the network.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    answered: Answered,
    base: Url,
    token: Option<String>,
}

impl Client {
    /// A client that says `token` to the server of `base`, and to no other.
    pub fn new(base: Url, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("highwater/", env!("CARGO_PKG_VERSION")))
            .output_buffer_size(SEND_LEN)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_write(Some(STALL_TIMEOUT))
            .timeout_recv_response(Some(REPLY_TIMEOUT))
            .timeout_recv_body(Some(STALL_TIMEOUT))
            .build();
        let answered = Answered::default();
        let agent = Agent::with_parts(config, ListeningConnector(answered.clone()), DefaultResolver::default());
        Client { agent, answered, base, token }
    }

    fn run(&self, request: Request<impl AsSendBody>) -> Result<Reply, Broken> {
        let response = self.agent.run(request).map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let mut text = Vec::new();
        // A body that breaks off is at most a reason that is not told.
        let _ = body.into_reader().take(MAX_REPLY_LEN).read_to_end(&mut text);
        Ok(Reply { status: head.status, fields: head.headers, body: text })
    }
}

impl Exchange for Client {
    fn exchange(&mut self, ask: &Ask, body: &mut dyn Read) -> Result<Reply, Broken> {
        self.answered.set(false);
        let mut request = Request::builder().method(ask.method.clone()).uri(ask.url.to_string());
        for (name, value) in &ask.fields {
            request = request.header(*name, value);
        }
        if let Some(token) = self.token.as_ref().filter(|_| ask.url.is_beside(&self.base)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let len = match ask.content {
            Content::None => None,
            Content::Bytes { len, .. } => {
                if let Some(len) = len {
                    request = request.header("Content-Length", len);
                }
                if len.is_none_or(|len| len >= EXPECT_LEN) {
                    request = request.header("Expect", "100-continue");
                }
                len
            }
        };
        let wrong = |error: http::Error| Broken::Lasting(error.to_string());
        match ask.content {
            Content::None => self.run(request.body(()).map_err(wrong)?),
            Content::Bytes { len: Some(0), .. } => self.run(request.body(&[][..]).map_err(wrong)?),
            Content::Bytes { .. } => {
                let mut body = Wanted { body, left: len, answered: self.answered.clone() };
                self.run(request.body(SendBody::from_reader(&mut body)).map_err(wrong)?)
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        thread::sleep(time);
    }
}

/// A body as long as it is wanted. When the reply has come the connection drops what is left, so it need not be read; but ureq
/// has to be given as much as was announced.
struct Wanted<'a> {
    body: &'a mut dyn Read,
    left: Option<u64>,
    answered: Answered,
}

impl Read for Wanted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX)));
        let count = match (self.answered.get(), self.left) {
            (true, Some(_)) => most,
            (true, None) => 0,
            (false, _) => self.body.read(&mut buffer[..most])?,
        };
        self.left = self.left.map(|left| left - count as u64);
        Ok(count)
    }
}

fn broken(error: &Error) -> Broken {
    let text = match error {
        Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            String::from("the server closed the connection")
        }
        Error::Io(error) => error.to_string(),
        Error::Timeout(Timeout::Connect) => String::from("the server can't be reached: time is up"),
        Error::Timeout(_) => String::from("the server does not answer"),
        Error::HostNotFound => return Broken::Lasting(String::from("there is no such host")),
        other => return Broken::Lasting(other.to_string()),
    };
    Broken::Passing(text)
}
