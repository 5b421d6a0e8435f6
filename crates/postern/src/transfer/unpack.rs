//! The receiver's thread: takes frames apart, hashes and writes.

use super::output::{OutputDir, Part};
use super::receive::ReceivePolicy;
use super::twins::Twins;
use super::{ReceiveError, Summary, Violation};
use postern_wire::transfer::{Decoded, File, Frame, HEADER_LEN, Name, Offer, decode};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes the sender's bytes after `Offer`, in pieces of any size.
///
/// An unfinished file is removed when this is dropped.
pub(super) struct Unpacker {
    output: OutputDir,
    policy: ReceivePolicy,
    offer: Offer,
    twins: Twins,
    written: Arc<AtomicU64>,
    received: Summary,
    /// The beginning of a frame whose end has not come yet, at most one small frame.
    carry: Vec<u8>,
    /// Length that `carry` must have to be looked at again.
    needed: usize,
    inside: Inside,
    current: Option<Current>,
    finished: bool,
}

/// What the next bytes are.
enum Inside {
    Frame,
    Data(usize),
    Skip(usize),
}

/// The file being received.
struct Current {
    part: Part,
    file: File,
    size: u64,
    hasher: blake3::Hasher,
}

impl Unpacker {
    pub(super) fn new(
        output: OutputDir,
        policy: ReceivePolicy,
        offer: Offer,
        written: Arc<AtomicU64>,
    ) -> Self {
        Self {
            output,
            policy,
            offer,
            twins: Twins::default(),
            written,
            received: Summary::default(),
            carry: Vec::new(),
            needed: HEADER_LEN,
            inside: Inside::Frame,
            current: None,
            finished: false,
        }
    }

