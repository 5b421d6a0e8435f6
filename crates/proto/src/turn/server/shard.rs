//! One server as several machines, one for each thread of a driver.
//!
//! The system spreads clients' 5-tuples over the shards, and each shard has the
//! allocations of its own. They have the users, the quotas and rates, the ports, the
//! reservations and the list of relayed addresses in common. What comes to one shard and
//! is another one's business:
//!
//! - A MOBILITY-TICKET, and from then on all that comes from where the client has moved
//!   to: [`Server::elsewhere`] says whose it is, before [`Server::handle_input`].
//! - Data for a relay of another shard: [`Forward::own`](super::Forward::own) says whose,
//!   and [`Server::peer_data`] of that shard takes it.
//!
//! A CONNECTION-ID is good at the shard that gave it alone: a driver gives all streams to
//! one shard.

use std::time::Instant;

use postern_wire::stun::Message;
use postern_wire::turn::MobilityTicket;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::ports::Ports;
use super::shared::Shared;
use super::types::{FiveTuple, ShardIndex};
use super::{Config, Server, derive};
use crate::stun::BindingServer;

/// What a Refresh request starts with.
const REFRESH: [u8; 2] = [0x00, 0x04];

impl Server {
    /// The machines of a server with so many shards, at least one: see the module's
    /// documentation of what a driver has to do for them.
    #[must_use]
    pub fn shards(now: Instant, seed: [u8; 32], mut config: Config, count: u16) -> Vec<Self> {
        let pool = ChaCha20Rng::from_seed(derive(&seed, "ports"));
        let shared = Shared::new(Ports::new(&config.ports, pool));
        config
            .nonce_key
            .get_or_insert_with(|| derive(&seed, "nonces"));
        let binding = BindingServer::new().with_allowance(config.unproven_allowance);
        (0..count.max(1))
            .map(|index| {
                let seed = derive(&seed, &format!("shard {index}"));
                let binding = binding.sibling();
                Self::shard(
                    now,
                    seed,
                    config.clone(),
                    binding,
                    ShardIndex(index),
                    &shared,
                )
            })
            .collect()
    }

    /// Which of the shards this is.
    #[must_use]
    pub const fn index(&self) -> ShardIndex {
        self.shard
    }

    /// The shard that a client's message, or a train that begins with this one, is for, if
    /// it is another one than this: that shard is to get it as it is.
    #[must_use]
    pub fn elsewhere(&self, client: &FiveTuple, message: &[u8]) -> Option<ShardIndex> {
        let owner = self
            .shared
            .owner(client)
            .or_else(|| owner_of_ticket(message))?;
        let is_mine = owner == self.shard || self.table.of_client(client).is_some();
        (!is_mine).then_some(owner)
    }
}

/// The shard that gave the ticket of a Refresh request, as the ticket says.
fn owner_of_ticket(message: &[u8]) -> Option<ShardIndex> {
    if !message.starts_with(&REFRESH) {
        return None;
    }
    let message = Message::parse(message).ok()?;
    let MobilityTicket(ticket) = message.get().ok()??;
    let shard = ticket.first_chunk()?;
    Some(ShardIndex(u16::from_be_bytes(*shard)))
}
