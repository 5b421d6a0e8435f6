use std::array;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Result;

use super::udp::wait;
use crate::sys::{BATCH, Inbox, Outgoing, ipv4, send};

/// The length of a Binding response with an IPv4 address.
const RESPONSE: usize = 32;

/// Makes the response to every datagram without looking at it.
pub(super) fn serve(idle: Duration, ready: impl FnOnce(SocketAddrV4) -> Result<()>) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    ready(ipv4(socket.local_addr()?)?)?;
    let mut inbox = Inbox::new(BATCH, 2048);
    let mut responses = [[0; RESPONSE]; BATCH];
    while wait(&socket, idle)? {
        let Ok(count) = inbox.receive(socket.as_fd(), 0) else {
            continue;
        };
        for (index, response) in responses.iter_mut().enumerate().take(count) {
            respond(response, inbox.bytes(index), inbox.from(index));
        }
        let parts: [_; BATCH] = array::from_fn(|index| [IoSlice::new(&responses[index])]);
        let messages: [_; BATCH] = array::from_fn(|index| Outgoing {
            parts: &parts[index],
            segment: 0,
            to: Some(inbox.from(index)),
        });
        let _ = send(socket.as_fd(), &messages[..count]);
    }
    Ok(())
}

fn respond(response: &mut [u8; RESPONSE], request: &[u8], from: SocketAddrV4) {
    let known = request.len().min(20);
    response[..known].copy_from_slice(&request[..known]);
    response[..4].copy_from_slice(&[1, 1, 0, 12]);
    response[20..26].copy_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    let port = from.port() ^ 0x2112;
    let address = u32::from(*from.ip()) ^ 0x2112_a442;
    response[26..28].copy_from_slice(&port.to_be_bytes());
    response[28..].copy_from_slice(&address.to_be_bytes());
}
