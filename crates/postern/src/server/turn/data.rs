//! The data path of a shard: trains from clients to peers and back.

use std::time::Instant;

use postern_proto::turn::server::{
    Backward, ClientAddr, FiveTuple, Forward, Framing, Handled, Load, PeerAddr, RelayId,
    ShardIndex, Transport,
};
use postern_wire::turn::{
    CHANNEL_HEADER_LEN, ChannelData, ChannelNumber, DataHeader, Icmp, channel_header,
};

use super::batch::Destination;
use super::commands::Command;
use super::shard::Shard;
use super::sockets::Via;
use crate::os::trains::{Train, TrainSocket};

/// ICMP errors taken from a relay's queue before others have their turn.
const ERRORS: usize = 64;

impl Shard {
    /// A train from one client, or from a stranger.
    pub(super) fn on_client_train(&mut self, now: Instant, via: Via, train: &Train<'_>) {
        let Some(server) = self.sockets.arrived_at(via, train.at) else {
            return;
        };
        let client = FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr(train.from),
            server,
        };
        match self.machine.elsewhere(&client, train.bytes) {
            None => self.on_train(now, &client, train.stride, train.bytes),
            Some(owner) => self.let_have(owner, &client, train.stride, train.bytes),
        }
    }

    /// A client's message or train is another shard's business.
    fn let_have(&self, owner: ShardIndex, client: &FiveTuple, stride: usize, bytes: &[u8]) {
        let command = Command::Train {
            client: *client,
            stride,
            bytes: bytes.to_vec(),
        };
        self.remote.pass_on(owner, command);
    }

    /// A train of a client whose allocation, if it has one, is here.
    pub(super) fn on_train(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        stride: usize,
        train: &[u8],
    ) {
        let stride = stride.max(1);
        let mut rest = train;
        while !rest.is_empty() {
            let used = match Run::find(rest, stride) {
                Some(run) if self.relays => {
                    self.on_run(now, client, &run);
                    run.train.len()
                }
                _ => {
                    let used = stride.min(rest.len());
                    self.on_datagram(now, client, rest.get(..used).unwrap_or_default());
                    used
                }
            };
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    fn on_datagram(&mut self, now: Instant, client: &FiveTuple, payload: &[u8]) {
        match self.machine.bare_binding(now, client, payload) {
            Some(Some(response)) => self.send_to_client(client, [response.as_bytes()]),
            Some(None) => {}
            None => self.on_own_message(now, client, payload),
        }
    }

    /// Sends a datagram, which is these parts one behind the other, to a client.
    pub(super) fn send_to_client<const N: usize>(&mut self, client: &FiveTuple, parts: [&[u8]; N]) {
        if let Some((via, to)) = self.sockets.way_to(client) {
            self.batch.push(&self.inbox, via, to, parts);
        }
    }

    /// One message of a client that does not come from a socket of this shard.
    pub(super) fn on_message(&mut self, now: Instant, client: &FiveTuple, payload: &[u8]) {
        match self.machine.elsewhere(client, payload) {
            None => self.on_own_message(now, client, payload),
            Some(owner) => self.let_have(owner, client, payload.len(), payload),
        }
    }

    /// One message of a client, of whatever kind.
    fn on_own_message(&mut self, now: Instant, client: &FiveTuple, payload: &[u8]) {
        if !self.relays && !is_binding(payload) {
            return;
        }
        if let Handled::Forward(forward, data) = self.machine.handle_input(now, client, payload) {
            let load = Load::one(data.len());
            self.forward(now, &forward, load, std::iter::once(data));
        } else {
            self.drain(now);
        }
    }

    fn on_run(&mut self, now: Instant, client: &FiveTuple, run: &Run<'_>) {
        let load = run.load();
        if let Some(forward) = self.machine.client_data(now, client, run.channel, load) {
            self.forward(now, &forward, load, run.data());
        }
    }

    /// Data from a client for a peer, or for another client if the peer is its relay.
    fn forward<'a>(
        &mut self,
        now: Instant,
        forward: &Forward,
        load: Load,
        data: impl Iterator<Item = &'a [u8]>,
    ) {
        if let Some(relay) = forward.own {
            let source = PeerAddr(forward.source.0);
            if relay.allocation.shard() != self.machine.index() {
                self.hand_over(relay, source, data);
                return;
            }
            if let Some(backward) = self.machine.peer_data(now, relay, source, load) {
                self.backward(&backward, data);
            }
            return;
        }
        let to = Destination {
            to: forward.peer.0,
            from: None,
            dont_fragment: forward.dont_fragment,
        };
        let via = Via::Relay(forward.relay);
        for datagram in data {
            self.batch.push(&self.inbox, via, to, [datagram]);
        }
    }

    /// Data for a relay of another shard.
    fn hand_over<'a>(
        &self,
        relay: RelayId,
        source: PeerAddr,
        data: impl Iterator<Item = &'a [u8]>,
    ) {
        let (mut lengths, mut bytes) = (Vec::new(), Vec::new());
        for datagram in data {
            lengths.push(datagram.len());
            bytes.extend_from_slice(datagram);
        }
        let command = Command::Relayed {
            relay,
            source,
            lengths,
            bytes,
        };
        self.remote.pass_on(relay.allocation.shard(), command);
    }

    /// Data for a relay of this shard from another shard's.
    pub(super) fn on_relayed(
        &mut self,
        now: Instant,
        relay: RelayId,
        source: PeerAddr,
        lengths: &[usize],
        bytes: &[u8],
    ) {
        let load = Load {
            packets: lengths.len(),
            bytes: bytes.len(),
        };
        let Some(backward) = self.machine.peer_data(now, relay, source, load) else {
            return;
        };
        let mut rest = bytes;
        let datagrams = lengths.iter().map_while(|length| {
            let (datagram, others) = rest.split_at_checked(*length)?;
            rest = others;
            Some(datagram)
        });
        self.backward(&backward, datagrams);
    }

    /// A train from one peer.
    pub(super) fn on_peer_train(&mut self, now: Instant, relay: RelayId, train: &Train<'_>) {
        let (peer, data) = (PeerAddr(train.from), train.bytes);
        let load = Load {
            packets: data.len().div_ceil(train.stride.max(1)).max(1),
            bytes: data.len(),
        };
        let Some(backward) = self.machine.peer_data(now, relay, peer, load) else {
            return;
        };
        if data.is_empty() {
            self.backward(&backward, std::iter::once(data));
        } else {
            self.backward(&backward, data.chunks(train.stride));
        }
    }

    /// Data from one peer for its client.
    fn backward<'a>(&mut self, backward: &Backward, data: impl Iterator<Item = &'a [u8]>) {
        let client = backward.client;
        match client.transport {
            Transport::Udp => {}
            Transport::Dtls => {
                for datagram in data {
                    let bytes = self.framed(backward.framing, datagram, false);
                    self.streams.send(&client, bytes);
                }
                return;
            }
            Transport::Tcp | Transport::Tls => {
                let framing = backward.framing;
                let framed = data.map(|data| self.framed(framing, data, true));
                let bytes = framed.collect::<Vec<_>>().concat();
                self.streams.send(&client, bytes);
                return;
            }
        }
        let Some((via, to)) = self.sockets.way_to(&client) else {
            return;
        };
        for datagram in data {
            self.frame(via, to, backward.framing, datagram);
        }
    }

    fn frame(&mut self, via: Via, to: Destination, framing: Framing, data: &[u8]) {
        match framing {
            Framing::Channel(channel) => {
                let Ok(length) = u16::try_from(data.len()) else {
                    return;
                };
                let header = channel_header(channel, length);
                self.batch.push(&self.inbox, via, to, [&header, data]);
            }
            Framing::Indication(peer) => {
                let id = self.machine.indication_id();
                if let Some(header) = DataHeader::data(peer.0, id, data.len()) {
                    let parts = [header.as_bytes(), data, padding(&header)];
                    self.batch.push(&self.inbox, via, to, parts);
                }
            }
        }
    }

    /// Data as a client gets it that is not at a socket of the shard; in a stream
    /// ChannelData is padded.
    fn framed(&mut self, framing: Framing, data: &[u8], in_stream: bool) -> Vec<u8> {
        match framing {
            Framing::Channel(channel) if in_stream => ChannelData { channel, data }.to_stream(),
            Framing::Channel(channel) => ChannelData { channel, data }.to_datagram(),
            Framing::Indication(peer) => {
                let id = self.machine.indication_id();
                let header = DataHeader::data(peer.0, id, data.len());
                header.map_or_else(Vec::new, |header| {
                    [header.as_bytes(), data, padding(&header)].concat()
                })
            }
        }
    }
}

