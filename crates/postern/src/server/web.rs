//! TLS, HTTP and WebSocket: a connection becomes a client of the mailboxes.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use postern_wire::signal::MAX_FRAME;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::mailboxes::{Client, Mailboxes};

/// Most TCP connections per listening address. A connection costs about 40 kB while TLS
/// is set up.
const MAX_CONNECTIONS: usize = 4096;

/// TLS and the HTTP request must be complete after so long.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Web {
    pub(super) tls: TlsAcceptor,
    pub(super) mailboxes: Mailboxes,
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy)]
struct ClientAddr(IpAddr);

/// Accepts connections for ever.
pub(super) async fn serve(listener: TcpListener, web: Web) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let router = Router::new()
        .route("/", get(upgrade))
        .with_state(web.clone());
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, router) = (web.tls.clone(), router.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_one(stream, tls, router).await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(slot);
        });
    }
}

async fn serve_one(stream: TcpStream, tls: TlsAcceptor, router: Router) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let address = ClientAddr(stream.peer_addr()?.ip().to_canonical());
    let stream = timeout(SETUP_TIMEOUT, tls.accept(stream)).await??;
    let service = TowerToHyperService::new(router.layer(Extension(address)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SETUP_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}

async fn upgrade(
    upgrade: WebSocketUpgrade,
    State(web): State<Web>,
    Extension(address): Extension<ClientAddr>,
) -> Response {
    upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .on_upgrade(move |socket| converse(socket, web, address))
}

/// Passes frames between a WebSocket and the mailboxes until either ends.
async fn converse(mut socket: WebSocket, web: Web, address: ClientAddr) {
    let Some(mut client) = web.mailboxes.connect(address.0).await else {
        return;
    };
    loop {
        let alive = tokio::select! {
            frame = client.next() => match frame {
                Some(frame) => socket.send(Message::Text(frame.into())).await.is_ok(),
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
    let _ = timeout(SETUP_TIMEOUT, socket.send(Message::Close(None))).await;
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
