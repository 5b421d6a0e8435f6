//! The TURN client.

use std::time::{Duration, Instant};

use postern_wire::stun::{AttributeType, Builder, Class, Message};

use crate::turn::client::{Client, Config, Credentials, Event, Relay, Transport};
use crate::{Datagram, Transmit};

/// Lets the client live through what `data` says: answers of the server, other bytes from it,
/// time, and wishes of the user. The first byte chooses the transport and the relay.
#[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
pub fn machine_turn_client(data: &[u8]) {
    let mut now = Instant::now();
    let Some((choice, mut rest)) = data.split_first() else {
        return;
    };
    let mut client = Client::new(now, [1; 32], config(*choice));
    let mut last = None;
    while let Some(([op, length], behind)) = rest.split_first_chunk::<2>() {
        let (argument, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        act(&mut client, &mut now, *op, argument, last.as_ref());
        while let Some(transmit) = client.poll_transmit() {
            last = Some(transmit);
        }
        while let Some(event) = client.poll_event() {
            if let Event::Redirected { .. } = event {
                let local = client.local();
                client.reconnected(now, local);
            }
        }
    }
}

fn config(choice: u8) -> Config {
    let (local, server) = (([10, 0, 0, 2], 5000), ([192, 0, 2, 1], 3478));
    let credentials = Credentials::new("user", "pass").ok();
    let mut config = Config::new(local.into(), server.into(), credentials);
    if choice & 1 != 0 {
        config.transport = Transport::Stream;
    }
    if choice & 2 != 0 {
        config.relay = Relay::Tcp;
    }
    if choice & 4 != 0 {
        config.credentials = None;
    }
    config.mobility = choice & 8 != 0;
    config
}

fn act(client: &mut Client, now: &mut Instant, op: u8, bytes: &[u8], last: Option<&Transmit>) {
    let first = bytes.first().copied().unwrap_or_default();
    let peer = ([203, 0, 113, first], 9).into();
    match op % 8 {
        0 => hand(client, *now, bytes),
        1 | 2 => {
            let answer = last.and_then(|last| answer(last, op % 8 == 1, bytes));
            hand(client, *now, &answer.unwrap_or_default());
        }
        3 => _ = client.send(*now, peer, bytes),
        4 => {
            let wait = Duration::from_secs(u64::from(first));
            *now = now.checked_add(wait).unwrap_or(*now);
            client.handle_timeout(*now);
        }
        5 => client.moved(*now, ([10, 0, 0, first], 5000).into()),
        6 => _ = client.connect(*now, peer),
        _ => client.close(*now),
    }
}

fn hand(client: &mut Client, now: Instant, payload: &[u8]) {
    let (local, remote) = (client.local(), client.server());
    client.handle_input(
        now,
        Datagram {
            local,
            remote,
            payload,
        },
    );
}

/// A response to the last request, with attributes of one type byte, one length byte and that
/// many bytes each.
fn answer(last: &Transmit, success: bool, mut bytes: &[u8]) -> Option<Vec<u8>> {
    let request = Message::parse(&last.payload).ok()?;
    let class = if success {
        Class::Success
    } else {
        Class::Error
    };
    let mut response = Builder::new(class, request.method(), request.transaction_id());
    while let Some(([kind, length], rest)) = bytes.split_first_chunk::<2>() {
        let (value, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let optional = if kind & 0x80 == 0 { 0 } else { 0x8000 };
        let kind = AttributeType(u16::from(kind & 0x7f) | optional);
        response = response.raw_attribute(kind, value);
        bytes = rest;
    }
    Some(response.build())
}
