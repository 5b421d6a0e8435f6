//! The two directions of a stream.

use bytes::Bytes;
use std::future::Future;
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// The direction towards the peer. The other one is [`tokio::io::AsyncRead`].
///
/// Chunks are owned so that a connection can keep them until they are acknowledged
/// instead of copying them.
pub trait Outgoing: Send {
    /// Queues `bytes`; resolves when the connection has room for more. When the future is
    /// dropped, any part of them may have been sent.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;

    /// Ends this direction in order: the peer reads the end of the stream.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Outgoing for noq::SendStream {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        Ok(self.write_chunk(bytes).await?)
    }

    async fn finish(&mut self) -> io::Result<()> {
        Ok(Self::finish(self)?)
    }
}

/// Any [`AsyncWrite`] as an [`Outgoing`], by copying.
#[derive(Debug)]
pub struct Copied<W>(pub W);

impl<W: AsyncWrite + Unpin + Send> Outgoing for Copied<W> {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.write_all(&bytes).await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}
