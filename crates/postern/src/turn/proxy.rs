//! HTTP proxies that pass connections on (CONNECT, RFC 9110 section 9.3.6).

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use postern_proto::turn::server::Cidr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::race;

/// The most bytes of a proxy's answer: what servers commonly allow for a header.
const MAX_ANSWER: usize = 8 * 1024;

/// The proxy must have connected after so long: it may try several addresses itself.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The port of a proxy whose URL has none.
const DEFAULT_PORT: u16 = 80;

/// An HTTP proxy: `http://user:password@host:port`. `Debug` and `Display` do not show the
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of Proxy-Authorization.
    authorization: Option<String>,
}

/// Why a text is not the URL of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a proxy is written http://host:port or http://user:password@host:port")]
pub struct ProxyUrlError;

/// Why a proxy did not connect.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its name has no address, or it takes no connection.
    #[error("the proxy {proxy} could not be reached; check its address")]
    Unreachable {
        /// The proxy.
        proxy: Proxy,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It hung up, or did not answer in time.
    #[error("the proxy {proxy} did not answer; check that it lets CONNECT through")]
    Silent {
        /// The proxy.
        proxy: Proxy,
        /// How the connection ended.
        #[source]
        source: io::Error,
    },
    /// What answers does not speak HTTP.
    #[error("what answers at {proxy} is no HTTP proxy; check its address")]
    NotHttp {
        /// The proxy.
        proxy: Proxy,
    },
    /// 407: it wants other credentials.
    #[error("the proxy {proxy} asks for a user and a password; put them into its URL")]
    Credentials {
        /// The proxy.
        proxy: Proxy,
    },
    /// Another status than 2xx.
    #[error("the proxy {proxy} does not connect to the server: it answers with status {status}")]
    Refused {
        /// The proxy.
        proxy: Proxy,
        /// The status of its answer.
        status: u16,
    },
}

impl Proxy {
    /// The proxy that the environment names for TLS connections to a server at `host` and
    /// `port`: HTTPS_PROXY, unless NO_PROXY excludes the server.
    ///
    /// # Errors
    ///
    /// [`ProxyUrlError`] if the variable is set and cannot be read.
    pub fn from_environment(host: &str, port: u16) -> Result<Option<Self>, ProxyUrlError> {
        Self::from_variables(host, port, |name| std::env::var(name).ok())
    }

    fn from_variables(
        host: &str,
        port: u16,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ProxyUrlError> {
        let either = |name: &str| variable(&name.to_lowercase()).or_else(|| variable(name));
        let proxy = either("HTTPS_PROXY").filter(|text| !text.is_empty());
        let excluded = either("NO_PROXY").unwrap_or_default();
        match proxy {
            Some(text) if !excludes(&excluded, host, port) => text.parse().map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// A connection to `host` and `port` through the proxy.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, ProxyError> {
        let stream = self.reach().await;
        let mut stream = stream.map_err(|source| ProxyError::Unreachable {
            proxy: self.clone(),
            source,
        })?;
        let asked = timeout(TIMEOUT, self.ask(&mut stream, host, port)).await;
        let silent = |source| ProxyError::Silent {
            proxy: self.clone(),
            source,
        };
        let answer = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match status(&answer.map_err(silent)?) {
            Some(200..=299) => Ok(stream),
            Some(407) => Err(ProxyError::Credentials {
                proxy: self.clone(),
            }),
            Some(status) => Err(ProxyError::Refused {
                proxy: self.clone(),
                status,
            }),
            None => Err(ProxyError::NotHttp {
                proxy: self.clone(),
            }),
        }
    }

    async fn reach(&self) -> io::Result<TcpStream> {
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let (stream, _) = race::first(addresses.collect(), TcpStream::connect).await?;
        Ok(stream)
    }

    /// Sends the request, and gives the header of the answer.
    async fn ask(&self, stream: &mut TcpStream, host: &str, port: u16) -> io::Result<Vec<u8>> {
        let authority = authority(host, port);
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte, so that nothing behind the header is taken: it comes once.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_ANSWER || answer.len() > 4 && status(&answer).is_none() {
                break;
            }
            answer.push(stream.read_u8().await?);
        }
        Ok(answer)
    }
}

/// The status of an HTTP answer, as far as it has been read.
fn status(answer: &[u8]) -> Option<u16> {
    const START: &[u8] = b"HTTP/1.";
    let known = answer.len().min(START.len());
    if answer.get(..known) != START.get(..known) {
        return None;
    }
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let Some(digits) = line.get(9..12) else {
        // Not read yet.
        return (answer.len() < 12).then_some(0);
    };
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Host and port as HTTP writes them.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Whether NO_PROXY names the server: `*`, names with what is below them, addresses and
/// networks, each with a port if only that is meant.
fn excludes(list: &str, host: &str, port: u16) -> bool {
    let host = host.to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        let (name, only) = split_port(&entry);
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        if only.is_some_and(|only| only != port) || name.is_empty() {
            return false;
        }
        match (ip, name.parse::<Cidr>()) {
            _ if name == "*" => true,
            (Some(ip), Ok(network)) => network.contains(ip),
            (None, Err(_)) => {
                let above = host.strip_suffix(name);
                above.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Some(_), Err(_)) | (None, Ok(_)) => false,
        }
    })
}

