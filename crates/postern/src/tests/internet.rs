//! Sockets on the simulated internet, driven by tokio's paused clock.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use noq::{AsyncUdpSocket, UdpSender};
use noq_udp::{RecvMeta, Transmit};
use postern_lab::sim::{Delivery, Gate, HostId, Link, Nat, Router, World};
use postern_proto::stun::BindingServer;
use tokio::sync::Notify;

use crate::clock::{self, until};

/// The UDP port of every peer.
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
    sockets: Vec<(HostId, Arc<Mutex<Queue>>)>,
    server: HostId,
    stun: BindingServer,
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
            stun: BindingServer::default(),
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
        };
        let core = world.core();
        let router = world.add_router(&format!("router{number}"), core, &router);
        let network = world.inside(router);
        let host = world.add_host(&format!("host{number}"));
        world.attach(host, network, &[inside], Link::default());
        let queue = Arc::default();
        sockets.push((host, Arc::clone(&queue)));
        SimSocket {
            internet: self.clone(),
            host,
            local: SocketAddr::new(inside, PORT),
            queue,
            silence: None,
            made: clock::now(),
        }
    }

    /// Moves packets for as long as the test runs.
    async fn run(self) {
        loop {
            let next = self.0.state.lock().unwrap().world.next_event_time();
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
    }

    fn send(&self, host: HostId, from: SocketAddr, transmit: &Transmit<'_>) {
        let mut state = self.0.state.lock().unwrap();
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
        let socket = self.sockets.iter().find(|(host, _)| *host == delivery.host);
        let Some((_, queue)) = socket else { return };
        let mut queue = queue.lock().unwrap();
        queue.arrived.push_back(delivery);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    fn answer(&mut self, delivery: &Delivery) {
        self.stun.handle_input(delivery.at, delivery.datagram());
        while let Some(transmit) = self.stun.poll_transmit() {
            let (from, to) = (transmit.local, transmit.remote);
            self.world
                .send(delivery.at, self.server, from, to, &transmit.payload);
        }
    }
}

/// A UDP socket of a simulated host.
#[derive(Clone, Debug)]
pub(super) struct SimSocket {
    internet: Internet,
    host: HostId,
    local: SocketAddr,
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
