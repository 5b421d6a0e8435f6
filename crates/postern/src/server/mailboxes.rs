//! Drives the mailbox machine: one task owns it, connections talk to it over channels.

use std::collections::BTreeMap;
use std::net::IpAddr;

use postern_proto::signal::{ClientId, Mailboxes as Machine, MailboxesConfig, MailboxesEvent};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::{self, until};

/// Inputs waiting for the machine; a connection that sends more waits.
const INPUT_QUEUE: usize = 1024;

/// Frames waiting for one client: twice what both sides may flush at once. A client that
/// reads slower than this is cut off.
const OUTPUT_QUEUE: usize = 512;

/// What connections tell the task.
enum Input {
    Connected {
        address: IpAddr,
        frames: mpsc::Sender<String>,
        id: tokio::sync::oneshot::Sender<ClientId>,
    },
    Frame(ClientId, Vec<u8>),
    Disconnected(ClientId),
}

/// A handle to the mailboxes.
#[derive(Clone)]
pub(super) struct Mailboxes(mpsc::Sender<Input>);

/// One connected client.
pub(super) struct Client {
    id: ClientId,
    input: mpsc::Sender<Input>,
    frames: mpsc::Receiver<String>,
}

impl Mailboxes {
    /// Announces a client; `None` when the server is going down.
    pub(super) async fn connect(&self, address: IpAddr) -> Option<Client> {
        let (frames_in, frames) = mpsc::channel(OUTPUT_QUEUE);
        let (id_in, id) = tokio::sync::oneshot::channel();
        let input = self.0.clone();
        let connected = Input::Connected {
            address,
            frames: frames_in,
            id: id_in,
        };
        input.send(connected).await.ok()?;
        let id = id.await.ok()?;
        Some(Client { id, input, frames })
    }
}

impl Client {
    /// The next frame for this client; `None` when the server wants it gone.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.frames.recv().await
    }

    /// Hands a frame of this client to the machine; `false` when the server is going down.
    pub(super) async fn send(&self, frame: Vec<u8>) -> bool {
        self.input.send(Input::Frame(self.id, frame)).await.is_ok()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let (id, input) = (self.id, self.input.clone());
        if input.try_send(Input::Disconnected(id)).is_err() {
            tokio::spawn(async move { input.send(Input::Disconnected(id)).await });
        }
    }
}

/// Starts the task.
pub(super) fn spawn(tasks: &mut JoinSet<()>, seed: [u8; 32], stun: Vec<String>) -> Mailboxes {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    let config = MailboxesConfig {
        stun,
        ..MailboxesConfig::default()
    };
    let driver = Driver {
        machine: Machine::new(seed, config),
        clients: BTreeMap::new(),
        next: 0,
    };
    tasks.spawn(driver.run(receiver));
    Mailboxes(sender)
}

struct Driver {
    machine: Machine,
    clients: BTreeMap<ClientId, mpsc::Sender<String>>,
    next: u64,
}

impl Driver {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            let deadline = self.machine.poll_timeout();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.handle(input),
                    None => return,
                },
                () = until(deadline) => self.machine.handle_timeout(clock::now()),
            }
            self.drain();
        }
    }

    fn handle(&mut self, input: Input) {
        let now = clock::now();
        match input {
            Input::Connected {
                address,
                frames,
                id,
            } => {
                self.next += 1;
                let client = ClientId(self.next);
                self.clients.insert(client, frames);
                self.machine.connected(now, client, address);
                let _ = id.send(client);
            }
            Input::Frame(client, frame) => self.machine.handle_input(now, client, &frame),
            Input::Disconnected(client) => {
                self.clients.remove(&client);
                self.machine.disconnected(now, client);
            }
        }
    }

    fn drain(&mut self) {
        while let Some((client, frame)) = self.machine.poll_transmit() {
            let sent = self
                .clients
                .get(&client)
                .map(|frames| frames.try_send(frame));
            if let Some(Err(_)) = sent {
                self.clients.remove(&client);
            }
        }
        while let Some(event) = self.machine.poll_event() {
            match event {
                MailboxesEvent::Disconnect(client) => drop(self.clients.remove(&client)),
            }
        }
    }
}
