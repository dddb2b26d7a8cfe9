//! Where the bytes come from: a file, or a stream that is read once; and the hash of what was sent.
//!
//! The hash follows the offset. What the server has confirmed is kept as a checkpoint, so that after a broken connection only
//! what lies between the checkpoint and the server's offset is read from the disk again; a server that has lost bytes costs
//! one reading of the file. Of a stream, one window is kept in memory, which is as far as it can be resumed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

/// The bytes of a stream that are kept, if the length of a piece does not say how many.
pub(super) const WINDOW_LEN: u64 = 8 << 20;

/// The bytes that are read at once only to be hashed.
const HASHED_AT_ONCE: usize = 256 << 10;

enum Input {
    File { file: File, len: u64 },
    Stream { stream: BufReader<Box<dyn Read>>, window: Vec<u8>, window_len: u64, start: u64, has_ended: bool },
}

/// The bytes of one upload.
pub(super) struct Source {
    input: Input,
    /// Up to where the server has confirmed, and the hash up to there.
    checkpoint: (u64, Sha256),
    /// Up to where bytes were handed out, and the hash up to there.
    running: (u64, Sha256),
    failure: Option<io::Error>,
}

impl Source {
    /// The first `len` bytes of a file.
    pub fn file(file: File, len: u64) -> Self {
        Source::of(Input::File { file, len })
    }

    /// A stream, of which `window_len` bytes are kept in memory.
    pub fn stream(stream: Box<dyn Read>, window_len: u64) -> Self {
        let stream = BufReader::with_capacity(HASHED_AT_ONCE, stream);
        Source::of(Input::Stream { stream, window: Vec::new(), window_len, start: 0, has_ended: false })
    }

    fn of(input: Input) -> Self {
        Source { input, checkpoint: (0, Sha256::new()), running: (0, Sha256::new()), failure: None }
    }

    /// Where the bytes end that are at hand, and whether that is the end of all.
    pub fn available(&self) -> (u64, bool) {
        match &self.input {
            Input::File { len, .. } => (*len, true),
            Input::Stream { window, start, has_ended, .. } => (start + window.len() as u64, *has_ended),
        }
    }

    /// Whether the bytes can be read again from the start.
    pub fn rewinds(&self) -> bool {
        matches!(self.input, Input::File { .. })
    }

    /// Goes on to the next window of a stream; what is kept of it until now is no longer needed.
    ///
    /// # Errors
    /// The stream can't be read.
    pub fn fill(&mut self) -> io::Result<()> {
        let Input::Stream { stream, window, window_len, start, has_ended } = &mut self.input else { return Ok(()) };
        *start += window.len() as u64;
        window.clear();
        stream.by_ref().take(*window_len).read_to_end(window)?;
        // A look ahead, so that the last piece is known to be the last.
        *has_ended = stream.fill_buf()?.is_empty();
        Ok(())
    }

    /// Goes to this offset, up to which the server has everything, and brings the hash there.
    ///
    /// # Errors
    /// The bytes before it can't be read, or are not kept any more.
    pub fn seek(&mut self, offset: u64) -> io::Result<()> {
        if self.running.0 != offset {
            if self.checkpoint.0 > offset {
                self.checkpoint = (0, Sha256::new());
            }
            self.running = self.checkpoint.clone();
            let mut buffer = vec![0; HASHED_AT_ONCE];
            while self.running.0 < offset {
                let most = usize::try_from(offset - self.running.0).unwrap_or(usize::MAX).min(buffer.len());
                self.hand_out(&mut buffer[..most])?;
            }
        }
        self.checkpoint = self.running.clone();
        Ok(())
    }

    /// Hands out the next bytes, as many as are asked for or are left in the window, and hashes them.
    ///
    /// # Errors
    /// The bytes can't be read: the file became shorter.
    fn hand_out(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.running.0;
        let count = match &mut self.input {
            Input::File { file, .. } => file.read_at(buffer, at)?,
            Input::Stream { window, start, .. } => {
                let from = at.checked_sub(*start).and_then(|from| window.get(usize::try_from(from).ok()?..));
                from.ok_or_else(|| io::Error::other("what was sent can't be read again"))?.read(buffer)?
            }
        };
        if count == 0 && !buffer.is_empty() {
            return Err(io::Error::other("it has become shorter"));
        }
        self.running.0 += count as u64;
        self.running.1.update(&buffer[..count]);
        Ok(count)
    }

