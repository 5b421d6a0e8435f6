//! Bringing the leases into a table of the kernel that has none, some at a time, so that whoever
//! asks meanwhile is answered, and by what is known of all of them.

use std::time::Instant;

use postern_proto::gateway::{LeaseId, Opening};

use super::super::kernel::KernelError;
use super::super::placement::Placement;
use super::Gateway;

/// Leases that are brought in at once: a few milliseconds of work for the kernel, for which a
/// request has to wait.
const AT_ONCE: usize = 128;

impl Gateway {
    /// Makes the table anew, and begins to bring the leases in: the first ones are there when this
    /// returns.
    pub(super) fn install(&mut self, now: Instant) -> Result<(), KernelError> {
        self.kernel.install(&self.rules)?;
        self.restoring = self.machine.leases().map(|lease| lease.id).collect();
        self.restore_some(now)
    }

    /// Brings the next ones in, if there are any.
    pub(super) fn restore_next(&mut self, now: Instant) {
        if let Err(error) = self.restore_some(now) {
            tracing::warn!(%error, "some mappings could not be made");
        }
    }

    fn restore_some(&mut self, now: Instant) -> Result<(), KernelError> {
        if self.restoring.is_empty() {
            return Ok(());
        }
        let next: Vec<LeaseId> = self.restoring.iter().take(AT_ONCE).copied().collect();
        for id in &next {
            self.restoring.remove(id);
        }
        let openings = next.iter();
        let openings = openings.filter_map(|id| self.machine.opening_of(now, *id));
        let placed = openings.map(|(opening, life)| (Placement::of(&opening), life));
        self.kernel.restore(placed)
    }

    /// What of an opening the kernel has: nothing while its lease waits to be brought in.
    pub(super) fn there<'a>(&self, opening: Option<&'a Opening>) -> Option<&'a Opening> {
        opening.filter(|opening| !self.restoring.contains(&opening.lease.id))
    }

    /// The kernel has made a change of this: there is nothing to bring in any more.
    pub(super) fn note_change(&mut self, opening: Option<&Opening>) {
        if let Some(opening) = opening {
            self.restoring.remove(&opening.lease.id);
        }
    }
}
