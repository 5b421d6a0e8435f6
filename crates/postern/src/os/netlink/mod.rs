//! Netlink, as far as a gateway needs it: tables, maps and sets of nftables, and entries
//! of the connection tracker. And as far as anybody needs it: that addresses have changed, and what routers advertise.
//!
//! 1. [`bytes`] lays out messages and attributes and reads them back.
//! 2. [`Batch`] is a change to nftables that happens as a whole or not at all.
//! 3. [`Netlink`] is the socket: it commits batches, dumps sets, and tells of changes that
//!    others make.
//! 4. [`watch_addresses`] makes another socket: it tells that addresses, links or routes have
//!    changed.
//! 5. [`watch_routers`] makes one that hears options of router advertisements.
//!
//! Nothing here decides anything: which rules there are is the gateway's choice.

mod addresses;
mod bytes;
mod chains;
mod conntrack;
mod expression;
mod nftables;
mod routers;
mod socket;

#[cfg(test)]
mod tests;

pub(crate) use addresses::{tells_change, watch_addresses};
pub(crate) use chains::{ForwardChain, Sought};
pub(crate) use conntrack::{Flow, FlowFilter};
pub(crate) use expression::{Base, Expressions, Family, Meta, Register, Tracked};
pub(crate) use nftables::{
    Batch, Chain, ChainKind, Change, Counted, Element, Hook, KeyType, Set, SetFlags, StoredElement,
};
pub(crate) use routers::{router_options, watch_routers};
pub(crate) use socket::{Netlink, NetlinkError};
