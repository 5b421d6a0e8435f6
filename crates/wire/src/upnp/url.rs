//! Addresses of descriptions and controls: `http://192.168.1.1:5000/rootDesc.xml`.
//!
//! ```
//! use postern_wire::upnp::url::HttpUrl;
//!
//! let base: HttpUrl = "http://192.168.1.1:5000/desc/root.xml".parse()?;
//! assert_eq!(base.join("/ctl/IPConn")?.to_string(), "http://192.168.1.1:5000/ctl/IPConn");
//! assert_eq!(base.join("IPConn")?.path, "/desc/IPConn");
//! # Ok::<(), postern_wire::upnp::url::UrlError>(())
//! ```
//!
//! Names are refused: a gateway has an address, and looking one up for a stranger is no task
//! of ours.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// The most bytes of a URL.
pub const MAX_LEN: usize = 1024;

/// An address of HTTP without encryption. Credentials and fragments are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpUrl {
    /// Where to connect to. The scope of a link-local IPv6 address is in it if it was written
    /// as a number.
    pub address: SocketAddr,
    /// Path and query, with a slash in front: visible ASCII.
    pub path: String,
}

/// Why text is no URL that we follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// More than [`MAX_LEN`] bytes.
    #[error("the URL is too long")]
    TooLong,
    /// Something other than `http://`.
    #[error("the URL does not begin with http://")]
    Scheme,
    /// A name, or an address that is none.
    #[error("the URL's host is not an IP address")]
    Host,
    /// No number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// White space or control characters, which could end a line of HTTP.
    #[error("the URL's path has characters that no URL has")]
    Path,
}

impl FromStr for HttpUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(UrlError::TooLong);
        }
        let rest = strip_scheme(text).ok_or(UrlError::Scheme)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        Ok(Self {
            address: parse_authority(authority)?,
            path: parse_path(path)?,
        })
    }
}

impl HttpUrl {
    /// What `reference` means in a document that was found here (RFC 3986 section 5.2, without
    /// the removal of dots).
    ///
    /// # Errors
    ///
    /// Says why it leads nowhere.
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        let reference = reference.trim();
        if reference.len() > MAX_LEN {
            return Err(UrlError::TooLong);
        }
        if strip_scheme(reference).is_some() {
            return reference.parse();
        }
        if let Some(rest) = reference.strip_prefix("//") {
            // Slashes doubled by those who append to URLBase are no authority.
            return match format!("http://{rest}").parse() {
                Err(UrlError::Host) => self.at(&format!("/{rest}")),
                other => other,
            };
        }
        if reference.is_empty() {
            return Ok(self.clone());
        }
        if reference.starts_with('/') {
            return self.at(reference);
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        self.at(&format!("{directory}/{reference}"))
    }

    /// The same place at another address.
    #[must_use]
    pub fn moved_to(&self, ip: IpAddr) -> Self {
        Self {
            address: SocketAddr::new(ip, self.address.port()),
            path: self.path.clone(),
        }
    }

    /// The value of the header Host: the address without a scope, and the port.
    #[must_use]
    pub fn host(&self) -> String {
        SocketAddr::new(self.address.ip(), self.address.port()).to_string()
    }

    fn at(&self, path: &str) -> Result<Self, UrlError> {
        Ok(Self {
            address: self.address,
            path: parse_path(path)?,
        })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case("http://").then_some(rest)
}

fn parse_authority(text: &str) -> Result<SocketAddr, UrlError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
        let (ip, scope) = match host.split_once('%') {
            // RFC 6874 writes the percent sign as %25; most do not.
            Some((ip, scope)) => (ip, scope.strip_prefix("25").unwrap_or(scope)),
            None => (host, ""),
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| UrlError::Host)?;
        // The name of a gateway's interface says nothing to us.
        let scope = scope.parse().unwrap_or(0);
        let port = match port.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if port.is_empty() => 80,
            None => return Err(UrlError::Host),
        };
        return Ok(SocketAddrV6::new(ip, port, 0, scope).into());
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (text, 80),
    };
    let ip: Ipv4Addr = host.parse().map_err(|_| UrlError::Host)?;
    Ok(SocketAddr::new(ip.into(), port))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    if text.is_empty() {
        return Ok(80);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or(UrlError::Port)
}

