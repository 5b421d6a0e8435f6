//! What the NATs and firewalls in front of this host do with UDP: the client of RFC 5780.
//!
//! [`Discovery`] asks STUN servers from several sockets at once and ends within about three
//! seconds. What it finds out, and with which of the host's sockets, so that no test spoils
//! another one:
//!
//! | what | how | socket |
//! |---|---|---|
//! | mapping (section 4.3) | the server's four endpoints, and every other server | the main one |
//! | filtering (section 4.4) | answers from the server's other endpoints | the second |
//! | hairpinning (section 4.5) | between the main and the third, over their mapped addresses | the third |
//! | fragments (section 4.6) | a request and an answer larger than a frame | the main one |
//! | how ports are given | one request from each | all others |
//! | how far the outermost filter is, and which routers are on the way | packets that die after so many | the fourth to the eleventh |
//!
//! A server with one address, which does not speak RFC 5780, tells only what one address can
//! see: the rest stays unknown, and several such servers together tell the mapping.
//!
//! [`Lifetime`] measures how long an idle mapping lives (section 4.6), which takes minutes, and
//! [`MtuSearch`] how large packets may be.

mod discovery;
mod findings;
mod lifetime;
mod mtu;
mod probes;

pub use discovery::{Discovery, Event, MAX_SERVERS, filtering, is_other};
pub use findings::Findings;
pub use lifetime::{Lifetime, LifetimeEvent};
pub use mtu::{MtuSearch, PathMtu};

#[cfg(test)]
mod tests;
