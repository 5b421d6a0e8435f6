//! A client's stream joined with a peer's connection (RFC 6062): raw bytes both ways.
//!
//! Between two TCP sockets bytes go through a pipe; where TLS is in between they are copied.

use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postern_proto::turn::server::PeerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::coop::consume_budget;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::commands::{Command, Remote};
use super::pipes::{self, Carrier};

/// Bytes taken at once: to begin with, while the quota allows it, and where it does not.
const FIRST: usize = 16 * 1024;
const MOST: usize = pipes::PIPE;
const LEAST: usize = 1024;

/// The shard is asked for so much of the quota at most.
const MOST_ASKED: usize = 4 << 20;

/// The buffer of a direction that is copied, in bytes: an idle one, and one in full use.
const SMALL_BUFFER: usize = 16 * 1024;
const BUFFER: usize = 256 * 1024;

/// How long nothing is taken after the quota was used up.
const PAUSE: Duration = Duration::from_millis(20);

/// When one side has said all, the other may be silent for so long.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// What has been taken when the allocation ends is delivered within so long.
const DELIVERY: Duration = Duration::from_secs(10);

/// A client's stream: plain TCP, or not.
pub(in crate::server) trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if the bytes on it are the client's own.
    fn plain(&self) -> Option<&TcpStream>;
}

impl ClientStream for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl ClientStream for TlsStream<TcpStream> {
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl<S: ClientStream> ClientStream for BufReader<S> {
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

/// Both ends, and who counts the bytes.
pub(super) struct Joined<'a, S> {
    pub(super) client: &'a mut S,
    pub(super) peer: &'a mut TcpStream,
    /// What the client has sent already.
    pub(super) early: &'a [u8],
    pub(super) connection: PeerConnection,
    pub(super) shard: &'a Remote,
}

impl<S: ClientStream> Joined<'_, S> {
    /// Works until both sides have said all, one of them fails, or `end` ends.
    pub(super) async fn relay(self, end: impl Future) {
        let stop = CancellationToken::new();
        let meter = Meter {
            shard: self.shard,
            connection: self.connection,
            moved: AtomicU64::new(0),
            to_peer: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        };
        let way = Way {
            meter: &meter,
            stop: &stop,
        };
        let mut relaying = pin!(self.run(&way));
        let ended = tokio::select! {
            () = &mut relaying => true,
            _ = end => false,
        };
        if !ended {
            stop.cancel();
            if timeout(DELIVERY, relaying).await.is_err() {
                tracing::debug!("a connection ended with bytes that nobody took");
            }
        }
        meter.report().await;
    }

    async fn run(self, way: &Way<'_>) {
        let (early, none, meter) = (self.early, &[][..], way.meter);
        if let Some(client) = self.client.plain() {
            let peer = &*self.peer;
            let forward = way.spliced(client, peer, early, meter.to_peer());
            let backward = way.spliced(peer, client, none, meter.to_client());
            way.both(forward, backward).await;
        } else {
            let (from_client, to_client) = tokio::io::split(self.client);
            let (from_peer, to_peer) = self.peer.split();
            let forward = way.copied(from_client, to_peer, early, meter.to_peer());
            let backward = way.copied(from_peer, to_client, none, meter.to_client());
            way.both(forward, backward).await;
        }
    }
}

/// What the two directions of a connection share.
struct Way<'a> {
    meter: &'a Meter<'a>,
    stop: &'a CancellationToken,
}

