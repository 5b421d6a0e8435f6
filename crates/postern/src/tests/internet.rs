//! Sockets on the simulated internet, driven by tokio's paused clock.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use noq::{AsyncUdpSocket, UdpSender};
use noq_udp::{RecvMeta, Transmit};
use postern_lab::sim::{Delivery, Gate, HostId, Link, Nat, Router, World};
use postern_proto::connect::RelayTransport;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};

use super::relay::Relay;
use crate::clock::{self, until};
use crate::dialer::{Dialer, Dialling, Introducer};
use crate::net::Opened;
use crate::turn::MessageReader;

/// The first UDP port of every peer.
const PORT: u16 = 5000;

/// The world, the sockets in it, and the server that answers STUN.
#[derive(Clone, Debug)]
pub(super) struct Internet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    sent: Notify,
}

#[derive(Debug)]
struct State {
    world: World,
    /// By host and port.
    sockets: Vec<(HostId, u16, Arc<Mutex<Queue>>)>,
    server: HostId,
    relay: Relay,
    /// Two homes between which nothing passes.
    cut: Option<[IpAddr; 2]>,
    /// Hosts that get no UDP out.
    without_udp: Vec<HostId>,
    /// Connections to the relay so far.
    streams: u16,
    /// Ends them.
    hang_up: Vec<AbortHandle>,
}

impl State {
    fn is_cut(&self, destination: SocketAddr) -> bool {
        self.cut
            .is_some_and(|homes| homes.contains(&destination.ip()))
    }
}

#[derive(Debug, Default)]
struct Queue {
    arrived: VecDeque<Delivery>,
    waker: Option<Waker>,
}

impl Internet {
    /// The address of the STUN server.
    pub(super) const STUN: &str = "45.45.0.1:3478";

    /// An internet with a STUN server at its core. Its packets move as tokio's clock does.
    pub(super) fn start(seed: u8) -> Self {
        let mut world = World::new(clock::now(), [seed; 32]);
        let server = world.add_host("server");
        let core = world.core();
        world.attach(
            server,
            core,
            &["45.45.0.1".parse().unwrap()],
            Link::default(),
        );
        let state = State {
            world,
            sockets: Vec::new(),
            server,
            relay: Relay::new(clock::now(), Self::STUN.parse().unwrap()),
            cut: None,
            without_udp: Vec::new(),
            streams: 0,
            hang_up: Vec::new(),
        };
        let internet = Self(Arc::new(Inner {
            state: Mutex::new(state),
            sent: Notify::new(),
        }));
        tokio::spawn(internet.clone().run());
        internet
    }

    /// The socket of a host behind a NAT, `latency` one way from the core.
    pub(super) fn home(&self, number: u8, nat: Nat, latency: Duration) -> SimSocket {
        let mut state = self.0.state.lock().unwrap();
        let State { world, sockets, .. } = &mut *state;
        let outside: IpAddr = [45, 45, number, 1].into();
        let inside: IpAddr = [192, 168, number, 10].into();
        let router = Router {
            outside: vec![outside],
            link: Link::with_latency(latency),
            v4: Gate::Nat(nat),
            v6: Gate::Closed,
            ..Router::default()
        };
        let core = world.core();
        let router = world.add_router(&format!("router{number}"), core, &router);
        let network = world.inside(router);
        let host = world.add_host(&format!("host{number}"));
        world.attach(host, network, &[inside], Link::default());
        let queue = Arc::default();
        sockets.push((host, PORT, Arc::clone(&queue)));
        SimSocket {
            internet: self.clone(),
            host,
            local: SocketAddr::new(inside, PORT),
            latency,
            queue,
            silence: None,
            made: clock::now(),
        }
    }

    /// From here on no UDP of this socket's host gets out.
    pub(super) fn block_udp(&self, socket: &SimSocket) {
        self.0.state.lock().unwrap().without_udp.push(socket.host);
    }

