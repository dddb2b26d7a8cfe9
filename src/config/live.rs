//! What encoders may put into a folder of media while it is watched.

use super::check::named_values;
use super::upload::{Fsync, check_pattern};
use crate::limits::Limits;

/// What stands beside the media of a route so that encoders can put files there that are watched while they are made. The folder is
/// the media's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// What happens to a second encoder of a name. Default: reject.
    pub on_second_encoder: OnSecondEncoder,
    /// Names that are replaced whole, and never seen half-made, by pattern: playlists. Default: `*.m3u8` and `*.mpd`.
    pub whole: Vec<String>,
    /// The names that encoders may put, by pattern; any if there is none. Default: none.
    pub name_patterns: Vec<String>,
    /// Whether `DELETE` takes a file away, as encoders do with segments that have left their playlist. Default: no.
    pub delete: bool,
    /// The most bytes of one file. Default: 64 GiB.
    pub file_len: u64,
    /// What is on the disk when an encoder has its reply. Default: what the kernel has written.
    pub fsync: Fsync,
}

/// What happens to an encoder that puts a name that another is just making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSecondEncoder {
    /// It is refused with 409: `reject`.
    Reject,
    /// It takes over: the first one's stream is ended, and what came of it is kept and marked: `take-over`.
    TakeOver,
}

named_values!(OnSecondEncoder, "answer to a second encoder", Reject = "reject", TakeOver = "take-over");

impl Default for LiveConfig {
    fn default() -> Self {
        LiveConfig {
            on_second_encoder: OnSecondEncoder::Reject,
            whole: vec![String::from("*.m3u8"), String::from("*.mpd")],
            name_patterns: Vec::new(),
            delete: false,
            file_len: Limits::FORM_LEN,
            fsync: Fsync::None,
        }
    }
}

impl LiveConfig {
    /// Whether every value can be used.
    ///
    /// # Errors
    /// The first key that can't, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let named = |key: &'static str| move |wrong: String| format!("{key}: {wrong}");
        self.whole.iter().try_for_each(|pattern| check_pattern(pattern)).map_err(named("whole"))?;
        self.name_patterns.iter().try_for_each(|pattern| check_pattern(pattern)).map_err(named("name_patterns"))
    }
}
