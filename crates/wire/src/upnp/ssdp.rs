//! Discovery (UPnP Device Architecture 2.0 section 1): M-SEARCH, its answers, and NOTIFY.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::http::{self, Headers, HttpError};

/// The port of discovery.
pub const PORT: u16 = 1900;
/// The group of discovery with IPv4.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// The group of discovery with IPv6 on a link.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc);
/// The most bytes of a datagram that we read: it fits into one packet.
pub const MAX_LEN: usize = 2048;
/// The most bytes of a value that we keep.
const MAX_VALUE: usize = 1024;

/// A datagram of discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who is there?
    Search(Search),
    /// I am, because you asked.
    Response(Advertisement),
    /// I am there, or leaving, or another one than before.
    Notify(Notify),
}

/// `M-SEARCH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// ST: what is looked for.
    pub target: String,
    /// MX: over how many seconds answers shall be spread. A search by multicast without it is
    /// not answered; one by unicast has none.
    pub mx: Option<u8>,
    /// HOST, where it was sent to.
    pub host: String,
    /// USER-AGENT.
    pub user_agent: String,
}

/// What an answer and a notification say about a device or service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advertisement {
    /// ST or NT: what it is.
    pub target: String,
    /// USN: which one it is.
    pub usn: String,
    /// LOCATION: where its description is.
    pub location: String,
    /// SERVER: what it runs.
    pub server: String,
    /// CACHE-CONTROL: for how many seconds it will be there.
    pub max_age: Option<u32>,
    /// BOOTID.UPNP.ORG: greater after each start.
    pub boot_id: Option<u32>,
    /// CONFIGID.UPNP.ORG: another one if the description changed.
    pub config_id: Option<u32>,
}

/// `NOTIFY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// NTS.
    pub kind: NotifyKind,
    /// Who it is about; a farewell has no location.
    pub about: Advertisement,
    /// NEXTBOOTID.UPNP.ORG, in an update.
    pub next_boot_id: Option<u32>,
}

/// What has happened to whom a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyKind {
    /// It is there.
    Alive,
    /// It leaves.
    ByeBye,
    /// Its boot number changes.
    Update,
}

impl NotifyKind {
    /// The value of NTS.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "ssdp:alive",
            Self::ByeBye => "ssdp:byebye",
            Self::Update => "ssdp:update",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Alive, Self::ByeBye, Self::Update]
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }
}

/// Why a datagram is not one of discovery: the sender's fault. It is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SsdpError {
    /// More than [`MAX_LEN`] bytes.
    #[error("the SSDP datagram is too long")]
    TooLong,
    /// Not HTTP.
    #[error("the SSDP datagram cannot be read: {0}")]
    Http(#[from] HttpError),
    /// Another method, or another target than `*`.
    #[error("neither M-SEARCH nor NOTIFY")]
    Method,
    /// Another status than 200.
    #[error("an SSDP answer with a status other than 200")]
    Status,
    /// A header that must be there is not, or has no value of its kind, or too long a one.
    #[error("the SSDP header {0} is missing or wrong")]
    Header(&'static str),
}

impl Message {
    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// Says why it is none of the three.
    pub fn parse(datagram: &[u8]) -> Result<Self, SsdpError> {
        if datagram.len() > MAX_LEN {
            return Err(SsdpError::TooLong);
        }
        if datagram.starts_with(b"HTTP/") {
            let response = http::response_in_datagram(datagram)?;
            return match response.status {
                200 => Ok(Self::Response(advertisement(&response.headers, "ST")?)),
                _ => Err(SsdpError::Status),
            };
        }
        let request = http::request_in_datagram(datagram)?;
        if request.target != "*" {
            return Err(SsdpError::Method);
        }
        match request.method.as_str() {
            "M-SEARCH" => Ok(Self::Search(search(&request.headers)?)),
            "NOTIFY" => Ok(Self::Notify(notify(&request.headers)?)),
            _ => Err(SsdpError::Method),
        }
    }

    /// The datagram. Notifications name `group` as their host.
    #[must_use]
    pub fn to_bytes(&self, group: SocketAddr) -> Vec<u8> {
        match self {
            Self::Search(search) => search.to_bytes(),
            Self::Response(about) => about.to_response(),
            Self::Notify(notify) => notify.to_bytes(group),
        }
    }
}

impl Search {
    /// The datagram.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut headers = Headers::default()
            .with("HOST", &self.host)
            .with("MAN", "\"ssdp:discover\"");
        if let Some(mx) = self.mx {
            headers.add("MX", &mx.to_string());
        }
        headers.add("ST", &self.target);
        if !self.user_agent.is_empty() {
            headers.add("USER-AGENT", &self.user_agent);
        }
        datagram("M-SEARCH * HTTP/1.1", &headers)
    }
}