    /// A connection to the relay at its core, `latency` one way away.
    fn connect(&self, latency: Duration) -> (DuplexStream, SocketAddr) {
        let (near, far) = duplex(1 << 20);
        let mut state = self.0.state.lock().unwrap();
        state.streams += 1;
        // No NAT of the world uses these ports.
        let client = SocketAddr::from(([45, 45, 99, 1], state.streams));
        let (reader, mut writer) = tokio::io::split(far);
        let (to_client, mut from_relay) = unbounded_channel();
        state.relay.add_stream(client, to_client);
        drop(state);
        let internet = self.clone();
        let reading = tokio::spawn(async move {
            let mut reader = MessageReader::new(reader);
            let (to_relay, mut messages) = unbounded_channel::<(_, Bytes)>();
            tokio::spawn(async move {
                while let Some((due, message)) = messages.recv().await {
                    sleep_until(due).await;
                    internet.on_stream(client, &message);
                }
            });
            while let Ok(Some(message)) = reader.next().await {
                let _ = to_relay.send((tokio::time::Instant::now() + latency, message));
            }
        });
        let writing = tokio::spawn(async move {
            while let Some((sent, bytes)) = from_relay.recv().await {
                sleep_until(sent + latency).await;
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let tasks = [reading, writing].map(|task| task.abort_handle());
        self.0.state.lock().unwrap().hang_up.extend(tasks);
        (near, client)
    }

    /// All connections to the relay break.
    pub(super) fn hang_up(&self) {
        for task in self.0.state.lock().unwrap().hang_up.drain(..) {
            task.abort();
        }
    }

    fn on_stream(&self, client: SocketAddr, message: &[u8]) {
        let mut state = self.0.state.lock().unwrap();
        let now = clock::now();
        state.relay.handle_stream(now, client, message);
        state.send_relayed(now);
        self.0.sent.notify_one();
    }

    /// Moves packets for as long as the test runs.
    async fn run(self) {
        loop {
            let next = self.0.state.lock().unwrap().next_event_time();
            tokio::select! {
                () = until(next) => self.deliver(),
                () = self.0.sent.notified() => {}
            }
        }
    }

    fn deliver(&self) {
        let mut state = self.0.state.lock().unwrap();
        let now = clock::now();
        for delivery in state.world.advance(now) {
            state.receive(delivery);
        }
        if state.relay.poll_timeout().is_some_and(|due| due <= now) {
            state.relay.handle_timeout(now);
            state.send_relayed(now);
        }
    }

    /// Datagrams that the relay has passed on so far.
    pub(super) fn relayed(&self) -> u64 {
        self.0.state.lock().unwrap().relay.relayed
    }

    /// From here on nothing gets from one of the two homes to the other directly.
    pub(super) fn cut_between(&self, one: u8, other: u8) {
        let homes = [one, other].map(|number| [45, 45, number, 1].into());
        self.0.state.lock().unwrap().cut = Some(homes);
    }

    /// What was cut is whole again.
    pub(super) fn mend(&self) {
        self.0.state.lock().unwrap().cut = None;
    }

    fn send(&self, host: HostId, from: SocketAddr, transmit: &Transmit<'_>) {
        let mut state = self.0.state.lock().unwrap();
        if state.is_cut(transmit.destination) || state.without_udp.contains(&host) {
            return;
        }
        let size = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        for segment in transmit.contents.chunks(size) {
            state
                .world
                .send(clock::now(), host, from, transmit.destination, segment);
        }
        self.0.sent.notify_one();
    }
}

impl State {
    fn receive(&mut self, delivery: Delivery) {
        if delivery.host == self.server {
            return self.answer(&delivery);
        }
        let at = (delivery.host, delivery.local.port());
        let mut sockets = self.sockets.iter();
        let socket = sockets.find(|(host, port, _)| (*host, *port) == at);
        let Some((_, _, queue)) = socket else { return };
        let mut queue = queue.lock().unwrap();
        queue.arrived.push_back(delivery);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    fn answer(&mut self, delivery: &Delivery) {
        self.relay.handle_input(delivery.at, delivery.datagram());
        self.send_relayed(delivery.at);
    }

    fn send_relayed(&mut self, now: Instant) {
        while let Some(transmit) = self.relay.poll_transmit() {
            if self.relay.send_on_stream(&transmit) {
                continue;
            }
            let (from, to) = (transmit.local, transmit.remote);
            self.world
                .send(now, self.server, from, to, &transmit.payload);
        }
    }

    fn next_event_time(&self) -> Option<Instant> {
        let times = [self.world.next_event_time(), self.relay.poll_timeout()];
        times.into_iter().flatten().min()
    }
}

/// A UDP socket of a simulated host.
#[derive(Clone, Debug)]
pub(super) struct SimSocket {
    internet: Internet,
    host: HostId,
    local: SocketAddr,
    /// To the core, one way.
    latency: Duration,
    queue: Arc<Mutex<Queue>>,
    made: Instant,
    silence: Option<Range<Duration>>,
}

impl SimSocket {
    /// The same socket, which neither sends nor receives anything between the two moments,
    /// counted from when it was made.
    pub(super) fn silent(self, from: Duration, to: Duration) -> Self {
        let silence = Some(from..to);
        Self { silence, ..self }
    }

    /// Another socket of the same host.
    fn another(&self) -> Self {
        let mut state = self.internet.0.state.lock().unwrap();
        let mine = state.sockets.iter().filter(|(host, ..)| *host == self.host);
        let port = PORT + u16::try_from(mine.count()).unwrap();
        let queue = Arc::default();
        state.sockets.push((self.host, port, Arc::clone(&queue)));
        drop(state);
        Self {
            local: SocketAddr::new(self.local.ip(), port),
            queue,
            ..self.clone()
        }
    }

    fn is_silent(&self) -> bool {
        let age = clock::now() - self.made;
        self.silence
            .as_ref()
            .is_some_and(|silence| silence.contains(&age))
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(self.clone())
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.queue.lock().unwrap();
        if self.is_silent() {
            queue.arrived.clear();
        }
        let Some(delivery) = queue.arrived.pop_front() else {
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let length = delivery.payload.len();
        buffers[0][..length].copy_from_slice(&delivery.payload);
        metas[0] = RecvMeta::default();
        metas[0].addr = delivery.remote;
        metas[0].len = length;
        metas[0].stride = length;
        metas[0].dst_ip = Some(delivery.local.ip());
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl UdpSender for SimSocket {
    fn poll_send(
        self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        _cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_silent() {
            self.internet.send(self.host, self.local, transmit);
        }
        Poll::Ready(Ok(()))
    }
}

/// Opens links from the host of a socket.
#[derive(Debug)]
pub(super) struct SimDialer(pub(super) SimSocket);

impl Dialer for SimDialer {
    fn dial(&self, _: &Introducer, transport: RelayTransport, _: SocketAddr) -> Dialling {
        let Self(socket) = self;
        if transport == RelayTransport::Udp {
            let socket = socket.another();
            return Box::pin(async move { Ok(Opened::Datagrams(Box::new(socket))) });
        }
        // A round trip for TCP, and one for TLS.
        let round_trips = u32::from(transport == RelayTransport::Tls) + 1;
        let (internet, latency) = (socket.internet.clone(), socket.latency);
        Box::pin(async move {
            sleep(latency * 2 * round_trips).await;
            let (stream, client) = internet.connect(latency);
            Ok(Opened::Stream(Box::new(stream), client))
        })
    }
}
