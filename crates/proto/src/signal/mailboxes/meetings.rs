//! Those who have met before, and lost each other.

use std::collections::BTreeMap;
use std::time::Instant;

use postern_wire::signal::{CloseReason, MAX_MAILBOX};

use super::{ClientId, FULL, Mailboxes, Reject, TOO_MANY, TOO_OFTEN};
use crate::signal::limits::Source;

/// The meetings that wait or go on: each has a mailbox, of a number that nobody can join by.
#[derive(Debug, Default)]
pub(super) struct Meetings {
    by_token: BTreeMap<Vec<u8>, Meeting>,
    by_number: BTreeMap<u32, Vec<u8>>,
    last: u32,
}

/// Who came first.
#[derive(Debug, Clone, Copy)]
struct Meeting {
    number: u32,
    creator: bool,
}

impl Meetings {
    /// A number beyond those of codes, which is free.
    fn begin(&mut self, token: Vec<u8>, creator: bool) -> u32 {
        let first = MAX_MAILBOX.saturating_add(1);
        loop {
            self.last = self.last.checked_add(1).unwrap_or(first).max(first);
            if !self.by_number.contains_key(&self.last) {
                break;
            }
        }
        let number = self.last;
        self.by_number.insert(number, token.clone());
        self.by_token.insert(token, Meeting { number, creator });
        number
    }

    /// A mailbox is no more; whether it was that of a meeting.
    pub(super) fn end(&mut self, number: u32) -> bool {
        let Some(token) = self.by_number.remove(&number) else {
            return false;
        };
        self.by_token.remove(&token);
        true
    }
}

impl Mailboxes {
    /// Brings two of the same token together. Whoever comes a second time has lost the
    /// connection of the first time: the old meeting ends, and a new one waits for the other.
    pub(super) fn on_meet(
        &mut self,
        now: Instant,
        id: ClientId,
        source: Source,
        (token, creator): (Vec<u8>, bool),
    ) -> Result<(), Reject> {
        self.require_free(id)?;
        let usage = self.sources.of(source).ok_or(FULL)?;
        if !usage.joins.take(now, self.config.joins) {
            return Err(TOO_OFTEN);
        }
        if let Some(meeting) = self.meetings.by_token.get(&token).copied() {
            let mailbox = self.mailboxes.get(&meeting.number);
            let waits = mailbox.is_some_and(|mailbox| mailbox.joiner.is_none());
            if waits && meeting.creator != creator {
                self.bring_together(now, id, meeting.number);
                return Ok(());
            }
            self.end_mailbox(now, meeting.number, CloseReason::PeerLeft);
        }
        self.await_other(now, id, source, (token, creator))
    }

    fn await_other(
        &mut self,
        now: Instant,
        id: ClientId,
        source: Source,
        (token, creator): (Vec<u8>, bool),
    ) -> Result<(), Reject> {
        if self.mailboxes.len() >= self.config.max_mailboxes {
            return Err(FULL);
        }
        let usage = self.sources.of(source).ok_or(FULL)?;
        if usage.mailboxes >= self.config.max_mailboxes_per_source {
            return Err(TOO_MANY);
        }
        usage.mailboxes = usage.mailboxes.saturating_add(1);
        let number = self.meetings.begin(token, creator);
        self.add_mailbox(now, number, id, source);
        Ok(())
    }
}