/// With a slash in front, doubled ones made single, and the fragment left out.
fn parse_path(text: &str) -> Result<String, UrlError> {
    let text = text.split('#').next().unwrap_or_default();
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UrlError::Path);
    }
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let mut clean = String::from("/");
    for segment in path.split_inclusive('/').filter(|segment| *segment != "/") {
        clean.push_str(segment);
    }
    if let Some(query) = query {
        clean.push('?');
        clean.push_str(query);
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Result<HttpUrl, UrlError> {
        text.parse()
    }

    #[test]
    fn what_gateways_write_is_read() {
        for (text, expected) in [
            ("http://192.168.1.1", "http://192.168.1.1:80/"),
            (
                "http://192.168.1.1:5000/a.xml",
                "http://192.168.1.1:5000/a.xml",
            ),
            (" HTTP://10.0.0.1:/a?b=c#d\r\n", "http://10.0.0.1:80/a?b=c"),
            ("http://10.0.0.1//a//b/", "http://10.0.0.1:80/a/b/"),
            ("http://[fd77::1]:5000/x", "http://[fd77::1]:5000/x"),
            ("http://[fe80::1%25eth0]/x", "http://[fe80::1]:80/x"),
            ("http://[fe80::1%3]/x", "http://[fe80::1%3]:80/x"),
            ("http://10.0.0.1?x", "http://10.0.0.1:80/?x"),
        ] {
            assert_eq!(url(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_followed_has_a_name() {
        let long = format!("http://10.0.0.1/{}", "a".repeat(MAX_LEN));
        for (text, error) in [
            ("", UrlError::Scheme),
            ("https://10.0.0.1/", UrlError::Scheme),
            ("http://router.lan/", UrlError::Host),
            ("http://user@10.0.0.1/", UrlError::Host),
            ("http://0x0a000001/", UrlError::Host),
            ("http://fd77::1/", UrlError::Port),
            ("http://[10.0.0.1]/", UrlError::Host),
            ("http://[fd77::1]x/", UrlError::Host),
            ("http://10.0.0.1:0/", UrlError::Port),
            ("http://10.0.0.1:65536/", UrlError::Port),
            ("http://10.0.0.1/a b", UrlError::Path),
            ("http://10.0.0.1/a\r\nHost: b", UrlError::Path),
            (&long, UrlError::TooLong),
        ] {
            assert_eq!(url(text), Err(error), "{text}");
        }
    }

    #[test]
    fn references_are_resolved_as_gateways_mean_them() {
        let base = url("http://192.168.1.1:5000/dir/desc.xml?x=/y").unwrap();
        for (reference, expected) in [
            ("", "/dir/desc.xml?x=/y"),
            ("/ctl", "/ctl"),
            ("ctl", "/dir/ctl"),
            ("?q", "/dir/?q"),
            ("//ctl/IPConn", "/ctl/IPConn"),
        ] {
            let joined = base.join(reference).unwrap();
            assert_eq!(joined.path, expected, "{reference}");
            assert_eq!(joined.address, base.address);
        }
        let other = base.join("http://192.168.1.2:80/ctl").unwrap();
        assert_eq!(other.to_string(), "http://192.168.1.2:80/ctl");
        assert_eq!(base.join("http://evil/ctl"), Err(UrlError::Host));
        let moved = other.moved_to([192, 168, 1, 1].into());
        assert_eq!(moved.to_string(), "http://192.168.1.1:80/ctl");
    }

    #[test]
    fn the_host_header_has_no_scope() {
        let host = url("http://[fe80::1%3]:5000/x").unwrap().host();
        assert_eq!(host, "[fe80::1]:5000");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(
            text in "(http://(10.0.0.1|\\[fd77::1\\]))?[-:/?#%a-z0-9.]{0,30}",
        ) {
            let base = url("http://10.0.0.2/a/b").unwrap();
            for url in [url(&text), base.join(&text)].into_iter().flatten() {
                prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            _ = url(&text);
            _ = url(&format!("http://{text}"));
        }
    }
}
