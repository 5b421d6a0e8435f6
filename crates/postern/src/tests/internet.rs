//! Sockets on the simulated internet, driven by tokio's paused clock.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use noq::{AsyncUdpSocket, UdpSender};
use noq_udp::{RecvMeta, Transmit};
use postern_lab::sim::{
    Delivery, Gate, HostId, InterfaceId, Link, Nat, NetworkId, Router, RouterId, World,
};
use postern_proto::connect::RelayTransport;
use postern_proto::signal::{Role, Secret};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};

use super::relay::Relay;
use super::reunions::{self, Server};
use crate::clock::{self, until};
use crate::dialer::{Dialer, Dialling, Introducer, Meeting};
use crate::net::watch::Hints;
use crate::net::{AddressFilter, Opened};
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
    /// The addresses of a host have changed.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    world: World,
    /// By host and port.
    sockets: Vec<(HostId, u16, Arc<Mutex<Queue>>)>,
    server: HostId,
    relay: Relay,
    restarts: u8,
    /// Two homes between which nothing passes.
    cut: Option<[IpAddr; 2]>,
    /// Hosts that get no UDP out.
    without_udp: Vec<HostId>,
    /// The longest datagram that gets from one home to another.
    longest: usize,
    /// Where those meet again who have lost each other.
    reunions: Server,
    /// What a host is plugged in with at present.
    interfaces: BTreeMap<HostId, InterfaceId>,
    routers: BTreeMap<HostId, RouterId>,
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
            relay: Relay::new(clock::now(), 5, Self::STUN.parse().unwrap()),
            restarts: 0,
            cut: None,
            without_udp: Vec::new(),
            longest: usize::MAX,
            reunions: Server::new(),
            interfaces: BTreeMap::new(),
            routers: BTreeMap::new(),
            streams: 0,
            hang_up: Vec::new(),
        };
        let internet = Self(Arc::new(Inner {
            state: Mutex::new(state),
            sent: Notify::new(),
            changed: watch::Sender::default(),
        }));
        tokio::spawn(internet.clone().run());
        internet
    }

    /// The socket of a host behind a NAT, `latency` one way from the core.
    pub(super) fn home(&self, number: u8, nat: Nat, latency: Duration) -> SimSocket {
        let mut state = self.0.state.lock().unwrap();
        let (router, network) = state.add_home(number, nat, latency);
        let inside: IpAddr = [192, 168, number, 10].into();
        let host = state.world.add_host(&format!("host{number}"));
        let link = Link::default();
        let interface = state.world.attach(host, network, &[inside], link);
        state.interfaces.insert(host, interface);
        state.routers.insert(host, router);
        let queue = Arc::default();
        state.sockets.push((host, PORT, Arc::clone(&queue)));
        SimSocket {
            internet: self.clone(),
            host,
            local: SocketAddr::new(inside, PORT),
            anywhere: false,
            latency,
            queue,
            silence: None,
            made: clock::now(),
        }
    }

    /// The socket's host goes to a new home of this number.
    pub(super) fn roam(&self, socket: &SimSocket, number: u8, nat: Nat) {
        let mut state = self.0.state.lock().unwrap();
        let (router, network) = state.add_home(number, nat, socket.latency);
        let inside: IpAddr = [192, 168, number, 10].into();
        let from = state.interfaces[&socket.host];
        let to = state.world.roam(from, network, &[inside], Link::default());
        state.interfaces.insert(socket.host, to);
        state.routers.insert(socket.host, router);
        drop(state);
        self.0.changed.send_replace(());
    }

    /// The socket's host gets an interface in another home, beside the one that it has.
    pub(super) fn plug_in(&self, socket: &SimSocket, number: u8, nat: Nat, latency: Duration) {
        let mut state = self.0.state.lock().unwrap();
        let (_, network) = state.add_home(number, nat, latency);
        let inside: IpAddr = [192, 168, number, 10].into();
        state
            .world
            .attach(socket.host, network, &[inside], Link::default());
        drop(state);
        self.0.changed.send_replace(());
    }

    /// The socket's host loses its interface, or has it again as it was.
    pub(super) fn set_running(&self, socket: &SimSocket, running: bool) {
        let mut state = self.0.state.lock().unwrap();
        let interface = state.interfaces[&socket.host];
        state.world.set_running(interface, running);
        drop(state);
        self.0.changed.send_replace(());
    }

    /// The router of a socket's home starts anew, with another address outside.
    pub(super) fn reboot(&self, socket: &SimSocket, number: u8) {
        let mut state = self.0.state.lock().unwrap();
        let router = state.routers[&socket.host];
        let outside = [IpAddr::from([45, 45, number, 1])];
        state.world.renumber(router, &outside);
    }

    /// The socket's host roams, and another host takes its address in the home that it left: the
    /// socket of that one.
    pub(super) fn usurp_after_roaming(&self, of: &SimSocket, number: u8, nat: Nat) -> SimSocket {
        let router = self.0.state.lock().unwrap().routers[&of.host];
        self.roam(of, number, nat);
        let mut state = self.0.state.lock().unwrap();
        let network = state.world.inside(router);
        let host = state.world.add_host("usurper");
        let link = Link::default();
        state.world.attach(host, network, &[of.local.ip()], link);
        let queue = Arc::default();
        state.sockets.push((host, PORT, Arc::clone(&queue)));
        SimSocket {
            host,
            anywhere: false,
            queue,
            ..of.clone()
        }
    }

    /// The relay starts anew, and knows nobody.
    pub(super) fn restart_relay(&self) {
        self.hang_up();
        let mut state = self.0.state.lock().unwrap();
        state.restarts += 1;
        let (address, seed) = (Self::STUN.parse().unwrap(), 100 + state.restarts);
        state.relay = Relay::new(clock::now(), seed, address);
    }

    /// From here on longer datagrams get lost between homes.
    pub(super) fn black_hole(&self, longest: usize) {
        self.0.state.lock().unwrap().longest = longest;
    }

    /// The server, to look at or to speak with.
    pub(super) fn with_server<T>(&self, act: impl FnOnce(&mut Server) -> T) -> T {
        act(&mut self.0.state.lock().unwrap().reunions)
    }

    /// Says when addresses of hosts have changed.
    pub(super) fn hints(&self) -> Hints {
        let changes = self.0.changed.subscribe();
        Box::pin(stream::unfold(changes, async |mut changes| {
            changes.changed().await.ok()?;
            Some(((), changes))
        }))
    }

    fn addresses(&self, host: HostId) -> Vec<IpAddr> {
        self.0.state.lock().unwrap().world.addresses(host)
    }

    /// From here on no UDP gets out of this socket's host, or in.
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
        let relayed = transmit.destination.ip() == Self::STUN.parse::<SocketAddr>().unwrap().ip();
        let longest = if relayed { usize::MAX } else { state.longest };
        let segments = transmit.contents.chunks(size);
        for segment in segments.filter(|segment| segment.len() <= longest) {
            state
                .world
                .send(clock::now(), host, from, transmit.destination, segment);
        }
        self.0.sent.notify_one();
    }
}

