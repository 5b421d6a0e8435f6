use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use postern_wire::stun::{Builder, Class, Method, TransactionId};
use postern_wire::turn::{ChannelData, ChannelNumber, DataHeader};

use super::Flow;
use crate::client::{Allocation, request, udp};
use crate::limit;
use crate::subject::Server;
use crate::sys::ipv4;

/// Which way packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// In a channel from a client to its peer.
    Channel,
    /// From the peer to the client, in a channel.
    ChannelBack,
    /// In Send indications from a client to its peer.
    Indication,
    /// From the peer to the client, in Data indications.
    IndicationBack,
    /// In a channel from one client's allocation to the other's, and in a channel to it.
    Clients,
    /// Binding requests and their responses.
    Binding,
}

/// A flow through a server, and what had to be set up for it.
#[derive(Debug)]
pub struct Session {
    /// The way there.
    pub flow: Flow,
    /// The way back, if the path has two.
    pub back: Option<Flow>,
    allocations: Vec<Allocation<UdpSocket>>,
}

impl Session {
    /// The way there, and the allocations, to be deleted later.
    #[must_use]
    pub fn into_flow(self) -> (Flow, Vec<Allocation<UdpSocket>>) {
        (self.flow, self.allocations)
    }

    /// Deletes the allocations.
    pub fn end(self) -> Result<()> {
        self.allocations
            .into_iter()
            .try_for_each(Allocation::delete)
    }
}

/// Sets a path up, and sends one packet each way to see that it works.
pub fn open(server: &Server, path: Path, data: usize) -> Result<Session> {
    let content: Vec<u8> = (0..data).map(|index| index as u8 ^ 0x5a).collect();
    if path == Path::Binding {
        return binding(server.udp());
    }
    let session = match (server.limit(), path) {
        (Some(_), _) => bare(server.udp(), &content)?,
        (None, Path::Clients) => clients(server.udp(), &content)?,
        (None, Path::Indication | Path::IndicationBack) => indications(server.udp(), &content)?,
        (None, Path::Channel | Path::ChannelBack | Path::Binding) => {
            channel(server.udp(), &content)?
        }
    };
    session.flow.check(&content)?;
    if let Some(back) = &session.back {
        back.check(&content)?;
    }
    let Session {
        flow,
        back,
        allocations,
    } = session;
    let turned = matches!(path, Path::ChannelBack | Path::IndicationBack);
    let (flow, back) = match back {
        Some(back) if turned => (back, Some(flow)),
        back => (flow, back),
    };
    Ok(Session {
        flow,
        back,
        allocations,
    })
}

fn framed(channel: ChannelNumber, data: &[u8]) -> Vec<u8> {
    ChannelData { channel, data }.to_datagram()
}

/// Both directions of what a client's and a peer's socket send each other.
fn both(
    client: &UdpSocket,
    peer: UdpSocket,
    relayed: SocketAddr,
    packet: Vec<u8>,
    content: &[u8],
) -> Result<(Flow, Option<Flow>)> {
    let (client, peer_too) = (client.try_clone()?, peer.try_clone()?);
    let there = Flow::new(client.try_clone()?, None, peer_too, packet)?;
    let back = Flow::new(peer, Some(ipv4(relayed)?), client, content.to_vec())?;
    Ok((there, Some(back)))
}

fn channel(server: SocketAddr, content: &[u8]) -> Result<Session> {
    let peer = udp()?;
    let mut allocation = Allocation::udp(server)?;
    let packet = framed(allocation.bind(peer.local_addr()?)?, content);
    let relayed = allocation.relayed();
    let (flow, back) = both(allocation.socket(), peer, relayed, packet, content)?;
    let allocations = vec![allocation];
    Ok(Session {
        flow,
        back,
        allocations,
    })
}

fn indications(server: SocketAddr, content: &[u8]) -> Result<Session> {
    let peer = udp()?;
    let mut allocation = Allocation::udp(server)?;
    let address = peer.local_addr()?;
    allocation.permit(address)?;
    let header = DataHeader::send(address, TransactionId([7; 12]), content.len());
    let header = header.context("too much data")?;
    let padding = [0; 3];
    let packet = [header.as_bytes(), content, &padding[..header.padding()]].concat();
    let relayed = allocation.relayed();
    let (flow, back) = both(allocation.socket(), peer, relayed, packet, content)?;
    let allocations = vec![allocation];
    Ok(Session {
        flow,
        back,
        allocations,
    })
}

fn clients(server: SocketAddr, content: &[u8]) -> Result<Session> {
    let (mut one, mut other) = (Allocation::udp(server)?, Allocation::udp(server)?);
    let packet = framed(one.bind(other.relayed())?, content);
    other.bind(one.relayed())?;
    let out = other.socket().try_clone()?;
    let flow = Flow::new(one.socket().try_clone()?, None, out, packet)?;
    let allocations = vec![one, other];
    Ok(Session {
        flow,
        back: None,
        allocations,
    })
}

fn binding(server: SocketAddr) -> Result<Session> {
    let socket = udp()?;
    socket.connect(server)?;
    let id = TransactionId([0x3c; 12]);
    let request = Builder::new(Class::Request, Method::BINDING, id).build();
    let flow = Flow::new(socket.try_clone()?, None, socket, request)?;
    flow.check(&id.0)?;
    let allocations = Vec::new();
    Ok(Session {
        flow,
        back: None,
        allocations,
    })
}

/// Through a limit, which wants to know the peer and nothing else.
fn bare(server: SocketAddr, content: &[u8]) -> Result<Session> {
    let (client, peer) = (udp()?, udp()?);
    client.connect(server)?;
    client.send(&limit::to_bytes(ipv4(peer.local_addr()?)?))?;
    let mut answer = [0; 7];
    let length = client.recv(&mut answer).context("no answer")?;
    let relayed = limit::from_bytes(&answer[..length]).context("no address")?;
    let packet = framed(ChannelNumber::MIN, content);
    let (flow, back) = both(&client, peer, relayed.into(), packet, content)?;
    let allocations = Vec::new();
    Ok(Session {
        flow,
        back,
        allocations,
    })
}

/// Sends Binding requests until the server answers one: it is up.
pub(crate) fn answers(server: SocketAddr) -> Result<bool> {
    let socket = udp()?;
    socket.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
    socket.connect(server)?;
    socket.send(&request(Method::BINDING).build())?;
    Ok(socket.recv(&mut [0; 256]).is_ok())
}
