//! `highwater put`: the client that uploads.
//!
//! ```text
//!   Upload (what to ask next, sans-io) ◀─ reply ─ Exchange (ureq on connections that listen while they send)
//!      │                                              ▲
//!      └── Step ──▶ Drive ── body: Source ─ Paced ────┘        StateFile: what the next run goes on with
//!                                 └ hash
//! ```
//!
//! Files go one after the other; one that fails does not keep the next from its turn. It is a client: it shares protocol
//! constants with the server, and nothing else.

mod client;
mod connection;
mod drive;
mod pace;
mod progress;
mod reply;
mod source;
mod state;
#[cfg(test)]
mod tests;
mod upload;
mod url;

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::client::Client;
use self::drive::{Drive, Uploaded};
use self::pace::Pace;
use self::progress::{View, course};
use self::source::{Source, WINDOW_LEN};
use self::state::StateFile;
use self::upload::{Plan, Protocol};
use self::url::Url;
use crate::error::Error;
use crate::proto::media_type;

/// What to upload, where to and how.
#[derive(Debug)]
pub struct Options {
    /// Files, or `-` for standard input, which needs a name.
    pub files: Vec<PathBuf>,
    /// The upload route.
    pub url: String,
    /// The file's name on the server; without it, as it is called here. For one file only.
    pub name: Option<String>,
    /// Whether to speak tus; without it, if the server does.
    pub tus: Option<bool>,
    /// The most bytes of one PATCH; at least 1. Without it, all that is left.
    pub chunk_len: Option<u64>,
    /// The most bytes a second.
    pub rate: Option<u64>,
    /// How many failures in a row are borne.
    pub retries: u32,
    /// The bearer token.
    pub token: Option<String>,
    /// Whether only failures are told.
    pub is_quiet: bool,
    /// Where states are kept for the next run, if anywhere.
    pub state_folder: Option<PathBuf>,
}

/// Uploads the files and says what became of them; `true` if all of them are there.
///
/// # Errors
/// Wrong use: nothing was sent.
pub fn run(options: Options) -> Result<bool, Error> {
    let base = Url::parse(&options.url).map_err(Error::operator)?;
    let names = options.names()?;
    let lens =
        options.files.iter().map(|file| fs::metadata(file).ok().filter(fs::Metadata::is_file).map(|data| data.len()));
    let view = View::new(options.is_quiet, names.len(), lens.sum());
    let mut session = Session {
        client: Client::new(base.clone(), options.token.clone()),
        pace: options.rate.map(|rate| Pace::new(rate, Instant::now())),
        view,
        base,
        options,
    };
    Ok(session.all(&names))
}

impl Options {
    /// The files' names on the server.
    fn names(&self) -> Result<Vec<Vec<u8>>, Error> {
        if let Some(name) = &self.name {
            let is_plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
            return match self.files.len() {
                _ if !is_plain => {
                    Err(Error::operator(format!("--name: `{name}` is no file's name: write one like a.mp4")))
                }
                1 => Ok(vec![name.clone().into_bytes()]),
                _ => Err(Error::operator("--name: there are several files: put them one by one")),
            };
        }
        let name = |file: &PathBuf| match (is_stdin(file), file.file_name()) {
            (true, _) => Err(Error::operator("-: standard input has no name: write --name")),
            (false, Some(name)) => Ok(name.as_bytes().to_vec()),
            (false, None) => Err(Error::operator(format!("{}: this is no file", file.display()))),
        };
        self.files.iter().map(name).collect()
    }
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// One run of the command.
struct Session {
    options: Options,
    base: Url,
    client: Client,
    pace: Option<Pace>,
    view: View,
}

impl Session {
    fn all(&mut self, names: &[Vec<u8>]) -> bool {
        let start = Instant::now();
        let (mut files, mut size, mut sent) = (0, 0, 0);
        for (index, name) in names.iter().enumerate() {
            let file = self.options.files[index].clone();
            let started = Instant::now();
            match self.one(&file, name) {
                Ok(uploaded) => {
                    (files, size, sent) = (files + 1, size + uploaded.size, sent + uploaded.sent);
                    let digest = if uploaded.is_checked { "sha256 ok" } else { "sha256 not named by the server" };
                    let course = course(uploaded.size, uploaded.sent, started.elapsed());
                    self.view.result(&format!("{}  {course}, {digest}", uploaded.url));
                }
                Err(why) => self.view.failure(&format!("{}: {why}", file.display())),
            }
        }
        if names.len() > 1 {
            let course = course(size, sent, start.elapsed());
            self.view.note(&format!("{files} of {} files, {course}", names.len()));
        }
        files == names.len()
    }

    fn one(&mut self, file: &Path, name: &[u8]) -> Result<Uploaded, String> {
        let (mut source, state) = self.open(file, name)?;
        let media_type = media_type::of(name).split(';').next().unwrap_or_default();
        let plan = Plan {
            base: self.base.clone(),
            name: name.to_vec(),
            media_type,
            protocol: match self.options.tus {
                None => Protocol::Any,
                Some(true) => Protocol::Tus,
                Some(false) => Protocol::Put,
            },
            piece_len: self.options.chunk_len,
            retries: self.options.retries,
            rewinds: source.rewinds(),
        };
        let shown = file.display().to_string();
        let len = Some(source.available().0).filter(|_| source.rewinds());
        let drive = Drive {
            exchange: &mut self.client,
            source: &mut source,
            state,
            pace: self.pace.as_mut(),
            view: self.view.file(&String::from_utf8_lossy(name), len),
            name: &shown,
        };
        drive.run(plan)
    }

    fn open(&self, path: &Path, name: &[u8]) -> Result<(Source, Option<StateFile>), String> {
        if is_stdin(path) {
            let window_len = self.options.chunk_len.unwrap_or(WINDOW_LEN);
            return Ok((Source::stream(Box::new(io::stdin()), window_len), None));
        }
        let file = File::open(path).map_err(|error| error.to_string())?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err(String::from("this is no file"));
        }
        let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // A PUT can't be resumed, so nothing is left for another run.
        let folder = self.options.state_folder.as_ref().filter(|_| self.options.tus != Some(false));
        let state = folder.map(|folder| StateFile::new(folder, &self.base, name, &whole, &metadata));
        Ok((Source::file(file, metadata.len()), state))
    }
}
