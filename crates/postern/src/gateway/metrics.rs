//! What Prometheus is told of a gateway.

use std::fmt;

use postern_proto::gateway::{Refused, Traffic};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::net::TcpListener;

use super::config::{GatewayConfig, GatewayError};
use super::control::Handle;
use crate::metrics::{self, Labels, Out, labelled, wide};

/// What there was at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    /// By protocol and transport.
    pub(super) leases: Vec<(&'static str, &'static str, usize)>,
    pub(super) epoch: u64,
    pub(super) double_nat: bool,
    pub(super) obstacles: usize,
    pub(super) served: Served,
    pub(super) refused: Refused,
    pub(super) line: Traffic,
}

/// What the gateway has done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Served {
    /// Datagrams to the port of NAT-PMP and PCP.
    pub(super) mapping: u64,
    /// Datagrams of SSDP.
    pub(super) search: u64,
    /// Requests over HTTP.
    pub(super) http: u64,
    /// Changes that the kernel made.
    pub(super) changes: u64,
    /// Changes that it did not make.
    pub(super) failed_changes: u64,
    /// How often all rules were made anew.
    pub(super) reinstalled: u64,
}

/// The port for Prometheus, if there is to be one.
pub(super) fn bind(config: &GatewayConfig) -> Result<Option<TcpListener>, GatewayError> {
    let Some(address) = config.metrics else {
        return Ok(None);
    };
    if !metrics::is_private(address) {
        return Err(GatewayError::PublicMetrics(address));
    }
    let listener = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .and_then(TcpListener::from_std);
    let failed = |source| GatewayError::Metrics { address, source };
    listener.map(Some).map_err(failed)
}

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, handle: Handle) {
    let look = move || {
        let handle = handle.clone();
        async move {
            let numbers = handle.numbers().await?;
            Some(Box::new(numbers) as Box<dyn Collector>)
        }
    };
    metrics::serve(listener, look).await;
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(&mut encoder);
        let leases = self.leases.iter().map(|(protocol, transport, count)| {
            let labels: Labels<2> = [
                ("protocol", (*protocol).to_owned()),
                ("transport", (*transport).to_owned()),
            ];
            (labels, wide(*count))
        });
        out.gauges("gateway_leases", "Leases.", leases)?;
        let help = "Seconds since clients were last told to ask again.";
        out.gauge("gateway_epoch", help, self.epoch)?;
        let help = "Whether the internet does not lead to the outside address.";
        out.gauge("gateway_double_nat", help, self.double_nat.into())?;
        let help = "Chains of other tables that drop what is mapped.";
        out.gauge("gateway_obstacles", help, wide(self.obstacles))?;
        self.served(&mut out)?;
        self.line(&mut out)
    }
}

impl Numbers {
    fn served(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let served = self.served;
        let requests = [
            ("natpmp_pcp", served.mapping),
            ("ssdp", served.search),
            ("http", served.http),
        ];
        let help = "Requests of hosts inside.";
        out.counters("gateway_requests", help, labelled("protocol", requests))?;
        let refused = self.refused;
        let refused = [
            ("rules", refused.by_rules),
            ("conflict", refused.by_conflict),
            ("quota", refused.by_quota),
            ("resources", refused.without_resources),
            ("no_address", refused.without_address),
        ];
        let help = "Mappings that were not granted.";
        out.counters("gateway_refused", help, labelled("reason", refused))?;
        let changes = [("made", served.changes), ("failed", served.failed_changes)];
        let help = "Changes of the kernel's table.";
        out.counters("gateway_changes", help, labelled("result", changes))?;
        let help = "How often all rules were made anew.";
        out.counter("gateway_reinstalled", help, served.reinstalled)
    }

    fn line(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let line = self.line;
        let mut both = |name, help, sent, received| {
            let directions = [("sent", sent), ("received", received)];
            out.counters(name, help, labelled("direction", directions))
        };
        let help = "Bytes on the interfaces outside.";
        both(
            "gateway_line_bytes",
            help,
            line.bytes_sent,
            line.bytes_received,
        )?;
        let help = "Packets on the interfaces outside.";
        let (sent, received) = (line.packets_sent, line.packets_received);
        both("gateway_line_packets", help, sent, received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_name_and_its_labels() {
        let numbers = Numbers {
            leases: vec![("pcp", "TCP", 3)],
            served: Served {
                http: 7,
                ..Served::default()
            },
            line: Traffic {
                bytes_sent: 9,
                ..Traffic::default()
            },
            ..Numbers::default()
        };
        let text = metrics::text(Box::new(numbers)).unwrap();
        for line in [
            "postern_gateway_leases{protocol=\"pcp\",transport=\"TCP\"} 3",
            "postern_gateway_requests_total{protocol=\"http\"} 7",
            "postern_gateway_refused_total{reason=\"quota\"} 0",
            "postern_gateway_changes_total{result=\"made\"} 0",
            "postern_gateway_line_bytes_total{direction=\"sent\"} 9",
            "# EOF",
        ] {
            assert!(text.lines().any(|said| said == line), "{line}\n{text}");
        }
    }
}
