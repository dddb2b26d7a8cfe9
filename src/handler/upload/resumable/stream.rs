//! A body on its way into an upload: what it may be at most, and what it has to be.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::super::quota::Reservation;
use crate::http::{Chunk, Refusal, Sink};
use crate::proto::tus::Checksum;

/// A body on its way into an upload.
pub(super) struct Stream {
    pub sink: Sink,
    /// Where the upload ends at the latest.
    pub end: u64,
    /// Its part of the quota.
    pub reservation: Option<Reservation>,
    /// Whether all of it is reserved.
    pub is_reserved: bool,
    /// What its bytes have to be.
    pub check: Option<Check>,
    /// Whether the upload ends where it does.
    pub completes: bool,
}

impl Stream {
    /// Takes the next piece; there has to be room for it in the sink.
    pub fn take(&mut self, piece: Chunk) -> Result<(), Refusal> {
        let len = piece.len() as u64;
        if self.end - self.sink.len() < len {
            return Err(Refusal::too_large(self.end));
        }
        if !self.is_reserved && self.reservation.as_mut().is_some_and(|reserved| !reserved.extend(len)) {
            return Err(Refusal::full());
        }
        if let Some(check) = &mut self.check {
            check.update(&piece);
        }
        self.sink.push(piece);
        Ok(())
    }
}

/// A checksum that is being made.
pub(super) enum Check {
    Sha1(Sha1, [u8; 20]),
    Sha256(Sha256, [u8; 32]),
}

impl Check {
    /// One that has to come to this.
    pub fn new(expected: Checksum) -> Self {
        match expected {
            Checksum::Sha1(expected) => Check::Sha1(Sha1::new(), expected),
            Checksum::Sha256(expected) => Check::Sha256(Sha256::new(), expected),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::Sha1(hash, _) => hash.update(bytes),
            Check::Sha256(hash, _) => hash.update(bytes),
        }
    }

    /// Whether it has come to that.
    pub fn holds(self) -> bool {
        match self {
            Check::Sha1(hash, expected) => hash.finalize()[..] == expected,
            Check::Sha256(hash, expected) => hash.finalize()[..] == expected,
        }
    }
}
