//! The client of gateways that map ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::probe::Answer;
use postern_wire::transport::Transport;
use postern_wire::upnp::http::{Bounds, Collector};

use crate::Datagram;
use crate::portmap::{
    Client, Config, Event, ExchangeId, Listener, ProbeId, Probed, Protocols, Wish,
};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10)), 4321);
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));
/// The most exchanges at once: of eight gateways with eight questions each, and of a mapping.
const MOST_EXCHANGES: usize = 128;

/// Pieces of the input are datagrams, answers over HTTP, and time. Each begins with what it is
/// and with its length in 16 bytes' multiples.
#[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
pub fn machine_portmap(data: &[u8]) {
    let mut now = Instant::now();
    let mut client = Client::new(now, [1; 32], config());
    let id = client.map(now, wish());
    let mut exchanges = Vec::new();
    let mut probed = None;
    let mut rest = data;
    while let Some(([what, length], tail)) = rest.split_first_chunk() {
        let length = usize::from(*length).saturating_mul(16).min(tail.len());
        let (piece, tail) = tail.split_at(length);
        rest = tail;
        match what & 15 {
            0 => hear(
                &mut client,
                now,
                SocketAddr::new(ROUTER, 5351),
                LOCAL,
                piece,
            ),
            1 => hear(
                &mut client,
                now,
                SocketAddr::new(ROUTER, 1900),
                LOCAL,
                piece,
            ),
            2 => {
                let group = SocketAddr::from(([239, 255, 255, 250], 1900));
                hear(
                    &mut client,
                    now,
                    SocketAddr::new(ROUTER, 1900),
                    group,
                    piece,
                );
            }
            3 => {
                let all = SocketAddr::from(([224, 0, 0, 1], 5350));
                hear(&mut client, now, SocketAddr::new(ROUTER, 5351), all, piece);
            }
            4 => {
                now = now
                    .checked_add(Duration::from_millis(u64::from(*what).saturating_mul(97)))
                    .unwrap_or(now)
            }
            5 => client.list(now),
            6 => client.heal(now, id),
            8 => say_probed(&mut client, now, probed.take(), piece),
            _ => answer(&mut client, now, exchanges.pop(), piece),
        }
        client.handle_timeout(now);
        drain(&mut client, &mut exchanges, &mut probed);
        assert!(exchanges.len() <= MOST_EXCHANGES);
        assert!(client.poll_timeout().is_none_or(|at| at > now));
    }
    client.close(now);
}

fn hear(client: &mut Client, now: Instant, remote: SocketAddr, local: SocketAddr, payload: &[u8]) {
    client.handle_input(
        now,
        Datagram {
            local,
            remote,
            payload,
        },
    );
}

fn answer(client: &mut Client, now: Instant, id: Option<ExchangeId>, piece: &[u8]) {
    let Some(id) = id else {
        return;
    };
    let mut collector = Collector::response(Bounds::default());
    let response = collector
        .push(piece)
        .and_then(|()| collector.into_response());
    client.handle_response(now, id, response.ok());
}

fn say_probed(client: &mut Client, now: Instant, id: Option<ProbeId>, piece: &[u8]) {
    let Some(id) = id else {
        return;
    };
    let listener = match piece.first() {
        Some(0) => Listener::Nobody,
        Some(1) => Listener::Another,
        Some(2) => Listener::Ours { arrived: true },
        Some(_) | None => Listener::Ours { arrived: false },
    };
    let answer = Answer::parse(piece.get(1..).unwrap_or_default()).ok();
    client.handle_probed(now, id, Probed { listener, answer });
}

fn drain(client: &mut Client, exchanges: &mut Vec<ExchangeId>, probed: &mut Option<ProbeId>) {
    while client.poll_transmit().is_some() {}
    while let Some(event) = client.poll_event() {
        match event {
            Event::Exchange(exchange) => exchanges.push(exchange.id),
            Event::Abandoned(id) => exchanges.retain(|known| *known != id),
            Event::Probe(probe) => *probed = Some(probe.id),
            Event::Made(_, mapping) | Event::Moved(_, mapping) | Event::Healed(_, mapping) => {
                assert_ne!(mapping.external_port, 0);
            }
            Event::Renewed(..)
            | Event::Lost(..)
            | Event::Failed(..)
            | Event::Removed(..)
            | Event::Endless(..)
            | Event::Surveyed(_)
            | Event::Chosen(_)
            | Event::Listed(_)
            | Event::Called(_) => {}
        }
    }
}

const fn config() -> Config {
    Config {
        local: LOCAL,
        prefix: 24,
        scope: 1,
        gateway: Some(ROUTER),
        protocols: Protocols::ALL,
        location: None,
        verify: true,
        search: true,
        only_gateway: false,
        known: None,
    }
}

const fn wish() -> Wish {
    Wish {
        transport: Transport::Tcp,
        internal_port: 4000,
        external_port: 4001,
        exact: false,
        lifetime: 3600,
        must_end: false,
        description: String::new(),
        internal_host: None,
        nonce: None,
    }
}
