//! The bytes of an upload that is there, read again: to be hashed, or put together with others.

use std::io;
use std::rc::Rc;

use super::super::Inbox;
use crate::http::{Chunk, Refusal, Share};
use crate::rt::fs::File;

/// The bytes of an upload, a buffer at a time.
#[derive(Clone)]
pub(in super::super) struct Pieces {
    file: Rc<File>,
    at: u64,
    end: u64,
    /// Its place among the files that are under way; it is as open as they are.
    _share: Option<Rc<Share>>,
}

impl Pieces {
    /// The first `end` bytes of a file.
    pub fn of(file: Rc<File>, end: u64) -> Self {
        Pieces { file, at: 0, end, _share: None }
    }

    /// The same, with the place among the files that come in that it keeps.
    #[must_use]
    pub fn keeping(self, share: Share) -> Self {
        Pieces { _share: Some(Rc::new(share)), ..self }
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.end
    }

    /// The next of them; `None` behind the last.
    pub async fn next(&mut self, inbox: &Inbox) -> Result<Option<Chunk>, Refusal> {
        if self.at == self.end {
            return Ok(None);
        }
        let buf = inbox.worker.runtime.upload_pool().acquire().await;
        let len = buf.spare_len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let (read, buf) = self.file.read(self.at, len, buf).await;
        let read = read.and_then(|read| if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) });
        self.at += read.map_err(|error| Refusal::failed("an upload can't be read", error))? as u64;
        Ok(Some(Chunk::leased(Rc::new(buf))))
    }
}
