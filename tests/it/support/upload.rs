//! What is uploaded, how it is framed, and what a folder holds in the end.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Client, Reply};

/// The routes of a server that takes uploads into a folder at `/up`, by these keys, and serves that folder at `/`. No test pulls
/// the plug, so nothing is synced unless the keys say so.
pub fn upload_routes(folder: &Path, keys: &str) -> String {
    let fsync = if keys.contains("fsync") { "" } else { "fsync = \"none\"\n" };
    format!(
        "[[route]]\nprefix = \"/up\"\n[route.upload]\ndir = {folder:?}\n{fsync}{keys}\n\
         [[route]]\n[route.media]\nroot = {folder:?}\n"
    )
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length.
    Length,
    /// In chunks of so many bytes, the last of what is left.
    Chunks(usize),
}

impl Framing {
    /// The field line for a body.
    pub fn field(self, body: &[u8]) -> String {
        match self {
            Framing::Length => format!("Content-Length: {}\r\n", body.len()),
            Framing::Chunks(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
        }
    }

    /// The body as it goes over the wire.
    pub fn frame(self, body: &[u8]) -> Vec<u8> {
        let Framing::Chunks(len) = self else { return body.to_vec() };
        let mut framed = Vec::with_capacity(body.len());
        for chunk in body.chunks(len) {
            framed.extend(format!("{:x}\r\n", chunk.len()).bytes());
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
        }
        framed.extend_from_slice(b"0\r\n\r\n");
        framed
    }

    /// A whole request; `fields` are more lines, each with its CRLF.
    pub fn request(self, method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: test.example\r\n{fields}{}\r\n", self.field(body));
        [head.into_bytes(), self.frame(body)].concat()
    }
}

impl Client {
    /// Sends a request with a body and reads its reply. The server may refuse it before it has taken all of the body.
    #[track_caller]
    pub fn upload(&mut self, method: &str, target: &str, fields: &str, framing: Framing, body: &[u8]) -> Reply {
        // What could not be sent is told by the reply, or by there being none.
        let _ = self.try_send(framing.request(method, target, fields, body));
        self.reply_to(method)
    }

    /// `PUT` of a body with its length.
    #[track_caller]
    pub fn put(&mut self, target: &str, body: &[u8]) -> Reply {
        self.upload("PUT", target, "", Framing::Length, body)
    }

    /// Sends a form and reads its reply.
    #[track_caller]
    pub fn submit(&mut self, form: &Form, framing: Framing) -> Reply {
        self.upload("POST", "/up/", &form.content_type(), framing, &form.closed())
    }
}

/// A form, as it is written by hand.
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<u8>);

impl Form {
    /// The boundary of each.
    pub const BOUNDARY: &str = "boundary-between-parts";

    /// An empty one.
    pub fn new() -> Self {
        Form::default()
    }

    /// The field line that announces it.
    pub fn content_type(&self) -> String {
        format!("Content-Type: multipart/form-data; boundary={}\r\n", Form::BOUNDARY)
    }

    /// With a text field.
    #[must_use]
    pub fn field(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.part(&format!("Content-Disposition: form-data; name=\"{name}\"\r\n"), value)
    }

    /// With a file.
    #[must_use]
    pub fn file(self, name: &str, file_name: &str, content: impl AsRef<[u8]>) -> Self {
        let head = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n");
        self.part(&format!("{head}Content-Type: application/octet-stream\r\n"), content)
    }

    /// With a part of this head: whole lines, each with its CRLF.
    #[must_use]
    pub fn part(mut self, head: &str, content: impl AsRef<[u8]>) -> Self {
        self.0.extend(format!("--{}\r\n{head}\r\n", Form::BOUNDARY).bytes());
        self.0.extend_from_slice(content.as_ref());
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// Its bytes without the closing boundary.
    pub fn open(&self) -> Vec<u8> {
        self.0.clone()
    }

    /// Its bytes.
    pub fn closed(&self) -> Vec<u8> {
        [&self.0, format!("--{}--\r\n", Form::BOUNDARY).as_bytes()].concat()
    }
}

impl Reply {
    /// The body, which has to be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.field("Content-Type"), Some("application/json"), "{:?}", self.head);
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The same reply; fails the test unless it refuses with this status and names this reason.
    #[track_caller]
    pub fn refuses(self, status: u16, code: &str) -> Self {
        let shown = format!("{:?} {}", self.head, String::from_utf8_lossy(&self.body));
        assert_eq!(self.head.status, status, "{shown}");
        let error = &self.json()["error"];
        assert_eq!(error["code"], code, "{shown}");
        assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{shown}");
        self
    }

    /// The stored files that it tells of.
    #[track_caller]
    pub fn files(&self) -> Vec<Value> {
        self.json()["files"].as_array().expect("a list of files").clone()
    }

    /// The text fields that it tells of: names and values.
    #[track_caller]
    pub fn fields(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let fields = self.json()["fields"].as_array().expect("a list of fields").clone();
        fields.iter().map(|field| (text(&field["name"]), text(&field["value"]))).collect()
    }
}

/// That a stored file is told of with its size and its digest, and holds this; returns its name in the folder.
#[track_caller]
pub fn check_stored(folder: &Path, file: &Value, content: &[u8]) -> String {
    let name = file["name"].as_str().expect("a name");
    assert_eq!(file["size"], content.len(), "{file}");
    assert_eq!(file["sha256"], sha256(content), "{file}");
    let stored = fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(stored.len(), content.len(), "{file}");
    let differs = stored.iter().zip(content).position(|(stored, sent)| stored != sent);
    assert_eq!(differs, None, "the offset of the first wrong byte of {file}");
    name.to_owned()
}

/// A digest in hexadecimal.
fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All that is in a folder, in order, hidden or not. What is beneath it counts, and the directory that the server keeps for itself
/// does not as long as it is empty.
#[track_caller]
pub fn names_in(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut directories = vec![folder.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                directories.push(entry.path());
            } else {
                let path = entry.path();
                let name = path.strip_prefix(folder).expect("beneath the folder");
                names.push(name.to_string_lossy().into_owned());
            }
        }
    }
    names.sort_unstable();
    names
}
