//! Where what is being made lies until it has its name: in `.live` beneath the folder, in the directory and under the name that it is
//! for, with something random behind it. So what a killed process leaves tells by its place what it was to be, and is taken
//! there by the next one ([`super::sweep`]), without a record beside each file.
//!
//! Whoever makes a file has its lock (flock(2)), by which a second process on the same folder can tell it from what was left.

use std::io;
use std::rc::Rc;

use http::StatusCode;

use crate::driver::FileKind;
use crate::driver::op::{DirectoryMode, Taken};
use crate::http::{Refusal, Target, random_name};
use crate::limits::Limits;
use crate::proto::upload_name;
use crate::rt::Runtime;
use crate::rt::fs::File;

/// The directory for what is being made, in the folder.
pub(super) const STORE: &str = ".live";

/// A file without a name that anybody could ask for. Dropped, it is gone, unless it has its place or is to be kept.
pub(super) struct Interim {
    /// To be written.
    pub file: Rc<File>,
    /// Its path beneath the folder.
    pub path: String,
    store: File,
    name: String,
    /// Where it is to come.
    directory: File,
    target: Target,
    is_kept: bool,
}

impl Interim {
    /// One that is to get this place; directories on the way are made.
    pub async fn create(folder: &File, target: &Target) -> Result<Self, Refusal> {
        let directory = open_or_make(folder, &target.directory, DirectoryMode::Public).await;
        let directory = directory.map_err(no_directory)?;
        let store_path = path_in_store(&target.directory);
        let store = open_or_make(folder, &store_path, DirectoryMode::Private).await;
        let store = store.map_err(|error| Refusal::failed("the store for live files can't be opened", error))?;
        // It would be found out when the file is to get its place, behind all of its body.
        if device_of(&store)? != device_of(&directory)? {
            let text = "The directory is on another file system than the route's folder.";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "OTHER_FILE_SYSTEM", text));
        }
        let random = random_name().map_err(|error| Refusal::failed("there is no randomness", error))?;
        let name = format!("{}.{random}", target.name);
        let target = target.clone();
        // Whether or not someone waits for it: a file that has a name also has who takes that away.
        let creation = Runtime::current().spawn(async move {
            let file = Rc::new(store.create(name.as_bytes()).await?);
            let path = format!("{store_path}/{name}");
            let interim = Interim { file, path, store, name, directory, target, is_kept: false };
            interim.file.try_lock()?;
            Ok(interim)
        });
        creation.lasting().await.map_err(|error| Refusal::failed("a file can't be made", error))
    }

    /// The directory where it is to come.
    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// Gives it its place; what happens to a file that has that is for the caller to say.
    pub async fn place(&mut self, taken: Taken) -> io::Result<()> {
        let target = self.target.name.clone();
        self.rename(&target, taken).await
    }

    /// Gives it a place that shows that it is not whole, and returns its name.
    pub async fn place_incomplete(&mut self) -> io::Result<String> {
        let first = upload_name::incomplete(&self.target.name);
        let mut name = first.clone();
        for n in 2.. {
            match self.rename(&name, Taken::Refuse).await {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && n <= Limits::UPLOAD_NAMES => {
                    name = upload_name::numbered(&first, n);
                }
                result => return result.map(|()| name),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// From now on it stays where it is, whatever happens, for whoever sweeps the store next.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Takes it away after all.
    pub fn discard(mut self) {
        self.is_kept = false;
    }

    async fn rename(&mut self, name: &str, taken: Taken) -> io::Result<()> {
        self.store.rename(self.name.as_bytes(), &self.directory, name.as_bytes(), taken).await?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Interim {
    fn drop(&mut self) {
        if !self.is_kept {
            self.store.forget(self.name.as_bytes());
        }
    }
}

/// Where files for a directory of the folder lie until they are whole.
fn path_in_store(directory: &str) -> String {
    if directory.is_empty() { STORE.to_owned() } else { format!("{STORE}/{directory}") }
}

/// Opens a directory beneath the folder; what is missing on the way is made.
async fn open_or_make(folder: &File, path: &str, mode: DirectoryMode) -> io::Result<File> {
    let directory = walk(folder, path, mode).await?;
    match directory.stat()?.kind {
        FileKind::Directory => Ok(directory),
        FileKind::Regular | FileKind::Other => Err(io::ErrorKind::NotADirectory.into()),
    }
}

async fn walk(folder: &File, path: &str, mode: DirectoryMode) -> io::Result<File> {
    match folder.open_beneath(path.as_bytes()).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let mut directory = folder.open_beneath(b"").await?;
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let mut start = 0;
    for end in ends {
        // From the folder each time, because a link on the way may lead up, as long as it stays beneath.
        let (name, so_far) = (&path.as_bytes()[start..end], &path.as_bytes()[..end]);
        directory = match folder.open_beneath(so_far).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match directory.make_directory(name, mode).await {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => folder.open_beneath(so_far).await?,
            },
            result => result?,
        };
        start = end + 1;
    }
    Ok(directory)
}

fn no_directory(error: io::Error) -> Refusal {
    // A link that leaves the folder, or a file, is no directory (P1).
    let leads_away = matches!(error.raw_os_error(), Some(libc::EXDEV | libc::ELOOP));
    if leads_away || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return Refusal::new(StatusCode::NOT_FOUND, "NO_DIRECTORY", "There is no such directory.");
    }
    Refusal::failed("a directory can't be made", error)
}

/// The file system that a directory is on.
fn device_of(directory: &File) -> Result<u64, Refusal> {
    directory.stat().map(|stat| stat.device).map_err(|error| Refusal::failed("a directory can't be looked at", error))
}
