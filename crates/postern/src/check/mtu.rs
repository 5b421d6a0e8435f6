//! Drives the search for the largest packet that gets to a server.

use std::net::SocketAddr;

use postern_proto::stun::behaviour::{MtuSearch, PathMtu};
use postern_proto::{Datagram, Transmit};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::udp::route_to;
use crate::clock::{self, until};
use crate::entropy;
use crate::os::{keep_whole, trains};

/// Answers are short.
const LARGEST: usize = 1024;

/// More errors than this do not wait for the same datagram.
const TRIES: usize = 4;

/// To the first of these servers that can be gone to; `None` where the system cannot keep packets
/// whole, and where no server answers.
pub(super) async fn search(servers: &[SocketAddr]) -> Option<PathMtu> {
    let ip = route_to(servers).await?;
    let server = servers
        .iter()
        .find(|server| server.is_ipv4() == ip.is_ipv4())?;
    let socket = UdpSocket::bind((ip, 0)).await.ok()?;
    keep_whole(&socket).ok()?;
    // Without it nobody is told by a router what passes, which is found out all the same.
    let _ = trains::keep_errors(&socket);
    let local = socket.local_addr().ok()?;
    let machine = MtuSearch::new(clock::now(), entropy::seed().ok()?, local, *server);
    drive(machine, &socket, local).await
}

async fn drive(mut machine: MtuSearch, socket: &UdpSocket, local: SocketAddr) -> Option<PathMtu> {
    let mut buffer = [0; LARGEST];
    loop {
        while let Some(transmit) = machine.poll_transmit() {
            if !takes(socket, &transmit).await {
                machine.handle_refused(clock::now(), transmit.payload.len());
            }
        }
        if let Some(found) = machine.poll_event() {
            return found;
        }
        tokio::select! {
            biased;
            () = until(machine.poll_timeout()) => machine.handle_timeout(clock::now()),
            Ok((length, remote)) = socket.recv_from(&mut buffer) => {
                let payload = buffer.get(..length).unwrap_or_default();
                let datagram = Datagram { local, remote, payload };
                machine.handle_input(clock::now(), datagram);
            }
            Ok(_) = socket.ready(Interest::ERROR) => {
                let told = told(socket);
                if let Some(mtu) = told {
                    machine.handle_too_big(clock::now(), mtu);
                }
            }
        }
    }
}

/// Sends; false if it is too large to be sent. An error of an earlier datagram, of which a router
/// has told, is told in place of sending the next.
async fn takes(socket: &UdpSocket, transmit: &Transmit) -> bool {
    for _ in 0..TRIES {
        let sent = socket.send_to(&transmit.payload, transmit.remote).await;
        if !sent.is_err_and(|error| is_too_large(&error)) {
            return true;
        }
    }
    false
}

/// The least that routers say passes.
fn told(socket: &UdpSocket) -> Option<u16> {
    let next = || {
        let error = trains::next_error(socket);
        error.ok_or_else(|| std::io::ErrorKind::WouldBlock.into())
    };
    let mut least = None;
    while let Ok(error) = socket.try_io(Interest::ERROR, next) {
        let mtu = u16::try_from(error.mtu).ok().filter(|mtu| *mtu > 0);
        least = [least, mtu].into_iter().flatten().min();
    }
    least
}

/// Larger than what the interface takes.
fn is_too_large(error: &std::io::Error) -> bool {
    #[cfg(unix)]
    let code = rustix::io::Errno::MSGSIZE.raw_os_error();
    #[cfg(not(unix))]
    let code = 10_040; // WSAEMSGSIZE
    error.raw_os_error() == Some(code)
}
