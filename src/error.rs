//! The one error type: what failed, whose fault it is, and whether trying again makes sense.
//!
//! A reply's status, a log line's level and the binary's exit code all follow from those two answers, so that no caller has
//! to know every cause. An error keeps its cause and displays its own level only; [`Error::report`] joins the levels where
//! the error is logged, once. An enum of causes was rejected: it grows with every handler, and nobody matches on it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// Who has to change something for this not to happen again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client: a request that can't be answered as it was asked.
    Client,
    /// This server: a resource is exhausted, or an operation failed that should not.
    Server,
    /// A server behind this one: an object store, a database, an origin.
    Upstream,
    /// Whoever started the server: a flag, the configuration, a directory, a privilege.
    Operator,
}

/// Whether the same request may succeed when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It will fail in the same way until something is changed.
    Never,
    /// The reason may pass by itself: a full queue, an upstream that is away.
    Later,
}

/// Why something failed.
#[derive(Debug)]
pub struct Error {
    fault: Fault,
    retry: Retry,
    context: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// The client's fault; a retry won't help.
    pub fn client(context: impl Into<Cow<'static, str>>) -> Self {
        Error::new(Fault::Client, context.into())
    }

    /// This server's fault; a retry won't help, unless [`Error::retry_later`] says so.
    pub fn server(context: impl Into<Cow<'static, str>>) -> Self {
        Error::new(Fault::Server, context.into())
    }

    /// The fault of a server behind this one; a retry won't help, unless [`Error::retry_later`] says so.
    pub fn upstream(context: impl Into<Cow<'static, str>>) -> Self {
        Error::new(Fault::Upstream, context.into())
    }

    /// Wrong use. The context is one line that says what is wrong and what to do instead.
    pub fn operator(context: impl Into<Cow<'static, str>>) -> Self {
        Error::new(Fault::Operator, context.into())
    }

    fn new(fault: Fault, context: Cow<'static, str>) -> Self {
        Error { fault, retry: Retry::Never, context, source: None }
    }

    /// The same error, with its cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// The same error, as one that may pass by itself.
    #[must_use]
    pub fn retry_later(mut self) -> Self {
        self.retry = Retry::Later;
        self
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Whether a retry makes sense.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// This error and its causes in one line, `what failed: why: why`, for the log.
    pub fn report(&self) -> String {
        let mut line = self.context.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        // A cause from elsewhere may hold a client's bytes: what is logged stays one line.
        line.replace(|c: char| c.is_control(), " ")
    }

    /// The binary's exit code when this ends it: 2 for wrong use, else 1.
    pub fn exit_code(&self) -> u8 {
        match self.fault {
            Fault::Operator => 2,
            Fault::Client | Fault::Server | Fault::Upstream => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn display_is_one_level_and_a_report_is_all_of_them_in_one_line() {
        let disk = Error::server("write the part").because(io::Error::other("disk\nfull"));
        let error = Error::upstream(String::from("store the object")).because(disk).retry_later();
        assert_eq!(error.to_string(), "store the object");
        assert_eq!(error.report(), "store the object: write the part: disk full");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("write the part"));
    }

    #[test]
    fn fault_decides_the_exit_code_and_retry_is_never_unless_said() {
        let cases = [
            (Error::client("c"), Fault::Client, 1),
            (Error::server("s"), Fault::Server, 1),
            (Error::upstream("u"), Fault::Upstream, 1),
            (Error::operator("o"), Fault::Operator, 2),
        ];
        for (error, fault, code) in cases {
            assert_eq!((error.fault(), error.exit_code(), error.retry()), (fault, code, Retry::Never));
            assert_eq!(error.retry_later().retry(), Retry::Later);
        }
    }
}