impl Way<'_> {
    /// The end of one direction leaves the other as long as it is in use.
    async fn both(
        &self,
        forward: impl Future<Output = io::Result<()>>,
        backward: impl Future<Output = io::Result<()>>,
    ) {
        let (mut forward, mut backward) = (pin!(forward), pin!(backward));
        let (mut ahead, mut back) = (true, true);
        let mut moved = 0;
        while ahead || back {
            let ended = tokio::select! {
                ended = &mut forward, if ahead => { ahead = false; ended }
                ended = &mut backward, if back => { back = false; ended }
                () = sleep(HALF_CLOSED), if ahead != back => {
                    if moved == self.meter.moved() {
                        return;
                    }
                    Ok(())
                }
            };
            moved = self.meter.moved();
            if let Err(error) = ended {
                tracing::debug!(%error, "one direction of a connection failed");
            }
        }
    }

    /// However the bytes end, the other side is told: who resets a connection, or leaves TLS
    /// without a word, says no more either.
    async fn spliced(
        &self,
        from: &TcpStream,
        to: &TcpStream,
        early: &[u8],
        credit: Credit<'_>,
    ) -> io::Result<()> {
        let ended = self.splice(from, to, early, credit).await;
        let told = SockRef::from(to).shutdown(Shutdown::Write);
        ended.and(told)
    }

    async fn splice(
        &self,
        from: &TcpStream,
        to: &TcpStream,
        early: &[u8],
        mut credit: Credit<'_>,
    ) -> io::Result<()> {
        pipes::write(to, early).await?;
        credit.pay(early.len(), self.stop).await?;
        let mut carrier = None;
        while !self.stop.is_cancelled() {
            let carries: &mut Carrier = carrier.get_or_insert_with(Carrier::take);
            match carries.fill(from, credit.chunk()) {
                Ok(0) => break,
                Ok(length) => {
                    carries.deliver(to, length).await?;
                    credit.pay(length, self.stop).await?;
                    consume_budget().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    carrier = None;
                    tokio::select! {
                        ready = from.readable() => ready?,
                        () = self.stop.cancelled() => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn copied(
        &self,
        from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        early: &[u8],
        credit: Credit<'_>,
    ) -> io::Result<()> {
        let ended = self.copy(from, &mut to, early, credit).await;
        let told = to.shutdown().await;
        ended.and(told)
    }

    async fn copy(
        &self,
        mut from: impl AsyncRead + Unpin,
        to: &mut (impl AsyncWrite + Unpin),
        early: &[u8],
        mut credit: Credit<'_>,
    ) -> io::Result<()> {
        to.write_all(early).await?;
        credit.pay(early.len(), self.stop).await?;
        let mut buffer = vec![0; SMALL_BUFFER];
        loop {
            let most = credit.chunk().min(buffer.len());
            let room = buffer.get_mut(..most).unwrap_or_default();
            let length = tokio::select! {
                read = from.read(room) => read?,
                () = self.stop.cancelled() => 0,
            };
            if length == 0 {
                return Ok(());
            }
            to.write_all(buffer.get(..length).unwrap_or_default())
                .await?;
            to.flush().await?;
            credit.pay(length, self.stop).await?;
            if length == buffer.len() && length < BUFFER {
                buffer.resize(BUFFER, 0);
            }
        }
    }
}

/// Whom the bytes of a connection are counted by.
struct Meter<'a> {
    shard: &'a Remote,
    connection: PeerConnection,
    moved: AtomicU64,
    /// What has moved each way and has not been reported.
    to_peer: AtomicU64,
    to_client: AtomicU64,
}

impl Meter<'_> {
    fn to_peer(&self) -> Credit<'_> {
        Credit::new(self, &self.to_peer)
    }

    fn to_client(&self) -> Credit<'_> {
        Credit::new(self, &self.to_client)
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Tells the shard what has moved: before more is asked for, and at the end.
    async fn report(&self) {
        let to_peers = self.to_peer.swap(0, Ordering::Relaxed);
        let to_clients = self.to_client.swap(0, Ordering::Relaxed);
        if to_peers > 0 || to_clients > 0 {
            let carried = Command::Carried {
                to_peers,
                to_clients,
            };
            self.shard.tell(carried).await;
        }
    }

    /// Whether so many bytes may pass.
    async fn ask(&self, bytes: usize) -> io::Result<bool> {
        self.report().await;
        let (answer, answered) = oneshot::channel();
        let connection = self.connection;
        let command = Command::Spend {
            connection,
            bytes,
            answer,
        };
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        if !self.shard.tell(command).await {
            return Err(gone());
        }
        answered.await.map_err(|_| gone())
    }
}

/// What one direction may still take of the quota. It is paid for when it has passed, and
/// nothing is taken before: who sends too fast is not read from.
struct Credit<'a> {
    meter: &'a Meter<'a>,
    /// Where it is noted what has passed.
    unreported: &'a AtomicU64,
    left: usize,
    ask: usize,
}

impl<'a> Credit<'a> {
    const fn new(meter: &'a Meter<'a>, unreported: &'a AtomicU64) -> Self {
        Self {
            meter,
            unreported,
            left: 0,
            ask: FIRST,
        }
    }

    /// How much to take at once.
    fn chunk(&self) -> usize {
        self.ask.min(MOST)
    }

    async fn pay(&mut self, bytes: usize, stop: &CancellationToken) -> io::Result<()> {
        let moved = u64::try_from(bytes).unwrap_or_default();
        self.meter.moved.fetch_add(moved, Ordering::Relaxed);
        self.unreported.fetch_add(moved, Ordering::Relaxed);
        while self.left < bytes {
            if stop.is_cancelled() {
                return Ok(());
            }
            if self.meter.ask(self.ask).await? {
                self.left = self.left.saturating_add(self.ask);
                self.ask = self.ask.saturating_mul(2).min(MOST_ASKED);
            } else {
                self.ask = (self.ask / 2).max(LEAST);
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        self.left = self.left.saturating_sub(bytes);
        Ok(())
    }
}
