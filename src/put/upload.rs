//! What to ask a server next, so that a file gets there: sans-io.
//!
//! ```text
//!   Discover ─tus─▶ Create ─▶ Append ─▶ … ─▶ Confirm ─▶ Stored
//!      │              ▲        │  ▲                       ▲
//!      │           gone└─ Probe ◀─┘ setback               │
//!      └─no tus─▶ Put ────────────────────────────────────┘
//! ```
//!
//! [`Upload::next`] says what to do, [`Upload::answer`] and [`Upload::broken`] how it went. Every failure that may pass is a
//! setback: it costs a wait that doubles, and one of the retries, which are all given back when bytes have arrived. After
//! one the server is asked what it has (tus 1.0 §HEAD), whatever was believed before. That it has every byte is not yet success:
//! a name that is taken, or a type that is refused, is told to the append that completes the upload.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};

use super::reply::Reply;
use super::url::Url;
use crate::proto::tus;

/// The wait before the first retry; each that follows doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest wait before a retry that the server has not asked for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// tus where the server speaks it, else PUT.
    Any,
    /// tus, or it fails.
    Tus,
    /// PUT, without asking.
    Put,
}

/// What is to be uploaded, and how.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The upload route.
    pub base: Url,
    /// The file's name.
    pub name: Vec<u8>,
    /// Its media type.
    pub media_type: &'static str,
    pub protocol: Protocol,
    /// The most bytes of one PATCH; all that is at hand without it.
    pub piece_len: Option<u64>,
    /// How many setbacks in a row are borne.
    pub retries: u32,
    /// Whether the bytes can be read again from the start.
    pub rewinds: bool,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this request, and tell how it went.
    Ask(Ask),
    /// Get more bytes, and [`Upload::supply`] where they end.
    Read,
    /// Wait so long, because of this.
    Wait(Duration, String),
    /// The server has all of it.
    Done(Receipt),
    /// It will not succeed, because of this.
    Failed(String),
}

/// A request.
#[derive(Debug)]
pub(super) struct Ask {
    pub method: Method,
    pub url: Url,
    pub fields: Vec<(&'static str, String)>,
    pub content: Content,
}

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// None, and no word about its length.
    None,
    /// The bytes from this offset on, so many; without a number, all until they end.
    Bytes { offset: u64, len: Option<u64> },
}

/// What the server says of the file that it has stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Where it is served, as it was written.
    pub url: Option<String>,
    /// The digest of its bytes.
    pub sha256: Option<[u8; 32]>,
}

#[derive(Clone, Debug)]
enum Phase {
    Discover,
    /// Where tus was not announced, a refusal means that it is not spoken.
    Create {
        announced: bool,
    },
    Probe,
    Append,
    Confirm,
    Put,
    Stored,
    Failed(String),
}

/// One file on its way.
#[derive(Debug)]
pub(super) struct Upload {
    plan: Plan,
    phase: Phase,
    wait: Option<(Duration, String)>,
    /// The upload on the server, without the query that it shares with the route.
    resource: Option<Url>,
    /// Whether that is an earlier run's, of which nothing is known yet.
    is_inherited: bool,
    /// What the server is known to have.
    offset: u64,
    /// The most that it ever had.
    reached: u64,
    /// Where the bytes end that are at hand, and whether that is the end of the file.
    available: u64,
    is_all: bool,
    /// Whether the server knows the length.
    is_length_told: bool,
    /// Whether the server has said that the file is done, rather than that its bytes are there.
    is_accepted: bool,
    /// The offset of the last append that was answered with a conflict, and the server's words.
    conflict: Option<(u64, String)>,
    setbacks: u32,
    receipt: Receipt,
}

impl Upload {
    /// A new upload, or one that goes on at `resource`, which an earlier run has left.
    pub fn new(plan: Plan, resource: Option<Url>) -> Self {
        let phase = match (plan.protocol, &resource) {
            (Protocol::Put, _) => Phase::Put,
            (_, Some(_)) => Phase::Probe,
            (Protocol::Tus, None) => Phase::Create { announced: true },
            (Protocol::Any, None) => Phase::Discover,
        };
        Upload {
            plan,
            phase,
            wait: None,
            is_inherited: resource.is_some(),
            resource,
            offset: 0,
            reached: 0,
            available: 0,
            is_all: false,
            is_length_told: false,
            is_accepted: false,
            conflict: None,
            setbacks: 0,
            receipt: Receipt::default(),
        }
    }

    /// Tells up to which offset bytes are at hand, and whether the file ends there.
    pub fn supply(&mut self, available: u64, is_all: bool) {
        (self.available, self.is_all) = (available, is_all);
    }

    /// What the server has, as far as is known.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The upload on the server that another run could go on with.
    pub fn resource(&self) -> Option<&Url> {
        self.resource.as_ref()
    }

