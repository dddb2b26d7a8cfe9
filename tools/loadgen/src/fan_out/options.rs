//! The part of the command line that is about one writer and many readers.

use super::{Medium, Rate, STAMP_LEN};
use crate::units;

/// What makes no sense beside one writer and many readers.
const NOT_WITH_READERS: [&str; 11] = [
    "upload",
    "no_keep_alive",
    "random_range",
    "file_size",
    "verify",
    "verify_root",
    "rate",
    "stall_after",
    "idle",
    "rps",
    "seed",
];

/// A unit is written as a whole and held in memory.
const UNIT_LEN_MAX: u64 = 64 << 20;

/// How one writes and many read.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Subscribe to server-sent events: each connection to one of the URLs, in turn. Publish events there, by POST, and check that
    /// each subscriber has each event of its URL once, in order and byte for byte. Without --publish-rate it is a closed loop, see
    /// --in-flight. -n is then the number of events.
    #[arg(long, conflicts_with = "live", conflicts_with_all = NOT_WITH_READERS)]
    subscribe: bool,

    /// Publish so many events a second, whether or not anybody keeps up. Latency counts from the moment at which an event was due.
    #[arg(long, value_name = "R", value_parser = units::per_second, requires = "subscribe")]
    publish_rate: Option<f64>,

    /// The next event is published once fewer than N are on their way to some subscriber.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), requires = "subscribe", conflicts_with = "publish_rate")]
    in_flight: u32,

    /// The length of the data of an event.
    #[arg(long, value_name = "SIZE", value_parser = unit_len, default_value = "1KiB", requires = "subscribe")]
    event_size: usize,

    /// Publish there instead of to the URLs: as many paths as they are.
    #[arg(long, value_name = "URL", requires = "subscribe")]
    publish_to: Option<String>,

    /// Be an encoder: PUT a body to the URL, in chunks and at so many bytes a second, while each connection GETs it from its
    /// beginning. Latency is that of a piece, from the moment at which it was due to its last byte at a reader.
    #[arg(long, value_name = "BYTES", value_parser = units::size_above_0, conflicts_with_all = NOT_WITH_READERS)]
    live: Option<u64>,

    /// The length of a piece, which is one chunk of the encoder's.
    #[arg(long, value_name = "SIZE", value_parser = unit_len, default_value = "16KiB", requires = "live")]
    piece_size: usize,

    /// So many of the connections begin to read in the middle of the run, and catch up.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "live")]
    late_readers: u32,

    /// So many of the connections stop reading as soon as they have a head, and stay.
    #[arg(long, value_name = "N", default_value_t = 0)]
    stalled_readers: u32,
}

/// Who writes what, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Writing {
    /// What is written.
    pub medium: Medium,
    /// When.
    pub rate: Rate,
    /// The length of a unit in bytes.
    pub unit_len: usize,
    /// Where events go, if not to where they are read from.
    pub publish_to: Option<String>,
    /// How many readers join late.
    pub late: usize,
    /// How many readers stop.
    pub stalled: usize,
}

impl Options {
    /// What is to be written; `None` where nothing is, and other work is done.
    ///
    /// # Errors
    /// There are more special readers than readers.
    pub fn writing(&self, readers: u32) -> Result<Option<Writing>, String> {
        let (medium, rate, unit_len) = match (self.subscribe, self.live) {
            (true, _) => {
                let closed = Rate::Closed { in_flight: self.in_flight as usize };
                (Medium::Events, self.publish_rate.map_or(closed, Rate::PerSecond), self.event_size)
            }
            (false, Some(rate)) => {
                let pieces_a_second = rate as f64 / self.piece_size as f64;
                (Medium::Live, Rate::PerSecond(pieces_a_second), self.piece_size)
            }
            (false, None) if self.stalled_readers > 0 => {
                return Err("--stalled-readers is for --subscribe and --live; here it is --stall-after".to_string());
            }
            (false, None) => return Ok(None),
        };
        let (late, stalled) = (self.late_readers as usize, self.stalled_readers as usize);
        if late + stalled > readers as usize {
            return Err(format!("of {readers} connections, {late} can't be late and {stalled} stalled"));
        }
        Ok(Some(Writing { medium, rate, unit_len, publish_to: self.publish_to.clone(), late, stalled }))
    }
}

fn unit_len(text: &str) -> Result<usize, String> {
    match units::size(text)? {
        len if (STAMP_LEN as u64..=UNIT_LEN_MAX).contains(&len) => Ok(len as usize),
        _ => Err(format!("it has to be from {STAMP_LEN} bytes, which the stamp takes, to {UNIT_LEN_MAX}")),
    }
}
