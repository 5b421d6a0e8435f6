//! Fake gateways behind real sockets: UDP of PCP, NAT-PMP and SSDP, and HTTP.
//!
//! Made on a thread inside a network namespace, they serve there until they are dropped; the
//! addresses of all of them must be on an interface of it.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postern_wire::natpmp::GATEWAY_PORT;
use postern_wire::transport::Transport;
use postern_wire::upnp::http::{Bounds, Collector};
use postern_wire::upnp::ssdp::{self, GROUP_V4};

use super::fake::{Gateway, HttpAnswer, Row};
use super::personality::Personality;
use super::play::Fault;

/// How often a thread looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a client may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// What arrives in place of a message that is garbled.
const GARBAGE: &[u8] = b"\x16\x03garbage\r\n\r\n";

/// What kills the client.
pub type Killer = Box<dyn FnMut() + Send>;

/// Gateways that serve.
#[derive(Debug)]
pub struct Served {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
    /// By the address and port that they are bound to.
    sockets: BTreeMap<SocketAddr, UdpSocket>,
}

struct State {
    gateways: Vec<Gateway>,
    messages: usize,
    fault: Option<(usize, Fault)>,
    killer: Option<Killer>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Served {
    /// Opens the sockets of gateways at these addresses, and serves.
    ///
    /// # Errors
    ///
    /// A socket cannot be bound: the address is not there, or the port is taken.
    pub fn start(gateways: Vec<(IpAddr, Personality)>) -> io::Result<Self> {
        let now = Instant::now();
        let make = |(address, personality)| Gateway::new(now, address, personality);
        let gateways: Vec<Gateway> = gateways.into_iter().map(make).collect();
        let mut listeners = Vec::new();
        for gateway in gateways.iter().filter(|gateway| gateway.personality.upnp) {
            let place = SocketAddr::new(gateway.address, gateway.port);
            let listener = patiently(|| TcpListener::bind(place))?;
            listener.set_nonblocking(true)?;
            listeners.push((gateway.address, listener));
        }
        let shared = Arc::new(Shared {
            sockets: bind_all(&gateways)?,
            state: Mutex::new(State {
                gateways,
                messages: 0,
                fault: None,
                killer: None,
            }),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for (address, socket) in &shared.sockets {
            let (shared, address, socket) = (Arc::clone(&shared), *address, socket.try_clone()?);
            threads.push(thread::spawn(move || hear(&shared, address, &socket)));
        }
        for (address, listener) in listeners {
            let shared = Arc::clone(&shared);
            threads.push(thread::spawn(move || {
                accept(&shared, address, &listener);
            }));
        }
        Ok(Self { shared, threads })
    }

    /// Lets this go wrong with the message of this number, the first being 0; `killer` ends
    /// the client if that is what goes wrong. Counts from here.
    pub fn inject(&self, message: usize, fault: Fault, killer: Option<Killer>) {
        let mut state = self.shared.lock();
        state.messages = 0;
        state.fault = Some((message, fault));
        state.killer = killer;
    }

    /// How many messages there were, in both directions.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.shared.lock().messages
    }

    /// Every mapping of every gateway.
    #[must_use]
    pub fn rows(&self) -> Vec<(Transport, u16, Row)> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let gateways = state.gateways.iter_mut();
        gateways.flat_map(|gateway| gateway.rows(now)).collect()
    }

    /// What was asked for that no client may ask for, ever.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let state = self.shared.lock();
        let all = state.gateways.iter().map(Gateway::violations);
        all.collect::<Vec<_>>().concat()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl State {
    /// Counts a message; what goes wrong with it.
    fn count(&mut self) -> Option<Fault> {
        let number = self.messages;
        self.messages += 1;
        let fault = self.fault.filter(|(at, _)| *at == number).map(|(_, f)| f);
        if fault == Some(Fault::Kill)
            && let Some(mut killer) = self.killer.take()
        {
            killer();
        }
        fault
    }

    /// Counts a message; what becomes of it, `None` if it is lost.
    fn pass(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self.count() {
            Some(Fault::Drop) => None,
            Some(Fault::Garbage) => Some(GARBAGE.to_vec()),
            Some(Fault::Kill) | None => Some(bytes.to_vec()),
        }
    }
}

/// A child of this process that has not become its program yet holds for a moment what those
/// who served before have closed.
fn patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(GLANCE);
            }
            other => return other,
        }
    }
}