    /// What to do next.
    pub fn next(&mut self) -> Step {
        if let Some((time, why)) = self.wait.take() {
            return Step::Wait(time, why);
        }
        let has_nothing = self.offset == self.available && !self.is_all;
        match &self.phase {
            Phase::Create { .. } | Phase::Append | Phase::Put if has_nothing => Step::Read,
            Phase::Discover => Step::Ask(ask(Method::OPTIONS, self.plan.base.clone())),
            Phase::Create { .. } => Step::Ask(self.creation()),
            Phase::Probe | Phase::Confirm => Step::Ask(self.tus(Method::HEAD, self.upload_url())),
            Phase::Append => Step::Ask(self.append()),
            Phase::Put => Step::Ask(self.put()),
            Phase::Stored => Step::Done(self.receipt.clone()),
            Phase::Failed(why) => Step::Failed(why.clone()),
        }
    }

    /// Tells what the last request was answered with.
    pub fn answer(&mut self, reply: &Reply) {
        if reply.is_passing() {
            return self.set_back(reply.problem(), reply.retry_after());
        }
        match self.phase {
            Phase::Discover => self.discovered(reply),
            Phase::Create { announced } => self.created(reply, announced),
            Phase::Probe => self.probed(reply),
            Phase::Append => self.appended(reply),
            Phase::Confirm => {
                self.note(reply);
                self.phase = Phase::Stored;
            }
            Phase::Put => self.put_answered(reply),
            Phase::Stored | Phase::Failed(_) => {}
        }
    }

    /// Tells that the last request got no reply, and why.
    pub fn broken(&mut self, why: String) {
        self.set_back(why, None);
    }

    fn creation(&self) -> Ask {
        let mut ask = self.tus(Method::POST, self.plan.base.clone());
        ask.fields.push(match self.is_all {
            true => ("Upload-Length", self.available.to_string()),
            false => ("Upload-Defer-Length", String::from("1")),
        });
        let [name, media_type] =
            [&self.plan.name[..], self.plan.media_type.as_bytes()].map(|value| STANDARD.encode(value));
        ask.fields.push(("Upload-Metadata", format!("filename {name},filetype {media_type}")));
        ask.content = Content::Bytes { offset: 0, len: Some(0) };
        ask
    }

    fn append(&self) -> Ask {
        let len = (self.available - self.offset).min(self.plan.piece_len.unwrap_or(u64::MAX));
        let mut ask = self.tus(Method::PATCH, self.upload_url());
        ask.fields.push(("Content-Type", String::from(tus::CONTENT_TYPE)));
        ask.fields.push(("Upload-Offset", self.offset.to_string()));
        if self.tells_length(len) {
            ask.fields.push(("Upload-Length", self.available.to_string()));
        }
        ask.content = Content::Bytes { offset: self.offset, len: Some(len) };
        ask
    }

    /// Whether a PATCH of so many bytes is the one that tells a deferred length.
    fn tells_length(&self, len: u64) -> bool {
        !self.is_length_told && self.is_all && self.offset + len == self.available
    }

    fn put(&self) -> Ask {
        let mut ask = ask(Method::PUT, self.plan.base.child(&self.plan.name));
        ask.fields.push(("Content-Type", String::from(self.plan.media_type)));
        ask.content = Content::Bytes { offset: 0, len: self.is_all.then_some(self.available) };
        ask
    }

    fn tus(&self, method: Method, url: Url) -> Ask {
        let mut ask = ask(method, url);
        ask.fields.push(("Tus-Resumable", String::from(tus::VERSION)));
        ask
    }

    fn upload_url(&self) -> Url {
        self.resource.as_ref().unwrap_or(&self.plan.base).with_query_of(&self.plan.base)
    }

    fn discovered(&mut self, reply: &Reply) {
        let tries = matches!(reply.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED);
        let can_defer = self.is_all || reply.has_extension("creation-defer-length");
        let longest = reply.number("tus-max-size").filter(|longest| self.is_all && self.available > *longest);
        self.phase = match (reply.speaks_tus(), longest) {
            (true, Some(longest)) => Phase::Failed(format!("the server takes {longest} bytes at most")),
            (true, None) if reply.has_extension("creation") && can_defer => Phase::Create { announced: true },
            (false, _) if tries => Phase::Create { announced: false },
            _ => Phase::Put,
        };
    }

    fn created(&mut self, reply: &Reply, announced: bool) {
        let location = reply.get("location").filter(|_| reply.status == StatusCode::CREATED);
        let Some(location) = location else {
            self.phase = match () {
                () if !announced && !reply.speaks_tus() => Phase::Put,
                () if reply.status.is_success() => Phase::Failed(format!(
                    "{}: the server names no place for the upload: it may not speak tus; leave out --tus",
                    reply.status
                )),
                () => Phase::Failed(reply.problem()),
            };
            return;
        };
        match self.plan.base.resolve(location) {
            Ok(url) => {
                self.resource = Some(url.without_query_of(&self.plan.base));
                self.is_length_told = self.is_all;
                self.is_accepted = self.available == 0;
                self.note(reply);
                self.advance(0);
            }
            Err(why) => self.phase = Phase::Failed(format!("the server's place for the upload: {why}")),
        }
    }

