//! All deadlines, in one ordered structure.

use std::collections::BTreeSet;
use std::time::Instant;

use postern_wire::turn::ReservationToken;

use super::Server;
use super::types::{AllocationId, FiveTuple};

/// What may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// The allocation, or something of it: one entry for each allocation.
    Allocation(AllocationId),
    Reservation(ReservationToken),
    Connection(u32),
    /// What is remembered of a 5-tuple whose allocation has ended.
    Departed(FiveTuple),
}

#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(Instant, Deadline)>);

impl Deadlines {
    pub(super) fn add(&mut self, due: Instant, what: Deadline) {
        self.0.insert((due, what));
    }

    pub(super) fn remove(&mut self, due: Instant, what: Deadline) {
        self.0.remove(&(due, what));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(due, _)| *due)
    }

    fn pop(&mut self, now: Instant) -> Option<Deadline> {
        let (due, _) = self.0.first()?;
        if *due > now {
            return None;
        }
        self.0.pop_first().map(|(_, what)| what)
    }
}

impl Server {
    /// Ends what has run out. The work is that of what ends, however much there is.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(deadline) = self.deadlines.pop(now) {
            match deadline {
                Deadline::Allocation(id) => self.on_allocation_due(now, id),
                Deadline::Reservation(token) => self.on_reservation_due(token),
                Deadline::Connection(id) => self.on_connection_due(id),
                Deadline::Departed(client) => {
                    self.departed.remove(&client);
                }
            }
        }
    }

    fn on_allocation_due(&mut self, now: Instant, id: AllocationId) {
        let Some(allocation) = self.table.get(id) else {
            return;
        };
        if allocation.expires <= now {
            self.end_allocation(id);
            return;
        }
        self.purge(now, id);
        if let Some(allocation) = self.table.get_mut(id) {
            allocation.due = allocation.next_end();
            self.deadlines.add(allocation.due, Deadline::Allocation(id));
        }
    }

    /// Looks at an allocation earlier than at its entry, if something of it ends earlier.
    pub(super) fn bring_forward(&mut self, id: AllocationId, due: Instant) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        if due < allocation.due {
            self.deadlines
                .remove(allocation.due, Deadline::Allocation(id));
            allocation.due = due;
            self.deadlines.add(due, Deadline::Allocation(id));
        }
    }
}
