//! An encoder: its body becomes a file that can be read from its first byte, or one that replaces another whole.
//!
//! A file that is read while it is made, in this order:
//! 1. what can be refused before the body is asked for (F8): the name, its length, a second encoder;
//! 2. a file in the store, locked, and its path's name for everybody: from now on it is live;
//! 3. each piece of the body goes to the ring at once, and what the kernel has is told to the readers;
//! 4. at the end it gets its place, and only then the readers have theirs: who asks again finds the file.
//!
//! However it ends otherwise, the readers are told, what came is kept under a name that says so, and the path is free again.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::StreamExt;
use http::StatusCode;

use super::Folder;
use super::files::{IsTaken, LiveFile, State};
use super::reader::Opened;
use super::store::Interim;
use crate::config::{Fsync, OnSecondEncoder};
use crate::driver::op::Taken;
use crate::http::{BodyReader, Chunk, Refusal, Request, Response, Share, Sink, Target, look_up};
use crate::limits::Limits;
use crate::proto::hls;
use crate::rt::signal::Watch;

/// Takes a file that is live while it comes.
pub(super) async fn put(folder: &Rc<Folder>, mut request: Request, target: Target) -> Result<Response, Refusal> {
    let path = target.path_of(&target.name);
    let share = folder.admit(request.body().remaining(), folder.config().file_len)?;
    let on_second = folder.config().on_second_encoder;
    if on_second == OnSecondEncoder::Reject && folder.files().is_growing(&path) {
        return Err(second_encoder(&path));
    }
    let root = folder.open().await?;
    let interim = Interim::create(&root, &target).await?;
    // A directory, or a link that leads away, keeps its name.
    let replaces = look_up(interim.directory(), &target.name).await?.is_some();
    let taken = refuse_or_replace(&request, replaces)?;

    let begun = Recording::begin(folder, interim, path.clone(), share);
    let mut recording = begun.map_err(|IsTaken| second_encoder(&path))?;
    recording.receive(request.into_body().promptly()).await?;
    if !folder.files().seal(&recording.live) {
        return Err(taken_over());
    }
    recording.place(taken).await.map_err(|error| Refusal::failed("a live file can't be put in its place", error))?;
    Ok(stored(replaces))
}

/// Takes a playlist, or what else is replaced whole: until all of it is there, the old one is served.
pub(super) async fn replace(folder: &Rc<Folder>, mut request: Request, target: Target) -> Result<Response, Refusal> {
    let path = target.path_of(&target.name);
    let limit = folder.config().file_len.min(Limits::LIVE_WHOLE_LEN);
    let share = folder.admit(request.body().remaining(), limit)?;
    let root = folder.open().await?;
    let mut interim = Interim::create(&root, &target).await?;
    let replaces = look_up(interim.directory(), &target.name).await?.is_some();
    let taken = refuse_or_replace(&request, replaces)?;

    let (mut sink, mut parser) = (Sink::resume(interim.file.clone(), 0, None), hls::Parser::default());
    let mut body = request.into_body().in_large_pieces();
    while let Some(piece) = next_piece(&mut body, |cx| sink.poll_flush(cx).map_err(not_written)).await? {
        if limit - sink.len() < piece.len() as u64 {
            return Err(Refusal::too_large(limit));
        }
        parser.push(&piece);
        sink.push(piece);
    }

    let (folder, runtime) = (folder.clone(), folder.worker.runtime.clone());
    // From here on it is done whole, whether or not the encoder waits for it.
    let commit = runtime.spawn(async move {
        let _share = share;
        place(&mut interim, taken, folder.config().fsync).await?;
        folder.files().note(&path, Some(parser.finish()), folder.worker.runtime.now());
        folder.count_stored(sink.len());
        Ok(())
    });
    commit
        .lasting()
        .await
        .map_err(|error: io::Error| Refusal::failed("a playlist can't be put in its place", error))?;
    Ok(stored(replaces))
}

/// What is to happen to a file that has the name; one that is there now is refused at once where nothing is to be replaced.
fn refuse_or_replace(request: &Request, replaces: bool) -> Result<Taken, Refusal> {
    match request.wants_new() {
        true if replaces => Err(Refusal::not_new()),
        true => Ok(Taken::Refuse),
        false => Ok(Taken::Replace),
    }
}

/// A file that is live. Dropped before it has its place, it has broken off.
struct Recording {
    folder: Rc<Folder>,
    live: Arc<LiveFile>,
    /// For the readers on this worker.
    _opened: Rc<Opened>,
    stop: Watch,
    parts: Option<Parts>,
}

/// What is needed to bring it to its end, either way.
struct Parts {
    interim: Interim,
    sink: Sink,
    /// Its place among the files that come in.
    share: Share,
}

impl Recording {
    fn begin(folder: &Rc<Folder>, mut interim: Interim, path: String, share: Share) -> Result<Self, IsTaken> {
        let live = LiveFile::new(path, interim.path.clone());
        // Before anybody can ask it to stop.
        let stop = live.watch_stop();
        folder.files().begin(&live, folder.config().on_second_encoder)?;
        // What comes is kept even if the server has to end before it can be given a name.
        interim.keep();
        let opened = folder.keep_open(&live, interim.file.clone());
        folder.worker.metrics.live_streams.increment();
        let sink = Sink::resume(interim.file.clone(), 0, None);
        Ok(Recording {
            folder: folder.clone(),
            live,
            _opened: opened,
            stop,
            parts: Some(Parts { interim, sink, share }),
        })
    }

