//! Names: where an upload comes to lie, and how it gets there whole or not at all.
//!
//! A file that comes in has no name (`O_TMPFILE`), so that it is gone with its descriptor whatever ends the upload, a killed
//! process included. Where the file system has no such files, it gets a random name in `.uploads`, which media routes do not
//! show and which is swept. Linking it into place needs no copy, and linking to a name that is taken fails, so that nothing
//! has to be looked up first. A link can't replace; there the file goes by a name in `.uploads` and is moved over the old one.

use std::io;
use std::rc::Rc;

use http::StatusCode;

use super::refusal::Refusal;
use crate::config::{Fsync, OnConflict};
use crate::driver::FileKind;
use crate::driver::op::{DirectoryMode, Taken};
use crate::limits::Limits;
use crate::proto::fields::Fields;
use crate::proto::target::NormalPath;
use crate::proto::upload_name;
use crate::rt::Runtime;
use crate::rt::fs::File;

/// The directory for what is not whole and has a name all the same, in the folder for uploads.
pub(crate) const STORE: &str = ".uploads";

/// A file's place in the folder.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The directory beneath the folder; empty for the folder itself.
    pub directory: String,
    /// The name in it, as it was asked for.
    pub name: String,
}

impl Target {
    /// What a path asks for.
    pub fn of(path: &NormalPath<'_>) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(&path.path)
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "NAME", "The name is not UTF-8."))?;
        if path.trailing_slash {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "NAME", "A directory can't be uploaded."));
        }
        let (directory, name) = text.rsplit_once('/').unwrap_or(("", text));
        if directory.split('/').any(|segment| segment.starts_with('.')) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "NO_DIRECTORY", "There is no such directory."));
        }
        Ok(Target { directory: directory.to_owned(), name: upload_name::clean(name)? })
    }

    /// In the folder itself.
    pub fn in_folder(name: String) -> Self {
        Target { directory: String::new(), name }
    }

    /// The path beneath the folder, of a file that was stored under another name there.
    pub fn path_of(&self, stored: &str) -> String {
        if self.directory.is_empty() { stored.to_owned() } else { format!("{}/{stored}", self.directory) }
    }

    /// Opens the directory.
    pub async fn open(&self, folder: &File) -> Result<File, Refusal> {
        let opened = folder.open_beneath(self.directory.as_bytes()).await;
        opened.map_err(|error| match error.raw_os_error() {
            // A link that leaves the folder, or leads nowhere, is none (P1).
            Some(libc::ENOENT | libc::ENOTDIR | libc::EXDEV | libc::ELOOP) => {
                Refusal::new(StatusCode::NOT_FOUND, "NO_DIRECTORY", "There is no such directory.")
            }
            _ => Refusal::failed("a directory can't be opened", error),
        })
    }
}

/// A file that nobody sees yet. Dropped, it is gone.
pub(crate) struct Draft {
    pub file: Rc<File>,
    /// Its name in the store, if it had to have one.
    named: Option<(File, String)>,
    /// Whether it may have its place already, given by a process that came to its end just then.
    may_be_placed: bool,
}

impl Draft {
    /// A new file on the file system of `directory`; `folder` is the folder for uploads.
    pub async fn create(folder: &File, directory: &File) -> io::Result<Self> {
        match directory.create_unnamed().await {
            Ok(file) => Ok(Draft { file: Rc::new(file), named: None, may_be_placed: false }),
            // What file systems without it answer, and kernels that take the flag for O_DIRECTORY.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
                let (store, name) = (open_store(folder, STORE).await?, random_name()?);
                // Whether or not someone waits for it: a file that has a name also has who takes that away.
                let creation = Runtime::current().spawn(async move {
                    let file = Rc::new(store.create(name.as_bytes()).await?);
                    Ok(Draft { file, named: Some((store, name)), may_be_placed: false })
                });
                creation.lasting().await
            }
            Err(error) => Err(error),
        }
    }

    /// A file that has a name in the store already, and keeps it when it is dropped. If the attempt to put it in its place was cut
    /// off just behind the link, that link is taken for it.
    pub fn kept(file: Rc<File>) -> Self {
        Draft { file, named: None, may_be_placed: true }
    }

    /// Gives the file its name in `directory`, synced as far as it is asked for, and returns the name.
    pub async fn place(
        self,
        folder: &File,
        directory: &File,
        name: &str,
        on_conflict: OnConflict,
        fsync: Fsync,
    ) -> io::Result<String> {
        if fsync != Fsync::None {
            self.file.sync().await?;
        }
        let name = self.give_name(folder, directory, name, on_conflict).await?;
        if fsync == Fsync::FileAndDirectory {
            directory.sync().await?;
        }
        Ok(name)
    }

    async fn give_name(
        &self,
        folder: &File,
        directory: &File,
        name: &str,
        on_conflict: OnConflict,
    ) -> io::Result<String> {
        match on_conflict {
            OnConflict::Reject => self.link(directory, name).await.map(|()| name.to_owned()),
            // Moving one of a file's names over another one does nothing (rename(2)).
            OnConflict::Replace if self.may_be_placed && self.is_at(directory, name).await? => Ok(name.to_owned()),
            OnConflict::Replace => match &self.named {
                Some((store, own)) => {
                    let moved = store.rename(own.as_bytes(), directory, name.as_bytes(), Taken::Replace).await;
                    moved.map(|()| name.to_owned())
                }
                None => self.replace(folder, directory, name).await.map(|()| name.to_owned()),
            },
            OnConflict::Rename => {
                let mut candidate = name.to_owned();
                for n in 2.. {
                    match self.link(directory, &candidate).await {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && n <= Limits::UPLOAD_NAMES => {
                            candidate = upload_name::numbered(name, n);
                        }
                        result => return result.map(|()| candidate),
                    }
                }
                Err(io::ErrorKind::AlreadyExists.into())
            }
        }
    }

    /// Gives it this name, whatever has it. A link can't do that, so it goes by a name in the store.
    async fn replace(&self, folder: &File, directory: &File, name: &str) -> io::Result<()> {
        let (store, interim) = (open_store(folder, STORE).await?, random_name()?);
        self.file.link(&store, interim.as_bytes()).await?;
        let moved = store.rename(interim.as_bytes(), directory, name.as_bytes(), Taken::Replace).await;
        if moved.is_err() {
            store.forget(interim.as_bytes());
        }
        moved
    }

    /// Gives it this name, if nothing else has it.
    async fn link(&self, directory: &File, name: &str) -> io::Result<()> {
        match self.file.link(directory, name.as_bytes()).await {
            // A file system without links.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match &self.named {
                Some((store, own)) => store.rename(own.as_bytes(), directory, name.as_bytes(), Taken::Refuse).await,
                None => Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.may_be_placed => {
                if self.is_at(directory, name).await? { Ok(()) } else { Err(error) }
            }
            result => result,
        }
    }

    /// Whether it has this name.
    async fn is_at(&self, directory: &File, name: &str) -> io::Result<bool> {
        let own = self.file.stat()?;
        match directory.open_beneath(name.as_bytes()).await {
            Ok(file) => file.stat().map(|there| (there.device, there.inode) == (own.device, own.inode)),
            // What can't be opened as a file of ours is another.
            Err(_) => Ok(false),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some((store, name)) = &self.named {
            store.forget(name.as_bytes());
        }
    }
}

