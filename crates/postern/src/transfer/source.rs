//! The files to send, looked at but not read.

use super::twins::Twins;
use postern_wire::transfer::{
    Listed, MAX_FILES, MAX_LISTED, Name, NameError, Offer, Timestamp, escape,
};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One or more files that exist and can be read.
///
/// Preparing costs a few system calls for each file whatever its size, so that a code can
/// be shown at once.
#[derive(Clone, Debug)]
pub struct Source {
    files: Vec<SourceFile>,
    bytes: u64,
}

impl Source {
    /// Looks at the files at `paths`, in this order. A symbolic link stands for its target,
    /// under its own name.
    ///
    /// # Errors
    /// The first path that cannot be sent.
    pub fn prepare<P: AsRef<Path>>(
        paths: impl IntoIterator<Item = P>,
    ) -> Result<Self, SourceError> {
        let mut source = Self {
            files: Vec::new(),
            bytes: 0,
        };
        let mut seen = Twins::default();
        for path in paths {
            source.add(path.as_ref(), &mut seen)?;
        }
        match source.files.is_empty() {
            true => Err(SourceError::Empty),
            false => Ok(source),
        }
    }

    /// Number of files, at least 1.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter()
    }

    pub(super) fn offer(&self) -> Offer {
        let listed = self.files.iter().take(MAX_LISTED).map(|file| Listed {
            name: file.name.clone(),
            size: file.stamp.size,
        });
        Offer {
            files: self.files.len() as u64,
            bytes: Some(self.bytes),
            listed: listed.collect(),
        }
    }

    fn add(&mut self, path: &Path, seen: &mut Twins) -> Result<(), SourceError> {
        let file = SourceFile::look_at(path)?;
        if !seen.insert(&file.name) {
            return Err(SourceError::Twin(file.name));
        }
        if self.files.len() as u64 == MAX_FILES {
            return Err(SourceError::TooMany);
        }
        self.bytes = self
            .bytes
            .checked_add(file.stamp.size)
            .ok_or(SourceError::TooMany)?;
        self.files.push(file);
        Ok(())
    }
}

/// Why a path cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No path at all.
    #[error("there is nothing to send; name at least one file")]
    Empty,
    /// Nothing there, no permission, or a broken disk.
    #[error("cannot read {}: {error}", shown(path))]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A directory.
    #[error("{} is a directory; only files can be sent so far, so pack it first (tar, zip)", shown(.0))]
    Directory(PathBuf),
    /// A device, socket or pipe.
    #[error("{} is not a regular file", shown(.0))]
    NotAFile(PathBuf),
    /// A name that other systems cannot store.
    #[error("{0}; rename it first")]
    BadName(#[from] NameError),
    /// Two paths with the same name, or with names that are one on some systems.
    #[error("{0} is given twice, in the same or in another spelling; send one of them alone")]
    Twin(Name),
    /// More than the protocol can count.
    #[error("these are too many files for one transfer; pack them first (tar, zip)")]
    TooMany,
}

impl SourceError {
    /// The word for this error in the JSON output.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty | Self::TooMany => "usage",
            Self::Unreadable { .. } => "io",
            Self::Directory(_) | Self::NotAFile(_) => "not_a_file",
            Self::BadName(_) | Self::Twin(_) => "bad_name",
        }
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// A file as it was when it was offered.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) name: Name,
    pub(super) mode: u32,
    pub(super) modified: Option<Timestamp>,
    pub(super) stamp: Stamp,
}

impl SourceFile {
    fn look_at(path: &Path) -> Result<Self, SourceError> {
        let unreadable = |error| SourceError::Unreadable {
            path: path.to_owned(),
            error,
        };
        let before = std::fs::metadata(path).map_err(unreadable)?;
        if before.is_dir() {
            return Err(SourceError::Directory(path.to_owned()));
        }
        if !before.is_file() {
            return Err(SourceError::NotAFile(path.to_owned()));
        }
        let name = Name::parse(path.file_name().unwrap_or_default().as_bytes())?;
        let metadata = open(path)
            .and_then(|file| file.metadata())
            .map_err(unreadable)?;
        Ok(Self {
            path: path.to_owned(),
            name,
            mode: metadata.mode() & 0o7777,
            modified: metadata
                .modified()
                .ok()
                .and_then(Timestamp::from_system_time),
            stamp: Stamp::of(&metadata),
        })
    }

    /// Opens the file; `None` when it is not the one that was offered.
    pub(super) fn open(&self) -> io::Result<Option<File>> {
        let file = open(&self.path)?;
        let unchanged = self.stamp == Stamp::of(&file.metadata()?);
        Ok(unchanged.then_some(file))
    }

    /// Whether `file` and what the path names now are still what was offered.
    pub(super) fn is_unchanged(&self, file: &File) -> bool {
        let same = |metadata: io::Result<Metadata>| {
            metadata.is_ok_and(|metadata| self.stamp == Stamp::of(&metadata))
        };
        same(file.metadata()) && same(std::fs::metadata(&self.path))
    }
}

/// Opens without waiting for a writer should the path have become a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
}

/// What changes when a file changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    modified: (i64, i64),
    inode: (u64, u64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: (metadata.dev(), metadata.ino()),
        }
    }
}
