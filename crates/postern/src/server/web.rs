//! TLS, HTTP and WebSocket: a connection becomes a client of the mailboxes.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use postern_proto::turn::server::{FiveTuple, Transport};
use postern_wire::probe::{MAX_BODY, PATH};
use postern_wire::signal::MAX_FRAME;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::control::Tls;
use super::mailboxes::{Client, Mailboxes};
use super::probe::{self, Prober};
use super::slots::{Slot, Slots};
use super::streams::five_tuple;
use super::turn::{self, Remote};
use crate::tls::accept;

/// TLS and the HTTP request must be complete, and the WebSocket begun, after so long.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A client must take a frame within so long: it reads nothing else meanwhile.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes read at once. Frames are a few hundred bytes.
const READ_BUFFER: usize = 4096;

/// Most bytes that wait to be sent, answers to pings included: a frame and its header
/// beyond one that is being sent.
const MAX_UNSENT: usize = 2 * MAX_FRAME + 64;

/// What HTTP/2 without a word about it begins with (RFC 9113 section 3.4): no request of
/// HTTP/1.1 does.
const HTTP_2: &[u8] = b"PRI ";

/// The answer to it.
const NOT_HTTP_2: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    connection: close\r\ncontent-length: 0\r\n\r\n";

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Web {
    pub(super) tls: Tls,
    pub(super) mailboxes: Mailboxes,
    pub(super) slots: Slots,
    /// The relay, if there is one: TURN over TLS shares the port.
    pub(super) relay: Option<Remote>,
    /// What looks at clients' ports, if clients may ask for it.
    pub(super) prober: Option<Prober>,
}

/// Where a client comes from, and its place, which it keeps as long as the WebSocket lasts.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) address: IpAddr,
    /// The address of ours that it came to.
    pub(super) at: IpAddr,
    _slot: Arc<Slot>,
}

/// Accepts connections for ever.
pub(super) async fn serve(listener: TcpListener, web: Web) {
    let router = Router::new()
        .route("/", get(upgrade))
        .route(PATH, post(probe::answer))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(web.clone());
    while let Some(place) = web.slots.free().await {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let address = address.ip().to_canonical();
        let Some(slot) = web.slots.seat(place, address) else {
            tracing::debug!(%address, "too many connections from one source, refused");
            continue;
        };
        let at = stream.local_addr().map_or(address, |local| local.ip());
        let guest = Guest {
            address,
            at,
            _slot: Arc::new(slot),
        };
        tokio::spawn(set_up(stream, web.clone(), router.clone(), guest));
    }
}

/// Brings a connection to its WebSocket, which goes on in a task of its own, or to the
/// relay. The limit is on the whole of it: a client that sends requests and reads no
/// answers is cut off, too.
async fn set_up(stream: TcpStream, web: Web, router: Router, guest: Guest) {
    let seat = guest.clone();
    let result = timeout(SETUP_TIMEOUT, serve_http(stream, web, router, guest)).await;
    match result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(Some(to_relay)) => to_relay.serve(seat).await,
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(%error, "a connection ended before there was a WebSocket");
        }
    }
}

/// A connection that begins with a STUN message.
struct ToRelay {
    stream: BufReader<TlsStream<TcpStream>>,
    client: FiveTuple,
    relay: Remote,
}

impl ToRelay {
    async fn serve(self, seat: Guest) {
        turn::serve_client(self.stream, self.client, self.relay, seat).await;
    }
}

async fn serve_http(
    stream: TcpStream,
    web: Web,
    router: Router,
    guest: Guest,
) -> io::Result<Option<ToRelay>> {
    stream.set_nodelay(true)?;
    let client = five_tuple(&stream, Transport::Tls)?;
    let stream = accept(&web.tls.acceptor(), stream).await?;
    let mut stream = BufReader::with_capacity(READ_BUFFER, stream);
    if let Some(relay) = web.relay
        && begins_with_stun(&mut stream).await?
    {
        return Ok(Some(ToRelay {
            stream,
            client,
            relay,
        }));
    }
    if stream.fill_buf().await?.starts_with(HTTP_2) {
        refuse_http_2(&mut stream).await?;
        return Ok(None);
    }
    let service = TowerToHyperService::new(router.layer(Extension(guest)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SETUP_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)?;
    Ok(None)
}

/// The first byte decides, not ALPN: clients of all kinds name none, or HTTP. No HTTP
/// request begins with 0 to 3, and every STUN message does.
async fn begins_with_stun(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<bool> {
    let first = stream.fill_buf().await?.first();
    Ok(first.is_some_and(|byte| *byte <= 3))
}

/// Says what is spoken here instead, and waits for the client to leave: bytes of it that
/// nobody reads would take the answer from it.
async fn refuse_http_2(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(NOT_HTTP_2).await?;
    stream.shutdown().await?;
    tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    Ok(())
}

async fn upgrade(
    upgrade: WebSocketUpgrade,
    State(web): State<Web>,
    Extension(guest): Extension<Guest>,
) -> Response {
    upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_UNSENT)
        .on_upgrade(move |socket| converse(socket, web, guest))
}

/// Passes frames between a WebSocket and the mailboxes until either ends.
async fn converse(mut socket: WebSocket, web: Web, guest: Guest) {
    let Some(mut client) = web.mailboxes.connect(guest.address).await else {
        return;
    };
    // A client that has said its last word and left cannot be told anything, but what it
    // said still counts: the other side may learn from it that the code was wrong.
    let mut listens = true;
    loop {
        let alive = tokio::select! {
            frame = client.next() => match frame {
                Some(frame) => {
                    listens = listens && send(&mut socket, Message::Text(frame.into())).await;
                    true
                }
                None => false,
            },
            message = socket.recv() => match message {
                Some(Ok(message)) => pass_on(&client, message).await,
                Some(Err(_)) | None => false,
            },
        };
        if !alive {
            break;
        }
    }
    send(&mut socket, Message::Close(None)).await;
}

/// Sends a message; `false` if the client does not take it.
async fn send(socket: &mut WebSocket, message: Message) -> bool {
    let sent = timeout(SEND_TIMEOUT, socket.send(message)).await;
    matches!(sent, Ok(Ok(())))
}

/// Hands a frame to the mailboxes; `false` ends the connection.
async fn pass_on(client: &Client, message: Message) -> bool {
    match message {
        Message::Text(text) => client.send(text.as_bytes().to_vec()).await,
        Message::Binary(bytes) => client.send(bytes.to_vec()).await,
        Message::Ping(_) | Message::Pong(_) => true,
        Message::Close(_) => false,
    }
}
