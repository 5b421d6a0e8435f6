//! The gateway that maps ports for hosts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::upnp::http::{Bounds, Collector};

use crate::Datagram;
use crate::gateway::{
    ChangeError, Client, Config, Event, ExchangeId, Gateway, LeaseId, Opening, Place, Quotas,
};

const ROUTER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));
const ROUTER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(45, 45, 45, 2);

/// What a fuzzer fills quickly.
const MAX_LEASES: u32 = 8;
/// Steps after which a run ends.
const MAX_STEPS: usize = 200;

/// Pieces of the input are datagrams, requests over HTTP, time, and what the kernel and the
/// line do. Each begins with what it is and from which host, and with its length in 16 bytes'
/// multiples. The kernel always holds what the table says.
pub fn machine_gateway(data: &[u8]) {
    let mut run = Run::new();
    let mut rest = data;
    for _ in 0..MAX_STEPS {
        let Some(([what, length], tail)) = rest.split_first_chunk() else {
            break;
        };
        let length = usize::from(*length).saturating_mul(16).min(tail.len());
        let (piece, tail) = tail.split_at(length);
        rest = tail;
        run.step(what & 7, what >> 3, piece);
        run.drain();
        run.check();
    }
}

struct Run {
    gateway: Gateway,
    now: Instant,
    /// What the kernel holds, and until when.
    kernel: BTreeMap<LeaseId, (Opening, Instant)>,
    refuses: bool,
    exchanges: u64,
    answered: u64,
}

impl Run {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
    fn new() -> Self {
        let now = Instant::now();
        let mut gateway = Gateway::new(now, [1; 32], config());
        gateway.announce_device(now, vec![place()]);
        gateway.set_announced(vec![(
            SocketAddr::new(ROUTER_V4, 5351),
            SocketAddr::from(([224, 0, 0, 1], 5350)),
        )]);
        Self {
            gateway,
            now,
            kernel: BTreeMap::new(),
            refuses: false,
            exchanges: 0,
            answered: 0,
        }
    }

    fn step(&mut self, what: u8, who: u8, piece: &[u8]) {
        let host = 10_u8.saturating_add(who & 3);
        let v4 = IpAddr::from([192, 168, 1, host]);
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host.into()]);
        match what {
            0 => self.ask(v4, ROUTER_V4, piece),
            1 => self.ask(v6, ROUTER_V6, piece),
            2 => self.search(v4, piece),
            3 => self.request(v4, ROUTER_V4, piece),
            4 => self.request(v6, ROUTER_V6, piece),
            5 => self.pass(Duration::from_secs(u64::from(who).saturating_mul(60))),
            6 => self.refuses = !self.refuses,
            _ => {
                let external = (who > 0).then_some(EXTERNAL);
                self.gateway.set_external(self.now, external);
            }
        }
    }

    fn ask(&mut self, host: IpAddr, local: IpAddr, payload: &[u8]) {
        let client = Client {
            address: host,
            mac: None,
        };
        let datagram = Datagram {
            local: SocketAddr::new(local, 5351),
            remote: SocketAddr::new(host, 40_000),
            payload,
        };
        self.gateway.handle_input(self.now, client, datagram);
    }

    fn search(&mut self, host: IpAddr, payload: &[u8]) {
        let datagram = Datagram {
            local: place().group,
            remote: SocketAddr::new(host, 40_000),
            payload,
        };
        self.gateway.handle_search(self.now, place(), datagram);
    }

    fn request(&mut self, host: IpAddr, local: IpAddr, bytes: &[u8]) {
        let mut collector = Collector::request(Bounds::default());
        let Ok(request) = collector
            .push(bytes)
            .and_then(|()| collector.into_request())
        else {
            return;
        };
        self.exchanges = self.exchanges.saturating_add(1);
        let client = Client {
            address: host,
            mac: None,
        };
        let (id, local) = (ExchangeId(self.exchanges), SocketAddr::new(local, 5000));
        self.gateway
            .handle_request(self.now, id, client, local, &request);
    }

    /// What has ended is gone from the kernel before the gateway looks.
    fn pass(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).unwrap_or(self.now);
        let now = self.now;
        self.kernel.retain(|_, (_, end)| *end > now);
        self.gateway.handle_timeout(now);
    }

    fn drain(&mut self) {
        while let Some(event) = self.gateway.poll_event() {
            self.carry_out(event);
        }
        while self.gateway.poll_transmit().is_some() {}
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Change { id, remove, add } => {
                let result = if self.refuses {
                    Err(ChangeError::Full)
                } else {
                    remove.inspect(|opening| drop(self.kernel.remove(&opening.lease.id)));
                    add.inspect(|(opening, life)| self.hold(opening.clone(), *life));
                    Ok(())
                };
                self.gateway.handle_changed(self.now, id, result);
            }
            Event::Reinstall => {
                let openings: Vec<_> = self.gateway.openings(self.now).collect();
                self.kernel.clear();
                for (opening, life) in openings {
                    self.hold(opening, life);
                }
            }
            Event::Respond { .. } => self.answered = self.answered.saturating_add(1),
            Event::Deliver { subscription, .. } => {
                self.gateway.handle_delivered(subscription, !self.refuses);
            }
            Event::Count(opening) => self.gateway.handle_counted(opening.lease.id, 1),
            Event::EndFlows(_) | Event::KeepFlow(..) | Event::Store => {}
        }
    }

    fn hold(&mut self, opening: Opening, life: Duration) {
        let end = self.now.checked_add(life).unwrap_or(self.now);
        self.kernel.insert(opening.lease.id, (opening, end));
    }

    fn check(&self) {
        assert_eq!(self.answered, self.exchanges, "every request is answered");
        let leases = self.gateway.leases().count();
        assert!(leases <= usize::try_from(MAX_LEASES).unwrap_or_default());
        let live: BTreeMap<_, _> = self
            .gateway
            .openings(self.now)
            .map(|(opening, _)| (opening.lease.id, opening))
            .collect();
        let held = self.kernel.iter();
        let held: BTreeMap<_, _> = held.map(|(id, (held, _))| (*id, held.clone())).collect();
        assert_eq!(live, held, "the table and the kernel");
        for opening in live.values() {
            let host = opening.lease.internal.ip();
            assert_eq!(host, opening.lease.owner, "a host maps for itself");
        }
    }
}

fn place() -> Place {
    Place {
        http: SocketAddr::new(ROUTER_V4, 5000),
        group: SocketAddr::from(([239, 255, 255, 250], 1900)),
    }
}

fn config() -> Config {
    Config {
        inside: [(ROUTER_V4, 24), (ROUTER_V6, 64)]
            .into_iter()
            .filter_map(|(network, length)| crate::turn::server::Cidr::new(network, length))
            .collect(),
        own: vec![ROUTER_V4, ROUTER_V6],
        external: Some(EXTERNAL),
        quotas: Quotas {
            total: MAX_LEASES,
            ..Quotas::default()
        },
        ..Config::default()
    }
}
