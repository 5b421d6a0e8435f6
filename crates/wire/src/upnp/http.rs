//! HTTP/1.1 as UPnP uses it: one request and its answer on a connection, collected with bounds.
//!
//! ```
//! use postern_wire::upnp::http::{Bounds, Collector, Response};
//!
//! let mut collector = Collector::response(Bounds::default());
//! collector.push(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")?;
//! assert!(!collector.is_complete());
//! collector.push(b"ok")?;
//! let answer: Response = collector.into_response()?;
//! assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
//! # Ok::<(), postern_wire::upnp::http::HttpError>(())
//! ```
//!
//! A body ends as its length says, with the last chunk, or with the connection. A whole answer
//! may be pushed at once or byte by byte: the work is linear in both cases.

use std::fmt::Write as _;

mod collect;
pub use collect::Collector;

/// How many bytes a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the head: first line, headers and the blank line.
    pub head: usize,
    /// Bytes of the body.
    pub body: usize,
}

impl Default for Bounds {
    /// 16 KiB of head, 256 KiB of body: the longest answer is a list of all mappings, and 120
    /// of them are about 45 KiB.
    fn default() -> Self {
        Self {
            head: 16 << 10,
            body: 256 << 10,
        }
    }
}

/// The most headers of a message.
pub const MAX_HEADERS: usize = 64;

/// Names and values of headers. Names have no case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value under this name, without the white space around it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// How many headers have this name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .count()
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds one. A line break in it becomes a space.
    pub fn add(&mut self, name: &str, value: &str) {
        let flat = |text: &str| text.replace(|c: char| c.is_control(), " ");
        self.0.push((flat(name), flat(value).trim().to_owned()));
    }

    /// The headers with one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.add(name, value);
        self
    }

    fn from_httparse(headers: &[httparse::Header<'_>]) -> Self {
        let mut all = Self::default();
        for header in headers {
            all.add(header.name, &String::from_utf8_lossy(header.value));
        }
        all
    }

    pub(super) fn write(&self, text: &mut String) {
        for (name, value) in self.iter() {
            _ = write!(text, "{name}: {value}\r\n");
        }
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, `SUBSCRIBE`, …
    pub method: String,
    /// The path, as it was written.
    pub target: String,
    /// Its headers; Content-Length is written, whatever is in here.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
}

impl Request {
    /// As bytes, to be sent in one piece.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        finish(&mut text, &self.headers, &self.body, self.method != "GET")
    }
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 100 to 999.
    pub status: u16,
    /// What stands behind the status.
    pub reason: String,
    /// Its headers; Content-Length is written, whatever is in here.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// As bytes, to be sent in one piece.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, self.reason);
        finish(&mut text, &self.headers, &self.body, true)
    }
}

fn finish(text: &mut String, headers: &Headers, body: &[u8], with_length: bool) -> Vec<u8> {
    let mut headers = headers.clone();
    headers.0.retain(|(name, _)| {
        !name.eq_ignore_ascii_case("content-length")
            && !name.eq_ignore_ascii_case("transfer-encoding")
    });
    headers.write(text);
    if with_length {
        _ = write!(text, "Content-Length: {}\r\n", body.len());
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// Why bytes are not an HTTP message that we read: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The head is longer than the bound.
    #[error("the head of the HTTP message is too long")]
    HeadTooLong,
    /// The body is longer than the bound, or says that it will be.
    #[error("the body of the HTTP message is too long")]
    BodyTooLong,
    /// More than [`MAX_HEADERS`].
    #[error("the HTTP message has too many headers")]
    TooManyHeaders,
    /// The head cannot be read.
    #[error("the HTTP message cannot be read")]
    Malformed,
    /// A length that is none, or two of them that differ, or a chunk without one.
    #[error("the length of the HTTP message cannot be read")]
    Length,
    /// The connection ended before the message did.
    #[error("the HTTP message is cut short")]
    CutShort,
}

/// A head that was read.
#[derive(Debug)]
struct Head<T> {
    first: T,
    headers: Headers,
}

fn read_response_head(bytes: &[u8]) -> Result<Head<(u16, String)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let mut config = httparse::ParserConfig::default();
    // Gateways are wrong in all of these ways.
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .allow_space_before_first_header_name(true)
        .ignore_invalid_headers_in_responses(true);
    let parsed = config.parse_response(&mut response, bytes);
    whole(parsed)?;
    Ok(Head {
        first: (
            response.code.ok_or(HttpError::Malformed)?,
            response.reason.unwrap_or_default().to_owned(),
        ),
        headers: Headers::from_httparse(response.headers),
    })
}

fn read_request_head(bytes: &[u8]) -> Result<Head<(String, String)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    whole(request.parse(bytes))?;
    let part = |text: Option<&str>| text.map(str::to_owned).ok_or(HttpError::Malformed);
    Ok(Head {
        first: (part(request.method)?, part(request.path)?),
        headers: Headers::from_httparse(request.headers),
    })
}

fn whole(parsed: httparse::Result<usize>) -> Result<(), HttpError> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err(HttpError::Malformed),
        Err(httparse::Error::TooManyHeaders) => Err(HttpError::TooManyHeaders),
        Err(_) => Err(HttpError::Malformed),
    }
}

/// Reads a datagram of HTTP over UDP as a request: no body, and the blank line may be missing.
pub(super) fn request_in_datagram(datagram: &[u8]) -> Result<Request, HttpError> {
    let head = read_request_head(&with_blank_line(datagram))?;
    let (method, target) = head.first;
    Ok(Request {
        method,
        target,
        headers: head.headers,
        body: Vec::new(),
    })
}

/// The same for an answer.
pub(super) fn response_in_datagram(datagram: &[u8]) -> Result<Response, HttpError> {
    let head = read_response_head(&with_blank_line(datagram))?;
    let (status, reason) = head.first;
    Ok(Response {
        status,
        reason,
        headers: head.headers,
        body: Vec::new(),
    })
}

fn with_blank_line(datagram: &[u8]) -> Vec<u8> {
    [datagram.trim_ascii_end(), b"\r\n\r\n"].concat()
}
