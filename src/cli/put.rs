//! `highwater put`: its arguments, and what of the environment it looks at.

use std::fs;
use std::path::{Path, PathBuf};

use super::Environment;
use crate::error::Error;
use crate::limits::Unit;
use crate::put::{self, Options};

/// The longest token file that is read.
const MAX_TOKEN_FILE_LEN: u64 = 64 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Files to upload, - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The upload route: http://HOST:PORT/PATH
    #[arg(required = true, value_name = "URL")]
    url: String,
    /// The name on the server, for one file [default: the file's own]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Speak tus without asking the server whether it does
    #[arg(long, conflicts_with = "no_tus")]
    tus: bool,
    /// Send each file by one PUT, which can't be resumed
    #[arg(long)]
    no_tus: bool,
    /// Most bytes of one request where tus is spoken [default: all that is left; 8MiB of standard input]
    #[arg(long, value_name = "SIZE")]
    chunk_size: Option<String>,
    /// Most bytes a second, like 1MiB/s [default: no bound]
    #[arg(long, value_name = "RATE")]
    limit_rate: Option<String>,
    /// How many failures in a row are tried again, each after twice the time [default: 8]
    #[arg(long, value_name = "N")]
    retries: Option<String>,
    /// Bearer token for the server; other users of this machine can see it
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File whose first line is the bearer token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Say nothing but what failed
    #[arg(long)]
    quiet: bool,
}

impl Arguments {
    /// Uploads; `true` if every file is there.
    ///
    /// # Errors
    /// Wrong use.
    pub(super) fn run(self, environment: &Environment<'_>) -> Result<bool, Error> {
        put::run(self.options(environment)?)
    }

    fn options(self, environment: &Environment<'_>) -> Result<Options, Error> {
        let token = match (self.token, &self.token_file) {
            (Some(token), _) => Some(check_token("--token", &token)?),
            (None, Some(path)) => Some(token_in(path)?),
            (None, None) => None,
        };
        Ok(Options {
            files: self.files,
            url: self.url,
            name: self.name,
            tus: if self.tus || self.no_tus { Some(self.tus) } else { None },
            chunk_len: number("--chunk-size", self.chunk_size, Unit::Bytes, 1)?,
            rate: number("--limit-rate", self.limit_rate, Unit::Rate, 1)?,
            retries: number("--retries", self.retries, Unit::Count, 0)?
                .map_or(8, |retries| u32::try_from(retries).unwrap_or(u32::MAX)),
            token,
            is_quiet: self.quiet,
            state_folder: state_folder(environment),
        })
    }
}

fn number(flag: &str, text: Option<String>, unit: Unit, least: u64) -> Result<Option<u64>, Error> {
    let Some(text) = text else { return Ok(None) };
    let number = unit.parse(&text).map_err(|invalid| Error::operator(format!("{flag}: {invalid}")))?;
    if number < least {
        return Err(Error::operator(format!("{flag}: `{text}` is too little: write {} or more", unit.format(least))));
    }
    Ok(Some(number))
}

fn token_in(path: &Path) -> Result<String, Error> {
    let shown = path.display();
    let len = fs::metadata(path).map(|metadata| metadata.len());
    if len.is_ok_and(|len| len > MAX_TOKEN_FILE_LEN) {
        return Err(Error::operator(format!("--token-file: {shown} is too long for a token")));
    }
    let text = fs::read_to_string(path)
        .map_err(|error| Error::operator(format!("--token-file: {shown} cannot be read")).because(error))?;
    check_token("--token-file", text.lines().next().unwrap_or_default().trim())
}

/// A token is not repeated in a message: logs keep those.
fn check_token(flag: &str, token: &str) -> Result<String, Error> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::operator(format!("{flag}: this is no token: it is one word of visible ASCII characters")));
    }
    Ok(token.to_owned())
}

