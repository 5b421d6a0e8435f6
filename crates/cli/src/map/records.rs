//! A small file that several processes read and change at once: a JSON object a line, for its
//! owner only.
//!
//! It is locked while it is read or changed, and overwritten where it is, by one write. A new
//! file in its place would be no safer here and is slow: ext4 brings what is renamed over
//! another file to the disk at once, which takes longer than the mapping that is written down.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes that are read: more than the most records of either kind take.
const MAX_BYTES: u64 = 1 << 20;

/// When a change has to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before it is relied on.
    Now,
    /// When the system gets round to it: a power failure may undo it.
    Later,
}

/// The file. It need not be there.
#[derive(Debug, Clone)]
pub(super) struct Records {
    path: PathBuf,
}

impl Records {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// All records. A file that cannot be read counts as empty, and a line that cannot as
    /// missing: who is in doubt asks the gateway.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Vec<T> {
        let text = File::open(&self.path).and_then(|mut file| {
            file.lock_shared()?;
            contents(&mut file)
        });
        text.map_or_else(|_| Vec::new(), |text| parse(&text))
    }

    /// Changes them, while no other process does.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub(super) fn change<T: DeserializeOwned + Serialize>(
        &self,
        change: impl FnOnce(&mut Vec<T>) -> Durability,
    ) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?;
        file.lock()?;
        let before = contents(&mut file)?;
        let mut records = parse(&before);
        let durability = change(&mut records);
        let mut text = Vec::new();
        for record in &records {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        // Empty lines cover what is left of a longer text.
        text.resize(text.len().max(before.len()), b'\n');
        if text != before {
            file.rewind()?;
            file.write_all(&text)?;
            if durability == Durability::Now {
                file.sync_all()?;
            }
        }
        Ok(())
    }
}

fn contents(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Vec<T> {
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn add(records: &Records, number: u32) {
        let change = |all: &mut Vec<u32>| {
            all.push(number);
            Durability::Later
        };
        records.change(change).unwrap();
    }

    #[test]
    fn what_several_add_at_once_is_all_there() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().join("a/b.jsonl"));
        assert!(records.read::<u32>().is_empty(), "there is no file");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let records = &records;
                scope.spawn(move || (0..25).for_each(|n| add(records, thread * 25 + n)));
            }
        });
        let mut all: Vec<u32> = records.read();
        all.sort_unstable();
        assert_eq!(all, (0..200).collect::<Vec<_>>());
        let mode = fs::metadata(&records.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn fewer_records_leave_nothing_of_the_longer_text() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().join("b.jsonl"));
        [1000, 2000, 3000]
            .iter()
            .for_each(|number| add(&records, *number));
        let keep_one = |all: &mut Vec<u32>| {
            *all = vec![7];
            Durability::Now
        };
        records.change(keep_one).unwrap();
        assert_eq!(records.read::<u32>(), [7]);
        add(&records, 8);
        assert_eq!(records.read::<u32>(), [7, 8]);
    }

    #[test]
    fn a_line_that_is_torn_costs_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().join("b.jsonl"));
        fs::write(&records.path, "1\n{\"torn\n\u{0}\u{0}\n3\n").unwrap();
        assert_eq!(records.read::<u32>(), [1, 3]);
        add(&records, 4);
        assert_eq!(records.read::<u32>(), [1, 3, 4]);
    }
}
