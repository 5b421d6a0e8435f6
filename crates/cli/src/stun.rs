//! STUN servers that the user names.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use postern::turn::{Scheme, ServerUri};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::failure::Failure;

/// Servers that may be named: each has two addresses at most, and eight are asked in all.
const MAX_SERVERS: usize = 4;

/// A name is resolved within so long.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// `HOST:PORT`, or `HOST` for port 3478 (RFC 8489 section 18.6); IPv6 addresses in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StunServer {
    text: String,
    host: String,
    port: u16,
}

impl FromStr for StunServer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = format!("stun:{}", text.trim_start_matches("stun:"));
        let uri: Result<ServerUri, _> = uri.parse();
        let uri = uri.ok().filter(|uri| uri.scheme == Scheme::Stun);
        let uri = uri.ok_or("a STUN server is HOST or HOST:PORT, such as stun.example.org:3478")?;
        Ok(Self {
            text: text.to_owned(),
            host: uri.host.to_string(),
            port: uri.port(),
        })
    }
}

/// The addresses of the servers, of each name the first of either family.
pub(crate) async fn resolve(servers: &[StunServer]) -> Result<Vec<SocketAddr>, Failure> {
    if servers.len() > MAX_SERVERS {
        let why = format!("--stun can be given {MAX_SERVERS} times at most");
        return Err(Failure::usage(why));
    }
    let mut all = Vec::new();
    for server in servers {
        let found = addresses(server).await?;
        for is_ipv4 in [true, false] {
            let mut of_family = found.iter().filter(|found| found.is_ipv4() == is_ipv4);
            all.extend(of_family.next());
        }
    }
    Ok(all)
}

async fn addresses(server: &StunServer) -> Result<Vec<SocketAddr>, Failure> {
    let host = server.host.trim_matches(['[', ']']);
    let looking_up = timeout(RESOLVE_TIMEOUT, lookup_host((host, server.port)));
    let why = match looking_up.await {
        Ok(Ok(found)) => return Ok(found.collect()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the resolver does not answer".to_owned(),
    };
    Err(Failure::failed(
        "stun",
        format!(
            "the STUN server {} has no address: {why}; check the name, or leave --stun out",
            server.text
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, u16)> {
        let server: StunServer = text.parse().ok()?;
        Some((server.host, server.port))
    }

    #[test]
    fn a_server_is_a_host_and_perhaps_a_port() {
        let some = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(parsed("stun.example.org"), some("stun.example.org", 3478));
        assert_eq!(parsed("stun:192.0.2.1:19302"), some("192.0.2.1", 19302));
        assert_eq!(parsed("[2001:db8::1]:5"), some("[2001:db8::1]", 5));
        for bad in [
            "",
            "a:b",
            "2001:db8::1",
            "host:0",
            "host:99999",
            "turn:host",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
