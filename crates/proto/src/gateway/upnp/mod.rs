//! UPnP-IGD, versions 1 and 2 (UPnP Device Architecture 2.0).
//!
//! | file | what |
//! |---|---|
//! | `ssdp.rs` | being found: announcements and answers to searches |
//! | `requests.rs` | HTTP: who may ask, and what is asked |
//! | `device.rs`, `service.rs` | descriptions of the device and its services |
//! | `actions.rs`, `mappings.rs`, `listing.rs`, `pinholes.rs` | what the services do |
//! | `events.rs` | GENA: telling subscribers what has changed |

mod actions;
mod device;
mod events;
mod listing;
mod mappings;
mod pinholes;
mod requests;
mod service;
mod ssdp;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::lease::LeaseId;

pub(super) use actions::SoapAnswer;
pub use events::SubscriptionId;

use events::Events;
use ssdp::Ssdp;

/// A request of HTTP that waits for its answer; the driver names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// What UPnP shows of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The device's UUID, without `uuid:`; those of the devices in it are made from it.
    pub uuid: u128,
    /// What people see in a list.
    pub name: String,
    /// Greater after each start (BOOTID.UPNP.ORG), at most 2^31 - 1.
    pub boot_id: u32,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            uuid: 0,
            name: "postern gateway".to_owned(),
            boot_id: 1,
        }
    }
}

/// An address at which UPnP is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of HTTP: an interface's address and the port.
    pub http: SocketAddr,
    /// The multicast group of SSDP on that interface, with its scope for IPv6.
    pub group: SocketAddr,
}

/// How much the outside interface has carried, and how fast it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Sent.
    pub bytes_sent: u64,
    /// Received.
    pub bytes_received: u64,
    /// Sent.
    pub packets_sent: u64,
    /// Received.
    pub packets_received: u64,
    /// Bits a second; 0 where nobody knows.
    pub bits_per_second: u64,
}

/// The state of UPnP.
#[derive(Debug, Default)]
pub(super) struct Upnp {
    pub(super) identity: Identity,
    pub(super) places: Vec<Place>,
    pub(super) traffic: Traffic,
    pub(super) ssdp: Ssdp,
    pub(super) events: Events,
    /// Pinholes by their UniqueID.
    pub(super) pinholes: BTreeMap<u16, LeaseId>,
    next_pinhole: u16,
}
