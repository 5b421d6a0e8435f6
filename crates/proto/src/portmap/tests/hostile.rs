use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{LOCAL, ROUTER, at, client, wish};
use crate::portmap::{Client, Event, Protocols};
use crate::{Datagram, Verdict};

fn hear(client: &mut Client, now: Instant, remote: &str, local: &str, payload: &[u8]) -> Verdict {
    client.handle_input(
        now,
        Datagram {
            local: at(local),
            remote: at(remote),
            payload,
        },
    )
}

fn exchanges(client: &mut Client) -> usize {
    let all = std::iter::from_fn(|| client.poll_event());
    all.filter(|event| matches!(event, Event::Exchange(_)))
        .count()
}

fn answer(host: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: {host}\r\n\r\n"
    )
}

#[test]
fn however_many_say_that_they_are_gateways_eight_are_looked_at() {
    let now = Instant::now();
    let mut client = client(now, Protocols::ALL);
    for number in 0..500 {
        let location = format!("http://192.168.1.1:{}/x.xml", 1000 + number);
        hear(
            &mut client,
            now,
            "192.168.1.1:1900",
            LOCAL,
            answer(&location).as_bytes(),
        );
    }
    assert_eq!(exchanges(&mut client), 8);
}

#[test]
fn who_is_not_on_the_link_is_not_looked_at() {
    let now = Instant::now();
    let mut client = client(now, Protocols::ALL);
    for remote in [
        "45.45.1.1:1900",
        "127.0.0.1:1900",
        "192.168.1.10:1900",
        "192.168.2.1:1900",
    ] {
        let location = answer("http://192.168.1.1:80/x.xml");
        hear(&mut client, now, remote, LOCAL, location.as_bytes());
    }
    assert_eq!(exchanges(&mut client), 0);
}

#[test]
fn a_grant_from_anybody_but_the_router_is_not_heard() {
    use postern_wire::natpmp::{Answer, Response};
    let now = Instant::now();
    let mut client = client(now, Protocols::ALL);
    let payload = Response::granted(1, Answer::ExternalAddress([6, 6, 6, 6].into())).to_bytes();
    for remote in ["192.168.1.66:5351", "192.168.1.1:5350", "45.45.1.1:5351"] {
        hear(&mut client, now, remote, LOCAL, &payload);
    }
    assert_eq!(client.found(), []);
    hear(&mut client, now, ROUTER, LOCAL, &payload);
    assert_eq!(client.found().len(), 1);
}

#[test]
fn what_arrives_at_another_socket_is_not_ours() {
    let now = Instant::now();
    let mut client = client(now, Protocols::ALL);
    let verdict = hear(&mut client, now, ROUTER, "192.168.1.10:9", &[0, 128]);
    assert_eq!(verdict, Verdict::NotMine);
}

#[test]
fn more_wishes_than_there_may_be_are_refused() {
    let now = Instant::now();
    let mut client = client(now, Protocols::ALL);
    for _ in 0..300 {
        client.map(now, wish());
    }
    let all = std::iter::from_fn(|| client.poll_event());
    let refused = all
        .filter(|event| matches!(event, Event::Failed(..)))
        .count();
    assert_eq!(refused, 44);
}

#[test]
fn a_notification_makes_us_look_once_in_ten_seconds() {
    let now = Instant::now();
    let mut client = client(now, Protocols::ALL);
    let alive = "NOTIFY * HTTP/1.1\r\nNT: upnp:rootdevice\r\nNTS: ssdp:alive\r\nLOCATION: http://192.168.1.1:80/\r\n\r\n";
    for _ in 0..100 {
        hear(
            &mut client,
            now,
            "192.168.1.1:1900",
            "239.255.255.250:1900",
            alive.as_bytes(),
        );
    }
    assert_eq!(exchanges(&mut client), 1, "the description");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_spin(
        pieces in proptest::collection::vec((0..6usize, any::<u16>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..40),
    ) {
        let mut now = Instant::now();
        let mut client = client(now, Protocols::ALL);
        client.map(now, wish());
        for (from, millis, payload) in pieces {
            now += Duration::from_millis(millis.into());
            let start: &[u8] = [&[][..], &[0, 128], &[0, 129, 0, 0], &[2, 129], b"HTTP/1.1 200 OK\r\nST: wandevice\r\nLOCATION: http://192.168.1.1/", b"N"][from];
            let payload = [start, &payload].concat();
            hear(&mut client, now, ROUTER, LOCAL, &payload);
            for _ in 0..100 {
                if client.poll_timeout().is_none_or(|at| at > now) {
                    break;
                }
                client.handle_timeout(now);
            }
            prop_assert!(client.poll_timeout().is_none_or(|at| at > now));
        }
    }
}
