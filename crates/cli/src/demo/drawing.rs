//! The little network, drawn in the terminal.

use anyhow::{Context, Result};
use postern_lab::netns::World;

use super::Done;
use crate::session::size as people_size;

/// The two homes, their routers, and the server between them.
pub(super) fn network(world: &World) -> Result<String> {
    let address = |node: &str| {
        world
            .ipv4(node)
            .with_context(|| format!("{node} has no address"))
    };
    let [alice, bob] = [address("alice")?, address("bob")?].map(|ip| ip.to_string());
    let [red, blue] = [address("red")?, address("blue")?].map(|ip| ip.to_string());
    let server = address("server")?.to_string();
    Ok(format!(
        "
   alice                                            bob
   {alice:<15}                                  {bob}
     |                                                |
   +-+------------+         internet         +--------+-----+
   | router, NAT  |------------+-------------| router, NAT  |
   | {red:<12} |            |             | {blue:<12} |
   +--------------+            |             +--------------+
                        +------+-------+
                        | server       |
                        | {server:<12} |
                        +--------------+
"
    ))
}

/// What happened, in two lines.
pub(super) fn outcome(done: &Done, size: u64, through_server: u64) -> String {
    let Done { path, seconds } = done;
    let rate = people_size((size as f64 / seconds.max(0.001)) as u64);
    format!(
        "\nThe file arrived identical: {} in {seconds:.2} s ({rate}/s), {path}.\n\
         Through the server went {}: enough to introduce the two, none of the file.",
        people_size(size),
        people_size(through_server),
    )
}
