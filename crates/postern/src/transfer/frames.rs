//! Single frames on a stream, for the parts of the protocol that are a conversation.

use super::{LINGER, Outgoing};
use bytes::{Buf, BytesMut};
use postern_wire::transfer::{Decoded, Frame, HEADER_LEN, ParseError, decode};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes asked for at once: a conversation's frames are small.
const READ: usize = 4096;

/// Why there is no next frame.
#[derive(Debug)]
pub(super) enum NoFrame {
    /// The stream ended or broke.
    Ended(Option<io::Error>),
    /// The peer sent something that is not a frame.
    Invalid(ParseError),
    /// The peer sent file contents nobody asked for.
    Data,
}

/// Reads frames, and gives back what it read too much.
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    skip: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            skip: 0,
        }
    }

    /// The next frame that this version knows. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Frame, NoFrame> {
        loop {
            self.skip();
            match decode(&self.buffer).map_err(NoFrame::Invalid)? {
                Decoded::Frame(frame, used) => {
                    self.buffer.advance(used);
                    return Ok(frame);
                }
                Decoded::Data { .. } => return Err(NoFrame::Data),
                Decoded::Skip { length } => self.skip = HEADER_LEN + length as usize,
                Decoded::Incomplete(_) => self.fill().await?,
            }
        }
    }

    /// The stream, and the bytes behind the last frame.
    pub(super) fn into_parts(self) -> (R, BytesMut) {
        (self.stream, self.buffer)
    }

    fn skip(&mut self) {
        let now = self.skip.min(self.buffer.len());
        self.buffer.advance(now);
        self.skip -= now;
    }

    async fn fill(&mut self) -> Result<(), NoFrame> {
        self.buffer.reserve(READ);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(NoFrame::Ended(None)),
            Ok(_) => Ok(()),
            Err(error) => Err(NoFrame::Ended(Some(error))),
        }
    }
}

/// Sends one frame.
pub(super) async fn say(out: &mut impl Outgoing, frame: &Frame) -> io::Result<()> {
    out.send(frame.to_vec().into()).await
}

/// Ends our direction, after the `last` word if there is one.
///
/// Then waits until the peer has ended its own direction, so that the word is not lost when
/// the connection is closed next. What the peer still sends is thrown away. A peer that is
/// gone, or silent, changes nothing: the outcome is decided.
pub(super) async fn tell(
    out: &mut impl Outgoing,
    stream: impl AsyncRead + Unpin,
    last: Option<Frame>,
) {
    let said = match &last {
        Some(frame) => say(out, frame).await.is_ok(),
        None => false,
    };
    let ended = out.finish().await.is_ok();
    if said && ended {
        let _ = tokio::time::timeout(LINGER, drain(stream)).await;
    }
}

async fn drain(mut stream: impl AsyncRead + Unpin) {
    let mut waste = vec![0; READ];
    while matches!(stream.read(&mut waste).await, Ok(1..)) {}
}
