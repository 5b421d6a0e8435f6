//! What Prometheus asks for, on a port of its own.
//!
//! Nothing is shared between threads for it: every machine counts for itself, and is asked
//! when somebody wants to know.

use std::fmt;

use postern_proto::probe;
use postern_proto::turn::server::{RelayTransport, Stats, Traffic, Transport};
use postern_wire::stun::Method;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::net::TcpListener;

use super::control::Control;
use super::mailboxes::Census;
use super::probe::Prober;
pub(super) use crate::metrics::is_private;
use crate::metrics::{self, Out, labelled, wide};

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, control: Control) {
    let look = move || {
        let control = control.clone();
        async move { Some(Box::new(look(&control).await) as Box<dyn Collector>) }
    };
    metrics::serve(listener, look).await;
}

async fn look(control: &Control) -> Snapshot {
    Snapshot {
        relay: control.relay.stats().await,
        signalling: control.mailboxes.census().await,
        probes: control.prober.as_ref().map(Prober::stats),
        connected: [
            ("web", wide(control.places.web.count())),
            ("turn", wide(control.places.turn.count())),
            ("dtls", wide(control.places.dtls.count())),
        ],
    }
}

/// What there was at one moment.
#[derive(Debug)]
struct Snapshot {
    relay: Stats,
    signalling: Census,
    /// `None` where nobody may ask for any.
    probes: Option<probe::Stats>,
    /// Connections by where they are.
    connected: [(&'static str, u64); 3],
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(&mut encoder);
        let help = "Connections of clients over TCP and TLS, and sessions over DTLS.";
        out.gauges("connections", help, labelled("at", self.connected))?;
        self.relay(&mut out)?;
        self.signalling(&mut out)?;
        self.probes(&mut out)
    }
}

impl Snapshot {
    fn relay(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let relay = &self.relay;
        let allocations = relay
            .allocations
            .iter()
            .map(|((client, transport), count)| {
                let labels = [
                    ("client", of_client(*client)),
                    ("relay", of_relay(*transport)),
                ];
                (labels, u64::from(*count))
            });
        out.gauges("turn_allocations", "Allocations.", allocations)?;
        let connections = u64::from(relay.connections);
        let help = "Binding requests of STUN.";
        out.counter("stun_bindings", help, relay.bindings)?;
        let help = "Connections with peers of TCP relays.";
        out.gauge("turn_connections", help, connections)?;
        let answers = relay.answers.iter().map(|((method, code), count)| {
            let labels = [("method", of_method(*method)), ("result", result(*code))];
            (labels, *count)
        });
        out.counters(
            "turn_answers",
            "Answers to requests, by error code.",
            answers,
        )?;
        self.data(out)?;
        let help = "Peers turned away from TCP relays.";
        out.counter("turn_refused_peers", help, relay.attempts_refused)
    }

    fn data(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let relay = &self.relay;
        let data = [("peer", relay.to_peers), ("client", relay.to_clients)];
        let help = "Datagrams passed on.";
        out.counters("turn_data_packets", help, labelled("to", packets(data)))?;
        let help = "Bytes of data in them.";
        out.counters("turn_data_bytes", help, labelled("to", bytes(data)))?;
        let dropped = [
            ("permission", relay.without_permission),
            ("rate", relay.beyond_rate),
        ];
        let help = "Datagrams dropped: without a permission, or beyond a rate.";
        let samples = labelled("reason", packets(dropped));
        out.counters("turn_dropped_packets", help, samples)?;
        let help = "Bytes of data in them.";
        let samples = labelled("reason", bytes(dropped));
        out.counters("turn_dropped_bytes", help, samples)?;
        let carried = [
            ("peer", relay.carried_to_peers),
            ("client", relay.carried_to_clients),
        ];
        let help = "Bytes passed on by TCP relays.";
        out.counters("turn_stream_bytes", help, labelled("to", carried))
    }

