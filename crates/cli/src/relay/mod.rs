//! `postern relay test`

mod explain;
mod measure;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use postern::Trust;
use postern::turn::{
    Allocation, Credentials, Options, Proxy, Relay, Resolver, Scheme, Server, ServerUri, Transport,
    time_limited,
};
use serde::Serialize;

use crate::failure::{Failure, chain};
use crate::interrupt::interrupted;
use crate::output::Output;
use measure::Measured;

/// Time-limited credentials are for so long: more than a test lasts.
const CREDENTIALS_FOR: Duration = Duration::from_secs(3600);

/// The longest test, in seconds.
const MAX_DURATION: u64 = 600;

/// Options of `postern relay`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay to this machine itself through a TURN server, and say how well that goes
    Test(Box<TestArguments>),
}

/// Options of `postern relay test`.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// The server: turn:HOST, turns:HOST, with :PORT and ?transport=udp or tcp if need be. Of
    /// several the first one that answers is tested
    #[arg(value_name = "URI", required = true, value_parser = uri)]
    servers: Vec<ServerUri>,
    /// The user; other users of this machine see it in the list of processes, but not in the
    /// variable. With --secret the name alone
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        env = "POSTERN_TURN_USER",
        hide_env_values = true
    )]
    user: Option<String>,
    /// A file with NAME:PASSWORD in its first line
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    user_file: Option<PathBuf>,
    /// The server's shared secret, to make time-limited credentials from
    #[arg(
        long,
        value_name = "SECRET",
        env = "POSTERN_TURN_SECRET",
        hide_env_values = true
    )]
    secret: Option<String>,
    /// Relay TCP connections (RFC 6062) instead of datagrams
    #[arg(long)]
    tcp_relay: bool,
    /// How to reach the server; default: as the URI says, or the first way that works
    #[arg(long, value_name = "WAY")]
    transport: Option<Way>,
    /// Authorities that vouch for the server's certificate, in PEM form, beside the system's
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// The SHA-256 fingerprint of the server's certificate: 64 hexadecimal digits
    #[arg(long, value_name = "SHA256", value_parser = pin)]
    pin: Option<Trust>,
    /// The HTTP proxy on the way to the server, for TCP and TLS; default for TLS: HTTPS_PROXY
    #[arg(long, value_name = "URL")]
    proxy: Option<Proxy>,
    /// How long to send as fast as it goes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=MAX_DURATION))]
    duration: u64,
    /// Print a JSON object (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// How to reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

/// What is printed at the end (docs/json.md). The first four fields are a promise.
#[derive(Debug, Serialize)]
struct Report {
    allocate_ms: f64,
    rtt_ms: Percentiles,
    mbytes_per_s: f64,
    transport: &'static str,
    relay: &'static str,
    server: String,
    relayed: String,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Command::Test(arguments) = arguments.command;
    tokio::select! {
        result = test(&arguments) => result,
        () = interrupted() => Err(Failure::interrupted()),
    }
}

async fn test(arguments: &TestArguments) -> Result<(), Failure> {
    let options = arguments.options()?;
    let servers = arguments.servers().await?;
    let began = Instant::now();
    let near = allocate(&servers, &options, arguments).await?;
    let took = began.elapsed();
    let server = near.server().clone();
    let relayed = near.relayed();
    // The other one at the same server, by the same way.
    let far = match allocate(std::slice::from_ref(&server), &options, arguments).await {
        Ok(far) => Some(far),
        Err(error) if error.is(explain::QUOTA) && !arguments.tcp_relay => None,
        Err(error) => {
            near.close().await;
            return Err(error);
        }
    };
    let duration = Duration::from_secs(arguments.duration);
    let measured = if arguments.tcp_relay {
        measure::connections(&near, far.as_ref(), duration).await
    } else {
        measure::datagrams(&near, far.as_ref(), duration).await
    };
    near.close().await;
    if let Some(far) = far {
        far.close().await;
    }
    let measured = measured.map_err(|error| explain::measuring(&error))?;
    let report = Report::new(took, &measured, &server, relayed, options.relay);
    Output::new(arguments.json).report(&report, &report.sentences())
}

async fn allocate(
    servers: &[Server],
    options: &Options,
    arguments: &TestArguments,
) -> Result<Allocation, Failure> {
    let allocated = Allocation::request(servers, options).await;
    allocated.map_err(|error| {
        let user = options.credentials.as_ref().map(Credentials::username);
        explain::allocating(&error, user, arguments.secret.is_some())
    })
}

impl TestArguments {
    fn options(&self) -> Result<Options, Failure> {
        Ok(Options {
            credentials: self.credentials()?,
            relay: if self.tcp_relay {
                Relay::Tcp
            } else {
                Relay::Udp
            },
            ..Options::default()
        })
    }

    fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        let from_file = self.user_file.as_deref().map(first_line).transpose()?;
        let user = from_file.or_else(|| self.user.clone());
        let made = match (&self.secret, user) {
            (Some(secret), id) => {
                let id = id.as_deref().unwrap_or("postern");
                let id = id.split(':').next();
                Some(time_limited(secret, id, CREDENTIALS_FOR))
            }
            (None, Some(user)) => {
                let (name, password) = split_user(&user)?;
                Some(Credentials::new(name, password))
            }
            (None, None) => None,
        };
        made.transpose()
            .map_err(|error| Failure::usage(format!("the user cannot be used: {error}")))
    }

    fn trust(&self) -> Result<Trust, Failure> {
        match (&self.ca, &self.pin) {
            (Some(file), _) => {
                Trust::authorities(file).map_err(|error| Failure::usage(chain(&error)))
            }
            (None, Some(pin)) => Ok(pin.clone()),
            (None, None) => Ok(Trust::System),
        }
    }

    /// The ways that a URI without a transport may mean.
    fn wanted(&self) -> &'static [Transport] {
        if self.tcp_relay || self.proxy.is_some() {
            &[Transport::Tcp]
        } else {
            &[Transport::Udp, Transport::Tcp]
        }
    }

    async fn servers(&self) -> Result<Vec<Server>, Failure> {
        let trust = self.trust()?;
        let resolver = Resolver::system();
        let mut servers = Vec::new();
        let mut problem = None;
        for uri in &self.servers {
            let uri = self
                .transport
                .map_or_else(|| uri.clone(), |way| way.of(uri));
            match resolver.resolve(&uri, self.wanted(), &trust).await {
                Ok(found) => servers.extend(found),
                Err(error) => problem = Some(Failure::failed("server_unreachable", chain(&error))),
            }
        }
        for server in &mut servers {
            self.set_proxy(server)?;
        }
        match problem {
            Some(problem) if servers.is_empty() => Err(problem),
            Some(_) | None => Ok(servers),
        }
    }

    /// The proxy of the option, or for TLS of the environment.
    fn set_proxy(&self, server: &mut Server) -> Result<(), Failure> {
        if server.transport == Transport::Udp {
            return Ok(());
        }
        let target = &mut server.target;
        target.proxy = match &self.proxy {
            Some(proxy) => Some(proxy.clone()),
            None if target.tls.is_some() => Proxy::from_environment(&target.host, target.port)
                .map_err(|error| Failure::usage(format!("HTTPS_PROXY cannot be used: {error}")))?,
            None => None,
        };
        Ok(())
    }
}

impl Way {
    /// The URI of the same server, reached in this way.
    fn of(self, uri: &ServerUri) -> ServerUri {
        let (scheme, transport) = match self {
            Self::Udp => (Scheme::Turn, Transport::Udp),
            Self::Tcp => (Scheme::Turn, Transport::Tcp),
            Self::Tls => (Scheme::Turns, Transport::Tcp),
            Self::Dtls => (Scheme::Turns, Transport::Udp),
        };
        ServerUri {
            scheme,
            transport: Some(transport),
            ..uri.clone()
        }
    }
}

impl Report {
    fn new(
        allocate: Duration,
        measured: &Measured,
        server: &Server,
        relayed: std::net::SocketAddr,
        relay: Relay,
    ) -> Self {
        Self {
            allocate_ms: milliseconds(allocate),
            rtt_ms: Percentiles {
                p50: milliseconds(measured.median),
                p99: milliseconds(measured.slow),
            },
            mbytes_per_s: rounded(measured.bytes_per_second / 1e6),
            transport: server.way(),
            relay: match relay {
                Relay::Udp => "udp",
                Relay::Tcp => "tcp",
            },
            server: server.target.to_string(),
            relayed: relayed.to_string(),
        }
    }

    fn sentences(&self) -> String {
        let what = match self.relay {
            "udp" => "datagrams",
            _ => "TCP connections",
        };
        let Self {
            allocate_ms,
            rtt_ms: Percentiles { p50, p99 },
            mbytes_per_s,
            transport,
            server,
            relayed,
            ..
        } = self;
        format!(
            "The relay works: {server}, reached over {transport}, relays {what} at {relayed}.\n\
             It was there after {allocate_ms} ms.\n\
             Through it and back in {p50} ms, 99 times of 100 in {p99} ms.\n\
             Through it with {mbytes_per_s} MB/s."
        )
    }
}

fn milliseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// Reads the URI of a TURN server.
pub(crate) fn uri(text: &str) -> Result<ServerUri, String> {
    let uri = ServerUri::from_str(text).map_err(|error| error.to_string())?;
    if uri.scheme.is_turn() {
        Ok(uri)
    } else {
        Err("a STUN server does not relay: the URI must begin with turn: or turns:".to_owned())
    }
}

fn pin(text: &str) -> Result<Trust, &'static str> {
    Trust::pinned(text).ok_or("not 64 hexadecimal digits")
}

fn first_line(file: &std::path::Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let file = file.display();
        Failure::usage(format!("{file} cannot be read: {}", chain(&error)))
    })?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn split_user(user: &str) -> Result<(&str, &str), Failure> {
    let pair = user.rsplit_once(':').filter(|(name, _)| !name.is_empty());
    // The name of a time-limited user has a colon: TIME:ID.
    let limited = |text: &str| text.split(':').next().is_some_and(is_number);
    let pair = match user.split_once(':') {
        Some(_) if limited(user) && user.matches(':').count() > 1 => pair,
        other => other.filter(|(name, _)| !name.is_empty()),
    };
    pair.ok_or_else(|| Failure::usage("the user is not NAME:PASSWORD"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_time_limited_users_have_a_colon() {
        let split = |user| split_user(user).unwrap();
        assert_eq!(split("me:pass:word"), ("me", "pass:word"));
        assert_eq!(
            split("1700000000:me:cGFzcw=="),
            ("1700000000:me", "cGFzcw==")
        );
        assert_eq!(split("1700000000:cGFzcw=="), ("1700000000", "cGFzcw=="));
        for wrong in ["me", ":pass", ""] {
            assert!(split_user(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_turn_servers_relay() {
        assert!(uri("turns:[2001:db8::1]:443?transport=tcp").is_ok());
        assert!(uri("stun:example.org").is_err());
        assert!(uri("example.org").is_err());
    }

    #[test]
    fn a_way_changes_the_scheme_and_keeps_the_port() {
        let way = |way: Way, text: &str| way.of(&text.parse().unwrap()).to_string();
        assert_eq!(way(Way::Tls, "turn:a:9"), "turns:a:9?transport=tcp");
        assert_eq!(way(Way::Udp, "turns:a"), "turn:a?transport=udp");
    }
}