    fn probed(&mut self, reply: &Reply) {
        if is_gone(reply) {
            return self.start_anew(reply.problem());
        }
        let Some(offset) = reply.number("upload-offset").filter(|_| reply.status.is_success()) else {
            self.phase = Phase::Failed(reply.problem());
            return;
        };
        let length = reply.number("upload-length");
        if offset > self.available || length.is_some_and(|length| !self.is_all || length != self.available) {
            return self.start_anew(String::from("the server's upload is of another file"));
        }
        if let Some((_, why)) = self.conflict.take().filter(|(at, _)| *at == offset) {
            // It was not about the offset: the name is taken, perhaps.
            self.phase = Phase::Failed(why);
            return;
        }
        self.is_length_told = length.is_some();
        self.is_inherited = false;
        self.note(reply);
        // That all bytes are there does not say that what became of them was no failure.
        self.is_accepted = self.receipt != Receipt::default();
        self.advance(offset);
    }

    fn appended(&mut self, reply: &Reply) {
        let Content::Bytes { len: Some(len), .. } = self.append().content else { return };
        match reply.status {
            _ if is_gone(reply) => self.start_anew(reply.problem()),
            // If the offset is another one than was believed, the server knows which.
            StatusCode::CONFLICT => {
                self.conflict = Some((self.offset, reply.problem()));
                self.set_back(reply.problem(), None);
            }
            status if status.is_success() => match reply.number("upload-offset") {
                Some(offset) if offset <= self.offset + len && (offset > self.offset || len == 0) => {
                    self.is_length_told |= self.tells_length(len);
                    self.is_accepted = true;
                    self.note(reply);
                    self.advance(offset);
                }
                _ => self.set_back(String::from("the server does not say that it has more now"), None),
            },
            _ => self.phase = Phase::Failed(reply.problem()),
        }
    }

    fn put_answered(&mut self, reply: &Reply) {
        if !reply.status.is_success() {
            self.phase = Phase::Failed(reply.problem());
            return;
        }
        let stored = reply.stored_file();
        let place = stored.url.or_else(|| reply.get("location").map(String::from));
        let sha256 = stored.sha256.or_else(|| reply.digest());
        self.receipt = Receipt { url: place.or_else(|| Some(self.put().url.bare().to_string())), sha256 };
        self.phase = Phase::Stored;
    }

    /// Takes what the reply says of the finished file.
    fn note(&mut self, reply: &Reply) {
        if reply.status.is_success() {
            self.receipt.sha256 = reply.digest().or(self.receipt.sha256);
            self.receipt.url = reply.get("content-location").map(String::from).or(self.receipt.url.take());
        }
    }

    /// Goes on from what the server has. Where only HEAD has said that this is all, an append of nothing makes the server
    /// finish what it may have been kept from, and say how that went.
    fn advance(&mut self, offset: u64) {
        self.offset = offset;
        if offset > self.reached {
            (self.reached, self.setbacks) = (offset, 0);
        }
        let is_whole = self.is_all && self.is_length_told && self.is_accepted && offset == self.available;
        self.phase = match self.receipt.sha256 {
            Some(_) if is_whole => Phase::Stored,
            None if is_whole => Phase::Confirm,
            _ => Phase::Append,
        };
    }

    /// Makes a new upload, because the server has nothing, or nothing of use, at the old one.
    fn start_anew(&mut self, why: String) {
        if self.offset > 0 && !self.plan.rewinds {
            self.phase = Phase::Failed(format!("{why}; what was sent can't be read again"));
            return;
        }
        (self.resource, self.offset, self.reached) = (None, 0, 0);
        self.conflict = None;
        self.receipt = Receipt::default();
        self.phase = Phase::Create { announced: true };
        // That an earlier run's upload has expired is no failure of this one.
        if !std::mem::take(&mut self.is_inherited) {
            self.set_back(why, None);
        }
    }

    /// Notes a failure that may pass, and what to ask after the wait.
    fn set_back(&mut self, why: String, wait: Option<Duration>) {
        self.phase = match &self.phase {
            // The file is there; only its digest is not known.
            Phase::Confirm => Phase::Confirm,
            Phase::Put if !self.plan.rewinds => Phase::Failed(format!("{why}; what was sent can't be read again")),
            Phase::Append => Phase::Probe,
            other => other.clone(),
        };
        if matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        if self.setbacks == self.plan.retries {
            let times = if self.setbacks == 1 { "retry" } else { "retries" };
            self.phase = Phase::Failed(format!("{why} (given up after {} {times})", self.setbacks));
            return;
        }
        let backoff = FIRST_WAIT.saturating_mul(1 << self.setbacks.min(16)).min(MAX_WAIT);
        self.setbacks += 1;
        self.wait = Some((wait.unwrap_or(backoff), why));
    }
}

fn ask(method: Method, url: Url) -> Ask {
    Ask { method, url, fields: Vec::new(), content: Content::None }
}

/// Whether the upload is no more (tus 1.0 §HEAD).
fn is_gone(reply: &Reply) -> bool {
    matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::GONE)
}
