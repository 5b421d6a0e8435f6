//! The STUN server's socket.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use noq::{AsyncUdpSocket, UdpSender};
use noq_udp::{RecvMeta, Transmit};
use postern_proto::Datagram;
use postern_proto::stun::BindingServer;
use tokio::time::sleep;

use crate::clock;

/// Bytes for one train of datagrams, which the kernel joins if they have one size and one
/// sender: the most that it joins.
const TRAIN: usize = 64 * 1024;

/// Trains received at once.
const BATCH: usize = 8;

/// Pause after an error of the socket, so that one that stays cannot keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Answers STUN for ever, each request from the address that it was sent to: another one
/// would be dropped by the client's NAT.
pub(super) async fn serve(socket: Box<dyn AsyncUdpSocket>) {
    let Ok(bound) = socket.local_addr() else {
        return;
    };
    let sender = socket.create_sender();
    let server = BindingServer::default();
    let mut driver = Driver {
        socket,
        sender,
        server,
        bound,
    };
    let mut memory = vec![0; BATCH * TRAIN];
    loop {
        if let Err(error) = driver.turn(&mut memory).await {
            tracing::debug!(%error, "the STUN socket could not receive");
            sleep(ERROR_PAUSE).await;
        }
    }
}

struct Driver {
    socket: Box<dyn AsyncUdpSocket>,
    sender: Pin<Box<dyn UdpSender>>,
    server: BindingServer,
    bound: SocketAddr,
}

impl Driver {
    /// Receives a batch and answers it.
    async fn turn(&mut self, memory: &mut [u8]) -> io::Result<()> {
        let mut buffers: Vec<_> = memory.chunks_mut(TRAIN).map(IoSliceMut::new).collect();
        let mut metas = [RecvMeta::default(); BATCH];
        let receive = poll_fn(|cx| self.socket.poll_recv(cx, &mut buffers, &mut metas));
        let received = receive.await?;
        for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
            let train = buffer.get(..meta.len).unwrap_or_default();
            self.answer(train, meta).await;
        }
        Ok(())
    }

    async fn answer(&mut self, train: &[u8], meta: &RecvMeta) {
        let Some(local) = local_address(self.bound, meta) else {
            return;
        };
        let remote = meta.addr;
        for payload in train.chunks(meta.stride.max(1)) {
            let datagram = Datagram {
                local,
                remote,
                payload,
            };
            self.server.handle_input(clock::now(), datagram);
            self.drain().await;
        }
    }

    async fn drain(&mut self) {
        while let Some(transmit) = self.server.poll_transmit() {
            let transmit = Transmit {
                destination: transmit.remote,
                ecn: None,
                contents: &transmit.payload,
                segment_size: None,
                src_ip: Some(transmit.local.ip()),
            };
            // What the network does not take is lost, as datagrams are; the client asks
            // again.
            let _ = poll_fn(|cx| self.sender.as_mut().poll_send(&transmit, cx)).await;
        }
    }
}

/// Where a datagram arrived; `None` if the system does not say, on a socket that is bound
/// to every address.
fn local_address(bound: SocketAddr, meta: &RecvMeta) -> Option<SocketAddr> {
    let ip = meta.dst_ip.unwrap_or_else(|| bound.ip());
    (!ip.is_unspecified()).then(|| SocketAddr::new(ip, bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrived_where_the_system_says_or_where_the_socket_is_bound() {
        let all: SocketAddr = "0.0.0.0:3478".parse().unwrap();
        let one: SocketAddr = "192.0.2.1:3478".parse().unwrap();
        let mut told = RecvMeta::default();
        told.dst_ip = Some(one.ip());
        assert_eq!(local_address(all, &told), Some(one));
        assert_eq!(local_address(one, &RecvMeta::default()), Some(one));
        assert_eq!(local_address(all, &RecvMeta::default()), None);
    }
}
