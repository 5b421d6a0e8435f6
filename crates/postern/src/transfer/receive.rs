//! The receiving side of a transfer.

use super::frames::{FrameReader, NoFrame, say, tell};
use super::output::OutputDir;
use super::twins::Twins;
use super::unpack::{Unpacker, check_name};
use super::{CHUNK, Offer, Outgoing, Progress, QUEUE, ReceiveError, STALL, Summary, Violation};
use bytes::{BufMut, BytesMut};
use postern_wire::transfer::{Frame, VERSION};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What a receiver allows. Nothing by default.
#[derive(Clone, Debug, Default)]
pub struct ReceivePolicy {
    /// Replace regular files of the same name.
    pub overwrite: bool,
    /// Take files whose names begin with a dot.
    pub hidden: bool,
    /// Wait until each file is on the disk itself, as `fsync` does.
    pub sync: bool,
}

/// Receives one transfer into `output`.
///
/// 1. The offer is read and checked: names, twins, existing files, space. (Of more than a
///    thousand files the first thousand; the others when their turn comes.)
/// 2. `accept` is asked; the sender waits for the answer.
/// 3. The files are written and verified; `progress` is called for every chunk.
/// 4. The sender is told the outcome, and given a moment to hear it.
///
/// When the returned future is dropped, the unfinished file is removed before the drop
/// returns; that takes as long as one write of 256 KiB.
///
/// # Errors
/// The first thing that went wrong. Files that were complete before that stay.
pub async fn receive<O, I, A>(
    output: OutputDir,
    policy: ReceivePolicy,
    accept: A,
    out: &mut O,
    stream: I,
    progress: impl FnMut(Progress),
) -> Result<Summary, ReceiveError>
where
    O: Outgoing,
    I: AsyncRead + Unpin,
    A: AsyncFnOnce(&Offer) -> bool,
{
    let mut frames = FrameReader::new(stream);
    let offered = offered(&mut frames, &output, &policy, accept).await;
    let (mut stream, rest) = frames.into_parts();
    let offer = match offered {
        Ok(offer) => offer,
        Err(error) => {
            tell(out, stream, error.to_failure().map(Frame::Refuse)).await;
            return Err(error);
        }
    };
    let accepted = Frame::Accept { version: VERSION };
    say(out, &accepted).await.map_err(disconnected)?;
    let result = write_files(output, policy, offer, &mut stream, rest, progress).await;
    let last = match &result {
        Ok(summary) => Some(Frame::Done(*summary)),
        Err(error) => error.to_failure().map(Frame::Failed),
    };
    tell(out, stream, last).await;
    result
}

/// Reads the offer, checks it and asks.
async fn offered<I: AsyncRead + Unpin>(
    frames: &mut FrameReader<I>,
    output: &OutputDir,
    policy: &ReceivePolicy,
    accept: impl AsyncFnOnce(&Offer) -> bool,
) -> Result<Offer, ReceiveError> {
    let silent = |_| Err(NoFrame::Ended(Some(io::ErrorKind::TimedOut.into())));
    let first = timeout(STALL, frames.next()).await.unwrap_or_else(silent)?;
    let offer = match first {
        Frame::Offer(offer) => offer,
        Frame::Failed(failure) => return Err(ReceiveError::PeerFailed(failure)),
        Frame::File(_)
        | Frame::End { .. }
        | Frame::Finish(_)
        | Frame::Accept { .. }
        | Frame::Refuse(_)
        | Frame::Done(_) => return Err(Violation::Unexpected.into()),
    };
    check(&offer, output, policy)?;
    match accept(&offer).await {
        true => Ok(offer),
        false => Err(ReceiveError::Declined),
    }
}

fn check(offer: &Offer, output: &OutputDir, policy: &ReceivePolicy) -> Result<(), ReceiveError> {
    let mut twins = Twins::default();
    for file in &offer.listed {
        check_name(&file.name, policy, &mut twins)?;
        output.check(&file.name, policy.overwrite)?;
    }
    match (offer.bytes, output.free()) {
        (Some(needed), Some(free)) if needed > free => Err(ReceiveError::NoSpace { needed, free }),
        _ => Ok(()),
    }
}

/// Everything after `Accept`, up to but without `Done`.
async fn write_files<I: AsyncRead + Unpin>(
    output: OutputDir,
    policy: ReceivePolicy,
    offer: Offer,
    stream: &mut I,
    rest: BytesMut,
    mut progress: impl FnMut(Progress),
) -> Result<Summary, ReceiveError> {
    let total = offer.bytes;
    let written = Arc::new(AtomicU64::new(0));
    let unpacker = Unpacker::new(output, policy, offer, written.clone());
    let mut writer = Writer::start(unpacker)?;
    let mut chunk = rest;
    let mut report = || {
        let bytes = written.load(Ordering::Relaxed);
        progress(Progress { bytes, total });
    };
    let result = pump(&mut writer, stream, &mut chunk, &mut report).await;
    report();
    result
}