impl Shard {
    /// Tells clients of ICMP errors that their datagrams met.
    pub(super) fn tell_errors(&mut self, now: Instant, relay: RelayId) {
        for _ in 0..ERRORS {
            let socket = self.sockets.get(Via::Relay(relay));
            let Some(error) = socket.and_then(TrainSocket::next_error) else {
                break;
            };
            if let Ok(icmp) = Icmp::new(error.kind, error.code, error.mtu) {
                let peer = PeerAddr(error.to);
                self.machine.handle_icmp(now, relay, peer, icmp);
            }
        }
        self.drain(now);
    }
}

/// Datagrams of one train that carry as much data on the same channel; the last one
/// perhaps less.
struct Run<'a> {
    channel: ChannelNumber,
    train: &'a [u8],
    stride: usize,
}

impl<'a> Run<'a> {
    /// The run that a train begins with; `None` if its first datagram is not ChannelData.
    fn find(train: &'a [u8], stride: usize) -> Option<Self> {
        let first = train.get(..stride.min(train.len()))?;
        if !matches!(first.first(), Some(0x40..=0x7f)) {
            return None;
        }
        let ChannelData { channel, .. } = ChannelData::parse(first).ok()?;
        let on_channel = |datagram: &&[u8]| {
            ChannelData::parse(datagram).is_ok_and(|data| data.channel == channel)
        };
        let length = train
            .chunks(stride)
            .take_while(on_channel)
            .map(<[u8]>::len)
            .sum();
        Some(Self {
            channel,
            train: train.get(..length)?,
            stride,
        })
    }

    fn data(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let datagrams = self.train.chunks(self.stride);
        datagrams.filter_map(|datagram| ChannelData::parse(datagram).ok().map(|parsed| parsed.data))
    }

    fn load(&self) -> Load {
        let packets = self.train.len().div_ceil(self.stride);
        let headers = packets * CHANNEL_HEADER_LEN;
        let bytes = self.train.len().saturating_sub(headers);
        Load { packets, bytes }
    }
}

/// Whether this is a Binding request or indication: all that is answered when there are no
/// relays.
fn is_binding(payload: &[u8]) -> bool {
    matches!(payload, [0x00, 0x01 | 0x11, ..])
}

fn padding(header: &DataHeader) -> &'static [u8] {
    const ZEROES: &[u8] = &[0; 3];
    ZEROES.get(..header.padding()).unwrap_or_default()
}
