//! Drives the rendezvous machine over a WebSocket to the server.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use postern_proto::signal::{Rendezvous, RendezvousConfig, RendezvousEvent, Role, Secret};
use postern_wire::signal::{Code, MAX_FRAME, PeerMessage};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::clock::{self, until};
use crate::dialer::Introducer;
use crate::entropy;
use crate::stun_servers;
use crate::tls::{self, ConnectError};

/// The longest time that a program may wait for the other side: servers end a mailbox
/// later.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Messages waiting in either direction. A hello, some candidates and a report.
const QUEUE: usize = 128;

/// The WebSocket handshake gets so long.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// So long the server may take, at first, when the two meet again: seven round trips to it.
const PATIENCE: [Duration; 3] = [
    Duration::from_millis(1500),
    Duration::from_secs(3),
    Duration::from_secs(6),
];

/// Bytes that wait because the server does not read: answers to its pings pile up here, so
/// a server that floods and never reads is found out.
const MAX_UNSENT: usize = 4 * MAX_FRAME;

/// A server that does not read for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A closing frame gets so long to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// The way to the peer before there is a connection: sealed messages through a mailbox.
/// Dropping it leaves the mailbox.
#[derive(Debug)]
pub(crate) struct Signalling {
    /// Messages for the peer; kept until both have authenticated each other.
    pub(crate) outgoing: mpsc::Sender<PeerMessage>,
    /// What happens, in order. Ends when the mailbox is gone.
    pub(crate) events: mpsc::Receiver<RendezvousEvent>,
    /// The server, whose relays they may use.
    pub(crate) introducer: Introducer,
}

/// Which side of the mailbox to be.
#[derive(Debug)]
pub(crate) enum Side {
    /// Makes the mailbox and the code.
    Create,
    /// Knows the code.
    Join(Code),
    /// Meets whom it has met before.
    Again(Role, Secret),
}

/// Why there is no signalling.
#[derive(Debug, thiserror::Error)]
pub enum SignallingError {
    /// There is no TLS connection to the server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server does not speak postern's protocol.
    #[error("{url} answers, but not as a postern server does; check its address and port")]
    NotPostern {
        /// The server.
        url: String,
        /// What the WebSocket handshake said.
        #[source]
        source: Box<tungstenite::Error>,
    },
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[from] getrandom::Error),
}

/// Connects to the server and enters a mailbox; `wait` bounds how long the other side
/// may take to come.
pub(crate) async fn enter(
    introducer: Introducer,
    side: Side,
    wait: Duration,
) -> Result<Signalling, SignallingError> {
    let seed = entropy::seed()?;
    let (socket, server) = match side {
        Side::Create | Side::Join(_) => open(&introducer).await?,
        Side::Again(..) => open_again(&introducer).await?,
    };
    let config = RendezvousConfig {
        wait,
        ..RendezvousConfig::default()
    };
    let now = clock::now();
    let machine = match side {
        Side::Create => Rendezvous::create(now, seed, config),
        Side::Join(code) => Rendezvous::join(now, seed, code, config),
        Side::Again(role, secret) => Rendezvous::again(now, seed, role, secret, config),
    };
    let (outgoing, messages) = mpsc::channel(QUEUE);
    let (sender, events) = mpsc::channel(QUEUE);
    let driver = Driver {
        machine,
        socket,
        server,
        events: sender,
    };
    tokio::spawn(driver.run(messages));
    Ok(Signalling {
        outgoing,
        events,
        introducer,
    })
}

/// The same where the network was away a moment ago, and may still be: what began then is repeated
/// ever more rarely, and something that begins now succeeds sooner when it is back.
async fn open_again(introducer: &Introducer) -> Result<(Socket, Option<IpAddr>), SignallingError> {
    for patience in PATIENCE {
        if let Ok(opened) = timeout(patience, open(introducer)).await {
            return opened;
        }
    }
    open(introducer).await
}