fn bind_all(gateways: &[Gateway]) -> io::Result<BTreeMap<SocketAddr, UdpSocket>> {
    let mut sockets = BTreeMap::new();
    let group = SocketAddr::from((GROUP_V4, ssdp::PORT));
    let mut member = None;
    for gateway in gateways {
        let mut ports = vec![GATEWAY_PORT];
        if gateway.personality.upnp {
            ports.extend([ssdp::PORT, gateway.personality.search_port]);
        }
        ports.dedup();
        for port in ports {
            let place = SocketAddr::new(gateway.address, port);
            sockets.insert(place, patiently(|| UdpSocket::bind(place))?);
        }
        if let (IpAddr::V4(address), true) = (gateway.address, gateway.personality.upnp) {
            member = Some(address);
        }
    }
    if let Some(interface) = member {
        let socket = patiently(|| UdpSocket::bind(group))?;
        socket.join_multicast_v4(&GROUP_V4, &interface)?;
        sockets.insert(group, socket);
    }
    for socket in sockets.values() {
        socket.set_read_timeout(Some(GLANCE))?;
        socket.set_multicast_loop_v4(false)?;
    }
    Ok(sockets)
}

/// Answers datagrams that arrive at a socket.
fn hear(shared: &Shared, to: SocketAddr, socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while !shared.stops() {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut state = shared.lock();
        let Some(payload) = state.pass(&buffer[..length]) else {
            continue;
        };
        let now = Instant::now();
        let gateways = state.gateways.iter_mut();
        let sent: Vec<_> = gateways
            .flat_map(|gateway| gateway.datagram(now, from, to, &payload))
            .collect();
        for (own, remote, answer) in sent {
            let socket = shared.sockets.get(&own);
            if let (Some(answer), Some(socket)) = (state.pass(&answer), socket) {
                let _ = socket.send_to(&answer, remote);
            }
        }
    }
}

/// Answers each connection on a thread of its own: there are slow gateways.
fn accept(shared: &Arc<Shared>, own: IpAddr, listener: &TcpListener) {
    let mut threads = Vec::new();
    while !shared.stops() {
        let Ok((stream, from)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || {
            // A client that goes away is its own affair.
            let _ = answer(&shared, own, from.ip(), stream);
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn answer(shared: &Shared, own: IpAddr, from: IpAddr, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let request = read(&mut stream)?;
    let (answer, delay) = {
        let mut state = shared.lock();
        let Some(request) = state.pass(&request) else {
            return Ok(());
        };
        let now = Instant::now();
        let gateway = state.gateways.iter_mut().find(|g| g.address == own);
        let Some(gateway) = gateway else {
            return Ok(());
        };
        (gateway.http(now, from, &request), gateway.personality.delay)
    };
    thread::sleep(delay);
    let HttpAnswer::Bytes(bytes) = answer else {
        return Ok(());
    };
    let bytes = shared.lock().pass(&bytes);
    match bytes {
        Some(bytes) => stream.write_all(&bytes),
        None => Ok(()),
    }
}

/// The bytes of a request.
fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut collector = Collector::request(Bounds::default());
    let mut buffer = [0; 4096];
    while !collector.is_complete() {
        let length = stream.read(&mut buffer)?;
        if length == 0 || collector.push(&buffer[..length]).is_err() {
            break;
        }
        request.extend_from_slice(&buffer[..length]);
    }
    Ok(request)
}
