//! The gateway of a Linux router: opens ports on request of the hosts inside.
//!
//! 1. [`Gateway::start`] reads the leases of the last run, makes the rules in the kernel and
//!    binds sockets on the interfaces inside, and on no others.
//! 2. [`Gateway::run`] is a task that owns the machine ([`postern_proto::gateway`]) and the
//!    kernel's table. What arrives comes to it from small tasks, one for each socket.
//! 3. [`Handle`] asks it for its state, and takes leases back.
//!
//! Nothing here decides what is opened; the machine does.

mod config;
mod control;
mod driver;
mod files;
mod firewalls;
mod http;
mod kernel;
mod legacy;
mod line;
mod links;
mod metrics;
mod neighbours;
mod placement;
mod rules;
pub mod socket;
mod sockets;
mod startup;
mod store;
mod supervisor;
mod upstream;
mod watch;
mod writer;

pub use config::{DEFAULT_HTTP_PORT, DEFAULT_MARK, GatewayConfig, GatewayError};
pub use control::{Handle, LeaseInfo, Status, describe_obstacle};
pub use driver::Gateway;
pub use firewalls::Firewall;
pub use postern_proto::gateway::{Action, Quotas, Rule};
pub use rules::describe;