    fn signalling(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let Census {
            clients,
            mailboxes,
            stats,
        } = self.signalling;
        out.gauge("signalling_clients", "Clients connected.", wide(clients))?;
        out.gauge("signalling_mailboxes", "Mailboxes.", wide(mailboxes))?;
        out.counter("signalling_meetings", "Pairs that met.", stats.joins)?;
        let help = "Bytes passed on between those that met.";
        out.counter("signalling_bytes", help, stats.relayed_bytes)?;
        let help = "Messages and connections refused.";
        out.counter("signalling_refused", help, stats.refused)
    }
}

impl Snapshot {
    fn probes(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let Some(probes) = &self.probes else {
            return Ok(());
        };
        let ended = probes.outcomes.iter().map(|((transport, outcome), count)| {
            let labels = [
                ("transport", transport.to_string()),
                ("outcome", outcome.as_str().to_owned()),
            ];
            (labels, *count)
        });
        out.counters("probes", "Probes of clients' ports.", ended)?;
        let refused = probes.refused.iter().map(|(refusal, count)| {
            let labels = [("reason", refusal.as_str().to_owned())];
            (labels, *count)
        });
        let help = "Requests for probes that were refused.";
        out.counters("probes_refused", help, refused)
    }
}

fn packets(samples: [(&'static str, Traffic); 2]) -> [(&'static str, u64); 2] {
    samples.map(|(name, traffic)| (name, traffic.packets))
}

fn bytes(samples: [(&'static str, Traffic); 2]) -> [(&'static str, u64); 2] {
    samples.map(|(name, traffic)| (name, traffic.bytes))
}

fn of_client(transport: Transport) -> String {
    let name = match transport {
        Transport::Udp => "udp",
        Transport::Dtls => "dtls",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
    };
    name.to_owned()
}

fn of_relay(transport: RelayTransport) -> String {
    let name = match transport {
        RelayTransport::Udp => "udp",
        RelayTransport::Tcp => "tcp",
    };
    name.to_owned()
}

fn of_method(method: Method) -> String {
    let name = match method {
        Method::ALLOCATE => "allocate",
        Method::REFRESH => "refresh",
        Method::CREATE_PERMISSION => "create_permission",
        Method::CHANNEL_BIND => "channel_bind",
        Method::CONNECT => "connect",
        Method::CONNECTION_BIND => "connection_bind",
        _ => "other",
    };
    name.to_owned()
}

fn result(code: u16) -> String {
    if code == 0 {
        "success".to_owned()
    } else {
        code.to_string()
    }
}

#[cfg(test)]
mod tests {
    use postern_wire::probe::{Outcome, Refusal};
    use postern_wire::transport::Transport as ProbeOver;

    use super::*;

    fn text(relay: Stats) -> String {
        let signalling = Census::default();
        let snapshot = Snapshot {
            relay,
            signalling,
            probes: Some(probe::Stats {
                outcomes: [((ProbeOver::Tcp, Outcome::Connected), 5)].into(),
                refused: [(Refusal::Rate, 6)].into(),
            }),
            connected: [("web", 1), ("turn", 2), ("dtls", 3)],
        };
        metrics::text(Box::new(snapshot)).unwrap()
    }

    #[test]
    fn every_sample_has_its_name_and_its_labels() {
        let relay = Stats {
            allocations: [((Transport::Tls, RelayTransport::Udp), 3)].into(),
            answers: [((Method::ALLOCATE, 401), 7), ((Method::ALLOCATE, 0), 3)].into(),
            to_peers: Traffic {
                packets: 2,
                bytes: 1200,
            },
            carried_to_clients: 7,
            ..Stats::default()
        };
        let text = text(relay);
        for line in [
            "# TYPE postern_turn_allocations gauge",
            "postern_turn_allocations{client=\"tls\",relay=\"udp\"} 3",
            "postern_turn_answers_total{method=\"allocate\",result=\"success\"} 3",
            "postern_turn_answers_total{method=\"allocate\",result=\"401\"} 7",
            "postern_turn_data_bytes_total{to=\"peer\"} 1200",
            "postern_turn_data_packets_total{to=\"peer\"} 2",
            "postern_turn_dropped_bytes_total{reason=\"rate\"} 0",
            "postern_turn_stream_bytes_total{to=\"client\"} 7",
            "postern_connections{at=\"dtls\"} 3",
            "postern_signalling_clients 0",
            "postern_probes_total{transport=\"tcp\",outcome=\"connected\"} 5",
            "postern_probes_refused_total{reason=\"rate\"} 6",
            "# EOF",
        ] {
            assert!(text.lines().any(|said| said == line), "{line}\n{text}");
        }
    }
}
