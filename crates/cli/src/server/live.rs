//! A server that runs, and the signals that an operator sends it.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern::server::{Alternates, Control, Usage};
use tokio::time::sleep;

use super::{Arguments, describe, load};
use crate::failure::Failure;
use crate::interrupt::{Signals, Wish};
use crate::output::{Event, Output, note};

/// How often it is said at most who is left.
const PAUSE: Duration = Duration::from_secs(1);

/// What is needed to reload and to drain.
pub(super) struct Live {
    /// The arguments behind `server`.
    pub(super) given: Vec<OsString>,
    pub(super) arguments: Arguments,
    pub(super) control: Control,
    pub(super) signals: Signals,
    pub(super) output: Output,
}

impl Live {
    /// Does what signals say until one of them ends the server.
    pub(super) async fn operate(mut self) {
        loop {
            match self.signals.next().await {
                Wish::End => break,
                Wish::Reload => self.reload().await,
                Wish::Drain => {
                    self.drain().await;
                    break;
                }
            }
        }
        self.control.farewell().await;
    }

    /// A file that cannot be used changes nothing.
    async fn reload(&mut self) {
        match self.try_reload().await {
            Ok(arguments) => {
                let restart = self.arguments.fixed_that_differ(&arguments);
                if restart.is_empty() {
                    note("the configuration was read again");
                } else {
                    let names = restart.join(", ");
                    note(&format!(
                        "the configuration was read again, but a new value needs a restart: {names}"
                    ));
                }
                self.arguments.relay.drain_to = arguments.relay.drain_to;
                self.arguments.relay.drain_timeout = arguments.relay.drain_timeout;
            }
            Err(failure) => note(&format!(
                "the configuration stays as it was: {}",
                failure.message()
            )),
        }
    }

    async fn try_reload(&self) -> Result<Arguments, Failure> {
        let arguments = load(&self.given)?;
        let config = arguments.config().await?;
        let reloaded = self.control.reload(&config).await;
        reloaded.map_err(|error| describe(&error))?;
        Ok(arguments)
    }

    /// Waits for those that use the server, but not for ever, and not if told twice.
    async fn drain(&mut self) {
        let to = self.arguments.relay.drain_to.as_deref();
        let alternates = match to {
            Some(to) => resolve(to).await.unwrap_or_else(|failure| {
                note(failure.message());
                Alternates::default()
            }),
            None => Alternates::default(),
        };
        self.control.drain(alternates).await;
        if self.control.usage().await == Usage::NONE {
            return;
        }
        let patience = self.arguments.relay.drain_timeout;
        note(&format!(
            "takes no new clients, and ends when the last one has left, in {patience} s at the latest, or at the next signal"
        ));
        tokio::select! {
            () = count_down(&self.control, self.output) => {}
            () = sleep(Duration::from_secs(patience)) => {}
            () = second(&mut self.signals) => {}
        }
    }
}

/// Says who is left whenever that is another number, but not more often than people can
/// read, until nobody is.
async fn count_down(control: &Control, output: Output) {
    let mut left = control.usage().await;
    loop {
        let Usage {
            allocations,
            meetings,
        } = left;
        output.tell_programs(&Event::Draining {
            allocations,
            meetings,
        });
        if left == Usage::NONE {
            return;
        }
        note(&format!(
            "still in use: {allocations} allocations, {meetings} mailboxes"
        ));
        let next = control.usage_but(left).await;
        if next != Usage::NONE {
            sleep(PAUSE).await;
        }
        left = control.usage().await;
    }
}

/// A signal that means that it is enough.
async fn second(signals: &mut Signals) {
    while signals.next().await == Wish::Reload {}
}

/// The addresses of `HOST:PORT`, one of each family.
pub(super) async fn resolve(server: &str) -> Result<Alternates, Failure> {
    let addresses = tokio::net::lookup_host(server).await.map_err(|error| {
        Failure::usage(format!(
            "the address of the server {server} could not be found: {error}"
        ))
    })?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let of = |v4: bool| {
        let is = |address: &&SocketAddr| matches!(address.ip(), IpAddr::V4(_)) == v4;
        addresses.iter().find(is).copied()
    };
    Ok(Alternates {
        v4: of(true),
        v6: of(false),
    })
}
