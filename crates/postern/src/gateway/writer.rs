//! Writing leases down without holding up those who ask: on a thread of its own, because a
//! disk may take a second to say that it has them.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::store::{Saved, Store};
use crate::clock;

/// Leases are written down so long after a change: a thousand changes are one write.
const DELAY: Duration = Duration::from_millis(500);

/// The same after a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The file of leases, and the write that is under way.
#[derive(Debug)]
pub(super) struct Writer {
    store: Arc<Store>,
    due: Option<Instant>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    /// Writes for the first time at once.
    pub(super) fn new(store: Store) -> Self {
        Self {
            store: Arc::new(store),
            due: Some(clock::now()),
            writing: None,
        }
    }

    /// Something has changed: it is to be written down soon.
    pub(super) fn want(&mut self, now: Instant) {
        self.due = self.due.or_else(|| now.checked_add(DELAY));
    }

    /// When [`Writer::begin`] is to be called: never while a write is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.writing.is_none())
    }

    /// Begins to write.
    pub(super) fn begin(&mut self, saved: Saved) {
        self.due = None;
        let store = self.store.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || store.save(&saved)));
    }

    /// Waits for the end of the write that is under way, for ever if there is none.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else {
            return pending().await;
        };
        let result = writing
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        self.writing = None;
        if let Err(error) = result {
            self.warn(&error);
            self.due = clock::now().checked_add(RETRY);
        }
    }

    /// Writes for the last time, and waits until it is done.
    pub(super) async fn finish(mut self, saved: Saved) {
        if self.writing.is_some() {
            self.written().await;
        }
        if let Err(error) = self.store.save(&saved) {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &io::Error) {
        let path = self.store.path().display();
        tracing::warn!(%error, %path, "the leases could not be written");
    }
}

/// As [`Writer::written`], for a gateway that perhaps writes nothing.
pub(super) async fn written(writer: Option<&mut Writer>) {
    match writer {
        Some(writer) => writer.written().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Saved {
        Saved::default()
    }

    #[tokio::test]
    async fn changes_during_a_write_are_written_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(Store::open(directory.path()).unwrap());
        assert!(writer.due().is_some(), "at once");
        writer.begin(nothing());
        writer.want(clock::now());
        assert_eq!(writer.due(), None, "one write at a time");
        writer.written().await;
        assert!(writer.due().is_some(), "the change is still to be written");
        writer.finish(nothing()).await;
        assert!(directory.path().join("leases.json").exists());
    }

    #[tokio::test]
    async fn a_write_that_failed_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(Store::open(directory.path()).unwrap());
        directory.close().unwrap();
        writer.begin(nothing());
        writer.written().await;
        assert!(writer.due().is_some());
    }
}
