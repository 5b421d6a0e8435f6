//! A gateway with a kernel, and a clock that the test moves.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::{
    ChangeError, Client, Config, Event, ExchangeId, Gateway, Kind, LeaseId, Opening, Origin,
};
use crate::{Datagram, Verdict};
use postern_wire::transport::Transport;
use postern_wire::upnp::http::{Headers, Request, Response};
use postern_wire::upnp::igd::{Entry, Key};
use postern_wire::upnp::soap::{Arguments, Call, Reply};

pub(super) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(45, 45, 45, 2);

/// The network behind the gateway.
pub(super) struct Bed {
    pub(super) now: Instant,
    pub(super) gateway: Gateway,
    /// What the kernel holds, and until when.
    pub(super) kernel: BTreeMap<LeaseId, (Opening, Instant)>,
    /// What the kernel says to the next changes.
    pub(super) refuses: bool,
    /// What the next router says to the next changes that add something.
    pub(super) upstream: VecDeque<ChangeError>,
    pub(super) ended_flows: Vec<Opening>,
    pub(super) stored: usize,
    pub(super) responses: BTreeMap<ExchangeId, Response>,
    pub(super) delivered: Vec<(SocketAddr, Request)>,
    /// Whether subscribers are away.
    pub(super) fails: bool,
    /// What the kernel has counted of every pinhole.
    pub(super) packets: u64,
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
            upstream: VecDeque::new(),
            ended_flows: Vec::new(),
            stored: 0,
            responses: BTreeMap::new(),
            delivered: Vec::new(),
            fails: false,
            packets: 0,
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
            assert_eq!(
                (transmit.local, transmit.remote),
                (datagram.local, datagram.remote)
            );
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
                Event::Respond { exchange, response } => {
                    self.responses.insert(exchange, response);
                }
                Event::Deliver {
                    subscription,
                    to,
                    request,
                } => {
                    self.delivered.push((to, request));
                    self.gateway.handle_delivered(subscription, !self.fails);
                }
                Event::Count(opening) => {
                    let packets = self.packets;
                    self.gateway.handle_counted(opening.lease.id, packets);
                }
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
        if let Some(error) = add.as_ref().and_then(|_| self.upstream.pop_front()) {
            return Err(error);
        }
        if let Some(remove) = remove {
            self.kernel.remove(&remove.lease.id);
        }
        if let Some((opening, life)) = add {
            self.kernel
                .insert(opening.lease.id, (opening, self.now + life));
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
            let port = lease.kind.external_port();
            let port = port.unwrap_or_else(|| lease.internal.port());
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
        for (id, opening) in &live {
            assert_eq!(held.get(id), Some(opening), "in the table");
        }
        for (id, opening) in &held {
            assert_eq!(live.get(id), Some(opening), "in the kernel");
        }
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

/// HTTP and SOAP.
impl Bed {
    /// Where the gateway takes HTTP.
    pub(super) const HTTP: &str = "192.168.1.1:5000";

    /// Sends a request as it is.
    pub(super) fn http(&mut self, from: &str, request: &Request) -> Response {
        let address: IpAddr = from.parse().unwrap();
        let local = match address {
            IpAddr::V4(_) => Self::HTTP,
            IpAddr::V6(_) => "[fd00::1]:5000",
        };
        let client = Client { address, mac: None };
        let exchange = ExchangeId(9);
        let local = local.parse().unwrap();
        let now = self.now;
        self.gateway
            .handle_request(now, exchange, client, local, request);
        self.drain();
        self.responses.remove(&exchange).unwrap()
    }

    pub(super) fn get(&mut self, path: &str, agent: &str) -> Response {
        let headers = Headers::default()
            .with("Host", Self::HTTP)
            .with("User-Agent", agent);
        self.http("192.168.1.10", &request("GET", path, headers, ""))
    }

    /// Calls an action of WANIPConnection.
    pub(super) fn call(
        &mut self,
        from: &str,
        version: u8,
        action: &str,
        arguments: Arguments,
    ) -> Result<Arguments, i32> {
        let service = format!("urn:schemas-upnp-org:service:WANIPConnection:{version}");
        self.call_at(from, "/control/WANIPConn1", &service, action, arguments)
    }

    pub(super) fn call_at(
        &mut self,
        from: &str,
        path: &str,
        service: &str,
        action: &str,
        arguments: Arguments,
    ) -> Result<Arguments, i32> {
        let call = Call {
            service: service.to_owned(),
            action: action.to_owned(),
            arguments,
        };
        let response = self.http(from, &post(from, path, &call));
        assert!(matches!(response.status, 200 | 500), "{response:?}");
        match Reply::parse(&response.body).unwrap() {
            Reply::Done(arguments) => {
                assert_eq!(response.status, 200);
                Ok(arguments)
            }
            Reply::Fault(fault) => {
                assert_eq!(response.status, 500);
                Err(fault.code.0)
            }
        }
    }
}

pub(super) fn request(method: &str, target: &str, headers: Headers, body: &str) -> Request {
    Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: body.as_bytes().to_vec(),
    }
}

pub(super) fn post(from: &str, path: &str, call: &Call) -> Request {
    let host = if from.contains(':') {
        "[fd00::1]:5000"
    } else {
        Bed::HTTP
    };
    let headers = Headers::default()
        .with("Host", host)
        .with("Content-Type", "text/xml; charset=\"utf-8\"")
        .with("SOAPAction", &call.header());
    request("POST", path, headers, &call.to_xml())
}

/// The arguments of a mapping of port 4001 to port 4000 of 192.168.1.10.
pub(super) fn entry() -> Entry {
    Entry {
        key: Key {
            remote_host: String::new(),
            external_port: 4001,
            transport: Transport::Tcp,
        },
        internal_port: 4000,
        internal_client: "192.168.1.10".to_owned(),
        enabled: true,
        description: "a game".to_owned(),
        lease: 3600,
    }
}

/// The arguments with another value in one place.
pub(super) fn with(arguments: &Arguments, name: &str, value: &str) -> Arguments {
    let mut changed = Arguments::default();
    for (known, old) in arguments.iter() {
        changed = changed.with(known, if known == name { value } else { old });
    }
    changed
}
