//! Bodies of the fuzz targets: ordinary functions that must not panic on any input.
//!
//! `fuzz/` calls them with libFuzzer; `tests/corpus.rs` replays the committed corpora on
//! stable Rust. Their names start with `machine_`: those of `postern-wire` read bytes,
//! these drive a state machine.

mod gateway;
mod mdns;
mod portmap;
mod turn_client;
mod turn_server;

pub use gateway::machine_gateway;
pub use mdns::machine_mdns;
pub use portmap::machine_portmap;
pub use turn_client::machine_turn_client;
pub use turn_server::machine_turn_server;
