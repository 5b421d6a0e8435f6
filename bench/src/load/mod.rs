//! What servers are loaded with, and what comes out of them.
//!
//! One thread sends and counts: it keeps a bounded number of packets on the way, so that
//! it is as fast as the server, and no server is charged for packets that it has to drop.
//! It never sleeps while it measures, so no server is charged for waking it up.

mod fairness;
mod flow;
mod path;
mod round_trip;
mod stream;

pub use fairness::{Fairness, fairness};
pub use flow::{Bound, Counts, Flow, Load, Pattern, WINDOW};
pub(crate) use path::answers;
pub use path::{Path, Session, open};
pub use round_trip::round_trips;
pub use stream::{Connection, Direction};
