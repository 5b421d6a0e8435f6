//! The address of a postern server, and how to trust it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use postern_wire::signal::Fingerprint;
use url::Url;

use crate::quic::parse_fingerprint;

/// The port that `postern server` listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8443;

/// What introduces the certificate's fingerprint in the fragment of a URL.
const PIN: &str = "sha256=";

/// The URL of a server: `wss://host:port/`, with `#sha256=…` at its end when the server's
/// certificate is to be recognised by its fingerprint and not by an authority.
///
/// `https://` means the same; a bare `host` or `host:port` means `wss://` and port
/// [`DEFAULT_PORT`]. With a scheme and no port, the port is 443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    host: url::Host,
    port: u16,
    pin: Option<Fingerprint>,
}

/// Why a text is not the URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    /// The text is no URL.
    #[error("\"{0}\" is not a server URL such as wss://example.org:8443/")]
    Malformed(String),
    /// The scheme is one that postern does not speak.
    #[error("a server URL begins with wss:// or https://, not {0}://")]
    Scheme(String),
    /// The part after `#` is not a fingerprint.
    #[error("the part after # in a server URL must be sha256= and 64 hexadecimal digits")]
    Pin,
    /// The URL has a path, a query, a user or a password, which mean nothing here.
    #[error("a server URL has no path, query, user or password")]
    Extra,
}

impl ServerUrl {
    /// The URL of a server at `host` and `port`. `pin` is the fingerprint of its
    /// certificate, if that is how it is recognised.
    pub fn new(host: url::Host, port: u16, pin: Option<Fingerprint>) -> Self {
        Self { host, port, pin }
    }

    /// The host as the resolver and the certificate know it: no brackets around IPv6.
    pub fn host(&self) -> String {
        match &self.host {
            url::Host::Domain(name) => name.clone(),
            url::Host::Ipv4(ip) => ip.to_string(),
            url::Host::Ipv6(ip) => ip.to_string(),
        }
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The fingerprint that the server's certificate must have.
    pub fn pin(&self) -> Option<Fingerprint> {
        self.pin
    }

    /// Whether the server is on this machine.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            url::Host::Domain(name) => name == "localhost",
            url::Host::Ipv4(ip) => ip.is_loopback(),
            url::Host::Ipv6(ip) => ip.is_loopback(),
        }
    }

    /// The address, if the URL has one in place of a name.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match &self.host {
            url::Host::Domain(_) => None,
            url::Host::Ipv4(ip) => Some((*ip).into()),
            url::Host::Ipv6(ip) => Some((*ip).into()),
        }
    }

    /// Host and port, as in a URL.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Where to open the WebSocket: without the pin, which is nobody else's business.
    pub(crate) fn websocket(&self) -> String {
        format!("wss://{}:{}/", self.host, self.port)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.websocket())?;
        match self.pin {
            Some(pin) => write!(f, "#{PIN}{pin}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ServerUrlError::Malformed(text.escape_debug().take(80).collect());
        let bare = !text.contains("://");
        let full = if bare {
            format!("wss://{text}")
        } else {
            text.to_owned()
        };
        let url = Url::parse(&full).map_err(|_| malformed())?;
        if !matches!(url.scheme(), "wss" | "https") {
            return Err(ServerUrlError::Scheme(url.scheme().to_owned()));
        }
        check_no_extras(&url)?;
        let host = url.host().ok_or_else(malformed)?;
        let host = url::Host::parse(&host.to_string()).map_err(|_| malformed())?;
        let default = if bare { DEFAULT_PORT } else { 443 };
        Ok(Self {
            host,
            port: explicit_port(&full).unwrap_or(default),
            pin: url.fragment().map(parse_pin).transpose()?,
        })
    }
}

/// The port as written: [`Url::port`] hides one that is the default of the scheme.
fn explicit_port(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '\\', '?', '#']).next()?;
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok()
}

fn check_no_extras(url: &Url) -> Result<(), ServerUrlError> {
    let user = !url.username().is_empty() || url.password().is_some();
    let path = !matches!(url.path(), "" | "/");
    if user || path || url.query().is_some() {
        return Err(ServerUrlError::Extra);
    }
    Ok(())
}

fn parse_pin(fragment: &str) -> Result<Fingerprint, ServerUrlError> {
    let digits = fragment.strip_prefix(PIN).ok_or(ServerUrlError::Pin)?;
    parse_fingerprint(digits).ok_or(ServerUrlError::Pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn parse(text: &str) -> Result<ServerUrl, ServerUrlError> {
        text.parse()
    }

    #[test]
    fn a_url_with_a_pin_reads_back_what_it_prints() {
        let text = format!("wss://45.45.0.1:8443/#sha256={DIGITS}");
        let url = parse(&text).unwrap();
        assert_eq!(url.to_string(), text);
        assert_eq!(url.pin().unwrap().to_string(), DIGITS);
        assert_eq!(url.websocket(), "wss://45.45.0.1:8443/");
    }

    #[test]
    fn a_bare_host_gets_the_scheme_and_the_port_of_postern() {
        assert_eq!(
            parse("example.org").unwrap().to_string(),
            "wss://example.org:8443/"
        );
        assert_eq!(parse("example.org:99").unwrap().port(), 99);
        assert_eq!(parse("[2001:db8::1]").unwrap().host(), "2001:db8::1");
        assert_eq!(parse("[2001:db8::1]").unwrap().port(), 8443);
        assert_eq!(parse("[2001:db8::1]:7").unwrap().port(), 7);
        assert_eq!(parse("example.org/").unwrap().port(), 8443);
        assert_eq!(parse("example.org:").unwrap().port(), 8443);
    }

    #[test]
    fn a_port_that_is_given_counts_even_if_it_is_the_one_of_the_scheme() {
        for text in [
            "example.org:443",
            "example.org:443/",
            "[2001:db8::1]:443",
            "wss://example.org:443/",
            "wss://example.org",
        ] {
            assert_eq!(parse(text).unwrap().port(), 443, "{text}");
        }
        let pinned = format!("example.org:443/#sha256={DIGITS}");
        assert_eq!(parse(&pinned).unwrap().port(), 443);
        let pinned = format!("example.org#sha256={DIGITS}");
        assert_eq!(parse(&pinned).unwrap().port(), 8443);
    }

    #[test]
    fn https_means_the_same_on_the_standard_port() {
        assert_eq!(
            parse("https://example.org").unwrap().to_string(),
            "wss://example.org:443/"
        );
    }

    #[test]
    fn what_cannot_be_a_server_is_named() {
        assert_eq!(
            parse("http://a/"),
            Err(ServerUrlError::Scheme("http".to_owned()))
        );
        assert_eq!(parse("wss://a/x"), Err(ServerUrlError::Extra));
        assert_eq!(parse("wss://u:p@a/"), Err(ServerUrlError::Extra));
        assert_eq!(parse("wss://a/#sha256=12"), Err(ServerUrlError::Pin));
        assert_eq!(parse("wss://a/#md5=12"), Err(ServerUrlError::Pin));
        assert!(matches!(parse(""), Err(ServerUrlError::Malformed(_))));
        assert!(matches!(parse("wss://"), Err(ServerUrlError::Malformed(_))));
    }
}
