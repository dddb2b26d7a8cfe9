//! What several kinds of route have in common: folders, and the origins whose pages they serve.

use std::io;
use std::path::Path;

use crate::proto::cors::{Cors, Origins, Sharing};

pub(super) fn check_root(root: &Path) -> Result<(), String> {
    let shown = root.display();
    match root.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(format!("`{shown}` is not a directory: write the directory that holds the files")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("`{shown}` does not exist: create it, or write the directory that holds the files"))
        }
        Err(error) => Err(format!("`{shown}` cannot be opened ({error}): allow it, or write another directory")),
    }
}

/// Checks a whole list of origins: `*` stands alone.
pub(crate) fn check_cors(origins: &[String]) -> Result<(), String> {
    Origins::parse(origins.iter().map(String::as_str)).map(drop).map_err(|error| error.to_string())
}

/// What the pages of these origins may do; nothing without origins, or with one that [`check_cors`] refuses.
pub(super) fn sharing(origins: Option<&[String]>, sharing: Sharing) -> Option<Cors> {
    let origins = Origins::parse(origins?.iter().map(String::as_str)).ok()?;
    Some(Cors::new(origins, sharing))
}

/// Gives an enum the names that its values have in the configuration.
macro_rules! named_values {
    ($Type:ident, $what:literal, $($value:ident = $name:literal),+) => {
        impl std::str::FromStr for $Type {
            type Err = crate::error::Error;

            fn from_str(text: &str) -> Result<Self, crate::error::Error> {
                match text {
                    $($name => Ok($Type::$value),)+
                    other => {
                        let names = [$($name),+].join(", ");
                        Err(crate::error::Error::operator(format!("`{other}` is no {}: write one of {names}", $what)))
                    }
                }
            }
        }

        impl std::fmt::Display for $Type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $($Type::$value => $name,)+
                })
            }
        }
    };
}

pub(super) use named_values;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_a_directory_or_a_link_to_one() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert_eq!(check_root(&link), Ok(()));
        std::fs::write(dir.path().join("file"), "").unwrap();
        let inside = check_root(&dir.path().join("file/inside")).unwrap_err();
        assert!(inside.contains("cannot be opened (Not a directory"), "{inside}");
    }
}