/// The user's folder for what programs keep from run to run (XDG Base Directory Specification 0.8); what is not absolute does
/// not count there.
fn state_folder(environment: &Environment<'_>) -> Option<PathBuf> {
    let absolute = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|folder| folder.join("highwater"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use clap::Parser;
    use std::ffi::OsString;

    fn options(arguments: &str, environment: &[(&str, &str)]) -> Result<Options, String> {
        let words = format!("highwater put {arguments}");
        let parsed =
            cli::Arguments::try_parse_from(words.split_whitespace()).map_err(|error| cli::complaint(&error))?;
        let cli::Command::Put(arguments) = parsed.command else { panic!("not put") };
        let lookup =
            |name: &str| environment.iter().find(|(one, _)| *one == name).map(|(_, value)| OsString::from(value));
        arguments.options(&lookup).map_err(|error| error.report())
    }

    #[test]
    fn the_last_argument_is_the_url_and_all_before_are_files() {
        let options =
            options("a b - http://h/in --quiet --chunk-size 1MiB --limit-rate 2KiB/s --retries 3", &[]).unwrap();
        assert_eq!(options.files, ["a", "b", "-"].map(PathBuf::from));
        assert_eq!((options.url.as_str(), options.is_quiet, options.retries), ("http://h/in", true, 3));
        assert_eq!((options.chunk_len, options.rate), (Some(1 << 20), Some(2048)));
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let options = options("a http://h/in", &[]).unwrap();
        assert_eq!((options.tus, options.chunk_len, options.rate, options.retries), (None, None, None, 8));
        assert!(options.name.is_none() && options.token.is_none() && !options.is_quiet);
    }

    #[test]
    fn a_protocol_is_forced_by_a_flag() {
        assert_eq!(options("a http://h --tus", &[]).unwrap().tus, Some(true));
        assert_eq!(options("a http://h --no-tus", &[]).unwrap().tus, Some(false));
    }

    #[test]
    fn the_state_lies_in_the_users_folder_for_states() {
        let folder = |environment: &[(&str, &str)]| options("a http://h", environment).unwrap().state_folder;
        let home = ("HOME", "/home/me");
        assert_eq!(folder(&[home]), Some(PathBuf::from("/home/me/.local/state/highwater")));
        assert_eq!(folder(&[home, ("XDG_STATE_HOME", "/s")]), Some(PathBuf::from("/s/highwater")));
        assert_eq!(folder(&[home, ("XDG_STATE_HOME", "s")]), Some(PathBuf::from("/home/me/.local/state/highwater")));
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn a_token_comes_from_its_flag_or_its_file_and_is_never_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, " abc.DEF \nsecond line\n").unwrap();
        let flag = format!("a http://h --token-file {}", file.display());
        assert_eq!(options(&flag, &[]).unwrap().token.as_deref(), Some("abc.DEF"));
        assert_eq!(options("a http://h --token t", &[]).unwrap().token.as_deref(), Some("t"));
        fs::write(&file, "a secret\n").unwrap();
        let refusal = options(&flag, &[]).unwrap_err();
        assert_eq!(refusal, "--token-file: this is no token: it is one word of visible ASCII characters");
    }

    #[test]
    fn wrong_use_is_one_line() {
        let check = |arguments: &str, expected: &str| assert_eq!(options(arguments, &[]).unwrap_err(), expected);
        check("a http://h --chunk-size 0", "--chunk-size: `0` is too little: write 1B or more");
        check("a http://h --limit-rate 0B/s", "--limit-rate: `0B/s` is too little: write 1B/s or more");
        for arguments in ["", "http://h", "a http://h --tus --no-tus", "a http://h --token t --token-file f"] {
            assert!(options(arguments, &[]).unwrap_err().ends_with("--help says what there is"), "{arguments}");
        }
        for arguments in ["a http://h --retries two", "a http://h --chunk-size many", "a http://h --limit-rate 5"] {
            assert!(options(arguments, &[]).unwrap_err().starts_with("--"), "{arguments}");
        }
    }
}
