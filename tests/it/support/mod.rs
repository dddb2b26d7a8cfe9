//! What every module needs: the server as a child process, a client that sees bytes, files with known content, and waiting
//! for a condition.
//!
//! Nothing here waits without a bound: every socket has a timeout of [`PATIENCE`], and so has every wait for a line or for
//! the end of the server.

mod browser;
mod client;
mod fixture;
mod program;
mod random;
mod run;
mod server;
mod upload;
mod uploads;

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use self::browser::{Browser, Screen, keys};
pub use self::client::{Broken, Client, Reply};
pub use self::fixture::{Fixture, byte_at, bytes_at, check_bytes};
pub use self::program::{Process, installed, not_shown, output};
pub use self::random::Random;
pub use self::run::{CLIENT_PATIENCE, Run, logged, url};
pub use self::server::{Held, Launch, Server, sample};
pub use self::upload::{Form, Framing, check_stored, names_in, upload_routes};
pub use self::uploads::{Uploads, digest_field, id_of, other_bytes_at};

/// How long anything may take before the test fails. Generous, because the machine may be busy; nothing that works takes it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Lets this process have at least so many descriptors; several tests that need many may run at once.
#[track_caller]
pub fn allow_descriptors(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    assert!(hard >= wanted, "this test needs {wanted} descriptors: raise `ulimit -Hn` from {hard}");
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("more descriptors");
    }
}

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until the condition holds; fails the test when it does not within `deadline`.
#[track_caller]
pub fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "the condition did not come to hold within {deadline:?}");
        thread::sleep(LOOK);
    }
}
