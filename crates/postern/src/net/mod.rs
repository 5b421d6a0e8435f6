//! Sockets, and what is shared on them.
//!
//! One UDP socket per address family carries STUN and QUIC. [`Mux`] is the socket that
//! QUIC sees; it takes STUN out of what arrives and gives it to the agents. What comes over
//! streams, from relays and on connections with peers, is handed to it as well.

mod delivery;
mod interfaces;
mod latest;
mod link;
mod multicast;
mod mux;
mod nat64;
mod paths;
mod punched;
mod relays;
mod sockets;
pub(crate) mod tcp;
mod trains;
pub(crate) mod watch;

pub(crate) use interfaces::{AddressFilter, all_host_addresses, host_addresses};
pub(crate) use link::{Link, LinkInput, Opened, Outlet};
pub(crate) use multicast::listener;
pub(crate) use mux::{Inlets, Mux, StunDatagram};
pub(crate) use nat64::{Advertised, has_ipv6_alone, of_resolver, solicit};
pub(crate) use paths::{AddressPair, Found, Late, PathTable, SessionId};

pub(crate) use punched::PunchedSockets;
pub(crate) use relays::{RelayTable, Unchannelled};
pub(crate) use sockets::{Sender, Sockets, bind_one};
pub(crate) use tcp::Streams;
pub(crate) use trains::Train;