/// A colon before a port, and no colon of an IPv6 address.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    let bracketed = entry
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'));
    if let Some((ip, rest)) = bracketed {
        return (
            ip,
            rest.strip_prefix(':').and_then(|port| port.parse().ok()),
        );
    }
    match entry.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, port.parse().ok()),
        Some(_) | None => (entry, None),
    }
}

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&full).map_err(|_| ProxyUrlError)?;
        if url.scheme() != "http" || !matches!(url.path(), "" | "/") {
            return Err(ProxyUrlError);
        }
        let host = match url.host().ok_or(ProxyUrlError)? {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(ip) => ip.to_string(),
            url::Host::Ipv6(ip) => ip.to_string(),
        };
        let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let authorization = (!url.username().is_empty()).then(|| {
            let password = plain(url.password().unwrap_or_default());
            let pair = [&plain(url.username())[..], b":", &password].concat();
            format!("Basic {}", BASE64.encode(&pair))
        });
        Ok(Self {
            host,
            port: url.port().unwrap_or(DEFAULT_PORT),
            authorization,
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_proxys_url_may_have_a_user_and_no_port() {
        let proxy: Proxy = "http://us%40er:p%3Ass@proxy.example:3128".parse().unwrap();
        assert_eq!(proxy.to_string(), "proxy.example:3128");
        let expected = format!("Basic {}", BASE64.encode(b"us@er:p:ss"));
        assert_eq!(proxy.authorization.as_deref(), Some(expected.as_str()));
        assert!(!format!("{proxy:?}").contains("Basic"), "{proxy:?}");
        let proxy: Proxy = "[2001:db8::1]:8080".parse().unwrap();
        assert_eq!(proxy.to_string(), "[2001:db8::1]:8080");
        let bare: Proxy = "proxy.example".parse().unwrap();
        assert_eq!(bare.port, 80);
    }

    #[test]
    fn other_kinds_of_proxies_are_not_taken_for_http() {
        for text in [
            "socks5://a:1080",
            "https://a",
            "http://a/path",
            "",
            "http://",
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(ProxyUrlError), "{text}");
        }
    }

    fn proxy_for(host: &str, excluded: &str) -> Option<String> {
        let variable = |name: &str| match name {
            "https_proxy" => Some("http://proxy:1".to_owned()),
            "NO_PROXY" => Some(excluded.to_owned()),
            _ => None,
        };
        let proxy = Proxy::from_variables(host, 443, variable).unwrap();
        proxy.map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_environment_names_a_proxy_and_who_does_without() {
        let taken = Some("proxy:1".to_owned());
        assert_eq!(proxy_for("a.example.org", ""), taken);
        assert_eq!(
            proxy_for("a.example.org", "b.example.org, notexample.org"),
            taken
        );
        assert_eq!(proxy_for("a.example.org", "example.org:444"), taken);
        assert_eq!(proxy_for("192.0.2.1", "192.0.3.0/24,1"), taken);
        for excluded in ["*", "x,.example.org", "*.EXAMPLE.org", "example.org:443"] {
            assert_eq!(proxy_for("a.example.org", excluded), None, "{excluded}");
        }
        assert_eq!(proxy_for("192.0.2.1", "192.0.2.0/24"), None);
        assert_eq!(proxy_for("2001:db8::1", "[2001:db8::1]:443"), None);
        let nothing = Proxy::from_variables("a", 1, |_| None);
        assert_eq!(nothing, Ok(None));
    }

    /// What connecting gives through a proxy that answers so, and what it was asked.
    async fn through(answer: &str) -> (Result<TcpStream, ProxyError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://me:pw@{}", listener.local_addr().unwrap());
        let proxy: Proxy = url.parse().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let length = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked[..length].to_vec()).unwrap()
        };
        tokio::join!(proxy.connect("2001:db8::1", 5349), serve)
    }

    #[tokio::test]
    async fn a_proxy_is_asked_with_credentials_and_what_follows_its_answer_is_kept() {
        let (stream, asked) = through("HTTP/1.1 200 Connected\r\nVia: x\r\n\r\nrest").await;
        let expected = "CONNECT [2001:db8::1]:5349 HTTP/1.1\r\nHost: [2001:db8::1]:5349\r\n\
            Proxy-Authorization: Basic bWU6cHc=\r\n\r\n";
        assert_eq!(asked, expected);
        let mut rest = String::new();
        stream.unwrap().read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "rest");
    }

    #[tokio::test]
    async fn what_a_proxy_refuses_has_a_name() {
        let (refused, _) = through("HTTP/1.1 407 No\r\n\r\n").await;
        assert!(matches!(refused, Err(ProxyError::Credentials { .. })));
        let (refused, _) = through("HTTP/1.0 403 Forbidden\r\nA: b\r\n\r\n").await;
        assert!(matches!(
            refused,
            Err(ProxyError::Refused { status: 403, .. })
        ));
        let (silent, _) = through("HTTP/1.1 200").await;
        assert!(matches!(silent, Err(ProxyError::Silent { .. })));
        let (other, _) = through("SSH-2.0-OpenSSH\r\n").await;
        assert!(matches!(other, Err(ProxyError::NotHttp { .. })));
        let (endless, _) = through(&format!("HTTP/1.1 {}", "x".repeat(9000))).await;
        assert!(matches!(endless, Err(ProxyError::NotHttp { .. })));
    }
}
