//! Requests that wait for what is to come: the reload of a playlist that names a segment or a part (`proto::hls`), and a part that
//! a playlist announces. Who waits holds its connection and a deadline; the deadline is the playlist's.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use http::StatusCode;

use super::Folder;
use super::files::Named;
use crate::driver::FileKind;
use crate::http::{Request, Response};
use crate::proto::hls::{Directives, Reload};
use crate::rt::signal::Watch;
use crate::rt::timer::Timer;

/// What a request waits for.
pub(super) enum Wait {
    /// A version of a playlist.
    Playlist(Directives),
    /// The file that it asks for, no longer than this.
    Part(Duration),
    /// Nothing: what it asks for makes no sense.
    Never(String),
}

/// What a request for a path that is not being made has to wait for, if anything.
pub(super) fn of(folder: &Folder, request: &Request, path: &str) -> Option<Wait> {
    if folder.is_replaced_whole(path) {
        let asked = Directives::parse(request.query()).transpose()?;
        // What was not put here is not waited for.
        folder.files().listed(path)?.playlist?;
        return Some(asked.map_or_else(|error| Wait::Never(error.to_string()), Wait::Playlist));
    }
    folder.files().announcing(path).map(|playlist| Wait::Part(playlist.patience()))
}

impl Wait {
    /// Waits; the reply if it is in vain.
    pub async fn until_there(self, folder: &Folder, path: &str) -> Result<(), Response> {
        match self {
            Wait::Playlist(asked) => playlist(folder, path, asked).await,
            Wait::Part(patience) => part(folder, path, patience).await,
            Wait::Never(why) => Err(refused(StatusCode::BAD_REQUEST, "DIRECTIVES", &format!("{why}."))),
        }
    }
}

async fn playlist(folder: &Folder, path: &str, asked: Directives) -> Result<(), Response> {
    let Some(listed) = folder.files().listed(path) else { return Ok(()) };
    let begun = folder.worker.runtime.now();
    let mut patience = Patience::new(folder, listed.news.watch());
    loop {
        // Behind the watch, so that nothing is missed between the two.
        let Some(playlist) = folder.files().listed(path).and_then(|listed| listed.playlist) else { return Ok(()) };
        match playlist.reload(asked) {
            Reload::Ready => return Ok(()),
            Reload::BadRequest => {
                let why = "The playlist will not have that for long: ask for what comes next.";
                return Err(refused(StatusCode::BAD_REQUEST, "TOO_FAR_AHEAD", why));
            }
            Reload::Wait(time) => patience.timer.set(Some(begun + time)),
        }
        match patience.changed(folder).await {
            Waited::News => {}
            Waited::Late => return Err(come_back("STALLED", "The playlist was not continued in time.")),
            Waited::Draining => return Err(draining()),
        }
    }
}

/// Waits until there is a file, or one is being made; in vain, media answer that there is none.
async fn part(folder: &Folder, path: &str, time: Duration) -> Result<(), Response> {
    let mut patience = Patience::new(folder, folder.files().watch());
    patience.timer.set_after(time);
    if exists(folder, path).await {
        return Ok(());
    }
    // What begins or is put from here on is told of.
    while matches!(folder.look_up(path), Named::Settled) {
        match patience.changed(folder).await {
            Waited::News => {}
            Waited::Late => break,
            Waited::Draining => return Err(draining()),
        }
    }
    Ok(())
}

/// What a request waits by.
struct Patience {
    timer: Timer,
    news: Watch,
    drain: Watch,
}

/// What came of waiting.
enum Waited {
    News,
    Late,
    /// Whoever serves next has what is to come.
    Draining,
}

impl Patience {
    fn new(folder: &Folder, news: Watch) -> Self {
        Patience { timer: Timer::new(&folder.worker.runtime), news, drain: folder.worker.drain_watch() }
    }

    async fn changed(&mut self, folder: &Folder) -> Waited {
        if folder.worker.draining() {
            return Waited::Draining;
        }
        let (news, drain) = (pin!(self.news.changed()), pin!(self.drain.changed()));
        match self.timer.race(select(news, drain)).await {
            Ok(Either::Left(_)) => Waited::News,
            Ok(Either::Right(_)) => Waited::Draining,
            Err(_) => Waited::Late,
        }
    }
}

async fn exists(folder: &Folder, path: &str) -> bool {
    let Ok(root) = folder.open().await else { return true };
    match root.open_beneath(path.as_bytes()).await.and_then(|file| file.stat()) {
        Ok(stat) => stat.kind == FileKind::Regular,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

fn draining() -> Response {
    come_back("GOING_AWAY", "The server is going away.")
}

fn come_back(code: &str, why: &str) -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, code, why).field("Retry-After", "1")
}

fn refused(status: StatusCode, code: &str, why: &str) -> Response {
    Response::problem(status, code, why)
}
