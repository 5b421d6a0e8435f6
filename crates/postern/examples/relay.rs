//! Asks a TURN server for a relay, says where it is, and echoes what peers send to it.
//!
//! ```text
//! cargo run --example relay -- turn:relay.example.org user password 192.0.2.7
//! ```
#![expect(clippy::print_stdout, reason = "an example speaks")]

use std::error::Error;

use postern::Trust;
use postern::turn::{Allocation, Credentials, Options, Resolver, Transport};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, user, password, peer] = arguments.as_slice() else {
        return Err("usage: relay URI USER PASSWORD PEER-ADDRESS".into());
    };

    let ways = [Transport::Udp, Transport::Tcp];
    let servers = Resolver::system()
        .resolve(&uri.parse()?, &ways, &Trust::System)
        .await?;
    let options = Options {
        credentials: Some(Credentials::new(user, password)?),
        ..Options::default()
    };
    let relay = Allocation::request(&servers, &options).await?;
    println!(
        "{} reaches this program over {}",
        relay.relayed(),
        relay.server()
    );

    relay.permit(peer.parse()?).await?;
    loop {
        let (payload, peer) = relay.recv_from().await?;
        relay.send_to(&payload, peer).await?;
    }
}
