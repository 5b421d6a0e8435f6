//! The output directory, and files on their way into it.

use super::ReceiveError;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use postern_wire::transfer::{MAX_NAME, Name, PART_SUFFIX, escape};
use rustix::fs::{Access, AtFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Names tried for an unfinished file before giving up: with 64 random bits one is enough.
const TRIES: usize = 4;

/// A directory that exists and can be written, held by its handle: renaming it or
/// replacing it with a link later moves nothing elsewhere.
#[derive(Clone, Debug)]
pub struct OutputDir {
    dir: Arc<Dir>,
}

impl OutputDir {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// The directory is missing, is something else, or cannot be written.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OutputDirError> {
        let path = path.as_ref();
        let dir = Dir::open_ambient_dir(path, ambient_authority())
            .map_err(|error| OutputDirError::new(path, error))?;
        rustix::fs::accessat(
            &dir,
            ".",
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::empty(),
        )
        .map_err(|error| OutputDirError::NotWritable {
            path: path.to_owned(),
            error: error.into(),
        })?;
        Ok(Self { dir: dir.into() })
    }

    /// Bytes that an ordinary user may still write; `None` when the file system does not say.
    pub(super) fn free(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir).ok()?;
        (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether `name` can be taken; the directory may still change before it is.
    pub(super) fn check(&self, name: &Name, overwrite: bool) -> Result<(), ReceiveError> {
        match self.dir.symlink_metadata(path_of(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ReceiveError::Write(name.clone(), error)),
            Ok(_) if !overwrite => Err(ReceiveError::Exists(name.clone())),
            Ok(metadata) if metadata.is_file() => Ok(()),
            Ok(_) => Err(ReceiveError::NotReplaceable(name.clone())),
        }
    }

    /// Creates the unfinished file for `name`.
    ///
    /// Of the sender's `mode` only read and write permission count, the process's umask is
    /// applied, and the owner can always read and write.
    pub(super) fn create(&self, name: &Name, mode: u32) -> io::Result<Part> {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(mode & 0o666 | 0o600);
        for _ in 0..TRIES {
            let path = part_path(name)?;
            match self.dir.open_with(&path, &options) {
                Ok(file) => {
                    return Ok(Part {
                        dir: self.dir.clone(),
                        file: file.into_std(),
                        path,
                        placed: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Makes the names of finished files survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        // The handle itself may be one that only leads to files (O_PATH).
        Ok(rustix::fs::fsync(self.dir.open(".")?)?)
    }
}

/// Why a directory cannot be received into.
#[derive(Debug, thiserror::Error)]
pub enum OutputDirError {
    /// Nothing there.
    #[error("the output directory {} does not exist; create it first", shown(.0))]
    Missing(PathBuf),
    /// A file, for example.
    #[error("{} is not a directory", shown(.0))]
    NotADirectory(PathBuf),
    /// No permission, or a read-only file system.
    #[error("cannot write into the directory {}: {error}", shown(path))]
    NotWritable {
        /// The path as given.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// Anything else the system says.
    #[error("cannot open the directory {}: {error}", shown(path))]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

impl OutputDirError {
    /// The word for this error in the JSON output.
    pub fn kind(&self) -> &'static str {
        "output"
    }

    fn new(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        if error.kind() == io::ErrorKind::NotFound {
            Self::Missing(path)
        } else if error.kind() == io::ErrorKind::NotADirectory {
            Self::NotADirectory(path)
        } else {
            Self::Io { path, error }
        }
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

fn path_of(name: &Name) -> &Path {
    Path::new(OsStr::from_bytes(name.as_bytes()))
}

/// `.NAME.RANDOM.postern-part`, with as much of the name as fits.
fn part_path(name: &Name) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let ending = format!(".{:016x}{PART_SUFFIX}", u64::from_ne_bytes(random));
    let mut path = vec![b'.'];
    path.extend(beginning(name.as_bytes(), MAX_NAME - 1 - ending.len()));
    path.extend(ending.as_bytes());
    Ok(OsString::from_vec(path).into())
}

/// At most `length` bytes of a name, without cutting a character in two.
fn beginning(name: &[u8], length: usize) -> &[u8] {
    let end = match std::str::from_utf8(name) {
        Ok(text) => text.floor_char_boundary(length),
        Err(_) => length.min(name.len()),
    };
    &name[..end]
}

/// An unfinished file; dropped before it is placed, it is removed.
#[derive(Debug)]
pub(super) struct Part {
    dir: Arc<Dir>,
    file: std::fs::File,
    path: PathBuf,
    placed: bool,
}

impl Part {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.file, bytes)
    }

    /// Sets the time of the last modification, where the file system can.
    pub(super) fn set_modified(&self, time: SystemTime) {
        // A file without its old date is better than no file.
        let _ = self.file.set_modified(time);
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the file its final name, which nothing else has.
    pub(super) fn place_new(mut self, name: &Name) -> io::Result<()> {
        let target = path_of(name);
        match self.rename_new(target) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.link(target)?,
            result => result?,
        }
        self.placed = true;
        Ok(())
    }

    /// Gives the file its final name in the place of a regular file, in one step.
    pub(super) fn place_over(mut self, name: &Name) -> io::Result<()> {
        self.dir.rename(&self.path, &self.dir, path_of(name))?;
        self.placed = true;
        Ok(())
    }

    fn rename_new(&self, target: &Path) -> Result<(), Errno> {
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.dir, &self.path, &self.dir, target, flags)
    }

    /// For file systems whose rename cannot promise to replace nothing (NFS, some FUSE): a
    /// link is never made over an existing name.
    fn link(&self, target: &Path) -> io::Result<()> {
        self.dir.hard_link(&self.path, &self.dir, target)?;
        self.dir.remove_file(&self.path)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.placed {
            // Nobody is left who could be told; the name says what the file is.
            let _ = self.dir.remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_link_fallback_places_a_file_and_replaces_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let output = OutputDir::open(temp.path()).unwrap();
        let mut part = output.create(&name("a"), 0o644).unwrap();
        part.write(b"new").unwrap();
        part.link(Path::new("a")).unwrap();
        part.placed = true;
        assert_eq!(std::fs::read(temp.path().join("a")).unwrap(), b"new");
        let second = output.create(&name("a"), 0o644).unwrap();
        let error = second.link(Path::new("a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        drop(second);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_longest_name_still_leaves_room_for_the_part_suffix() {
        let temp = tempfile::tempdir().unwrap();
        let output = OutputDir::open(temp.path()).unwrap();
        for long in ["x".repeat(255), "ä".repeat(127), "大".repeat(85)] {
            let part = output.create(&name(&long), 0o644).unwrap();
            assert!(part.path.to_str().is_some_and(|path| path.len() <= 255));
        }
        assert!(
            output
                .create(&Name::parse(&[0xff; 255]).unwrap(), 0)
                .is_ok()
        );
    }

    #[test]
    fn a_directory_can_be_synchronised() {
        let temp = tempfile::tempdir().unwrap();
        OutputDir::open(temp.path()).unwrap().sync().unwrap();
    }

    #[test]
    fn a_dropped_part_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let output = OutputDir::open(temp.path()).unwrap();
        let part = output.create(&name("a"), 0o644).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        drop(part);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
