//! The server of the simulated internet, as those see it who meet again: real mailboxes, real
//! clients, and connections that take time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use postern_proto::signal::{
    ClientId, Mailboxes, MailboxesConfig, MailboxesEvent, Rendezvous, RendezvousConfig,
    RendezvousEvent, Role, Secret,
};
use postern_wire::signal::PeerMessage;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};

use super::internet::Internet;
use super::meeting::TO_CORE;
use crate::clock::{self, until};
use crate::dialer::Introducer;
use crate::rendezvous::Signalling;

/// A text frame, and when it arrives.
type Frame = (Instant, String);

/// The mailboxes, and the way to each client.
#[derive(Debug)]
pub(super) struct Server {
    mailboxes: Mailboxes,
    clients: BTreeMap<ClientId, UnboundedSender<Frame>>,
    next: u64,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            mailboxes: Mailboxes::new([5; 32], MailboxesConfig::default()),
            clients: BTreeMap::new(),
            next: 0,
        }
    }

    /// Meetings so far.
    pub(super) fn met(&self) -> u64 {
        self.mailboxes.stats().joins
    }

    /// Mailboxes at present.
    pub(super) fn count(&self) -> usize {
        self.mailboxes.mailbox_count()
    }

    fn connect(&mut self, address: IpAddr) -> (ClientId, UnboundedReceiver<Frame>) {
        let (sender, receiver) = unbounded_channel();
        let id = ClientId(self.next);
        self.next += 1;
        self.clients.insert(id, sender);
        self.mailboxes.connected(clock::now(), id, address);
        self.flush();
        (id, receiver)
    }

    fn take(&mut self, id: ClientId, frame: &str) {
        self.mailboxes
            .handle_input(clock::now(), id, frame.as_bytes());
        self.flush();
    }

    fn leave(&mut self, id: ClientId) {
        self.mailboxes.disconnected(clock::now(), id);
        self.clients.remove(&id);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some((id, frame)) = self.mailboxes.poll_transmit() {
            if let Some(client) = self.clients.get(&id) {
                let _ = client.send((Instant::now() + TO_CORE, frame));
            }
        }
        while let Some(MailboxesEvent::Disconnect(id)) = self.mailboxes.poll_event() {
            self.clients.remove(&id);
        }
    }
}

/// Connects to the server as a browser does: TCP, TLS, WebSocket.
pub(super) async fn meet_again(
    internet: Internet,
    from: IpAddr,
    introducer: Introducer,
    role: Role,
    secret: Secret,
) -> Signalling {
    sleep(TO_CORE * 6).await;
    let config = RendezvousConfig {
        wait: Duration::from_secs(30),
        ..RendezvousConfig::default()
    };
    let seed = crate::entropy::seed().unwrap();
    let machine = Rendezvous::again(clock::now(), seed, role, secret, config);
    let (outgoing, messages) = mpsc::channel(128);
    let (sender, events) = mpsc::channel(128);
    let (id, frames) = internet.with_server(|server| server.connect(from));
    let client = Client {
        internet,
        id,
        machine,
        frames,
        events: sender,
        up: unbounded_channel(),
    };
    tokio::spawn(client.run(messages));
    Signalling {
        outgoing,
        events,
        introducer,
    }
}

struct Client {
    internet: Internet,
    id: ClientId,
    machine: Rendezvous,
    frames: UnboundedReceiver<Frame>,
    events: mpsc::Sender<RendezvousEvent>,
    /// What is on its way to the server.
    up: (UnboundedSender<Frame>, UnboundedReceiver<Frame>),
}

impl Client {
    async fn run(mut self, mut messages: mpsc::Receiver<PeerMessage>) {
        let mut flying: Option<Frame> = None;
        loop {
            while let Some(frame) = self.machine.poll_transmit() {
                let _ = self.up.0.send((Instant::now() + TO_CORE, frame));
            }
            while let Some(event) = self.machine.poll_event() {
                if self.events.send(event).await.is_err() {
                    return self.internet.with_server(|server| server.leave(self.id));
                }
            }
            if flying.is_none() {
                flying = self.up.1.try_recv().ok();
            }
            let lands = flying.as_ref().map(|(at, _)| (*at).into_std());
            tokio::select! {
                () = until(lands) => {
                    let (_, frame) = flying.take().unwrap();
                    self.internet.with_server(|server| server.take(self.id, &frame));
                }
                () = until(self.machine.poll_timeout()) => {
                    self.machine.handle_timeout(clock::now());
                }
                message = messages.recv() => match message {
                    Some(message) => drop(self.machine.send(message)),
                    None => return self.internet.with_server(|server| server.leave(self.id)),
                },
                frame = self.frames.recv() => match frame {
                    Some((at, frame)) => {
                        sleep_until(at).await;
                        self.machine.handle_input(clock::now(), frame.as_bytes());
                    }
                    None => return,
                },
            }
        }
    }
}
