//! Sends through a relay to itself, and measures.

use std::time::{Duration, Instant};

use postern::turn::{Allocation, ConnectError, PeerError, RelayedStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};

/// Round trips that are measured, and for how long at most.
const PINGS: usize = 500;
const PING_TIME: Duration = Duration::from_secs(2);

/// Bytes of a datagram of them.
const PING_SIZE: usize = 100;

/// A datagram that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a datagram, as QUIC and media have them.
const DATAGRAM: usize = 1200;

/// Bytes written to a connection at once.
const BLOCK: usize = 64 * 1024;

/// Datagrams on the way: at first, at least, at most.
const WINDOW: (f64, f64, f64) = (16.0, 4.0, 1024.0);

/// Nothing has arrived for so long: what is on the way is lost.
const SILENCE: Duration = Duration::from_millis(300);

/// A relayed connection is made within so long.
const CONNECT_WITHIN: Duration = Duration::from_secs(40);

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) median: Duration,
    /// 99 of 100 round trips were no slower.
    pub(super) slow: Duration,
    pub(super) bytes_per_second: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeasureError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The relay is there, and lets nothing through.
    #[error("nothing came through the relay; a firewall between its addresses is likely")]
    Silent,
    #[error("a relayed connection broke")]
    Broken(#[from] std::io::Error),
    #[error("the server gives this user one relay only, and a TCP relay cannot connect to itself")]
    OneOnly,
}

/// Datagrams from one relay to the other, or to itself.
pub(super) async fn datagrams(
    near: &Allocation,
    far: Option<&Allocation>,
    duration: Duration,
) -> Result<Measured, MeasureError> {
    let far = far.unwrap_or(near);
    permit(near, far).await?;
    let mut trips = ping(near, far).await?;
    let bytes_per_second = flood(near, far, duration).await?;
    Ok(Measured::new(&mut trips, bytes_per_second))
}

/// A connection from one relay to the other.
pub(super) async fn connections(
    near: &Allocation,
    far: Option<&Allocation>,
    duration: Duration,
) -> Result<Measured, MeasureError> {
    let far = far.ok_or(MeasureError::OneOnly)?;
    permit(near, far).await?;
    let made = timeout(CONNECT_WITHIN, async {
        let accept = async { far.accept().await.map_err(MeasureError::from) };
        let connect = async { near.connect(far.relayed()).await.map_err(Into::into) };
        tokio::try_join!(connect, accept)
    });
    let (mut near, mut far) = made.await.map_err(|_| MeasureError::Silent)??;
    let mut trips = echo(&mut near, &mut far).await?;
    let bytes_per_second = pour(&mut near, &mut far, duration).await?;
    Ok(Measured::new(&mut trips, bytes_per_second))
}

async fn permit(near: &Allocation, far: &Allocation) -> Result<(), PeerError> {
    near.permit_peer(far.relayed()).await?;
    far.permit_peer(near.relayed()).await
}

impl Measured {
    fn new(trips: &mut [Duration], bytes_per_second: f64) -> Self {
        trips.sort_unstable();
        let at = |percent: usize| {
            let index = (trips.len() * percent).div_ceil(100).saturating_sub(1);
            trips.get(index).copied().unwrap_or_default()
        };
        Self {
            median: at(50),
            slow: at(99),
            bytes_per_second,
        }
    }
}

