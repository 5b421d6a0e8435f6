//! Who answers in place of the server: what it says over HTTPS, whoever it is, and what its time
//! is; and whether the network has a log-in page.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Options;
use crate::trust::Trust;

/// All of it together takes no longer.
const PATIENCE: Duration = Duration::from_millis(2000);

/// The head of an answer is not longer.
const MAX_HEAD: usize = 8 << 10;

/// The URL of a log-in page is shown up to here.
const MAX_URL: usize = 200;

/// The port of HTTP, where networks with a log-in page answer in place of everybody.
const HTTP_PORT: u16 = 80;

/// An address that nobody has (RFC 5737): whoever answers from there answers for everybody.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Clocks that differ less agree: certificates and credentials are good for hours at least.
const TOLERANCE: Duration = Duration::from_secs(60);

/// What was heard over HTTP and HTTPS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// How far this machine's clock is ahead of the one of whoever answered, in seconds.
    pub clock_ahead: Option<i64>,
    /// What is wrong with the certificate that was shown.
    pub certificate: Option<Certificate>,
    /// The network has a log-in page.
    pub portal: Option<Portal>,
}

impl Heard {
    /// How far the clock is off, if it is more than a minute.
    #[must_use]
    pub fn wrong_clock(&self) -> Option<i64> {
        let tolerance = i64::try_from(TOLERANCE.as_secs()).unwrap_or(i64::MAX);
        self.clock_ahead.filter(|ahead| ahead.abs() > tolerance)
    }
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// By this machine's clock it is not valid yet.
    NotYetValid,
    /// By this machine's clock it has expired.
    Expired,
    /// It is not the pinned one, or nobody who is trusted vouches for it.
    Unknown,
}

/// A page to log in at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    /// Where it is, if the answer says so: the text of a stranger, printable ASCII.
    pub url: Option<String>,
}

/// The head of an HTTP answer.
#[derive(Debug)]
struct Head {
    status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.splitn(3, ' ');
        first
            .next()
            .filter(|version| version.starts_with("HTTP/"))?;
        let status = first.next()?.parse().ok()?;
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        Some(Self {
            status,
            fields: lines.map_while(field).collect(),
        })
    }

    fn field(&self, wanted: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it sends people elsewhere, or shows them a page, where neither is expected. A
    /// server may well send its own visitors from HTTP to HTTPS.
    fn portal(&self, own_host: &str) -> Option<Portal> {
        let url = self.field("location").map(printable);
        match self.status {
            511 => Some(Portal { url }),
            301 | 302 | 303 | 307 | 308 => {
                let target = url.as_deref().and_then(|text| url::Url::parse(text).ok());
                let target = target?.host_str()?.to_owned();
                (!is_related(&target, own_host)).then_some(Portal { url })
            }
            _ => None,
        }
    }

    fn shows_a_page(&self) -> bool {
        let kind = self.field("content-type").unwrap_or_default();
        self.status == 200 && kind.starts_with("text/html")
    }

    fn clock_ahead(&self) -> Option<i64> {
        let theirs = httpdate::parse_http_date(self.field("date")?).ok()?;
        let ours = SystemTime::now();
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Some(match ours.duration_since(theirs) {
            Ok(ahead) => seconds(ahead),
            Err(behind) => seconds(behind.duration()).saturating_neg(),
        })
    }
}

/// Whether two names are of the same domain: a website sends its visitors to `www`, say.
fn is_related(one: &str, other: &str) -> bool {
    let domain = |name: &str| {
        let mut labels = name.rsplit('.');
        (
            labels.next().map(str::to_owned),
            labels.next().map(str::to_owned),
        )
    };
    domain(one) == domain(other)
}

fn printable(text: &str) -> String {
    let plain = text.chars().filter(char::is_ascii_graphic);
    plain.take(MAX_URL).collect()
}

/// Listens to whoever is there. `well` is whether the server has answered as it should: then
/// nobody stands in its place.
pub(super) async fn look(options: &Options, servers: &[SocketAddr], well: bool) -> Heard {
    let secure = async { timeout(PATIENCE, over_tls(options)).await.ok()?.ok() };
    let plain = async {
        match well || options.proxy.is_some() {
            true => None,
            false => over_http(options, servers).await,
        }
    };
    let (secure, plain) = tokio::join!(secure, plain);
    let (certificate, head) = secure.unwrap_or_default();
    let own_host = options.server.host();
    let told = head.as_ref().and_then(|head| head.portal(&own_host));
    Heard {
        clock_ahead: head.as_ref().and_then(Head::clock_ahead),
        certificate,
        portal: match well {
            true => None,
            false => told.or(plain),
        },
    }
}

