//! The sending side of a transfer.

use super::frames::{FrameReader, NoFrame, say, tell};
use super::pack::{Packed, pack};
use super::{LINGER, Outgoing, Progress, QUEUE, SendError, Source, Summary, Violation};
use postern_wire::transfer::{Frame, ParseError, VERSION};
use std::io;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

/// Sends the files of `source`.
///
/// 1. The files are offered; the receiver decides.
/// 2. They are read, hashed and sent in one pass; `progress` is called for every chunk
///    that the connection has taken.
/// 3. The receiver confirms that everything is verified and in place.
///
/// # Errors
/// The first thing that went wrong; what the receiver says about it is preferred.
pub async fn send<O: Outgoing, I: AsyncRead + Unpin>(
    source: Source,
    out: &mut O,
    stream: I,
    mut progress: impl FnMut(Progress),
) -> Result<Summary, SendError> {
    let mut replies = FrameReader::new(stream);
    let result = converse(source, out, &mut replies, &mut progress).await;
    let (stream, _) = replies.into_parts();
    let last = result.as_ref().err().and_then(SendError::to_failure);
    tell(out, stream, last.map(Frame::Failed)).await;
    result
}

async fn converse<O: Outgoing, I: AsyncRead + Unpin>(
    source: Source,
    out: &mut O,
    replies: &mut FrameReader<I>,
    progress: &mut impl FnMut(Progress),
) -> Result<Summary, SendError> {
    let totals = Summary {
        files: source.files() as u64,
        bytes: source.bytes(),
    };
    if let Err(error) = say(out, &Frame::Offer(source.offer())).await {
        return Err(reason(replies, error).await);
    }
    accepted(replies.next().await?)?;
    stream_files(source, out, replies, progress).await?;
    let reply = replies.next().await?;
    if let Frame::Done(done) = reply {
        let as_sent = (done == totals).then_some(totals);
        return Ok(as_sent.ok_or(Violation::Totals)?);
    }
    Err(on_reply(reply))
}

fn accepted(reply: Frame) -> Result<(), SendError> {
    match reply {
        Frame::Accept { version: VERSION } => Ok(()),
        Frame::Accept { version } => Err(ParseError::Version(version).into()),
        Frame::Offer(_)
        | Frame::File(_)
        | Frame::End { .. }
        | Frame::Finish(_)
        | Frame::Refuse(_)
        | Frame::Done(_)
        | Frame::Failed(_) => Err(on_reply(reply)),
    }
}

/// Everything from the first `File` to `Finish`, listening for a receiver that gives up.
async fn stream_files<O: Outgoing, I: AsyncRead + Unpin>(
    source: Source,
    out: &mut O,
    replies: &mut FrameReader<I>,
    progress: &mut impl FnMut(Progress),
) -> Result<(), SendError> {
    let total = Some(source.bytes());
    let (queue, mut chunks) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || pack(&source, queue));
    let mut bytes = 0;
    while let Some(packed) = chunks.recv().await {
        let Packed {
            bytes: chunk,
            payload,
        } = packed?;
        let sent = tokio::select! {
            sent = out.send(chunk) => sent,
            reply = replies.next() => return Err(on_reply(reply?)),
        };
        if let Err(error) = sent {
            return Err(reason(replies, error).await);
        }
        bytes += payload;
        progress(Progress { bytes, total });
    }
    Ok(())
}

/// A stream that broke may have been broken for a reason that the receiver gave before.
async fn reason<I: AsyncRead + Unpin>(replies: &mut FrameReader<I>, error: io::Error) -> SendError {
    match tokio::time::timeout(LINGER, replies.next()).await {
        Ok(Ok(reply)) => on_reply(reply),
        Ok(Err(_)) | Err(_) => SendError::Disconnected(Some(error)),
    }
}

/// The receiver says something instead of what was expected.
fn on_reply(reply: Frame) -> SendError {
    match reply {
        Frame::Refuse(failure) => SendError::Refused(failure),
        Frame::Failed(failure) => SendError::PeerFailed(failure),
        Frame::Offer(_)
        | Frame::File(_)
        | Frame::End { .. }
        | Frame::Finish(_)
        | Frame::Accept { .. }
        | Frame::Done(_) => Violation::Unexpected.into(),
    }
}

impl From<NoFrame> for SendError {
    fn from(none: NoFrame) -> Self {
        match none {
            NoFrame::Ended(error) => Self::Disconnected(error),
            NoFrame::Invalid(error) => Self::Invalid(error),
            NoFrame::Data => Violation::Unexpected.into(),
        }
    }
}