/// There and back, one after the other. The first ones may be lost, or slow, until channels
/// are bound.
async fn ping(near: &Allocation, far: &Allocation) -> Result<Vec<Duration>, MeasureError> {
    let mut trips = Vec::new();
    let began = Instant::now();
    let same = std::ptr::eq(near, far);
    for number in 0..PINGS {
        let mut datagram = [0; PING_SIZE];
        datagram[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let sent = Instant::now();
        near.send_to(&datagram, far.relayed()).await?;
        let back = timeout(PATIENCE, async {
            receive(far, &datagram).await?;
            if !same {
                far.send_to(&datagram, near.relayed()).await?;
                receive(near, &datagram).await?;
            }
            Ok::<(), PeerError>(())
        });
        match back.await {
            Ok(back) => {
                back?;
                trips.push(sent.elapsed());
            }
            Err(_) if trips.is_empty() && number >= 3 => return Err(MeasureError::Silent),
            Err(_) => {}
        }
        if began.elapsed() > PING_TIME && !trips.is_empty() {
            break;
        }
    }
    Ok(trips)
}

async fn receive(at: &Allocation, expected: &[u8]) -> Result<(), PeerError> {
    while at.recv_from().await?.0 != expected {}
    Ok(())
}

/// How many datagrams may be on the way: more while none is lost, fewer after that.
struct Window {
    size: f64,
    grows_fast: bool,
    sent: u64,
    /// The next number that is expected.
    expected: u64,
}

impl Window {
    fn has_room(&self) -> bool {
        ((self.sent - self.expected) as f64) < self.size
    }

    fn on_received(&mut self, number: u64) {
        if number > self.expected {
            self.on_lost();
        } else if self.grows_fast {
            self.size += 1.0;
        } else {
            self.size += 1.0 / self.size;
        }
        self.size = self.size.clamp(WINDOW.1, WINDOW.2);
        self.expected = self.expected.max(number + 1);
    }

    fn on_lost(&mut self) {
        self.grows_fast = false;
        self.size = (self.size * 0.8).max(WINDOW.1);
    }

    fn on_silence(&mut self) {
        self.on_lost();
        self.expected = self.sent;
    }
}

/// One way, as fast as what arrives allows; gives bytes per second.
async fn flood(
    near: &Allocation,
    far: &Allocation,
    duration: Duration,
) -> Result<f64, MeasureError> {
    let began = tokio::time::Instant::now();
    let end = began + duration;
    let mut bytes = 0_u64;
    let mut window = Window {
        size: WINDOW.0,
        grows_fast: true,
        sent: 0,
        expected: 0,
    };
    let mut datagram = vec![0; DATAGRAM];
    while tokio::time::Instant::now() < end {
        while window.has_room() {
            datagram[..8].copy_from_slice(&window.sent.to_be_bytes());
            near.send_to(&datagram, far.relayed()).await?;
            window.sent += 1;
        }
        match timeout_at(
            end.min(tokio::time::Instant::now() + SILENCE),
            far.recv_from(),
        )
        .await
        {
            Ok(received) => {
                let (payload, _) = received?;
                // Late answers to pings are no data.
                if let (DATAGRAM, Some(number)) = (payload.len(), payload.first_chunk()) {
                    bytes += DATAGRAM as u64;
                    window.on_received(u64::from_be_bytes(*number));
                }
            }
            Err(_) => window.on_silence(),
        }
    }
    Ok(bytes as f64 / began.elapsed().as_secs_f64())
}

/// There and back on a connection.
async fn echo(
    near: &mut RelayedStream,
    far: &mut RelayedStream,
) -> Result<Vec<Duration>, MeasureError> {
    let mut trips = Vec::new();
    let began = Instant::now();
    let mut buffer = [0; PING_SIZE];
    while trips.len() < PINGS && began.elapsed() < PING_TIME {
        let sent = Instant::now();
        let trip = timeout(PATIENCE * 10, async {
            pass(near, far, &mut buffer).await?;
            pass(far, near, &mut buffer).await
        });
        trip.await.map_err(|_| MeasureError::Silent)??;
        trips.push(sent.elapsed());
    }
    Ok(trips)
}

async fn pass(
    from: &mut RelayedStream,
    to: &mut RelayedStream,
    buffer: &mut [u8],
) -> std::io::Result<()> {
    from.write_all(buffer).await?;
    from.flush().await?;
    to.read_exact(buffer).await?;
    Ok(())
}

/// One way, as fast as it goes; gives bytes per second.
async fn pour(
    near: &mut RelayedStream,
    far: &mut RelayedStream,
    duration: Duration,
) -> Result<f64, MeasureError> {
    let began = tokio::time::Instant::now();
    let end = began + duration;
    let write = async {
        let block = vec![0; BLOCK];
        loop {
            near.write_all(&block).await?;
        }
    };
    let mut bytes = 0_u64;
    let read = async {
        let mut buffer = vec![0; 4 * BLOCK];
        loop {
            match far.read(&mut buffer).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                length => bytes += length as u64,
            }
        }
    };
    let broken: Result<std::io::Error, _> = timeout_at(end, async {
        tokio::select! {
            result = write => never(result),
            result = read => never(result),
        }
    })
    .await;
    match broken {
        Ok(error) => Err(error.into()),
        Err(_) if bytes == 0 => Err(MeasureError::Silent),
        Err(_) => Ok(bytes as f64 / began.elapsed().as_secs_f64()),
    }
}

fn never(result: std::io::Result<std::convert::Infallible>) -> std::io::Error {
    match result {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_trips() {
        let mut trips: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let measured = Measured::new(&mut trips, 1.0);
        assert_eq!(measured.median, Duration::from_millis(50));
        assert_eq!(measured.slow, Duration::from_millis(99));
    }

    #[test]
    fn a_window_grows_until_something_is_lost() {
        let mut window = Window {
            size: WINDOW.0,
            grows_fast: true,
            sent: 100,
            expected: 0,
        };
        assert!(!window.has_room());
        for number in 0..10 {
            window.on_received(number);
        }
        assert_eq!(window.size, 26.0);
        window.on_received(12);
        assert_eq!(window.size, 26.0 * 0.8);
        window.on_received(11);
        assert_eq!(window.expected, 13, "a late one is no news");
        window.on_silence();
        assert!(window.has_room());
    }
}
