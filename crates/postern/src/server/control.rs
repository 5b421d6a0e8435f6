//! What an operator does to a running server.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig as TlsConfig;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::mailboxes::Mailboxes;
use super::probe::Prober;
use super::slots::Slots;
use super::turn::{Alternates, DtlsIdentity, Own, Remote};
use super::{Credentials, ServerConfig, ServerError};

/// How long clients may take to hear that the server goes down.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often a server that drains looks whether everybody has left.
const GLANCE: Duration = Duration::from_millis(100);

/// What the listeners of TLS prove themselves with: it can change while they run.
#[derive(Debug, Clone)]
pub(super) struct Tls(Arc<RwLock<Arc<TlsConfig>>>);

impl Tls {
    pub(super) fn new(config: TlsConfig) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let config = self.0.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&config))
    }

    fn replace(&self, config: TlsConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }
}

/// Who is connected, by where.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The port of the URL.
    pub(super) web: Slots,
    /// TURN over TCP and TLS.
    pub(super) turn: Slots,
    pub(super) dtls: Slots,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            web: Slots::new(),
            turn: Slots::new(),
            dtls: Slots::new(),
        }
    }
}

/// Those for whom a server that drains waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Allocations of the relay.
    pub allocations: u32,
    /// Mailboxes, at each of which somebody meets or waits.
    pub meetings: usize,
}

impl Usage {
    /// Nobody.
    pub const NONE: Self = Self {
        allocations: 0,
        meetings: 0,
    };
}

/// What an operator does to a [`Server`](super::Server) that runs.
#[derive(Debug, Clone)]
pub struct Control {
    pub(super) relay: Remote,
    /// What looks at clients' ports, if clients may ask for it.
    pub(super) prober: Option<Prober>,
    /// `None` without relays.
    pub(super) own: Option<Own>,
    pub(super) tls: Tls,
    pub(super) dtls: DtlsIdentity,
    pub(super) listen: Vec<IpAddr>,
    pub(super) mailboxes: Mailboxes,
    pub(super) places: Places,
    /// Where clients reach the relay over UDP.
    pub(super) udp: Vec<SocketAddr>,
    /// Where they reach it over TCP and TLS, and the URIs for it.
    pub(super) turn_streams: Vec<(SocketAddr, String)>,
}

impl Control {
    /// Takes over what can change while the server runs: the files of the certificate, who
    /// is probed, and of relays the users, the secrets, who may be reached, the quotas, the rate and the
    /// alternate servers. All other settings stay as they are. Who has an allocation keeps
    /// it, though not what the new policy forbids.
    ///
    /// # Errors
    ///
    /// [`ServerError::Certificate`] and [`ServerError::Turn`]; then nothing has changed.
    pub async fn reload(&self, config: &ServerConfig) -> Result<(), ServerError> {
        let credentials = match &config.certificate {
            Some(files) => Some(Credentials::from_files(files, &self.listen)?),
            None => None,
        };
        let relays = self.own.as_ref().zip(config.turn.as_ref());
        let relays = relays.map(|(own, turn)| own.change(turn)).transpose()?;
        if let Some(credentials) = credentials {
            self.tls.replace(credentials.tls);
            self.dtls.replace(&credentials.dtls);
        }
        if let Some((prober, probe)) = self.prober.as_ref().zip(config.probe.as_ref()) {
            prober.change(probe);
        }
        if let Some((change, issuer)) = relays {
            self.relay.change(change).await;
            let offer = issuer.offer(&self.udp, &self.turn_streams);
            self.mailboxes.offer(offer).await;
        }
        Ok(())
    }

    /// Takes no new clients and no new allocations: TURN clients are sent to these
    /// servers, or away.
    pub async fn drain(&self, alternates: Alternates) {
        self.relay.drain(alternates).await;
        self.mailboxes.drain().await;
    }

    /// Waits until others use a server that drains than did; what it gives is
    /// [`Usage::NONE`] when the last allocation has ended, and the last meeting.
    pub async fn usage_but(&self, known: Usage) -> Usage {
        loop {
            let usage = self.usage().await;
            if usage != known {
                return usage;
            }
            sleep(GLANCE).await;
        }
    }

    /// Who uses the server.
    pub async fn usage(&self) -> Usage {
        Usage {
            allocations: self.relay.stats().await.allocation_count(),
            meetings: self.mailboxes.census().await.mailboxes,
        }
    }

    /// Tells those that are connected that the server is going down, and waits a moment
    /// until they have heard it.
    pub async fn farewell(&self) {
        self.mailboxes.shut_down().await;
        let end = Instant::now() + FAREWELL;
        while !self.places.web.are_free() && Instant::now() < end {
            sleep(GLANCE / 5).await;
        }
    }
}
