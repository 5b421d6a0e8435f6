//! Sockets that an attempt to punch opens: as many as it asks for, most of them for seconds.
//!
//! A task reads each of them. STUN goes to the agents, QUIC to its socket as a train; the path
//! that is found stays on the socket that found it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use noq::{AsyncUdpSocket, Runtime, TokioRuntime, UdpSender};
use noq_udp::{RecvMeta, Transmit};
use postern_proto::Transmit as Datagram;
use socket2::Socket;
use tokio::task::AbortHandle;

use super::mux::{Inlets, is_transient, keep_quic};
use super::paths::AddressPair;
use super::sockets::{bound_socket, serves};
use super::trains::Train;
use crate::os;

/// Bytes of one datagram that the system may put together with others of its size.
const SEGMENT: usize = 1500;

/// More sockets than this may meet the limit on open files that programs begin with.
const FEW: usize = 32;

/// All such sockets of an endpoint. Cheap to clone, and to ask when there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct PunchedSockets(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    in_use: AtomicBool,
    sockets: RwLock<BTreeMap<SocketAddr, Arc<Punched>>>,
    /// The endpoint's own sockets, with the addresses they are bound to.
    own: Mutex<Vec<(SocketAddr, Socket)>>,
}

struct Punched {
    socket: Arc<Mutex<Box<dyn AsyncUdpSocket>>>,
    /// For what the agent sends.
    sender: Mutex<Pin<Box<dyn UdpSender>>>,
    /// The same socket, for its options.
    control: Mutex<Socket>,
    reading: AbortHandle,
}

impl fmt::Debug for Punched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Punched").finish_non_exhaustive()
    }
}

impl Drop for Punched {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// What else is sent from the socket at the same moment is limited as well: a datagram of QUIC, which
/// is sent again.
fn send_limited(control: &Socket, datagram: &Datagram, ttl: u8) -> io::Result<()> {
    let usual = control.ttl_v4()?;
    control.set_ttl_v4(ttl.into())?;
    let sent = control.send_to(&datagram.payload, &datagram.remote.into());
    control.set_ttl_v4(usual)?;
    sent.map(drop)
}

impl PunchedSockets {
    /// None yet, beside the endpoint's own.
    pub(crate) fn beside(own: Vec<(SocketAddr, Socket)>) -> Self {
        Self(Arc::new(Shared {
            own: Mutex::new(own),
            ..Shared::default()
        }))
    }

    /// Opens sockets on this address of the machine. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When not all of them can be opened; then none are.
    pub(crate) fn open(
        &self,
        address: IpAddr,
        count: usize,
        inlets: &Inlets,
    ) -> io::Result<Vec<SocketAddr>> {
        if count > FEW {
            os::raise_file_limit();
        }
        let open = |_| Punched::open(address, inlets.clone());
        let opened = (0..count).map(open).collect::<io::Result<Vec<_>>>()?;
        let addresses = opened.iter().map(|(local, _)| *local).collect();
        let mut sockets = self.write();
        sockets.extend(
            opened
                .into_iter()
                .map(|(local, socket)| (local, Arc::new(socket))),
        );
        self.0.in_use.store(!sockets.is_empty(), Ordering::Release);
        Ok(addresses)
    }

    /// Closes some.
    pub(crate) fn close(&self, closed: &[SocketAddr]) {
        let mut sockets = self.write();
        sockets.retain(|local, _| !closed.contains(local));
        self.0.in_use.store(!sockets.is_empty(), Ordering::Release);
    }

    /// Sends a datagram from the socket that has this address, if there is one; says whether.
    pub(crate) async fn send(&self, pair: AddressPair, payload: &[u8]) -> Option<io::Result<()>> {
        let socket = self.get(pair.local)?;
        let transmit = Transmit {
            destination: pair.remote,
            ecn: None,
            contents: payload,
            segment_size: None,
            src_ip: None,
        };
        let sent = poll_fn(|cx| lock(&socket.sender).as_mut().poll_send(&transmit, cx));
        Some(sent.await)
    }

    /// Sends a datagram that may pass only so many routers.
    ///
    /// # Errors
    ///
    /// What the system says; an unreachable peer is none of it.
    pub(crate) fn send_limited(&self, datagram: &Datagram, ttl: u8) -> io::Result<()> {
        if let Some(socket) = self.get(datagram.local) {
            return send_limited(&lock(&socket.control), datagram, ttl);
        }
        let own = lock(&self.0.own);
        let control = own.iter().find(|(at, _)| serves(*at, datagram.local));
        control.map_or(Ok(()), |(_, control)| send_limited(control, datagram, ttl))
    }

    /// A sender for QUIC's trains on the socket that has this address.
    pub(super) fn sender(&self, local: SocketAddr) -> Option<Pin<Box<dyn UdpSender>>> {
        let socket = self.get(local)?;
        Some(lock(&socket.socket).create_sender())
    }

    /// Whether a socket has this address.
    pub(super) fn has(&self, local: SocketAddr) -> bool {
        self.get(local).is_some()
    }

    fn get(&self, local: SocketAddr) -> Option<Arc<Punched>> {
        if !self.0.in_use.load(Ordering::Acquire) {
            return None;
        }
        let sockets = self.0.sockets.read();
        let sockets = sockets.unwrap_or_else(PoisonError::into_inner);
        sockets.get(&local).cloned()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<SocketAddr, Arc<Punched>>> {
        let sockets = self.0.sockets.write();
        sockets.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Punched {
    fn open(address: IpAddr, inlets: Inlets) -> io::Result<(SocketAddr, Self)> {
        let bound = bound_socket(SocketAddr::new(address, 0))?;
        let control = Mutex::new(bound.try_clone()?);
        let socket = TokioRuntime.wrap_udp_socket(bound.into())?;
        let local = socket.local_addr()?;
        let sender = Mutex::new(socket.create_sender());
        let socket = Arc::new(Mutex::new(socket));
        let reading = tokio::spawn(read(socket.clone(), local, inlets)).abort_handle();
        let punched = Self {
            socket,
            sender,
            control,
            reading,
        };
        Ok((local, punched))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(socket: Arc<Mutex<Box<dyn AsyncUdpSocket>>>, local: SocketAddr, inlets: Inlets) {
    let segments = lock(&socket).max_receive_segments().get();
    let mut buffer = vec![0; SEGMENT * segments];
    let mut meta = [RecvMeta::default()];
    loop {
        let received = poll_fn(|cx| {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            lock(&socket).poll_recv(cx, &mut slices, &mut meta)
        });
        match received.await {
            Ok(_) => {}
            Err(error) if is_transient(&error) => continue,
            Err(error) => {
                tracing::debug!(%error, "a socket broke");
                return;
            }
        }
        let [
            RecvMeta {
                addr, len, stride, ..
            },
        ] = meta;
        let path = AddressPair {
            local,
            remote: addr,
        };
        let stride = stride.max(1);
        let train = &mut buffer[..len];
        let kept = keep_quic(train, stride, true, |stun| inlets.pass_stun(path, stun));
        if kept > 0 {
            let payload = Bytes::copy_from_slice(&train[..kept]);
            // QUIC drops what does not come on a path that it may use.
            inlets
                .inject(Train {
                    path,
                    address: None,
                    stride,
                    payload,
                })
                .await;
        }
    }
}
