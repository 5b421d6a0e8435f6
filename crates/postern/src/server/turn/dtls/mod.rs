//! TURN over DTLS (RFC 7350): one task for each socket, and one for each session.

mod handshakes;
mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use dimpl::{Config, DtlsCertificate};
use noq_udp::{RecvMeta, Transmit, UdpSocketState};
use postern_proto::turn::server::{ClientAddr, FiveTuple, Transport};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::commands::Remote;
use crate::clock;
use crate::dtls::records;
use crate::server::slots::Slots;
use handshakes::{Established, Handshakes};
use session::Session;

/// Datagrams of one client that wait for its session. What comes beyond is lost.
const MAX_WAITING: usize = 64;

/// Bytes for one train of datagrams: the most that the kernel joins.
const TRAIN: usize = 64 * 1024;

/// Trains received at once.
const BATCH: usize = 4;

/// Pause after a failed receive, so that a fault that stays cannot keep a core busy.
const ERROR_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// What DTLS is made with, and the certificate that it shows. A clone shares it.
#[derive(Clone)]
pub(in crate::server) struct DtlsIdentity {
    config: Arc<Config>,
    certificate: Arc<RwLock<DtlsCertificate>>,
}

impl fmt::Debug for DtlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsIdentity").finish_non_exhaustive()
    }
}

impl DtlsIdentity {
    pub(in crate::server) fn new(certificate: DtlsCertificate) -> Result<Self, dimpl::Error> {
        Ok(Self {
            config: crate::dtls::config()?,
            certificate: Arc::new(RwLock::new(certificate)),
        })
    }

    /// Shows what `new` shows, to whoever connects from now on.
    pub(in crate::server) fn replace(&self, new: &Self) {
        let mut certificate = self
            .certificate
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *certificate = new.current();
    }

    fn current(&self) -> DtlsCertificate {
        let certificate = self
            .certificate
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        certificate.clone()
    }
}

/// What every socket of DTLS needs.
#[derive(Debug, Clone)]
pub(in crate::server) struct Dtls {
    identity: DtlsIdentity,
    slots: Slots,
    shard: Remote,
}

impl Dtls {
    pub(in crate::server) fn new(identity: DtlsIdentity, slots: Slots, shard: Remote) -> Self {
        Self {
            identity,
            slots,
            shard,
        }
    }

    /// Serves the clients of a socket for ever.
    pub(in crate::server) async fn serve(self, wire: Arc<Wire>) {
        let listener = Listener {
            handshakes: Handshakes::new(self.identity.config.clone()),
            live: BTreeMap::new(),
            sessions: JoinSet::new(),
            next: 0,
            shared: self,
            wire,
        };
        // Before that tokio does not know that the socket takes anything.
        if let Err(error) = listener.wire.socket.writable().await {
            tracing::warn!(%error, "the socket of DTLS cannot be used");
            return;
        }
        listener.run().await;
    }
}

/// A UDP socket, which knows the address at which each datagram arrived.
#[derive(Debug)]
pub(in crate::server) struct Wire {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    bound: SocketAddr,
}

impl Wire {
    /// Takes a bound socket over. Must be called inside a tokio runtime.
    pub(in crate::server) fn new(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            socket,
            state,
            bound,
        })
    }

    pub(in crate::server) const fn bound(&self) -> SocketAddr {
        self.bound
    }

    async fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> io::Result<usize> {
        let receive = || self.state.recv((&self.socket).into(), buffers, metas);
        self.socket.async_io(Interest::READABLE, receive).await
    }

    /// Sends a datagram; it is lost if the network does not take it.
    fn send(&self, client: &FiveTuple, datagram: &[u8]) {
        let transmit = Transmit {
            destination: client.client.0,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: Some(client.server.ip()),
        };
        let send = || self.state.try_send((&self.socket).into(), &transmit);
        if let Err(error) = self.socket.try_io(Interest::WRITABLE, send) {
            tracing::trace!(%error, "a DTLS datagram was not sent");
        }
    }

    /// Between whom a datagram passed; `None` if the system does not say where it arrived,
    /// or it comes from a port that nobody has.
    fn five_tuple(&self, meta: &RecvMeta) -> Option<FiveTuple> {
        let ip = meta.dst_ip.unwrap_or_else(|| self.bound.ip());
        let known = !ip.is_unspecified() && meta.addr.port() != 0;
        known.then(|| FiveTuple {
            transport: Transport::Dtls,
            client: ClientAddr(meta.addr),
            server: SocketAddr::new(ip, self.bound.port()),
        })
    }
}

