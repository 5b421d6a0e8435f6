//! Transfers over streams in memory.

mod faults;
mod honest;
mod hostile;
mod places;
mod quic;
mod raw;

use super::*;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

type Reading = ReadHalf<DuplexStream>;
type Writing = Copied<WriteHalf<DuplexStream>>;

/// One end of a connection.
struct End {
    out: Writing,
    stream: Reading,
}

fn connection() -> (End, End) {
    let end = |stream| {
        let (stream, out) = split(stream);
        End {
            out: Copied(out),
            stream,
        }
    };
    let (left, right) = duplex(64 * 1024);
    (end(left), end(right))
}

/// Two directories: what is sent and where it arrives.
struct Dirs {
    from: TempDir,
    to: TempDir,
}

impl Dirs {
    fn new() -> Self {
        Self {
            from: tempfile::tempdir().unwrap(),
            to: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.from.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn received(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.to.path().join(name)).unwrap()
    }

    fn output(&self) -> OutputDir {
        OutputDir::open(self.to.path()).unwrap()
    }

    /// The names in the target directory, sorted.
    fn names(&self) -> Vec<String> {
        names_in(self.to.path())
    }
}

fn names_in(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Bytes without a pattern, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

type Outcomes = (Result<Summary, SendError>, Result<Summary, ReceiveError>);

async fn transfer(source: Source, output: OutputDir, policy: ReceivePolicy) -> Outcomes {
    transfer_if(source, output, policy, true).await
}

async fn transfer_if(
    source: Source,
    output: OutputDir,
    policy: ReceivePolicy,
    yes: bool,
) -> Outcomes {
    let (mut left, mut right) = connection();
    tokio::join!(
        send(source, &mut left.out, left.stream, |_| {}),
        receive(
            output,
            policy,
            async |_| yes,
            &mut right.out,
            right.stream,
            |_| {}
        ),
    )
}