    /// Takes all of the body.
    async fn receive(&mut self, mut body: BodyReader) -> Result<(), Refusal> {
        let limit = self.folder.config().file_len;
        while let Some(piece) = next_piece(&mut body, |cx| self.poll_written(cx)).await? {
            let Some(Parts { sink, .. }) = &mut self.parts else { return Ok(()) };
            // What is kept does not depend on how it was cut.
            let fits = usize::try_from(limit - sink.len()).map_or(piece.len(), |room| room.min(piece.len()));
            sink.push(piece.slice(0..fits));
            if fits < piece.len() {
                return Err(Refusal::too_large(limit));
            }
        }
        Ok(())
    }

    /// Waits until the kernel has all that has come, and tells the readers what it has.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let Some(Parts { sink, .. }) = &mut self.parts else { return Poll::Ready(Ok(())) };
        let written = sink.poll_flush(cx);
        self.live.advance(sink.written());
        if self.stop.poll_changed(cx).is_ready() || self.live.is_stopped() {
            return Poll::Ready(Err(taken_over()));
        }
        written.map_err(not_written)
    }

    /// Gives the file its place. It is done whole, whether or not the encoder waits for it.
    async fn place(mut self, taken: Taken) -> io::Result<()> {
        let Some(mut parts) = self.parts.take() else { return Ok(()) };
        let (folder, live) = (self.folder.clone(), self.live.clone());
        let commit = folder.worker.runtime.clone().spawn(async move {
            let placed = place(&mut parts.interim, taken, folder.config().fsync).await;
            match placed {
                Ok(()) => {
                    folder.count_stored(parts.sink.len());
                    folder.end(&live, State::Whole);
                    Ok(())
                }
                Err(error) => {
                    folder.end(&live, State::Broken);
                    keep(&live, parts).await;
                    Err(error)
                }
            }
        });
        commit.lasting().await
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        self.folder.end(&self.live, State::Broken);
        let live = self.live.clone();
        self.folder.worker.runtime.spawn(async move { keep(&live, parts).await }).detach();
    }
}

/// The next piece of a body, when the kernel has all that came before; `None` when it has all. One piece is on its way to the file
/// while the next one comes, and never two: what is there is a beginning of the file then, also where a write fails.
async fn next_piece(
    body: &mut BodyReader,
    mut poll_written: impl FnMut(&mut Context<'_>) -> Poll<Result<(), Refusal>>,
) -> Result<Option<Chunk>, Refusal> {
    let mut next = None;
    std::future::poll_fn(|cx| {
        // First, so that a write that is done gives its buffer back, and is told of, also while nothing comes.
        let written = poll_written(cx);
        if let Poll::Ready(Err(refusal)) = written {
            return Poll::Ready(Err(refusal));
        }
        let next = match &mut next {
            Some(next) => next,
            None => next.insert(ready!(body.poll_next_unpin(cx))),
        };
        ready!(written)?;
        Poll::Ready(next.take().transpose().map_err(|error| Refusal::broken(&error)))
    })
    .await
}

/// Keeps what has come of a file that broke off, under a name that says so.
async fn keep(live: &LiveFile, parts: Parts) {
    let Parts { mut interim, mut sink, share: _share } = parts;
    sink.settle().await;
    // A write that failed may have brought a part.
    let len = interim.file.stat().map_or(sink.written(), |stat| stat.len);
    if len == 0 {
        return interim.discard();
    }
    match interim.place_incomplete().await {
        Ok(name) => tracing::warn!(path = live.path, name, bytes = len, "an encoder broke off: what came is kept"),
        Err(error) => {
            tracing::error!(%error, path = live.path, "an encoder broke off, and what came can't be given a name yet");
        }
    }
}

/// Gives a file its place, synced as far as it is asked for.
async fn place(interim: &mut Interim, taken: Taken, fsync: Fsync) -> io::Result<()> {
    if fsync != Fsync::None {
        interim.file.sync().await?;
    }
    interim.place(taken).await?;
    if fsync == Fsync::FileAndDirectory { interim.directory().sync().await } else { Ok(()) }
}

/// RFC 9110 §9.3.4.
fn stored(replaces: bool) -> Response {
    Response::new(if replaces { StatusCode::NO_CONTENT } else { StatusCode::CREATED })
}

fn not_written(error: io::Error) -> Refusal {
    Refusal::failed("a live file can't be written", error)
}

/// Told in the log, too: an encoder seldom says more than that its connection broke.
fn second_encoder(path: &str) -> Refusal {
    tracing::warn!(path, "an encoder is refused: another is making the file of this name");
    Refusal::new(StatusCode::CONFLICT, "BEING_MADE", "Another encoder is making the file of this name.")
}

fn taken_over() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "TAKEN_OVER", "Another encoder has taken this name over.")
}
