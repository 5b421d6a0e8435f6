//! Connections with peers through a TCP relay (RFC 6062).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use postern_proto::turn::client::Failure;
use postern_wire::turn::ConnectionId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::ConnectError;
use super::options::Server;
use super::transport::{ServerStream, TransportError};

/// The server waits so long for a connection to be bound (RFC 6062 section 5.2).
const BIND_WITHIN: Duration = Duration::from_secs(30);

/// Bytes read at once before a connection is bound: more than a STUN message of the server,
/// and some of the peer's first bytes.
const READ: usize = 4 * 1024;

/// A connection with a peer through a TCP relay: the peer's bytes and nothing else.
#[derive(Debug)]
pub struct RelayedStream {
    stream: ServerStream,
    peer: SocketAddr,
    /// The peer's first bytes, which came with the server's answer.
    early: Bytes,
}

impl RelayedStream {
    /// The peer, as the server sees it.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for RelayedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.early.len().min(buffer.remaining());
        buffer.put_slice(self.early.get(..length).unwrap_or_default());
        self.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RelayedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

pub(super) type Connected = oneshot::Sender<Result<RelayedStream, ConnectError>>;

/// Who gets a connection that is being made.
#[derive(Debug)]
pub(super) enum Waiter {
    Connect(Connected),
    Accept,
}

/// What has happened to a data connection.
#[derive(Debug)]
pub(super) enum Step {
    Opened(ConnectionId, Result<ServerStream, TransportError>),
    Read(ConnectionId, ServerStream, io::Result<Vec<u8>>),
}

/// The data connections that are not bound yet, and who waits for them.
#[derive(Default)]
pub(super) struct DataConnections {
    /// Who waits for the server to connect to these peers.
    pub(super) asked: BTreeMap<SocketAddr, Connected>,
    waiters: BTreeMap<ConnectionId, Waiter>,
    streams: BTreeMap<ConnectionId, ServerStream>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
}

impl DataConnections {
    /// Opens a connection to the server for one with a peer.
    pub(super) fn open(
        &mut self,
        id: ConnectionId,
        waiter: Waiter,
        server: &Server,
        at: SocketAddr,
    ) {
        self.waiters.insert(id, waiter);
        let target = server.target.clone();
        self.steps.push(Box::pin(async move {
            let stream = ServerStream::connect_at(&target, at).await;
            Step::Opened(id, stream)
        }));
    }

    /// What happens next to one of them; `None` if there are none.
    pub(super) async fn next(&mut self) -> Option<Step> {
        self.steps.next().await
    }

    /// Keeps a stream while the machine decides about what it said.
    pub(super) fn hold(&mut self, id: ConnectionId, stream: ServerStream) {
        self.streams.insert(id, stream);
    }

    /// Goes on reading, after a request has been written, if there is a stream still.
    pub(super) fn resume(&mut self, id: ConnectionId, request: Vec<u8>) {
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        self.steps.push(Box::pin(async move {
            let exchange = timeout(BIND_WITHIN, exchange(&mut stream, &request)).await;
            let read = exchange.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            Step::Read(id, stream, read)
        }));
    }

    /// The connection is bound: gives it to whom it belongs.
    pub(super) fn bound(
        &mut self,
        id: ConnectionId,
        peer: SocketAddr,
        early: Vec<u8>,
    ) -> Option<(Waiter, RelayedStream)> {
        let stream = self.streams.remove(&id)?;
        let stream = RelayedStream {
            stream,
            peer,
            early: early.into(),
        };
        Some((self.waiters.remove(&id)?, stream))
    }

    /// There will be no such connection.
    pub(super) fn fail(&mut self, id: ConnectionId, error: ConnectError) {
        self.streams.remove(&id);
        match self.waiters.remove(&id) {
            Some(Waiter::Connect(waiter)) => _ = waiter.send(Err(error)),
            Some(Waiter::Accept) => tracing::debug!(%error, "a peer's connection failed"),
            None => {}
        }
    }

    /// Whether somebody still wants the connection.
    pub(super) fn is_wanted(&self, id: ConnectionId) -> bool {
        self.waiters.contains_key(&id)
    }

    /// The server does not connect to the peer.
    pub(super) fn refuse(&mut self, peer: SocketAddr, failure: Failure) {
        if let Some(waiter) = self.asked.remove(&peer) {
            _ = waiter.send(Err(ConnectError::Refused(failure)));
        }
    }
}

async fn exchange(stream: &mut ServerStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut bytes = vec![0; READ];
    let length = stream.read(&mut bytes).await?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(length);
    Ok(bytes)
}
