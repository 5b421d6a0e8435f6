//! What a gateway tells of itself, and does when it is told to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postern_proto::gateway::{Event, LeaseId};

use super::super::control::{LeaseInfo, Status, is_behind_nat, protocol_of};
use super::super::line;
use super::super::metrics::Numbers;
use super::{Command, Gateway, refusal};
use crate::clock;

/// What UPnP tells of the line is at most so old.
const LINE_AGE: Duration = Duration::from_secs(1);

impl Gateway {
    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let external_address = self.links.external;
        let upstream = self.upstream.as_ref();
        let upstream_address = upstream.and_then(|upstream| upstream.address);
        Status {
            external_address,
            upstream_address,
            double_nat: self.is_behind_nat(),
            leases: self.machine.leases().count(),
            epoch: self.machine.epoch(clock::now()).as_secs(),
            obstacles: [&self.others, &self.legacy.seen]
                .map(|seen| &seen.obstacles[..])
                .concat(),
            integrated: [&self.others, &self.legacy.seen]
                .map(|seen| &seen.integrated[..])
                .concat(),
        }
    }

    pub(super) fn obey(&mut self, now: Instant, command: Command) {
        // Whoever asked may have gone meanwhile.
        match command {
            Command::Status(answer) => {
                let _ = answer.send(self.status());
            }
            Command::Numbers(answer) => {
                let _ = answer.send(self.numbers(now));
            }
            Command::List(answer) => {
                let _ = answer.send(self.list(now));
            }
            Command::Revoke(id, answer) => {
                let found = self.machine.leases().find(|lease| lease.id.number() == id);
                let found = found.map(|lease| lease.id);
                let found = found.is_some_and(|id| self.machine.revoke(id));
                let _ = answer.send(found);
            }
            Command::Flush(answer) => {
                let _ = answer.send(self.flush(now));
            }
            Command::Reload(config, answer) => {
                let reloaded = self.reload(now, *config);
                let _ = answer.send(reloaded.map_err(|error| error.to_string()));
            }
        }
    }

    /// Takes all leases back, with one change of the kernel's table and one look at its flows; how
    /// many there were.
    fn flush(&mut self, now: Instant) -> usize {
        self.drain(now);
        let all: Vec<LeaseId> = self.machine.leases().map(|lease| lease.id).collect();
        for id in &all {
            self.machine.revoke(*id);
        }
        let mut changes = Vec::new();
        while let Some(event) = self.machine.poll_event() {
            if let Event::Change { id, add: None, .. } = event {
                changes.push(id);
            } else if let Event::EndFlows(opening) = event {
                self.ending.extend([opening]);
            } else {
                self.carry_out(now, event);
            }
        }
        let emptied = self.kernel.install(&self.rules);
        let emptied = emptied.map_err(|error| refusal(&error));
        if emptied.is_ok() {
            self.restoring.clear();
        }
        for id in changes {
            self.machine.handle_changed(now, id, emptied);
        }
        self.end_flows(now);
        all.len()
    }

    fn list(&mut self, now: Instant) -> Vec<LeaseInfo> {
        let flows = self.kernel.flows_by_lease().unwrap_or_default();
        let crossed = self.kernel.traffic().unwrap_or_default();
        let leases = self.machine.leases();
        leases
            .map(|lease| {
                let endpoint = (lease.transport, lease.internal);
                let crossed = crossed.get(&endpoint).copied().unwrap_or_default();
                let flows = flows.get(&lease.id.number()).copied();
                LeaseInfo::new(now, lease, flows, crossed)
            })
            .collect()
    }

    fn numbers(&self, now: Instant) -> Numbers {
        let mut leases = BTreeMap::<_, usize>::new();
        for lease in self.machine.leases() {
            let kind = (protocol_of(lease), lease.transport.as_str());
            *leases.entry(kind).or_default() += 1;
        }
        let leases = leases.into_iter();
        Numbers {
            leases: leases.map(|((a, b), count)| (a, b, count)).collect(),
            epoch: self.machine.epoch(now).as_secs(),
            double_nat: self.is_behind_nat(),
            obstacles: self.others.obstacles.len() + self.legacy.seen.obstacles.len(),
            served: self.served,
            refused: self.machine.refused(),
            line: line::traffic(&self.config.wan).unwrap_or_default(),
        }
    }

    /// Whether the internet does not lead to the outermost address that we know.
    fn is_behind_nat(&self) -> bool {
        let upstream = self.upstream.as_ref();
        let upstream = upstream.and_then(|upstream| upstream.address);
        upstream.or(self.links.external).is_some_and(is_behind_nat)
    }

    /// How much the line has carried is what UPnP tells who asks.
    pub(super) fn look_at_line(&mut self, now: Instant) {
        let age = |read| now.saturating_duration_since(read);
        if self.line_read.is_none_or(|read| age(read) >= LINE_AGE) {
            self.line_read = Some(now);
            line::traffic(&self.config.wan).inspect(|line| self.machine.set_traffic(*line));
        }
    }
}
