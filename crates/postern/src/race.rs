//! Connecting to a host that has several addresses (RFC 8305, "Happy Eyeballs").

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

/// An attempt has so long to succeed before the next begins beside it (RFC 8305
/// section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// All attempts together get so long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most addresses that are tried: they all begin in the first half of the time.
const MAX_ADDRESSES: usize = 16;

/// The first connection that `connect` makes to one of `addresses`, which are in the
/// order that the system's resolver prefers.
///
/// # Errors
///
/// What the last attempt said, or that the time is up.
pub(crate) async fn first<C, S, F>(
    addresses: Vec<SocketAddr>,
    connect: C,
) -> io::Result<(S, SocketAddr)>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<S>>,
{
    let attempt = async |address| connect(address).await.map(|stream| (stream, address));
    let mut waiting = alternated(addresses);
    let mut running = FuturesUnordered::new();
    let race = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        loop {
            if let Some(address) = waiting.pop_front() {
                running.push(attempt(address));
            }
            let more = !waiting.is_empty();
            tokio::select! {
                ended = running.next() => match ended {
                    Some(Ok(connected)) => return Ok(connected),
                    Some(Err(error)) => last = error,
                    None => return Err(last),
                },
                () = sleep(STAGGER), if more => {}
            }
        }
    };
    let result = timeout(TIMEOUT, race).await;
    result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The families take turns, so that one that does not work costs one attempt (RFC 8305
/// section 4).
fn alternated(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_ipv4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_ipv4);
    let mut second = second.into_iter();
    let mut order = VecDeque::new();
    for address in first {
        order.push_back(address);
        order.extend(second.next());
    }
    order.extend(second);
    order.truncate(MAX_ADDRESSES);
    order
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Port 1 accepts after 100 ms, port 2 refuses at once, port 3 is never heard of.
    async fn connect(address: SocketAddr) -> io::Result<()> {
        match address.port() {
            1 => sleep(Duration::from_millis(100)).await,
            2 => return Err(io::ErrorKind::ConnectionRefused.into()),
            _ => pending().await,
        }
        Ok(())
    }

    async fn race<const N: usize>(texts: [&str; N]) -> (io::Result<SocketAddr>, Duration) {
        let began = Instant::now();
        let result = first(addresses(texts), connect).await;
        (result.map(|((), address)| address), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
        let (winner, took) = race(["[2001:db8::1]:3", "192.0.2.1:1"]).await;
        assert_eq!(winner.unwrap().to_string(), "192.0.2.1:1");
        assert_eq!(took, Duration::from_millis(350));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_costs_nothing() {
        let (winner, took) = race(["[2001:db8::1]:2", "192.0.2.1:1"]).await;
        assert_eq!(winner.unwrap().to_string(), "192.0.2.1:1");
        assert_eq!(took, Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_refuse_the_refusal_is_told() {
        let (winner, _) = race(["192.0.2.1:2", "192.0.2.2:2"]).await;
        assert_eq!(winner.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn when_none_answers_the_time_ends() {
        let (winner, took) = race(["192.0.2.1:3", "192.0.2.2:3", "192.0.2.3:3"]).await;
        assert_eq!(winner.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(took, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_address_there_is_nothing_to_wait_for() {
        let (winner, took) = race([]).await;
        assert_eq!(winner.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(took, Duration::ZERO);
    }

    #[test]
    fn the_families_take_turns() {
        let order = alternated(addresses([
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "[2001:db8::3]:1",
            "192.0.2.1:1",
        ]));
        let expected = addresses([
            "[2001:db8::1]:1",
            "192.0.2.1:1",
            "[2001:db8::2]:1",
            "[2001:db8::3]:1",
        ]);
        assert_eq!(order, expected);
    }
}
