//! Ending the flows of what was taken back. The connection tracker can only be looked at as a whole,
//! which takes the longer the more flows there are: whoever takes back one port after the other
//! must not keep it busy.

use std::time::{Duration, Instant};

use postern_proto::gateway::Opening;

use super::Gateway;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What has been taken back since the last look: at most as much as there are leases.
#[derive(Debug, Default)]
pub(super) struct Ending {
    openings: Vec<Opening>,
    looked: Option<Instant>,
}

impl Ending {
    /// When [`Gateway::end_flows_if_due`] has something to do.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let next = self.looked.and_then(|looked| looked.checked_add(PAUSE));
        (!self.openings.is_empty()).then(|| next.unwrap_or(now).max(now))
    }

    pub(super) fn extend(&mut self, openings: impl IntoIterator<Item = Opening>) {
        self.openings.extend(openings);
    }
}

impl Gateway {
    /// At once, unless that was done a moment ago.
    pub(super) fn end_flows_if_due(&mut self, now: Instant) {
        if self.ending.due(now).is_some_and(|due| due <= now) {
            self.end_flows(now);
        }
    }

    pub(super) fn end_flows(&mut self, now: Instant) {
        let openings = std::mem::take(&mut self.ending.openings);
        if openings.is_empty() {
            return;
        }
        self.ending.looked = Some(now);
        if let Err(error) = self.kernel.end_flows(&openings) {
            tracing::debug!(%error, "the flows of mappings could not be ended");
        }
    }
}