impl State {
    fn add_home(&mut self, number: u8, nat: Nat, latency: Duration) -> (RouterId, NetworkId) {
        let router = Router {
            outside: vec![[45, 45, number, 1].into()],
            link: Link::with_latency(latency),
            v4: Gate::Nat(nat),
            v6: Gate::Closed,
            ..Router::default()
        };
        let core = self.world.core();
        let name = format!("router{number}");
        let router = self.world.add_router(&name, core, &router);
        (router, self.world.inside(router))
    }

    fn receive(&mut self, delivery: Delivery) {
        if self.without_udp.contains(&delivery.host) {
            return;
        }
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
    /// It is bound to whatever address the host has.
    anywhere: bool,
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

    /// The same socket, bound to whatever address the host has: one that can roam.
    pub(super) fn anywhere(self) -> Self {
        Self {
            anywhere: true,
            ..self
        }
    }

    /// What has arrived, for whoever does not read it as a socket.
    pub(super) fn arrived(&self) -> Vec<Delivery> {
        self.queue.lock().unwrap().arrived.drain(..).collect()
    }

    /// The address that the host has at present.
    fn ip(&self) -> IpAddr {
        let addresses = self.internet.addresses(self.host);
        let first = addresses.first().copied();
        first
            .filter(|_| self.anywhere)
            .unwrap_or_else(|| self.local.ip())
    }

    /// Another socket of the same host.
    fn another(&self) -> Self {
        let ip = self.ip();
        let mut state = self.internet.0.state.lock().unwrap();
        let mine = state.sockets.iter().filter(|(host, ..)| *host == self.host);
        let port = PORT + u16::try_from(mine.count()).unwrap();
        let queue = Arc::default();
        state.sockets.push((self.host, port, Arc::clone(&queue)));
        drop(state);
        Self {
            local: SocketAddr::new(ip, port),
            anywhere: false,
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
        Ok(match self.anywhere {
            true => SocketAddr::new([0, 0, 0, 0].into(), self.local.port()),
            false => self.local,
        })
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
            let chosen = transmit.src_ip.filter(|_| self.anywhere);
            let from =
                SocketAddr::new(chosen.unwrap_or_else(|| self.local.ip()), self.local.port());
            self.internet.send(self.host, from, transmit);
        }
        Poll::Ready(Ok(()))
    }
}

/// Opens links from the host of a socket.
#[derive(Debug)]
pub(super) struct SimDialer(pub(super) SimSocket);

impl Dialer for SimDialer {
    fn meet_again(&self, introducer: &Introducer, role: Role, secret: Secret) -> Meeting {
        let Self(socket) = self;
        let (internet, from) = (socket.internet.clone(), socket.ip());
        let introducer = introducer.clone();
        Box::pin(
            async move { Ok(reunions::meet_again(internet, from, introducer, role, secret).await) },
        )
    }

    fn addresses(&self, _: AddressFilter) -> io::Result<Vec<IpAddr>> {
        Ok(self.0.internet.addresses(self.0.host))
    }

    fn hints(&self) -> Hints {
        self.0.internet.hints()
    }

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
