//! Sending files to a peer, and receiving them safely.
//!
//! [`Source::prepare`] looks at the files, [`send`] offers and streams them; the other side
//! opens an [`OutputDir`] and calls [`receive`]. Both work on any pair of streams: `noq`'s
//! in production, memory in tests. The protocol is in [`postern_wire::transfer`].
//!
//! What holds whatever the peer does:
//!
//! - Nothing outside the output directory is reached: every file is created through the
//!   directory's handle, under a name that was checked, and symbolic links are not followed.
//! - A file has its final name only when all its bytes are there and match their BLAKE3
//!   hash. Until then it is `.NAME.RANDOM.postern-part`, which is removed when the transfer
//!   fails or its future is dropped. Files that were complete before that stay.
//! - An existing file is replaced only when [`ReceivePolicy::overwrite`] says so, and then
//!   in one step, and only a regular file.
//! - Memory is bounded by constants, a few MiB in each direction.
//!
//! A part left behind by a killed process is never read and never removed: its name says
//! what it is, and only a person can know that nobody needs it.
//!
//! Like `cp` and `scp`, a finished transfer has handed its bytes to the operating system;
//! [`ReceivePolicy::sync`] makes them survive a power cut too. A file that replaces another
//! is always synchronised first, so that one of the two survives.
//!
//! Reading, hashing and writing happen on one thread of their own in each direction,
//! overlapped with the network through a bounded queue.

mod error;
mod frames;
mod output;
mod pack;
mod receive;
mod send;
mod source;
mod stream;
mod twins;
mod unpack;

pub use error::{ReceiveError, SendError, Violation};
pub use output::{OutputDir, OutputDirError};
pub use postern_wire::transfer::{
    Failure, FailureKind, Listed, Name, NameError, NameFault, Offer, Totals as Summary, escape,
};
pub use receive::{ReceivePolicy, receive};
pub use send::send;
pub use source::{Source, SourceError};
pub use stream::{Copied, Outgoing};

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of file contents handed to the connection, or written to disk.
    pub bytes: u64,
    /// Bytes of all files together, when known.
    pub total: Option<u64>,
}

/// Bytes read, hashed, written and queued at once: large enough that a system call and
/// a wake-up cost nothing in comparison.
const CHUNK: usize = 256 * 1024;

/// Chunks that wait between the thread and the network.
const QUEUE: usize = 8;

/// How long a side that has said its last word waits for the other to hear it.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a receiver waits for the next byte of a sender that has something to say. An
/// idle timeout of the connection does not help against a peer that keeps it alive.
const STALL: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(test)]
mod tests;
