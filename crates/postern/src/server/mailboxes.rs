//! Drives the mailbox machine: one task owns it, connections talk to it over channels.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use postern_proto::signal::{
    ClientId, Mailboxes as Machine, MailboxesConfig, MailboxesEvent, MailboxesStats, RelayOffer,
};
use tokio::sync::mpsc;

use crate::clock::{self, until};
use crate::rendezvous::MAX_WAIT;

/// Inputs waiting for the machine; a connection that sends more waits.
const INPUT_QUEUE: usize = 1024;

/// Frames waiting for one client: twice what both sides may flush at once. A client that
/// reads slower than this is cut off.
const OUTPUT_QUEUE: usize = 512;

/// So much longer than its creator a mailbox waits: the program that waits is to say so,
/// not the server.
const WAIT_MARGIN: Duration = Duration::from_secs(60);

/// A mailbox ends so long after somebody came at the last moment.
const MAX_MEETING: Duration = Duration::from_secs(30 * 60);

/// What connections tell the task.
#[derive(Debug)]
enum Input {
    Connected {
        address: IpAddr,
        frames: mpsc::Sender<String>,
        id: tokio::sync::oneshot::Sender<ClientId>,
    },
    Frame(ClientId, Vec<u8>),
    Disconnected(ClientId),
    /// From now on these relays are offered.
    Offer(RelayOffer),
    /// Nobody is taken any more.
    Drain,
    /// Everybody has to go.
    ShutDown,
    Count(tokio::sync::oneshot::Sender<Census>),
}

/// How much there is now, and what has been counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Census {
    pub(super) clients: usize,
    pub(super) mailboxes: usize,
    pub(super) stats: MailboxesStats,
}

/// A handle to the mailboxes.
#[derive(Debug, Clone)]
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

    /// Offers these relays to those who meet from now on.
    pub(super) async fn offer(&self, offer: RelayOffer) {
        let _ = self.0.send(Input::Offer(offer)).await;
    }

    /// Takes nobody any more; see the machine.
    pub(super) async fn drain(&self) {
        let _ = self.0.send(Input::Drain).await;
    }

    /// Tells everybody that the server is going down.
    pub(super) async fn shut_down(&self) {
        let _ = self.0.send(Input::ShutDown).await;
    }

    /// What there is; nothing when the server is going down.
    pub(super) async fn census(&self) -> Census {
        let (sender, census) = tokio::sync::oneshot::channel();
        let _ = self.0.send(Input::Count(sender)).await;
        census.await.unwrap_or_default()
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

/// The task that owns the machine, before it runs.
#[derive(Debug)]
pub(super) struct Task {
    driver: Driver,
    inputs: mpsc::Receiver<Input>,
}

impl Task {
    pub(super) async fn run(self) {
        self.driver.run(self.inputs).await;
    }
}

/// Mailboxes without clients, and the task that has to run.
pub(super) fn new(
    seed: [u8; 32],
    stun: Vec<String>,
    relays: Option<RelayOffer>,
) -> (Mailboxes, Task) {
    let (sender, inputs) = mpsc::channel(INPUT_QUEUE);
    let config = MailboxesConfig {
        stun,
        join_timeout: MAX_WAIT + WAIT_MARGIN,
        lifetime: MAX_WAIT + WAIT_MARGIN + MAX_MEETING,
        ..MailboxesConfig::default()
    };
    let mut machine = Machine::new(seed, config);
    if let Some(offer) = relays {
        machine.offer_relays(offer);
    }
    let driver = Driver {
        machine,
        clients: BTreeMap::new(),
        next: 0,
    };
    (Mailboxes(sender), Task { driver, inputs })
}

#[derive(Debug)]
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
            Input::Offer(offer) => self.machine.offer_relays(offer),
            Input::Drain => self.machine.drain(now),
            Input::ShutDown => {
                self.machine.drain(now);
                self.machine.shutdown(now);
            }
            Input::Count(sender) => drop(sender.send(self.census())),
        }
    }

    fn census(&self) -> Census {
        Census {
            clients: self.machine.client_count(),
            mailboxes: self.machine.mailbox_count(),
            stats: *self.machine.stats(),
        }
    }

    /// Sends what the machine has to say. It may have more to say when a client is found
    /// to be too slow: the other side of its mailbox must hear that it has gone.
    fn drain(&mut self) {
        loop {
            while let Some((client, frame)) = self.machine.poll_transmit() {
                self.deliver(client, frame);
            }
            match self.machine.poll_event() {
                Some(MailboxesEvent::Disconnect(client)) => drop(self.clients.remove(&client)),
                None => return,
            }
        }
    }

    fn deliver(&mut self, client: ClientId, frame: String) {
        let Some(frames) = self.clients.get(&client) else {
            return;
        };
        if frames.try_send(frame).is_err() {
            tracing::debug!(client = client.0, "a client reads too slowly, cut off");
            self.clients.remove(&client);
            self.machine.disconnected(clock::now(), client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn connect(mailboxes: &Mailboxes) -> Client {
        let address = Ipv4Addr::new(192, 0, 2, 1).into();
        let mut client = mailboxes.connect(address).await.unwrap();
        assert!(client.next().await.unwrap().contains("welcome"));
        client
    }

    /// A creator and a joiner in one mailbox.
    async fn meet(mailboxes: &Mailboxes) -> (Client, Client) {
        let (mut creator, mut joiner) = (connect(mailboxes).await, connect(mailboxes).await);
        creator.send(br#"{"type":"allocate"}"#.to_vec()).await;
        let answer = creator.next().await.unwrap();
        let join = answer.replace(r#""type":"mailbox""#, r#""type":"join""#);
        joiner.send(join.into_bytes()).await;
        for client in [&mut creator, &mut joiner] {
            assert!(client.next().await.unwrap().contains("joined"));
        }
        (creator, joiner)
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_side_hears_that_a_client_was_cut_off_because_it_did_not_read() {
        let (mailboxes, task) = new([7; 32], Vec::new(), None);
        let _task = tokio::spawn(task.run());
        let (mut creator, mut joiner) = meet(&mailboxes).await;
        for _ in 0..=OUTPUT_QUEUE {
            let put = br#"{"type":"put","body":"AAAA"}"#;
            assert!(creator.send(put.to_vec()).await);
        }
        assert!(creator.next().await.unwrap().contains("peer_left"));
        assert_eq!(creator.next().await, None);
        let mut read = 0;
        while joiner.next().await.is_some() {
            read += 1;
        }
        assert_eq!(read, OUTPUT_QUEUE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mailbox_waits_as_long_as_a_program_may() {
        let (mailboxes, task) = new([7; 32], Vec::new(), None);
        let _task = tokio::spawn(task.run());
        let mut creator = connect(&mailboxes).await;
        creator.send(br#"{"type":"allocate"}"#.to_vec()).await;
        creator.next().await.unwrap();
        let began = clock::now();
        while clock::now() - began < MAX_WAIT {
            tokio::time::sleep(Duration::from_secs(20)).await;
            creator.send(br#"{"type":"ping"}"#.to_vec()).await;
            assert!(creator.next().await.unwrap().contains("pong"));
        }
    }
}
