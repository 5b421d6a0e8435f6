//! Messages on a stream: between client and server (RFC 8656 section 12.5), and between peers, each
//! behind its length (RFC 4571).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postern_wire::framing;
use postern_wire::turn::{StreamFrame, split_stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// Bytes written at once, unless told.
const WRITE: usize = 64 * 1024;

/// Messages that wait for a slow server.
const MAX_MESSAGES: usize = 1024;

/// Bytes that wait for a slow server.
const MAX_WAITING: usize = 512 * 1024;

/// Messages that wait to go before all others.
const MAX_FIRST: usize = 64;

/// The longest message between peers, in bytes: no datagram of QUIC or STUN is as long.
const MAX_FRAME: usize = 2048;

/// A server that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Cuts what arrives into messages. It keeps at most one message, and what was read with
/// it.
#[derive(Debug)]
pub struct MessageReader<R> {
    io: R,
    unread: BytesMut,
    cut: Cut,
}

/// What tells how long a message is.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// STUN and ChannelData do.
    Own,
    /// Two bytes before it.
    Length,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// A reader of a stream, or of its reading half.
    pub fn new(io: R) -> Self {
        Self {
            io,
            unread: BytesMut::new(),
            cut: Cut::Own,
        }
    }

    /// The same of a stream on which each message has its length before it.
    pub(crate) fn framed(io: R) -> Self {
        Self {
            cut: Cut::Length,
            ..Self::new(io)
        }
    }

    /// The next message, if it has been read already.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the ends have lost each other.
    pub fn buffered(&mut self) -> io::Result<Option<Bytes>> {
        match self.cut {
            Cut::Own => self.cut_own(),
            Cut::Length => self.cut_framed(),
        }
    }

    fn cut_framed(&mut self) -> io::Result<Option<Bytes>> {
        let header = self.unread.first_chunk();
        let length = header.map(|header| usize::from(u16::from_be_bytes(*header)));
        if length.is_some_and(|length| length > MAX_FRAME) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(length) = framing::split(&self.unread).map(|(message, _)| message.len()) else {
            return Ok(None);
        };
        self.unread.advance(framing::HEADER);
        Ok(Some(self.unread.split_to(length).freeze()))
    }

    fn cut_own(&mut self) -> io::Result<Option<Bytes>> {
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
    first: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// The queue of a stream; [`MessageWriter::run`] empties it.
#[derive(Debug)]
pub struct MessageWriter<W> {
    io: W,
    queue: mpsc::Receiver<Bytes>,
    first: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    batch: usize,
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

    /// Queues a message before all others. False if it was lost, because 64 wait already or the
    /// stream has ended.
    pub(crate) fn send_first(&self, message: Bytes) -> bool {
        self.first.try_send(message).is_ok()
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
        Self::with_batch(io, WRITE)
    }

    /// The same, writing at most so many bytes at once, and a message.
    pub(crate) fn with_batch(io: W, batch: usize) -> (MessageSender, Self) {
        let (sender, queue) = mpsc::channel(MAX_MESSAGES);
        let (first_sender, first) = mpsc::channel(MAX_FIRST);
        let waiting = Arc::<AtomicUsize>::default();
        let sender = MessageSender {
            queue: sender,
            first: first_sender,
            waiting: waiting.clone(),
        };
        let writer = Self {
            io,
            queue,
            first,
            waiting,
            batch,
        };
        (sender, writer)
    }

    /// Writes what is queued, until no sender is left. Then the stream is shut down.
    ///
    /// # Errors
    ///
    /// What writing failed with; `TimedOut` if nothing was taken for 10 s.
    pub async fn run(mut self) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        while let Some(message) = self.next().await {
            bytes.extend_from_slice(&message);
            while bytes.len() < self.batch
                && let Some(message) = self.next_now()
            {
                bytes.extend_from_slice(&message);
            }
            timeout(SEND_TIMEOUT, write(&mut self.io, &bytes)).await??;
            bytes.clear();
        }
        timeout(SEND_TIMEOUT, self.io.shutdown()).await?
    }

    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            Some(message) = self.first.recv() => Some(message),
            message = self.queue.recv() => self.count(message),
        }
    }

    /// What is there already.
    fn next_now(&mut self) -> Option<Bytes> {
        let first = self.first.try_recv().ok();
        first.or_else(|| {
            let message = self.queue.try_recv().ok();
            self.count(message)
        })
    }

    fn count(&self, message: Option<Bytes>) -> Option<Bytes> {
        let length = message.as_ref().map_or(0, Bytes::len);
        self.waiting.fetch_sub(length, Ordering::Relaxed);
        message
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

    async fn framed(bytes: &[u8]) -> io::Result<Vec<Bytes>> {
        let mut reader = MessageReader::framed(bytes);
        let mut all = Vec::new();
        while let Some(message) = reader.next().await? {
            all.push(message);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn messages_behind_their_lengths_are_cut_there() {
        let all = framed(&[0, 2, 7, 8, 0, 0, 0, 1, 9]).await.unwrap();
        assert_eq!(all, [&[7, 8][..], &[], &[9]]);
        let cut = framed(&[0, 2, 7]).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_not_waited_for() {
        let longest = u16::try_from(MAX_FRAME).unwrap();
        let long = (longest + 1).to_be_bytes();
        let (mut near, far) = duplex(7);
        near.write_all(&long).await.unwrap();
        let error = MessageReader::framed(far).next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let whole = [&longest.to_be_bytes()[..], &[7; MAX_FRAME]].concat();
        assert_eq!(framed(&whole).await.unwrap(), [vec![7; MAX_FRAME]]);
    }

    #[tokio::test]
    async fn what_is_urgent_is_written_before_what_waits() {
        let (near, mut far) = duplex(1000);
        let (sender, writer) = MessageWriter::with_batch(near, 2);
        for byte in 0..5 {
            assert!(sender.send(Bytes::from(vec![byte; 2])));
        }
        assert!(sender.send_first(Bytes::from_static(&[9; 2])));
        drop(sender);
        writer.run().await.unwrap();
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [9, 9, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[tokio::test]
    async fn little_that_is_urgent_waits() {
        let (near, _far) = duplex(7);
        let (sender, _writer) = MessageWriter::new(near);
        let taken = (0..1000).filter(|_| sender.send_first(Bytes::from_static(&[0])));
        assert_eq!(taken.count(), MAX_FIRST);
    }
}