/// Opens a directory of a folder for what is not whole, which is made if it isn't there.
pub(crate) async fn open_store(folder: &File, name: &str) -> io::Result<File> {
    match folder.open_beneath(name.as_bytes()).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    match folder.make_directory(name.as_bytes(), DirectoryMode::Private).await {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    folder.open_beneath(name.as_bytes()).await
}

/// Not to be guessed: the address of an upload that can be resumed is all that a client needs to go on with it.
pub(crate) fn random_name() -> io::Result<String> {
    Ok(hex(&random()?))
}

/// 128 random bits.
pub(crate) fn random() -> io::Result<[u8; 16]> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random)
}

/// The length of the file that has this name, if there is one.
pub(crate) async fn look_up(directory: &File, name: &str) -> Result<Option<u64>, Refusal> {
    match directory.open_beneath(name.as_bytes()).await.and_then(|file| file.stat()) {
        Ok(stat) if stat.kind == FileKind::Regular => Ok(Some(stat.len)),
        Ok(_) => Err(Refusal::taken()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // A link that leaves the folder, or a socket, is something, and no file of ours (P1).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EXDEV | libc::ELOOP | libc::ENXIO)) => {
            Err(Refusal::taken())
        }
        Err(error) => Err(Refusal::failed("a name can't be looked up", error)),
    }
}

/// What a body that is stored as it is may not say of itself.
pub(crate) fn check_fields(fields: &Fields) -> Result<(), Refusal> {
    // RFC 9110 §14.5: a part of a file is not the file.
    if fields.contains("Content-Range") {
        let text = "A part of a file can't be put in its place; use a resumable upload.";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "CONTENT_RANGE", text));
    }
    let coding = fields.get("Content-Encoding").unwrap_or_default();
    if !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity") {
        let text = "The file has to be sent without a content coding.";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "CONTENT_ENCODING", text));
    }
    Ok(())
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sim::{Faults, World, explore};
    use crate::rt::fs::tests::run;

    /// Promise 4: a process that was killed between the link and what is written down of it leaves one file, which the next attempt
    /// finds; another's file is never taken for it.
    #[test]
    fn promise4_an_upload_that_was_linked_before_a_crash_is_not_stored_twice() {
        explore(Faults::SLOW, |world: &Rc<World>| {
            run(world, async |_, root| {
                let file = Rc::new(root.create(b"upload").await.unwrap());
                root.create(b"taken").await.unwrap();
                let place = async |draft: Draft, name, on_conflict| {
                    draft.place(&root, &root, name, on_conflict, Fsync::None).await
                };
                let kept = || Draft::kept(file.clone());
                assert_eq!(place(kept(), "film", OnConflict::Reject).await.unwrap(), "film");
                for on_conflict in [OnConflict::Reject, OnConflict::Rename] {
                    assert_eq!(place(kept(), "film", on_conflict).await.unwrap(), "film", "{on_conflict}");
                }
                let refused = place(kept(), "taken", OnConflict::Reject).await.unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
                assert_eq!(place(kept(), "taken", OnConflict::Rename).await.unwrap(), "taken-2");
                let new = Draft::create(&root, &root).await.unwrap();
                assert_eq!(place(new, "film", OnConflict::Rename).await.unwrap(), "film-2");
            });
            assert_eq!(world.names("."), ["film", "film-2", "taken", "taken-2", "upload"]);
        });
    }
}
