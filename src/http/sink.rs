//! A file that comes in: each piece is hashed and on its way to the disk before the next is asked for.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sha2::{Digest, Sha256};

use super::body::Chunk;
use super::draft::hex;
use crate::limits::Limits;
use crate::proto::media_type;
use crate::rt::fs::{File, Write};

/// Where the bytes of one file go. Writes that are under way go on when it is dropped.
pub(crate) struct Sink {
    file: Rc<File>,
    len: u64,
    /// How many bytes from the beginning the kernel has.
    written: u64,
    /// With their lengths, the oldest first.
    writes: VecDeque<(u64, Write)>,
    /// What a write failed with: behind it, nothing counts as written.
    error: Option<i32>,
    /// The digest of all bytes so far, if it is wanted.
    hash: Option<Sha256>,
    /// The first bytes, until they have told what the file is.
    start: Option<Vec<u8>>,
    media_type: Option<&'static str>,
}

impl Sink {
    /// Into an empty file.
    pub fn new(file: Rc<File>, is_hashed: bool) -> Self {
        Sink { start: Some(Vec::new()), ..Sink::resume(file, 0, is_hashed.then(Sha256::new)) }
    }

    /// Behind the first `len` bytes of a file, which have this digest.
    pub fn resume(file: Rc<File>, len: u64, hash: Option<Sha256>) -> Self {
        Sink { file, len, written: len, writes: VecDeque::new(), error: None, hash, start: None, media_type: None }
    }

    /// How many bytes the file has when all writes are done.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How many bytes from the beginning the kernel has, as far as was looked; what follows may be there in parts.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes the next piece; there has to be room for it.
    pub fn push(&mut self, piece: Chunk) {
        if let Some(start) = &mut self.start {
            let wanted = media_type::SNIFF_LEN - start.len();
            start.extend_from_slice(&piece[..piece.len().min(wanted)]);
            if start.len() == media_type::SNIFF_LEN {
                self.media_type = Some(media_type::sniff(start));
                self.start = None;
            }
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&*piece);
        }
        let len = piece.len() as u64;
        self.writes.push_back((len, self.file.write(self.len, piece.into_write())));
        self.len += len;
    }

    /// Whether another piece may come: the bytes on their way and the next ones are a high water mark at most.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_down_to(Limits::UPLOAD_BUFFERS_EACH - 1, cx)
    }

    /// Waits until the kernel has every byte.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// See [`Sink::flush`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_down_to(0, cx)
    }

    /// Waits until no write is under way any more, however they end.
    pub async fn settle(&mut self) {
        // How they end was told, or is of no interest any more.
        let _ = self.flush().await;
    }

    /// What the file is, by its first bytes; `None` while there are too few of them to tell.
    pub fn media_type(&self) -> Option<&'static str> {
        self.media_type
    }

    /// As [`Sink::media_type`], when no more will come.
    pub fn final_media_type(&self) -> &'static str {
        self.media_type.unwrap_or_else(|| media_type::sniff(self.start.as_deref().unwrap_or_default()))
    }

    /// The digest of all bytes so far.
    pub fn hash(&self) -> Option<&Sha256> {
        self.hash.as_ref()
    }

    /// The same in hexadecimal.
    pub fn sha256(&self) -> Option<String> {
        self.hash.clone().map(|hash| hex(&hash.finalize()))
    }

    fn poll_down_to(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Those that are done give their buffers back, whether or not there is room.
        while let Some((len, oldest)) = self.writes.front_mut() {
            match Pin::new(oldest).poll(cx) {
                Poll::Ready(result) => {
                    match result {
                        Ok(()) if self.error.is_none() => self.written += *len,
                        Ok(()) => {}
                        Err(error) => {
                            self.error.get_or_insert(error.raw_os_error().unwrap_or(libc::EIO));
                        }
                    }
                    self.writes.pop_front();
                }
                Poll::Pending if self.writes.len() <= most => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(self.error.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error))))
    }
}
