//! Numbers for Prometheus, on a port of their own, in the format of OpenMetrics.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// One scrape must be over after so long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once: whoever scrapes has one.
const MAX_CONNECTIONS: usize = 64;

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The format that is answered in.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers for ever with what `look` finds at that moment; `None` is no answer.
pub(crate) async fn serve<L, S>(listener: TcpListener, look: L)
where
    L: Fn() -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Option<Box<dyn Collector>>> + Send,
{
    let scrape = move || {
        let looking = look();
        async move { show(looking.await) }
    };
    let router = Router::new().route("/metrics", get(scrape));
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = free.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let answer = answer(stream, router.clone());
        tokio::spawn(async move {
            if let Err(error) = answer.await {
                tracing::debug!(%error, "metrics could not be told");
            }
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, router: Router) -> io::Result<()> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    timeout(TIMEOUT, connection)
        .await?
        .map_err(io::Error::other)
}

fn show(found: Option<Box<dyn Collector>>) -> Response {
    match found.map(text) {
        Some(Ok(text)) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        None | Some(Err(fmt::Error)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// All metrics, as they are sent.
pub(crate) fn text(found: Box<dyn Collector>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("postern");
    registry.register_collector(found);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Where metrics may be without being asked for twice: an address that the public internet
/// does not lead to.
pub(crate) fn is_private(address: SocketAddr) -> bool {
    let ip = address.ip();
    !ip.is_unspecified() && !crate::stun_servers::is_global(ip)
}

/// Labels with their values.
pub(crate) type Labels<const N: usize> = [(&'static str, String); N];

/// Writes metrics.
pub(crate) struct Out<'a, 'b>(pub(crate) &'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge.encode(metric)
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        let metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        counter.encode(metric)
    }

    pub(crate) fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<N>, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    pub(crate) fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<N>, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The same label with different values.
pub(crate) fn labelled<const N: usize>(
    label: &'static str,
    samples: [(&'static str, u64); N],
) -> [(Labels<1>, u64); N] {
    samples.map(|(name, value)| ([(label, name.to_owned())], value))
}

pub(crate) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_internet_leads_to_no_private_address() {
        for address in ["127.0.0.1:1", "[::1]:1", "10.0.0.1:1", "[fd00::1]:1"] {
            assert!(is_private(address.parse().unwrap()), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "8.8.8.8:1", "[2600::1]:1"] {
            assert!(!is_private(address.parse().unwrap()), "{address}");
        }
    }
}