/// Moves bytes from the stream to the thread until the thread has a result.
async fn pump<I: AsyncRead + Unpin>(
    writer: &mut Writer,
    stream: &mut I,
    chunk: &mut BytesMut,
    report: &mut impl FnMut(),
) -> Result<Summary, ReceiveError> {
    let mut ended = None;
    loop {
        if ended.is_some() && chunk.is_empty() {
            // All that came is with the thread; without more it must decide.
            writer.queue = None;
        }
        tokio::select! {
            biased;
            outcome = &mut writer.outcome => {
                let outcome = outcome.unwrap_or(Err(ReceiveError::NoThread));
                return outcome.map_err(|error| blame(error, ended));
            }
            Some(permit) = reserve(&writer.queue), if !chunk.is_empty() => {
                let fresh = writer.spare.try_recv().unwrap_or_default();
                permit.send(std::mem::replace(chunk, fresh));
                report();
            }
            read = fill(stream, chunk), if ended.is_none() && chunk.len() < CHUNK => {
                if !matches!(read, Ok(1..)) {
                    ended = Some(read.err());
                }
            }
        }
    }
}

/// Reads into the free part of a chunk.
async fn fill(stream: &mut (impl AsyncRead + Unpin), chunk: &mut BytesMut) -> io::Result<usize> {
    let room = CHUNK - chunk.len();
    chunk.reserve(room);
    in_time(stream.read_buf(&mut chunk.limit(room))).await
}

/// Gives up after [`STALL`].
async fn in_time<T>(reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let silent = |_| Err(io::ErrorKind::TimedOut.into());
    timeout(STALL, reading).await.unwrap_or_else(silent)
}

async fn reserve(queue: &Option<mpsc::Sender<BytesMut>>) -> Option<mpsc::Permit<'_, BytesMut>> {
    queue.as_ref()?.reserve().await.ok()
}

/// The thread knows that the stream ended, the stream knows why.
fn blame(error: ReceiveError, ended: Option<Option<io::Error>>) -> ReceiveError {
    if matches!(error, ReceiveError::Disconnected(None)) {
        ReceiveError::Disconnected(ended.flatten())
    } else {
        error
    }
}

fn disconnected(error: io::Error) -> ReceiveError {
    ReceiveError::Disconnected(Some(error))
}

impl From<NoFrame> for ReceiveError {
    fn from(none: NoFrame) -> Self {
        match none {
            NoFrame::Ended(error) => Self::Disconnected(error),
            NoFrame::Invalid(error) => error.into(),
            NoFrame::Data => Violation::Unexpected.into(),
        }
    }
}

/// The thread that writes. Dropping this waits until the thread has cleaned up.
struct Writer {
    queue: Option<mpsc::Sender<BytesMut>>,
    /// Chunks that were written and can be filled again.
    spare: mpsc::Receiver<BytesMut>,
    outcome: oneshot::Receiver<Result<Summary, ReceiveError>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(mut unpacker: Unpacker) -> Result<Self, ReceiveError> {
        let (queue, mut chunks) = mpsc::channel(QUEUE);
        let (give_back, spare) = mpsc::channel(QUEUE);
        let (tell, outcome) = oneshot::channel();
        let body = move || {
            let result = unpack(&mut unpacker, &mut chunks, &give_back);
            // The unfinished file is gone before anybody hears of it.
            drop(unpacker);
            let _ = tell.send(result);
        };
        let thread = Builder::new().name("postern-receive".into()).spawn(body);
        Ok(Self {
            queue: Some(queue),
            spare,
            outcome,
            thread: Some(thread.map_err(|_| ReceiveError::NoThread)?),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn unpack(
    unpacker: &mut Unpacker,
    chunks: &mut mpsc::Receiver<BytesMut>,
    give_back: &mpsc::Sender<BytesMut>,
) -> Result<Summary, ReceiveError> {
    while let Some(mut chunk) = chunks.blocking_recv() {
        unpacker.push(&chunk)?;
        if let Some(summary) = unpacker.summary() {
            return Ok(summary);
        }
        chunk.clear();
        let _ = give_back.try_send(chunk);
    }
    Err(ReceiveError::Disconnected(None))
}
