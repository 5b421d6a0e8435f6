//! Gateways that map ports as real ones do: fakes for tests of the client.
//!
//! A [`Gateway`] answers PCP, NAT-PMP, SSDP and HTTP as its [`Personality`] says, keeps a table
//! of what it was asked to map, and reads neither clock nor socket. [`Play`] lets the machine
//! `postern_proto::portmap::Client` talk with some of them in virtual time, and injects a
//! [`Fault`] at a chosen message. [`personalities`] is the cast: one for each quirk of real
//! routers that is known to break clients, and the plain ones.
//!
//! | file | what |
//! |---|---|
//! | `personality.rs` | how gateways differ, as data |
//! | `cast.rs`, `dead.rs` | who there is, and what is right with each |
//! | `fake.rs` | the table, and what is sorted where |
//! | `datagrams.rs`, `search.rs`, `pages.rs`, `actions.rs` | PCP and NAT-PMP; SSDP; descriptions over HTTP; SOAP |
//! | `play.rs` | machine and gateways, in virtual time |

mod actions;
mod cast;
mod datagrams;
mod dead;
mod fake;
mod pages;
mod personality;
mod play;
mod search;

pub use cast::{Expected, Role, personalities};
pub use fake::{Gateway, HttpAnswer, Row};
pub use personality::{
    Conflict, Forwards, Http, Lease, Length, ListEnd, Location, NatPmp, Pcp, Personality, Search,
    ServiceAt, Specific, Xml,
};
pub use play::{CLIENT, Fault, GATEWAY, OTHER_GATEWAY, Outside, Play};