/// A session that runs.
struct Live {
    number: u64,
    datagrams: mpsc::Sender<Bytes>,
    /// Ends when the session has.
    ended: oneshot::Receiver<()>,
}

struct Listener {
    shared: Dtls,
    wire: Arc<Wire>,
    handshakes: Handshakes,
    live: BTreeMap<FiveTuple, Live>,
    sessions: JoinSet<(FiveTuple, u64)>,
    next: u64,
}

impl Listener {
    async fn run(mut self) {
        let mut memory = vec![0; BATCH * TRAIN];
        loop {
            let mut chunks = memory.chunks_mut(TRAIN);
            let mut buffers: [IoSliceMut<'_>; BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let mut metas = [RecvMeta::default(); BATCH];
            let due = self.handshakes.poll_timeout();
            let due = due.unwrap_or_else(|| clock::now() + crate::dtls::HANDSHAKE_TIMEOUT);
            let received = tokio::select! {
                received = self.wire.receive(&mut buffers, &mut metas) => received,
                () = sleep_until(due.into()) => Ok(0),
                Some(ended) = self.sessions.join_next() => {
                    if let Ok((client, number)) = ended {
                        self.forget(&client, number);
                    }
                    continue;
                }
            };
            let received = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "the socket of DTLS could not be read");
                    sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
                let train = buffer.get(..meta.len).unwrap_or_default();
                self.on_train(meta, train);
            }
            self.handshakes.handle_timeout(clock::now());
            self.drain();
        }
    }

    fn on_train(&mut self, meta: &RecvMeta, train: &[u8]) {
        let Some(client) = self.wire.five_tuple(meta) else {
            return;
        };
        for datagram in train.chunks(meta.stride.max(1)) {
            self.on_datagram(client, datagram);
        }
    }

    /// While a client with a session begins anew, what it sends may be for either; but a
    /// hello, which anybody may have sent, is not for the session.
    fn on_datagram(&mut self, client: FiveTuple, datagram: &[u8]) {
        if let Some(live) = self.live.get(&client)
            && !records::is_client_hello(datagram)
        {
            let _ = live.datagrams.try_send(Bytes::copy_from_slice(datagram));
        }
        let certificate = self.shared.identity.current();
        self.handshakes
            .handle_input(clock::now(), client, datagram, &certificate);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some((client, packet)) = self.handshakes.poll_transmit() {
            self.wire.send(&client, &packet);
        }
        while let Some(established) = self.handshakes.poll_event() {
            self.begin(established);
        }
    }

    /// Begins a session, in place of the one that the client has had.
    fn begin(&mut self, Established { client, dtls }: Established) {
        let Some(slot) = self.shared.slots.try_seat(client.client.0.ip()) else {
            tracing::debug!("too many DTLS sessions in all or of one source, refused");
            return;
        };
        let (sender, datagrams) = mpsc::channel(MAX_WAITING);
        let (end, ended) = oneshot::channel();
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let live = Live {
            number,
            datagrams: sender,
            ended,
        };
        let before = self.live.insert(client, live).map(|live| live.ended);
        let session = Session {
            dtls,
            client,
            wire: self.wire.clone(),
            shard: self.shared.shard.clone(),
            datagrams,
            _slot: slot,
        };
        self.sessions.spawn(async move {
            session.run(before).await;
            drop(end);
            (client, number)
        });
    }

    fn forget(&mut self, client: &FiveTuple, number: u64) {
        if self
            .live
            .get(client)
            .is_some_and(|live| live.number == number)
        {
            self.live.remove(client);
        }
    }
}

#[cfg(test)]
mod tests;