/// Opens the WebSocket; also gives the address that the server has, if it is known.
async fn open(introducer: &Introducer) -> Result<(Socket, Option<IpAddr>), SignallingError> {
    let Introducer { url, proxy } = introducer;
    let (stream, address) = tls::connect(url, proxy.as_ref()).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_UNSENT);
    let handshake = client_async_with_config(url.websocket(), stream, Some(config));
    let result = timeout(UPGRADE_TIMEOUT, handshake).await;
    let timed_out = |_| Err(tungstenite::Error::Io(io::ErrorKind::TimedOut.into()));
    let not_postern = |source| SignallingError::NotPostern {
        url: url.websocket(),
        source: Box::new(source),
    };
    let (socket, _) = result.unwrap_or_else(timed_out).map_err(not_postern)?;
    Ok((socket, address))
}

struct Driver {
    machine: Rendezvous,
    socket: Socket,
    server: Option<IpAddr>,
    events: mpsc::Sender<RendezvousEvent>,
}

impl Driver {
    /// Runs until the session drops its end, the server goes, or the mailbox ends.
    async fn run(mut self, mut messages: mpsc::Receiver<PeerMessage>) {
        while self.drain().await {
            let deadline = self.machine.poll_timeout();
            // What the server can send without end comes last.
            let alive = tokio::select! {
                biased;
                () = until(deadline) => {
                    self.machine.handle_timeout(clock::now());
                    true
                }
                message = messages.recv() => self.on_message(message),
                frame = self.socket.next() => self.on_frame(frame),
            };
            if !alive {
                break;
            }
        }
        self.leave().await;
    }

    fn on_frame(&mut self, frame: Option<Result<Message, tungstenite::Error>>) -> bool {
        let now = clock::now();
        match frame {
            Some(Ok(Message::Text(text))) => self.machine.handle_input(now, text.as_bytes()),
            Some(Ok(Message::Binary(bytes))) => self.machine.handle_input(now, &bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
        }
        true
    }

    fn on_message(&mut self, message: Option<PeerMessage>) -> bool {
        let Some(message) = message else {
            return false;
        };
        if let Err(error) = self.machine.send(message) {
            tracing::debug!(%error, "a message for the other side was dropped");
        }
        true
    }

    /// Sends and reports what the machine has; `false` when there is nothing left to do.
    async fn drain(&mut self) -> bool {
        let mut stuck = false;
        while let Some(frame) = self.machine.poll_transmit() {
            // A failure to send shows as the end of the stream at the next read; a server that
            // reads nothing shows here.
            let sending = self.socket.send(Message::Text(frame.into()));
            stuck = timeout(SEND_TIMEOUT, sending).await.is_err();
            if stuck {
                break;
            }
        }
        while let Some(event) = self.machine.poll_event() {
            let last = matches!(event, RendezvousEvent::Failed(_) | RendezvousEvent::Closed);
            if self.events.send(self.guarded(event)).await.is_err() || last {
                return false;
            }
        }
        !stuck
    }

    /// The event, without the STUN servers and relays that this server may not send clients
    /// to.
    fn guarded(&self, event: RendezvousEvent) -> RendezvousEvent {
        if let RendezvousEvent::Welcome { stun } = event {
            let stun = stun_servers::accept(stun, self.server);
            RendezvousEvent::Welcome { stun }
        } else if let RendezvousEvent::Relays(relays) = event {
            RendezvousEvent::Relays(stun_servers::accept_relays(relays, self.server))
        } else {
            event
        }
    }

    async fn leave(&mut self) {
        self.machine.close();
        let farewell = async {
            while let Some(frame) = self.machine.poll_transmit() {
                let _ = self.socket.send(Message::Text(frame.into())).await;
            }
            let _ = self.socket.close(None).await;
            // Closing with something unread resets the connection, and the server may
            // lose what was said last.
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
    }
}
