//! Frames by hand, well formed or not, and a directory to aim them at.

use super::*;
use postern_wire::transfer::{self as wire, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A directory inside another one, to see what lands outside.
pub(super) struct Target {
    pub(super) outer: TempDir,
}

impl Target {
    pub(super) fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("inner")).unwrap();
        Self { outer }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.outer.path().join("inner")
    }

    pub(super) fn output(&self) -> OutputDir {
        OutputDir::open(self.path()).unwrap()
    }

    pub(super) fn assert_untouched(&self) {
        assert_eq!(names_in(self.outer.path()), ["inner"]);
        assert_eq!(names_in(&self.path()), [""; 0]);
    }

    /// Receives `bytes` and the end of the stream; the reply is what the peer is told.
    pub(super) async fn attack(
        &self,
        policy: ReceivePolicy,
        bytes: &[u8],
    ) -> (Result<Summary, ReceiveError>, Vec<u8>) {
        let (mut left, mut right) = connection();
        let speak = async {
            // A receiver that has heard enough may stop listening.
            let _ = left.out.0.write_all(bytes).await;
            let _ = left.out.0.shutdown().await;
        };
        let listen = async {
            let mut replies = vec![];
            left.stream.read_to_end(&mut replies).await.unwrap();
            replies
        };
        let run = receive(
            self.output(),
            policy,
            async |_| true,
            &mut right.out,
            right.stream,
            |_| {},
        );
        let (result, (), replies) = tokio::join!(run, speak, listen);
        (result, replies)
    }

    /// The kind of error that `bytes` end with; nothing is written, nothing dangerous said.
    pub(super) async fn refuses(&self, bytes: &[u8]) -> &'static str {
        let (result, replies) = self.attack(ReceivePolicy::default(), bytes).await;
        let error = result.unwrap_err();
        let sentence = error.to_string();
        assert!(!sentence.contains(char::is_control), "{sentence:?}");
        assert!(sentence.len() < 600, "{sentence}");
        if error.kind() != "disconnected" {
            assert!(
                told(&replies).contains(&error.kind()),
                "{:?}",
                told(&replies)
            );
        }
        self.assert_untouched();
        error.kind()
    }
}

/// The kinds of failure among the frames of a reply.
pub(super) fn told(mut replies: &[u8]) -> Vec<&'static str> {
    let mut kinds = vec![];
    while let Ok(wire::Decoded::Frame(frame, used)) = wire::decode(replies) {
        if let Frame::Refuse(failure) | Frame::Failed(failure) = frame {
            kinds.push(failure.kind.as_str());
        }
        replies = &replies[used..];
    }
    kinds
}

/// A frame with any body, well formed or not.
pub(super) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

pub(super) fn text(name: &[u8]) -> Vec<u8> {
    [&(name.len() as u16).to_be_bytes()[..], name].concat()
}

pub(super) fn offer(files: &[(&[u8], u64)]) -> Vec<u8> {
    let sum = files
        .iter()
        .fold(0u64, |sum, file| sum.wrapping_add(file.1));
    offer_of(files.len() as u64, Some(sum), files)
}

pub(super) fn offer_of(count: u64, bytes: Option<u64>, files: &[(&[u8], u64)]) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend(count.to_be_bytes());
    body.push(bytes.is_some().into());
    body.extend(bytes.unwrap_or(0).to_be_bytes());
    body.extend((files.len() as u16).to_be_bytes());
    for (name, size) in files {
        body.extend(size.to_be_bytes());
        body.extend(text(name));
    }
    frame(1, &body)
}

pub(super) fn file(index: u64, name: &[u8], size: u64) -> Vec<u8> {
    let mut body = vec![];
    body.extend(index.to_be_bytes());
    body.extend(size.to_be_bytes());
    body.extend([0; 4 + 1 + 8 + 4]);
    body.extend(text(name));
    frame(2, &body)
}

pub(super) fn data(bytes: &[u8]) -> Vec<u8> {
    frame(3, bytes)
}

pub(super) fn end(bytes: &[u8]) -> Vec<u8> {
    frame(4, blake3::hash(bytes).as_bytes())
}

pub(super) fn finish(files: u64, bytes: u64) -> Vec<u8> {
    frame(5, &[files.to_be_bytes(), bytes.to_be_bytes()].concat())
}

/// A whole honest transfer of one file called `a`.
pub(super) fn honest(bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len() as u64;
    [
        offer(&[(b"a", size)]),
        file(0, b"a", size),
        data(bytes),
        end(bytes),
        finish(1, size),
    ]
    .concat()
}

pub(super) const OVERWRITE: ReceivePolicy = ReceivePolicy {
    overwrite: true,
    hidden: true,
    sync: false,
};