    /// The hash of all bytes before the offset that was sought last.
    pub fn sha256(&self) -> [u8; 32] {
        self.checkpoint.1.clone().finalize().into()
    }

    /// Why bytes could not be handed out, if that is why a request broke off.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// The next bytes as the body of a request: so many, or all there are.
    pub fn body(&mut self, len: Option<u64>) -> Body<'_> {
        Body { source: self, left: len }
    }
}

/// The bytes of one request. An error of the disk is kept in the source, because a client's error would not tell it from one
/// of the network.
pub(super) struct Body<'a> {
    source: &'a mut Source,
    left: Option<u64>,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.next_bytes(buffer) {
            Ok(count) => Ok(count),
            Err(error) => {
                let kind = error.kind();
                self.source.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

impl Body<'_> {
    fn next_bytes(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_none() && self.source.available() == (self.source.running.0, false) {
            self.source.fill()?;
        }
        let (end, _) = self.source.available();
        let left = self.left.unwrap_or(end - self.source.running.0);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.source.hand_out(&mut buffer[..most])?;
        self.left = self.left.map(|left| left - count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn content() -> Vec<u8> {
        (0..700_000u32).map(|at| (at % 251) as u8).collect()
    }

    fn file() -> (File, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content()).unwrap();
        (file, content().len() as u64)
    }

    fn hash(len: usize) -> [u8; 32] {
        Sha256::digest(&content()[..len]).into()
    }

    #[test]
    fn the_hash_follows_the_offset_forth_and_back() {
        let (file, len) = file();
        let mut source = Source::file(file, len);
        let mut sent = Vec::new();
        source.body(Some(600_000)).read_to_end(&mut sent).unwrap();
        assert_eq!(sent, content()[..600_000]);
        for offset in [300_000, 500_000, 500_000, 100, 0, 699_999, 700_000] {
            source.seek(offset).unwrap();
            assert_eq!(source.sha256(), hash(offset as usize), "{offset}");
        }
    }

    #[test]
    fn only_what_lies_behind_the_checkpoint_is_read_again() {
        let (file, len) = file();
        let mut source = Source::file(file.try_clone().unwrap(), len);
        source.seek(400_000).unwrap();
        io::copy(&mut source.body(Some(300_000)), &mut io::sink()).unwrap();
        // What the hash has taken already is gone from the disk.
        file.write_all_at(&[0; 1000], 0).unwrap();
        source.seek(500_000).unwrap();
        assert_eq!(source.sha256(), hash(500_000));
    }

    #[test]
    fn a_file_that_became_shorter_breaks_its_body_and_says_why() {
        let (file, len) = file();
        let mut source = Source::file(file.try_clone().unwrap(), len);
        file.set_len(1000).unwrap();
        assert!(io::copy(&mut source.body(Some(len)), &mut io::sink()).is_err());
        assert_eq!(source.take_failure().unwrap().to_string(), "it has become shorter");
        assert!(source.take_failure().is_none());
    }

    #[test]
    fn a_stream_is_kept_a_window_long_and_its_end_is_known_with_its_last_bytes() {
        let mut source = Source::stream(Box::new(io::Cursor::new(content())), 350_000);
        source.fill().unwrap();
        assert_eq!(source.available(), (350_000, false));
        for len in [350_000, 150_000] {
            io::copy(&mut source.body(Some(len)), &mut io::sink()).unwrap();
            source.seek(200_000).unwrap();
        }
        assert_eq!(source.sha256(), hash(200_000));
        source.seek(350_000).unwrap();
        source.fill().unwrap();
        assert_eq!(source.available(), (700_000, true));
        let mut sent = Vec::new();
        source.body(Some(350_000)).read_to_end(&mut sent).unwrap();
        assert_eq!(sent, content()[350_000..]);
        source.seek(700_000).unwrap();
        assert_eq!(source.sha256(), hash(700_000));
        assert_eq!(source.seek(349_999).unwrap_err().to_string(), "what was sent can't be read again");
    }

    #[test]
    fn a_stream_of_unknown_length_is_one_body() {
        let mut source = Source::stream(Box::new(io::Cursor::new(content())), 100_000);
        let mut sent = Vec::new();
        source.body(None).read_to_end(&mut sent).unwrap();
        assert_eq!(sent, content());
        let mut nothing = Source::stream(Box::new(io::empty()), 100_000);
        assert_eq!(nothing.body(None).read(&mut [0; 10]).unwrap(), 0);
    }
}
