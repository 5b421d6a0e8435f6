//! The STUN server's socket.

use postern_proto::Datagram;
use postern_proto::stun::BindingServer;
use tokio::net::UdpSocket;

use crate::clock;

/// Larger requests are cut off, and then dropped as malformed.
const MAX_REQUEST: usize = 1500;

/// Answers STUN for ever.
pub(super) async fn serve(socket: UdpSocket) {
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let mut server = BindingServer::default();
    let mut buffer = [0; MAX_REQUEST];
    loop {
        // An error here is an ICMP message about an earlier answer: nobody's concern.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let payload = &buffer[..length];
        server.handle_input(
            clock::now(),
            Datagram {
                local,
                remote,
                payload,
            },
        );
        while let Some(transmit) = server.poll_transmit() {
            let _ = socket.send_to(&transmit.payload, transmit.remote).await;
        }
    }
}