impl Advertisement {
    fn to_response(&self) -> Vec<u8> {
        let headers = self.headers(Headers::default(), "ST").with("EXT", "");
        datagram("HTTP/1.1 200 OK", &headers)
    }

    fn headers(&self, mut headers: Headers, target: &str) -> Headers {
        headers.add(target, &self.target);
        headers.add("USN", &self.usn);
        for (name, value) in [("LOCATION", &self.location), ("SERVER", &self.server)] {
            if !value.is_empty() {
                headers.add(name, value);
            }
        }
        if let Some(age) = self.max_age {
            headers.add("CACHE-CONTROL", &format!("max-age={age}"));
        }
        for (name, number) in [(BOOT_ID, self.boot_id), (CONFIG_ID, self.config_id)] {
            if let Some(number) = number {
                headers.add(name, &number.to_string());
            }
        }
        headers
    }
}

impl Notify {
    fn to_bytes(&self, group: SocketAddr) -> Vec<u8> {
        let headers = Headers::default()
            .with("HOST", &group.to_string())
            .with("NTS", self.kind.as_str());
        let mut headers = self.about.headers(headers, "NT");
        if let Some(next) = self.next_boot_id {
            headers.add(NEXT_BOOT_ID, &next.to_string());
        }
        datagram("NOTIFY * HTTP/1.1", &headers)
    }
}

const BOOT_ID: &str = "BOOTID.UPNP.ORG";
const CONFIG_ID: &str = "CONFIGID.UPNP.ORG";
const NEXT_BOOT_ID: &str = "NEXTBOOTID.UPNP.ORG";

fn datagram(first_line: &str, headers: &Headers) -> Vec<u8> {
    let mut text = format!("{first_line}\r\n");
    headers.write(&mut text);
    text.push_str("\r\n");
    text.into_bytes()
}

fn search(headers: &Headers) -> Result<Search, SsdpError> {
    let man = headers.get("MAN").unwrap_or_default();
    if man.trim_matches('"') != "ssdp:discover" {
        return Err(SsdpError::Header("MAN"));
    }
    let mx = match headers.get("MX") {
        None => None,
        Some(text) => {
            let seconds: u32 = number(text).ok_or(SsdpError::Header("MX"))?;
            Some(u8::try_from(seconds).unwrap_or(u8::MAX))
        }
    };
    Ok(Search {
        target: needed(headers, "ST")?,
        mx,
        host: optional(headers, "HOST")?,
        user_agent: optional(headers, "USER-AGENT")?,
    })
}

fn notify(headers: &Headers) -> Result<Notify, SsdpError> {
    let kind = headers.get("NTS").and_then(NotifyKind::parse);
    Ok(Notify {
        kind: kind.ok_or(SsdpError::Header("NTS"))?,
        about: advertisement(headers, "NT")?,
        next_boot_id: headers.get(NEXT_BOOT_ID).and_then(number),
    })
}

fn advertisement(headers: &Headers, target: &'static str) -> Result<Advertisement, SsdpError> {
    Ok(Advertisement {
        target: needed(headers, target)?,
        usn: optional(headers, "USN")?,
        location: optional(headers, "LOCATION")?,
        server: optional(headers, "SERVER")?,
        max_age: headers.get("CACHE-CONTROL").and_then(max_age),
        boot_id: headers.get(BOOT_ID).and_then(number),
        config_id: headers.get(CONFIG_ID).and_then(number),
    })
}

fn max_age(text: &str) -> Option<u32> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim().eq_ignore_ascii_case("max-age");
    number(value.trim()).filter(|_| name)
}

fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn optional(headers: &Headers, name: &'static str) -> Result<String, SsdpError> {
    let value = headers.get(name).unwrap_or_default();
    if value.len() > MAX_VALUE {
        return Err(SsdpError::Header(name));
    }
    Ok(value.to_owned())
}

fn needed(headers: &Headers, name: &'static str) -> Result<String, SsdpError> {
    let value = optional(headers, name)?;
    if value.is_empty() {
        return Err(SsdpError::Header(name));
    }
    Ok(value)
}
