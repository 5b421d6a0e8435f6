//! Asking a postern server whether a port of ours can be reached from outside.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use postern_wire::probe::{CONTENT_TYPE, MAX_BODY, PATH};
use postern_wire::upnp::http::{Bounds, Collector, Headers, Request as HttpRequest, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::server_url::ServerUrl;
use crate::tls::{self, ConnectError};

pub use postern_wire::probe::{Answer, Nonce, Outcome, Refusal, Request, Verdict};

/// Everything together gets so long; the server waits two seconds for the port.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer is not larger.
const BOUNDS: Bounds = Bounds {
    head: 4 << 10,
    body: MAX_BODY,
};

/// Why the server has not answered.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended, or nothing came.
    #[error("the server did not answer")]
    Silent(#[source] io::Error),
    /// It does not probe at all, or is no postern server of this version.
    #[error("the server does not look at clients' ports (HTTP status {0})")]
    Unsupported(u16),
    /// The answer cannot be read.
    #[error("the server's answer cannot be read")]
    Garbled,
}

/// Has the server look at a port of the address that it sees us at. The connection to it comes
/// from `local`, if there is one, and is of its family.
///
/// # Errors
///
/// Every [`ProbeError`]. That the server refuses is an [`Answer`].
pub async fn ask(
    server: &ServerUrl,
    local: Option<IpAddr>,
    request: &Request,
) -> Result<Answer, ProbeError> {
    let asking = async { Line::open(server, local).await?.ask(request).await };
    let answered = timeout(TIMEOUT, asking).await;
    answered.unwrap_or_else(|_| Err(ProbeError::Silent(io::ErrorKind::TimedOut.into())))
}

/// A connection to a server on which one thing can be asked, at once.
#[derive(Debug)]
pub(crate) struct Line {
    stream: TlsStream<TcpStream>,
    authority: String,
}

impl Line {
    /// Connects, as [`ask`] does.
    pub(crate) async fn open(
        server: &ServerUrl,
        local: Option<IpAddr>,
    ) -> Result<Self, ProbeError> {
        Ok(Self {
            stream: tls::connect_from(server, local).await?,
            authority: server.authority(),
        })
    }

    /// The server's address.
    pub(crate) fn peer(&self) -> io::Result<IpAddr> {
        Ok(self.stream.get_ref().0.peer_addr()?.ip())
    }

    pub(crate) async fn ask(mut self, request: &Request) -> Result<Answer, ProbeError> {
        let response = self.exchange(request).await?;
        match Answer::parse(&response.body) {
            Ok(answer) => Ok(answer),
            Err(_) if response.status == 200 => Err(ProbeError::Garbled),
            Err(_) => Err(ProbeError::Unsupported(response.status)),
        }
    }

    async fn exchange(&mut self, request: &Request) -> Result<Response, ProbeError> {
        let bytes = HttpRequest {
            method: "POST".to_owned(),
            target: PATH.to_owned(),
            headers: Headers::default()
                .with("Host", &self.authority)
                .with("Content-Type", CONTENT_TYPE)
                .with("Connection", "close"),
            body: request.to_json().into_bytes(),
        }
        .to_bytes();
        let stream = &mut self.stream;
        stream.write_all(&bytes).await.map_err(ProbeError::Silent)?;
        let mut collector = Collector::response(BOUNDS);
        let mut buffer = [0; 4096];
        while !collector.is_complete() {
            let length = stream.read(&mut buffer).await.map_err(ProbeError::Silent)?;
            if length == 0 {
                break;
            }
            let bytes = buffer.get(..length).unwrap_or_default();
            collector.push(bytes).map_err(|_| ProbeError::Garbled)?;
        }
        let cut_short = |_| ProbeError::Silent(io::ErrorKind::UnexpectedEof.into());
        collector.into_response().map_err(cut_short)
    }
}
