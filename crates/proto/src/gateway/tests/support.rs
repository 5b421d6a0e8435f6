//! A gateway with a kernel, and a clock that the test moves.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::{
    ChangeError, Client, Config, Event, Gateway, Kind, LeaseId, Opening, Origin,
};
use crate::{Datagram, Verdict};

pub(super) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(45, 45, 45, 2);

/// The network behind the gateway.
pub(super) struct Bed {
    pub(super) now: Instant,
    pub(super) gateway: Gateway,
    /// What the kernel holds, and until when.
    pub(super) kernel: BTreeMap<LeaseId, (Opening, Instant)>,
    /// What the kernel says to the next changes.
    pub(super) refuses: bool,
    pub(super) ended_flows: Vec<Opening>,
    pub(super) stored: usize,
}

impl Bed {
    pub(super) fn new() -> Self {
        Self::with(Config {
            inside: vec![
                "192.168.1.0/24".parse().unwrap(),
                "fd00::/64".parse().unwrap(),
            ],
            own: vec!["192.168.1.1".parse().unwrap()],
            external: Some(EXTERNAL),
            ..Config::default()
        })
    }

    pub(super) fn with(config: Config) -> Self {
        let now = Instant::now();
        Self {
            now,
            gateway: Gateway::new(now, [7; 32], config),
            kernel: BTreeMap::new(),
            refuses: false,
            ended_flows: Vec::new(),
            stored: 0,
        }
    }

    /// Sends a datagram from a host and gives the answers that come to it.
    pub(super) fn send(&mut self, from: &str, payload: &[u8]) -> Vec<Vec<u8>> {
        let address: IpAddr = from.parse().unwrap();
        let client = Client { address, mac: None };
        let local: IpAddr = match address {
            IpAddr::V4(_) => "192.168.1.1".parse().unwrap(),
            IpAddr::V6(_) => "fd00::1".parse().unwrap(),
        };
        let datagram = Datagram {
            local: SocketAddr::new(local, 5351),
            remote: SocketAddr::new(address, 40_000),
            payload,
        };
        let verdict = self.gateway.handle_input(self.now, client, datagram);
        self.drain();
        let mut answers = Vec::new();
        while let Some(transmit) = self.gateway.poll_transmit() {
            assert_eq!((transmit.local, transmit.remote), (datagram.local, datagram.remote));
            answers.push(transmit.payload);
        }
        assert!(verdict == Verdict::Consumed || answers.is_empty());
        answers
    }

    /// Does what the gateway wants.
    pub(super) fn drain(&mut self) {
        while let Some(event) = self.gateway.poll_event() {
            match event {
                Event::Change { id, remove, add } => {
                    let result = self.change(remove, add);
                    self.gateway.handle_changed(self.now, id, result);
                }
                Event::EndFlows(opening) => self.ended_flows.push(opening),
                Event::KeepFlow(..) => {}
                Event::Store => self.stored += 1,
                Event::Reinstall => {
                    let now = self.now;
                    let all = self.gateway.openings(now);
                    self.kernel = all
                        .map(|(opening, life)| (opening.lease.id, (opening, now + life)))
                        .collect();
                }
            }
        }
    }

    fn change(
        &mut self,
        remove: Option<Opening>,
        add: Option<(Opening, Duration)>,
    ) -> Result<(), ChangeError> {
        if self.refuses {
            return Err(ChangeError::Full);
        }
        if let Some(remove) = remove {
            self.kernel.remove(&remove.lease.id);
        }
        if let Some((opening, life)) = add {
            self.kernel.insert(opening.lease.id, (opening, self.now + life));
        }
        Ok(())
    }

    /// Lets time pass; the kernel's elements end by themselves.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        self.kernel.retain(|_, (_, end)| *end > now);
        self.gateway.handle_timeout(now);
        self.drain();
    }

    /// What is open now: outside port, inside endpoint, protocol.
    pub(super) fn open(&self) -> Vec<(u16, SocketAddr, Origin)> {
        let open = self.kernel.values().map(|(opening, _)| {
            let lease = &opening.lease;
            let port = lease.kind.external_port().unwrap_or(lease.internal.port());
            (port, lease.internal, lease.origin)
        });
        open.collect()
    }

    /// The kernel and the table say the same.
    pub(super) fn check(&self) {
        let live: BTreeMap<_, _> = self
            .gateway
            .openings(self.now)
            .map(|(opening, _)| (opening.lease.id, opening))
            .collect();
        let held: BTreeMap<_, _> = self
            .kernel
            .iter()
            .map(|(id, (opening, _))| (*id, opening.clone()))
            .collect();
        assert_eq!(live, held);
        let mut outside = std::collections::BTreeSet::new();
        for opening in live.values() {
            if let Kind::Mapping { external_port } = opening.lease.kind
                && opening.lease.filters.is_empty()
            {
                assert!(outside.insert((opening.lease.transport, external_port)));
            }
        }
    }
}
