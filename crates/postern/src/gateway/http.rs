//! HTTP of the hosts inside, bounded in number, size and time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_wire::upnp::http::{Bounds, Collector, HttpError, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::driver::Input;

/// Connections of one host. One more ends the oldest: a host that floods hurts itself.
const MAX_OF_HOST: usize = 32;

/// Connections in all. One more ends the oldest of all.
const MAX_CONNECTIONS: usize = 1024;

/// A request must be complete after so long.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// A connection that is kept must bring the next request within so long.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// Requests of one connection: those of a long list, and then a new one.
const MAX_REQUESTS: u32 = 1000;

/// The longest answer must be taken after so long.
const RESPONSE_TIME: Duration = Duration::from_secs(10);

/// A subscriber must take an event after so long.
const DELIVERY_TIME: Duration = Duration::from_secs(5);

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Requests are calls of a few hundred bytes.
const BOUNDS: Bounds = Bounds {
    head: 8 << 10,
    body: 32 << 10,
};

/// Bytes read at once.
const READ: usize = 4096;

/// Places for connections; a clone shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order in which they came.
    order: VecDeque<(u64, IpAddr)>,
    ends: BTreeMap<u64, Arc<Notify>>,
    of_host: BTreeMap<IpAddr, usize>,
}

/// A place, until it is dropped; `end` tells when another connection wants it.
struct Seat {
    number: u64,
    places: Places,
    end: Arc<Notify>,
}

impl Places {
    fn take(&self, host: IpAddr) -> Seat {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = taken.of_host.get(&host).copied().unwrap_or_default();
        if of_host >= MAX_OF_HOST {
            taken.end_oldest(|other| other == host);
        } else if taken.order.len() >= MAX_CONNECTIONS {
            taken.end_oldest(|_| true);
        }
        let number = taken.next;
        taken.next += 1;
        let end = Arc::new(Notify::new());
        taken.order.push_back((number, host));
        taken.ends.insert(number, end.clone());
        *taken.of_host.entry(host).or_default() += 1;
        Seat {
            number,
            places: self.clone(),
            end,
        }
    }
}

impl Places {
    /// Ends the oldest connection of all: the system has no descriptor for another one.
    fn make_room(&self) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.end_oldest(|_| true);
    }
}

impl Taken {
    fn end_oldest(&mut self, fits: impl Fn(IpAddr) -> bool) {
        let oldest = self.order.iter().find(|(_, host)| fits(*host));
        if let Some((number, _)) = oldest.copied() {
            if let Some(end) = self.ends.get(&number) {
                end.notify_one();
            }
            self.leave(number);
        }
    }

    fn leave(&mut self, number: u64) {
        let Some(at) = self.order.iter().position(|(n, _)| *n == number) else {
            return;
        };
        if let Some((_, host)) = self.order.remove(at)
            && let Some(count) = self.of_host.get_mut(&host)
        {
            *count -= 1;
            if *count == 0 {
                self.of_host.remove(&host);
            }
        }
        self.ends.remove(&number);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.leave(self.number);
    }
}

/// Accepts connections for ever.
pub(super) async fn serve(listener: TcpListener, places: Places, inputs: mpsc::Sender<Input>) {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                places.make_room();
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let seat = places.take(remote.ip());
        let inputs = inputs.clone();
        tokio::spawn(async move {
            let end = seat.end.clone();
            tokio::select! {
                () = end.notified() => {}
                result = converse(stream, &inputs) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection ended");
                    }
                }
            }
            drop(seat);
        });
    }
}

async fn converse(mut stream: TcpStream, inputs: &mpsc::Sender<Input>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    let mut patience = REQUEST_TIME;
    for _ in 0..MAX_REQUESTS {
        let request = match timeout(patience, read_request(&mut stream)).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(Fault::Http(error))) => {
                tracing::debug!(%error, "a request made no sense");
                return write(&mut stream, &status_of(error)).await;
            }
            Ok(Err(Fault::Io(error))) => return Err(error),
        };
        let closes = wants_close(&request);
        let (answer, answered) = oneshot::channel();
        let input = Input::Request {
            local,
            remote,
            request,
            answer,
        };
        if inputs.send(input).await.is_err() {
            return Ok(());
        }
        let Ok(mut response) = answered.await else {
            return Ok(());
        };
        if closes {
            response.headers.add("Connection", "close");
        }
        write(&mut stream, &response).await?;
        if closes {
            return stream.shutdown().await;
        }
        patience = IDLE_TIME;
    }
    Ok(())
}

enum Fault {
    Http(HttpError),
    Io(io::Error),
}

/// One request; `None` if the connection ends before one begins.
async fn read_request(stream: &mut TcpStream) -> Result<Option<Request>, Fault> {
    let mut collector = Collector::request(BOUNDS);
    let mut buffer = [0; READ];
    let mut begun = false;
    let deadline = Instant::now() + REQUEST_TIME;
    while !collector.is_complete() {
        let read = timeout_at(deadline, stream.read(&mut buffer)).await;
        let length = read
            .map_err(|_| Fault::Io(io::ErrorKind::TimedOut.into()))?
            .map_err(Fault::Io)?;
        if length == 0 {
            return match begun {
                true => Err(Fault::Http(HttpError::CutShort)),
                false => Ok(None),
            };
        }
        begun = true;
        let bytes = buffer.get(..length).unwrap_or_default();
        collector.push(bytes).map_err(Fault::Http)?;
    }
    collector.into_request().map(Some).map_err(Fault::Http)
}

async fn write(stream: &mut TcpStream, response: &Response) -> io::Result<()> {
    timeout(RESPONSE_TIME, stream.write_all(&response.to_bytes())).await?
}

fn wants_close(request: &Request) -> bool {
    let connection = request.headers.get("Connection").unwrap_or_default();
    connection.to_ascii_lowercase().contains("close")
}

fn status_of(error: HttpError) -> Response {
    let (status, reason) = match error {
        HttpError::BodyTooLong => (413, "Content Too Large"),
        HttpError::HeadTooLong | HttpError::TooManyHeaders => {
            (431, "Request Header Fields Too Large")
        }
        HttpError::Malformed | HttpError::Length | HttpError::CutShort => (400, "Bad Request"),
    };
    Response {
        status,
        reason: reason.to_owned(),
        headers: postern_wire::upnp::http::Headers::default().with("Connection", "close"),
        body: Vec::new(),
    }
}

/// Sends an event to a subscriber; whether it was taken.
pub(super) async fn deliver(to: SocketAddr, request: Request) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(&request.to_bytes()).await?;
        let mut collector = Collector::response(BOUNDS);
        let mut buffer = [0; READ];
        while !collector.is_complete() {
            match stream.read(&mut buffer).await? {
                0 => break,
                length => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if collector.push(bytes).is_err() {
                        break;
                    }
                }
            }
        }
        Ok::<_, io::Error>(collector.into_response().is_ok_and(|r| r.status == 200))
    };
    matches!(timeout(DELIVERY_TIME, exchange).await, Ok(Ok(true)))
}
