//! The limits: programs that make the system calls of a relay and do nothing else. They
//! know no STUN, check nothing and serve whoever comes, so they listen on loopback only,
//! and end when nobody has sent anything for [`IDLE`].
//!
//! A client tells a relay its peer in six bytes, an IPv4 address and a port, and gets the
//! relayed address in the same form.

mod binding;
mod splice;
mod udp;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::report::say;

/// How long a limit waits for the next packet before it ends.
pub const IDLE: Duration = Duration::from_secs(120);

/// The first argument with which a benchmark starts itself as a limit.
const ARGUMENT: &str = "--limit";

/// Which bare loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Channel headers off and on, trains in (GRO) and trains out (GSO).
    Trains,
    /// Channel headers off and on, many packets with one system call.
    Packets,
    /// Bytes from one TCP connection to another by splice(2).
    Splice,
    /// Binding responses.
    Binding,
}

const KINDS: [(&str, Kind); 4] = [
    ("trains", Kind::Trains),
    ("packets", Kind::Packets),
    ("splice", Kind::Splice),
    ("binding", Kind::Binding),
];

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = KINDS.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).context("no such limit")
    }
}

/// Serves until nobody has sent anything for `idle`; tells `ready` where.
pub fn serve(
    kind: Kind,
    idle: Duration,
    ready: impl FnOnce(SocketAddrV4) -> Result<()>,
) -> Result<()> {
    match kind {
        Kind::Trains => udp::Relay::bind(true)?.serve(idle, ready),
        Kind::Packets => udp::Relay::bind(false)?.serve(idle, ready),
        Kind::Splice => splice::serve(idle, ready),
        Kind::Binding => binding::serve(idle, ready),
    }
}

/// Serves and never returns success to the caller's program, if that was started by
/// [`command`]; says whether it was. The first thing in a benchmark's `main`.
pub fn serve_if_asked() -> Result<bool> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return Ok(false);
    }
    let Some(kind) = arguments.next() else {
        bail!("which limit?")
    };
    serve(kind.parse()?, IDLE, |address| say(&format!("{address}\n")))?;
    Ok(true)
}

/// What starts this program as a limit. It prints its address.
pub fn command(kind: Kind) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    let name = KINDS.iter().find(|(_, other)| *other == kind);
    command.arg(ARGUMENT).args(name.map(|(name, _)| name));
    Ok(command)
}

/// A peer's address in the relays' six bytes.
#[must_use]
pub fn to_bytes(address: SocketAddrV4) -> [u8; 6] {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low]
}

/// The address in six bytes; nothing if there are not six.
#[must_use]
pub fn from_bytes(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [a, b, c, d, high, low] = bytes.try_into().ok()?;
    let ip = Ipv4Addr::new(a, b, c, d);
    Some(SocketAddrV4::new(ip, u16::from_be_bytes([high, low])))
}