    /// What was received, once the sender's `Finish` was correct.
    pub(super) fn summary(&self) -> Option<Summary> {
        self.finished.then_some(self.received)
    }

    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, mut input: &[u8]) -> Result<(), ReceiveError> {
        while !input.is_empty() {
            input = match self.inside {
                Inside::Data(left) => {
                    let (now, rest) = input.split_at(left.min(input.len()));
                    self.write(now)?;
                    self.advance(left - now.len(), Inside::Data);
                    rest
                }
                Inside::Skip(left) => {
                    let (now, rest) = input.split_at(left.min(input.len()));
                    self.advance(left - now.len(), Inside::Skip);
                    rest
                }
                Inside::Frame if self.carry.is_empty() => self.take(input)?,
                Inside::Frame => self.top_up(input)?,
            };
        }
        Ok(())
    }

    fn advance(&mut self, left: usize, inside: fn(usize) -> Inside) {
        self.inside = match left {
            0 => Inside::Frame,
            left => inside(left),
        };
    }

    /// Reads one frame from the front of `input`, or keeps it all for later.
    fn take<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], ReceiveError> {
        let used = match decode(input)? {
            Decoded::Incomplete(total) => {
                self.carry.extend(input);
                self.needed = total.unwrap_or(HEADER_LEN);
                input.len()
            }
            Decoded::Frame(frame, used) => {
                self.on_frame(frame)?;
                used
            }
            Decoded::Data { length } => {
                self.inside = Inside::Data(length as usize);
                HEADER_LEN
            }
            Decoded::Skip { length } => {
                self.advance(length as usize, Inside::Skip);
                HEADER_LEN
            }
        };
        Ok(&input[used..])
    }

    /// Completes the kept frame from the front of `input`.
    fn top_up<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], ReceiveError> {
        let missing = self.needed.saturating_sub(self.carry.len());
        let (now, rest) = input.split_at(missing.min(input.len()));
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend(now);
        if carry.len() < self.needed {
            self.carry = carry;
        } else {
            self.take(&carry)?;
        }
        Ok(rest)
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), ReceiveError> {
        match frame {
            _ if self.finished => Err(Violation::Unexpected.into()),
            Frame::File(file) => self.on_file(file),
            Frame::End { hash } => self.on_end(hash.into()),
            Frame::Finish(totals) => self.on_finish(totals),
            Frame::Failed(failure) => Err(ReceiveError::PeerFailed(failure)),
            Frame::Offer(_) | Frame::Accept { .. } | Frame::Refuse(_) | Frame::Done(_) => {
                Err(Violation::Unexpected.into())
            }
        }
    }

    fn on_file(&mut self, file: File) -> Result<(), ReceiveError> {
        if self.current.is_some() {
            return Err(Violation::Unexpected.into());
        }
        self.check_offered(&file)?;
        check_name(&file.name, &self.policy, &mut self.twins)?;
        self.output.check(&file.name, self.policy.overwrite)?;
        let part = self
            .output
            .create(&file.name, file.mode)
            .map_err(|error| write_error(&file.name, error))?;
        self.current = Some(Current {
            part,
            file,
            size: 0,
            hasher: blake3::Hasher::new(),
        });
        Ok(())
    }

    /// What was accepted is what comes.
    fn check_offered(&self, file: &File) -> Result<(), Violation> {
        let listed = usize::try_from(file.index)
            .ok()
            .and_then(|index| self.offer.listed.get(index));
        let as_listed = listed.is_none_or(|l| l.name == file.name && l.size == file.size);
        let total = self.received.bytes.checked_add(file.size);
        let fits = total.is_some_and(|total| self.offer.bytes.is_none_or(|b| total <= b));
        let next = file.index == self.received.files && file.index < self.offer.files;
        match as_listed && fits && next {
            true => Ok(()),
            false => Err(Violation::NotAsOffered),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let Some(current) = &mut self.current else {
            return Err(Violation::Unexpected.into());
        };
        current.size += bytes.len() as u64;
        if current.size > current.file.size {
            return Err(Violation::TooManyBytes.into());
        }
        current.hasher.update(bytes);
        current
            .part
            .write(bytes)
            .map_err(|error| write_error(&current.file.name, error))?;
        self.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn on_end(&mut self, hash: blake3::Hash) -> Result<(), ReceiveError> {
        let current = self.current.take().ok_or(Violation::Unexpected)?;
        if current.size < current.file.size {
            return Err(Violation::TooFewBytes.into());
        }
        if current.hasher.finalize() != hash {
            return Err(ReceiveError::Corrupt(current.file.name));
        }
        self.received.files += 1;
        self.received.bytes += current.size;
        self.place(current.part, &current.file)
    }

    fn place(&self, part: Part, file: &File) -> Result<(), ReceiveError> {
        if let Some(time) = file.modified.and_then(|time| time.to_system_time()) {
            part.set_modified(time);
        }
        let replaces = self.policy.overwrite && self.replaces(&file.name)?;
        let synced = if self.policy.sync || replaces {
            part.sync()
        } else {
            Ok(())
        };
        let placed = synced.and_then(|()| match replaces {
            true => part.place_over(&file.name),
            false => part.place_new(&file.name),
        });
        placed.map_err(|error| write_error(&file.name, error))
    }

    /// Whether there is a regular file to replace; anything else is an error.
    fn replaces(&self, name: &Name) -> Result<bool, ReceiveError> {
        match self.output.check(name, false) {
            Err(ReceiveError::Exists(_)) => self.output.check(name, true).map(|()| true),
            result => result.map(|()| false),
        }
    }

    fn on_finish(&mut self, totals: Summary) -> Result<(), ReceiveError> {
        if self.current.is_some() {
            return Err(Violation::Unexpected.into());
        }
        let as_offered = totals.files == self.offer.files
            && self.offer.bytes.is_none_or(|bytes| totals.bytes == bytes);
        if totals != self.received || !as_offered {
            return Err(Violation::Totals.into());
        }
        if self.policy.sync {
            // The files themselves are on disk; a file system that cannot do more, cannot.
            let _ = self.output.sync();
        }
        self.finished = true;
        Ok(())
    }
}

/// Whether a name is welcome, apart from what is in the directory.
pub(super) fn check_name(
    name: &Name,
    policy: &ReceivePolicy,
    twins: &mut Twins,
) -> Result<(), ReceiveError> {
    if name.is_hidden() && !policy.hidden {
        return Err(ReceiveError::Hidden(name.clone()));
    }
    if !twins.insert(name) {
        return Err(ReceiveError::Twin(name.clone()));
    }
    Ok(())
}

fn write_error(name: &Name, error: io::Error) -> ReceiveError {
    use io::ErrorKind;
    let kind = error.kind();
    if kind == ErrorKind::StorageFull || kind == ErrorKind::QuotaExceeded {
        ReceiveError::DiskFull(name.clone())
    } else if kind == ErrorKind::AlreadyExists {
        ReceiveError::Exists(name.clone())
    } else {
        ReceiveError::Write(name.clone(), error)
    }
}
