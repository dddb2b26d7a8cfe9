//! Does what [`Upload`] says, until the file is there: sends, reads, waits, and compares the digests at the end.

use super::client::{Broken, Exchange};
use super::pace::{Pace, Paced};
use super::progress::FileView;
use super::source::Source;
use super::state::StateFile;
use super::upload::{Ask, Content, Plan, Receipt, Step, Upload};
use super::url::Url;

/// What one upload works with.
pub(super) struct Drive<'a, E> {
    pub exchange: &'a mut E,
    pub source: &'a mut Source,
    /// Where its state is kept, if anywhere.
    pub state: Option<StateFile>,
    pub pace: Option<&'a mut Pace>,
    pub view: FileView<'a>,
    /// What it is called in messages.
    pub name: &'a str,
}

/// A file that is on the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uploaded {
    /// Where it is served, or else where it was sent to.
    pub url: String,
    /// Its length in bytes.
    pub size: u64,
    /// How many of them this run has sent.
    pub sent: u64,
    /// Whether the server has named the digest, which then is the right one.
    pub is_checked: bool,
}

impl<E: Exchange> Drive<'_, E> {
    /// Uploads the source.
    ///
    /// # Errors
    /// Why it is not there, in one line.
    pub fn run(mut self, plan: Plan) -> Result<Uploaded, String> {
        let base = plan.base.clone();
        let resource = self.state.as_mut().and_then(StateFile::read);
        let mut upload = Upload::new(plan, resource);
        let mut sent = 0;
        loop {
            let (available, is_all) = self.source.available();
            upload.supply(available, is_all);
            match upload.next() {
                Step::Ask(ask) => self.ask(&mut upload, &ask, &mut sent)?,
                Step::Read => self.read_on(&upload)?,
                Step::Wait(time, why) => {
                    self.view.waits(self.name, &why, time);
                    self.exchange.wait(time);
                }
                Step::Failed(why) => return Err(why),
                Step::Done(receipt) => {
                    let place = upload.resource().cloned();
                    self.keep(None);
                    return self.judge(&receipt, &base, place, sent);
                }
            }
        }
    }

    fn ask(&mut self, upload: &mut Upload, ask: &Ask, sent: &mut u64) -> Result<(), String> {
        let len = match ask.content {
            Content::None => Some(0),
            Content::Bytes { offset, len } => {
                self.source.seek(offset).map_err(unreadable)?;
                self.view.at(offset);
                len
            }
        };
        let (view, pace) = (&mut self.view, self.pace.as_deref_mut());
        let count = |bytes| {
            view.sent(bytes);
            *sent += bytes;
        };
        let mut body = Paced { body: self.source.body(len), pace, count };
        let answer = self.exchange.exchange(ask, &mut body);
        if let Some(error) = self.source.take_failure() {
            return Err(unreadable(error));
        }
        match answer {
            Ok(reply) => upload.answer(&reply),
            Err(Broken::Passing(why)) => upload.broken(why),
            Err(Broken::Lasting(why)) => return Err(why),
        }
        self.keep(upload.resource());
        Ok(())
    }

    fn read_on(&mut self, upload: &Upload) -> Result<(), String> {
        self.source.seek(upload.offset()).and_then(|()| self.source.fill()).map_err(unreadable)
    }

    /// That it can't be kept costs the next run its start, and this one nothing.
    fn keep(&mut self, resource: Option<&Url>) {
        if let Some(Err(error)) = self.state.as_mut().map(|state| state.keep(resource)) {
            self.view.notes(self.name, &format!("it can't be resumed by another run: {error}"));
            self.state = None;
        }
    }

    fn judge(&mut self, receipt: &Receipt, base: &Url, place: Option<Url>, sent: u64) -> Result<Uploaded, String> {
        let (size, _) = self.source.available();
        self.source.seek(size).map_err(unreadable)?;
        let ours = self.source.sha256();
        if let Some(theirs) = receipt.sha256.filter(|theirs| *theirs != ours) {
            return Err(format!("sha256 mismatch: sent {}, the server has {}", hex(&ours), hex(&theirs)));
        }
        let served =
            receipt.url.as_ref().map(|url| base.resolve(url).map_or_else(|_| url.clone(), |url| url.to_string()));
        let url = served.or(place.map(|place| place.to_string())).unwrap_or_else(|| base.bare().to_string());
        Ok(Uploaded { url, size, sent, is_checked: receipt.sha256.is_some() })
    }
}

fn unreadable(error: std::io::Error) -> String {
    format!("it can't be read: {error}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| format!("{text}{byte:02x}"))
}
