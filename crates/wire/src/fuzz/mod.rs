//! Bodies of the fuzz targets: ordinary functions that must not panic on any input.
//!
//! `fuzz/` calls them with libFuzzer; `tests/corpus.rs` replays the committed corpora on
//! stable Rust.

mod mdns;
mod ndp;
mod portmap;
mod probe;
mod signal;
mod stun;
mod transfer;
mod turn;
mod uri;

pub use mdns::mdns;
pub use ndp::ndp;
pub use portmap::{natpmp, pcp, upnp};
pub use probe::probe;
pub use signal::signal;
pub use stun::stun;
pub use transfer::transfer;
pub use turn::turn;
pub use uri::uri;