/// What the server, or somebody in its place, answers over TLS whatever its certificate is:
/// nothing that it says is believed, and nothing is told to it.
async fn over_tls(options: &Options) -> io::Result<(Option<Certificate>, Option<Head>)> {
    let server = &options.server;
    let stream = match &options.proxy {
        Some(proxy) => {
            let through = proxy.connect(&server.host(), server.port()).await;
            through.map_err(io::Error::other)?
        }
        None => TcpStream::connect((server.host(), server.port())).await?,
    };
    let trust = server.pin().map_or(Trust::System, Trust::Pinned);
    let recorder = Arc::new(Recorder {
        judge: trust.verifier().map_err(io::Error::other)?,
        fault: Mutex::default(),
    });
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(server.host()).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let head = get(&mut stream, &server.authority()).await.ok().flatten();
    let fault = recorder.fault.lock();
    let fault = fault.unwrap_or_else(PoisonError::into_inner).take();
    Ok((fault.as_ref().map(Certificate::of), head))
}

/// Plain HTTP: at the server's own port, where nobody else should show a page; at an address that
/// nobody has; and at the usual port of whatever its name leads to here.
async fn over_http(options: &Options, servers: &[SocketAddr]) -> Option<Portal> {
    let host = options.server.host();
    let address = match options.server.ip() {
        Some(ip) => Some(ip),
        None => servers.first().map(SocketAddr::ip),
    };
    let named = address.filter(|_| options.server.ip().is_none());
    let at = |ip: Option<IpAddr>, port| ip.map(|ip| SocketAddr::new(ip, port));
    let own = ask_http(&host, at(address, options.server.port()), true);
    let nobody = ask_http(&host, at(Some(NOBODY.into()), HTTP_PORT), true);
    let usual = ask_http(&host, at(named, HTTP_PORT), false);
    let (own, nobody, usual) = tokio::join!(own, nobody, usual);
    own.or(nobody).or(usual)
}

async fn ask_http(host: &str, server: Option<SocketAddr>, page: bool) -> Option<Portal> {
    let asking = async {
        let mut stream = TcpStream::connect(server?).await.ok()?;
        get(&mut stream, host).await.ok()?
    };
    let head = timeout(PATIENCE, asking).await.ok()??;
    let shown = page && head.shows_a_page();
    head.portal(host)
        .or_else(|| shown.then_some(Portal { url: None }))
}

async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    host: &str,
) -> io::Result<Option<Head>> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let length = stream.read(&mut buffer).await?;
        head.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let end = head.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            return Ok(Head::parse(head.get(..end).unwrap_or_default()));
        }
        if length == 0 || head.len() > MAX_HEAD {
            return Ok(None);
        }
    }
}

impl Certificate {
    fn of(error: &TlsError) -> Self {
        let TlsError::InvalidCertificate(error) = error else {
            return Self::Unknown;
        };
        if let CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } = error {
            Self::NotYetValid
        } else if let CertificateError::Expired | CertificateError::ExpiredContext { .. } = error {
            Self::Expired
        } else {
            Self::Unknown
        }
    }
}

/// Lets every certificate pass, and notes what is wrong with it.
#[derive(Debug)]
struct Recorder {
    judge: Arc<dyn ServerCertVerifier>,
    fault: Mutex<Option<TlsError>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let judged = self.judge.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let fault = self.fault.lock();
        *fault.unwrap_or_else(PoisonError::into_inner) = judged.err();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.judge
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.judge
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_redirection_to_another_host_is_a_log_in_page_and_one_to_https_is_not() {
        let portal = "HTTP/1.1 302 Found\r\nLocation: http://login.hotel.example/?from=x\u{1b}[2J";
        let found = head(portal).portal("example.org").unwrap();
        let url = found.url.unwrap();
        assert_eq!(url, "http://login.hotel.example/?from=x[2J");
        for own in ["https://example.org/", "https://www.example.org/hello"] {
            let moved = format!("HTTP/1.1 301 Moved\r\nLocation: {own}");
            assert_eq!(head(&moved).portal("example.org"), None, "{own}");
        }
        let asked = "HTTP/1.1 511 Network Authentication Required\r\nContent-Length: 0";
        assert_eq!(
            head(asked).portal("example.org"),
            Some(Portal { url: None })
        );
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8";
        assert!(head(page).shows_a_page());
        assert!(Head::parse(b"SSH-2.0-OpenSSH").is_none());
    }

    #[test]
    fn clocks_are_compared_and_a_minute_does_not_count() {
        let now = SystemTime::now();
        let ahead = |offset: Duration| {
            let date = httpdate::fmt_http_date(now + offset);
            head(&format!("HTTP/1.1 400 Bad\r\nDate: {date}")).clock_ahead()
        };
        let behind = ahead(Duration::from_secs(86_400)).unwrap();
        assert!((-86_400..=-86_390).contains(&behind), "{behind}");
        let heard = |clock_ahead| Heard {
            clock_ahead,
            ..Heard::default()
        };
        assert_eq!(heard(Some(behind)).wrong_clock(), Some(behind));
        assert_eq!(heard(Some(59)).wrong_clock(), None);
        let garbled = head("HTTP/1.1 200 OK\r\nDate: yesterday");
        assert_eq!(garbled.clock_ahead(), None);
    }
}
