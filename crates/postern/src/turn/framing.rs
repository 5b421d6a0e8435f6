//! Messages on a stream between client and server (RFC 8656 section 12.5).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postern_wire::turn::{StreamFrame, split_stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// Bytes written at once.
const WRITE: usize = 64 * 1024;

/// Messages that wait for a slow server.
const MAX_MESSAGES: usize = 1024;

/// Bytes that wait for a slow server.
const MAX_WAITING: usize = 512 * 1024;

/// A server that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Cuts what arrives into messages. It keeps at most one message, and what was read with
/// it.
#[derive(Debug)]
pub struct MessageReader<R> {
    io: R,
    unread: BytesMut,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// A reader of a stream, or of its reading half.
    pub fn new(io: R) -> Self {
        Self {
            io,
            unread: BytesMut::new(),
        }
    }

    /// The next message, if it has been read already.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the ends have lost each other.
    pub fn buffered(&mut self) -> io::Result<Option<Bytes>> {
        let length = match split_stream(&self.unread) {
            Ok(StreamFrame::Incomplete { .. }) => return Ok(None),
            Ok(StreamFrame::Stun { length }) => length,
            Ok(StreamFrame::ChannelData { padded, .. }) => padded,
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        Ok(Some(self.unread.split_to(length).freeze()))
    }

    /// The next message: STUN, or ChannelData with its padding. `None` at the end of the
    /// stream. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// What reading failed with; `InvalidData` if the ends have lost each other;
    /// `UnexpectedEof` if the stream ends within a message.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            self.unread.reserve(READ);
            if self.io.read_buf(&mut self.unread).await? == 0 {
                let whole = self.unread.is_empty();
                let cut = || Err(io::ErrorKind::UnexpectedEof.into());
                return if whole { Ok(None) } else { cut() };
            }
        }
    }
}

/// Puts messages into the queue of a stream.
#[derive(Debug, Clone)]
pub struct MessageSender {
    queue: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// The queue of a stream; [`MessageWriter::run`] empties it.
#[derive(Debug)]
pub struct MessageWriter<W> {
    io: W,
    queue: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

impl MessageSender {
    /// Queues a message, which must be padded if it is ChannelData. False if it was lost,
    /// as a datagram would be: because 512 KiB or 1,024 messages wait already, or because
    /// the stream has ended.
    pub fn send(&self, message: Bytes) -> bool {
        let length = message.len();
        if self.waiting.load(Ordering::Relaxed) > MAX_WAITING {
            return false;
        }
        self.waiting.fetch_add(length, Ordering::Relaxed);
        let queued = self.queue.try_send(message).is_ok();
        if !queued {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
        }
        queued
    }

    /// Whether nobody writes any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl<W: AsyncWrite + Unpin> MessageWriter<W> {
    /// A writer to a stream, or to its writing half.
    pub fn new(io: W) -> (MessageSender, Self) {
        let (sender, queue) = mpsc::channel(MAX_MESSAGES);
        let waiting = Arc::<AtomicUsize>::default();
        let sender = MessageSender {
            queue: sender,
            waiting: waiting.clone(),
        };
        (sender, Self { io, queue, waiting })
    }

    /// Writes what is queued, until no sender is left. Then the stream is shut down.
    ///
    /// # Errors
    ///
    /// What writing failed with; `TimedOut` if nothing was taken for 10 s.
    pub async fn run(mut self) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        while let Some(message) = self.queue.recv().await {
            bytes.extend_from_slice(&message);
            while bytes.len() < WRITE
                && let Ok(message) = self.queue.try_recv()
            {
                bytes.extend_from_slice(&message);
            }
            self.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            timeout(SEND_TIMEOUT, write(&mut self.io, &bytes)).await??;
            bytes.clear();
        }
        timeout(SEND_TIMEOUT, self.io.shutdown()).await?
    }
}

async fn write(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    io.write_all(bytes).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use postern_wire::stun::{Builder, Class, Method, TransactionId};
    use postern_wire::turn::{ChannelData, ChannelNumber};
    use tokio::io::duplex;

    use super::*;

    fn messages() -> Vec<Bytes> {
        let request = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12]));
        let frame = ChannelData {
            channel: ChannelNumber::MIN,
            data: b"hello",
        };
        vec![request.build().into(), frame.to_stream().into()]
    }

    #[tokio::test]
    async fn what_is_queued_is_read_as_the_same_messages() {
        let (near, far) = duplex(7);
        let (sender, writer) = MessageWriter::new(near);
        for message in messages() {
            assert!(sender.send(message));
        }
        drop(sender);
        let read = async {
            let mut reader = MessageReader::new(far);
            let mut all = Vec::new();
            while let Some(message) = reader.next().await.unwrap() {
                all.push(message);
            }
            all
        };
        let (written, read) = tokio::join!(writer.run(), read);
        assert!(written.is_ok(), "{written:?}");
        assert_eq!(read, messages());
    }

    #[tokio::test]
    async fn what_a_slow_server_does_not_take_is_lost_like_a_datagram() {
        let (near, _far) = duplex(7);
        let (sender, _writer) = MessageWriter::new(near);
        let large = Bytes::from(vec![0; 60_000]);
        let taken = (0..100).filter(|_| sender.send(large.clone())).count();
        assert_eq!(taken, MAX_WAITING / large.len() + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_nothing_is_given_up() {
        let (near, _far) = duplex(7);
        let (sender, writer) = MessageWriter::new(near);
        sender.send(Bytes::from_static(&[0; 100]));
        let error = writer.run().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(sender.is_closed());
    }

    async fn reading(bytes: &[u8]) -> io::ErrorKind {
        MessageReader::new(bytes).next().await.unwrap_err().kind()
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_or_is_no_such_stream_ends_in_an_error() {
        let request = &messages()[0];
        let cut = reading(&request[..10]).await;
        assert_eq!(cut, io::ErrorKind::UnexpectedEof);
        let other = reading(b"\xff\xff\xff\xff").await;
        assert_eq!(other, io::ErrorKind::InvalidData);
    }
}
