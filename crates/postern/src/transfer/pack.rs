//! The sender's thread: reads files, hashes them and packs frames into chunks.

use super::source::{Source, SourceFile};
use super::{CHUNK, SendError, Summary};
use bytes::{Bytes, BytesMut};
use postern_wire::transfer::{self as wire, Frame, HEADER_LEN};
use std::collections::VecDeque;
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Smallest piece of a file worth a frame of its own: with less room the chunk is sent first.
const MIN_PIECE: usize = 4096;

/// Chunks kept for reuse: beyond what a connection usually has in flight, a new one is
/// allocated instead.
const POOL: usize = 64;

/// Whole frames, ready to be sent.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) bytes: Bytes,
    /// How many of them are contents of files.
    pub(super) payload: u64,
}

/// Sends every frame from the first `File` to `Finish` into `queue`, the error last.
pub(super) fn pack(source: &Source, queue: mpsc::Sender<Result<Packed, SendError>>) {
    let mut packer = Packer::new(queue);
    if let Err(Stop::Failed(error)) = packer.files(source) {
        // When the other end is gone, somebody else has the reason.
        let _ = packer.queue.blocking_send(Err(error));
    }
}

/// Why packing ended early.
enum Stop {
    Failed(SendError),
    /// Nobody takes the chunks any more.
    Unwanted,
}

struct Packer {
    queue: mpsc::Sender<Result<Packed, SendError>>,
    pool: Pool,
    /// Always [`CHUNK`] long; the first `used` bytes are frames.
    chunk: BytesMut,
    used: usize,
    payload: u64,
}

impl Packer {
    fn new(queue: mpsc::Sender<Result<Packed, SendError>>) -> Self {
        let mut pool = Pool::default();
        let chunk = pool.take();
        Self {
            queue,
            pool,
            chunk,
            used: 0,
            payload: 0,
        }
    }

    fn files(&mut self, source: &Source) -> Result<(), Stop> {
        for (file, index) in source.iter().zip(0..) {
            self.file(file, index)?;
        }
        self.frame(&Frame::Finish(Summary {
            files: source.files() as u64,
            bytes: source.bytes(),
        }))?;
        self.flush()
    }

    fn file(&mut self, source: &SourceFile, index: u64) -> Result<(), Stop> {
        let unreadable = |error| Stop::Failed(SendError::Read(source.name.clone(), error));
        let changed = || Stop::Failed(SendError::Changed(source.name.clone()));
        let mut file = source.open().map_err(unreadable)?.ok_or_else(changed)?;
        self.frame(&Frame::File(wire::File {
            index,
            name: source.name.clone(),
            size: source.stamp.size,
            mode: source.mode,
            modified: source.modified,
        }))?;
        let mut hasher = blake3::Hasher::new();
        let mut left = source.stamp.size;
        while left > 0 {
            match self.piece(&mut file, left, &mut hasher)? {
                Ok(0) => return Err(changed()),
                Ok(read) => left -= read as u64,
                Err(error) => return Err(unreadable(error)),
            }
        }
        let longer = read_some(&mut file, &mut [0]).map_err(unreadable)? > 0;
        if longer || !source.is_unchanged(&file) {
            return Err(changed());
        }
        self.frame(&Frame::End {
            hash: *hasher.finalize().as_bytes(),
        })
    }

    /// Reads one `Data` frame of at most `left` bytes straight into its place in the chunk.
    fn piece(
        &mut self,
        file: &mut impl Read,
        left: u64,
        hasher: &mut blake3::Hasher,
    ) -> Result<io::Result<usize>, Stop> {
        if CHUNK - self.used < HEADER_LEN + MIN_PIECE {
            self.flush()?;
        }
        let (header, body) = self.chunk[self.used..].split_at_mut(HEADER_LEN);
        let most = usize::try_from(left).unwrap_or(CHUNK).min(body.len());
        let read = match read_some(file, &mut body[..most]) {
            Ok(read) if read > 0 => read,
            nothing => return Ok(nothing),
        };
        hasher.update(&body[..read]);
        header.copy_from_slice(&wire::data_header(read as u32));
        self.used += HEADER_LEN + read;
        self.payload += read as u64;
        Ok(Ok(read))
    }

    /// Appends a frame that is small compared to a chunk.
    fn frame(&mut self, frame: &Frame) -> Result<(), Stop> {
        let bytes = frame.to_vec();
        if CHUNK - self.used < bytes.len() {
            self.flush()?;
        }
        self.chunk[self.used..][..bytes.len()].copy_from_slice(&bytes);
        self.used += bytes.len();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let full = std::mem::replace(&mut self.chunk, self.pool.take()).freeze();
        let packed = Packed {
            bytes: full.slice(..std::mem::take(&mut self.used)),
            payload: std::mem::take(&mut self.payload),
        };
        self.pool.give(full);
        self.queue
            .blocking_send(Ok(packed))
            .map_err(|_| Stop::Unwanted)
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_some(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Chunks that the connection may still hold; the oldest comes back first.
#[derive(Default)]
struct Pool(VecDeque<Bytes>);

impl Pool {
    fn give(&mut self, chunk: Bytes) {
        if self.0.len() < POOL {
            self.0.push_back(chunk);
        }
    }

    fn take(&mut self) -> BytesMut {
        match self.0.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(chunk)) => chunk,
            Some(Err(busy)) => {
                self.0.push_front(busy);
                BytesMut::zeroed(CHUNK)
            }
            None => BytesMut::zeroed(CHUNK),
        }
    }
}
