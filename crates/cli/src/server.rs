//! `postern server`

mod file;
mod live;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, FromArgMatches};
use postern::DEFAULT_PORT;
use postern::server::{
    Alternates, CertificateFiles, Cidr, DEFAULT_QUOTA_ADDRESS, DEFAULT_REALM, DEFAULT_STUN_PORT,
    DEFAULT_TLS_PORT, DEFAULT_UNPROVEN_RATE, ProbeConfig, Server, ServerConfig, ServerError,
    TurnConfig,
};

use crate::failure::{Failure, chain};
use crate::interrupt::Signals;
use crate::output::{Event, Output, note};
use crate::usage::sentence;
use live::Live;

/// Options of `postern server`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A configuration file in TOML: its keys are the names of these options, of which those on
    /// the command line win. SIGHUP makes the server read it again
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An address to listen on, IPv4 or IPv6; repeat it for several
    #[arg(long, value_name = "IP", required_unless_present = "config")]
    listen: Vec<IpAddr>,
    /// The TCP port that clients connect to; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// The UDP port of STUN; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_STUN_PORT)]
    stun_port: u16,
    /// The address at which clients reach the server, if it is not the one it listens on: behind a
    /// NAT, or when it listens on every address; repeat it for several. Default: where it listens
    #[arg(long, value_name = "IP")]
    public_ip: Vec<IpAddr>,
    /// A second address, of which each family can have one: with two, clients can discover how
    /// their NATs behave (RFC 5780). Default: none
    #[arg(long, value_name = "IP")]
    alternate_ip: Vec<IpAddr>,
    /// The second port for that, at every address; 0 lets the system choose. Default: the one
    /// behind that of STUN
    #[arg(long, value_name = "PORT", requires = "alternate_ip")]
    alternate_port: Option<u16>,
    /// The certificate chain in PEM form. Default: the server makes its own, and its URL pins it
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key in PEM form
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Tell Prometheus at this address what the server does, at the path /metrics. Default: nowhere
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Let that be an address to which the public internet leads
    #[arg(long, requires = "metrics")]
    metrics_public: bool,
    /// Do not look at clients' ports from outside for them (POST /probe)
    #[arg(long)]
    no_probe: bool,
    #[command(flatten)]
    relay: RelayArguments,
    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// Options of the relay, which is there if any of the first four is given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Relay (TURN)")]
struct RelayArguments {
    /// Relay for those whom this server introduces, where they find no direct path
    #[arg(long)]
    relay: bool,
    /// Relay for this user; repeat it for several. Other users of this machine see it in the list
    /// of processes
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = user)]
    user: Vec<(String, String)>,
    /// Relay for whoever has credentials made from this secret; repeat it to replace an old one.
    /// Default: one that is drawn at every start
    #[arg(long, value_name = "SECRET")]
    turn_secret: Vec<String>,
    /// Relay at this address, over UDP and TCP; STUN is there, too. Default: where STUN is
    #[arg(long, value_name = "IP:PORT")]
    turn_listen: Vec<SocketAddr>,
    /// The port of TURN over TLS; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_TLS_PORT)]
    tls_port: u16,
    /// The address of relays, one IPv4 and one IPv6; default: where the relay listens
    #[arg(long, value_name = "IP")]
    relay_ip: Vec<IpAddr>,
    /// The ports of relays
    #[arg(long, value_name = "FIRST-LAST", default_value = "49152-65535", value_parser = ports)]
    relay_ports: RangeInclusive<u16>,
    /// How relays are reached from outside, behind a NAT that forwards their ports; default:
    /// --public-ip
    #[arg(long, value_name = "IP")]
    external_ip: Vec<IpAddr>,
    /// The realm of users
    #[arg(long, value_name = "NAME", default_value = DEFAULT_REALM)]
    realm: String,
    /// Let relays reach these addresses, though they are not on the public internet; repeatable,
    /// the most specific rule wins. Counts for probes of clients, too. Default: the public internet
    /// without this machine
    #[arg(long, value_name = "CIDR")]
    allow_peer: Vec<Cidr>,
    /// Let relays not reach these addresses; repeatable. Counts for probes of clients, too
    #[arg(long, value_name = "CIDR")]
    deny_peer: Vec<Cidr>,
    /// Most allocations of one user; 0: no limit
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    quota_user: u32,
    /// Most allocations of one client address; 0: no limit
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_QUOTA_ADDRESS)]
    quota_address: u32,
    /// Most allocations in all; 0: as many as there are ports
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    quota_total: u32,
    /// Most relayed bytes a second of one user, both directions together; 0: no limit
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    max_rate: u64,
    /// How many threads relay; default: one for each processor
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,
    /// Send clients to this server for which there is no room here. Default: away
    #[arg(long, value_name = "HOST:PORT")]
    alternate_server: Option<String>,
    /// Send clients to this server after SIGTERM; default: away
    #[arg(long, value_name = "HOST:PORT")]
    drain_to: Option<String>,
    /// How long to wait after SIGTERM for those that use the relay
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    drain_timeout: u64,
    /// How many bytes more than it sent a network gets in 10 s before it has proven its address;
    /// 0: no limit, for load tests
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_UNPROVEN_RATE)]
    unproven_rate: u64,
}

impl RelayArguments {
    fn is_on(&self) -> bool {
        let others = !self.user.is_empty() || !self.turn_secret.is_empty();
        self.relay || others || !self.turn_listen.is_empty()
    }

    fn config(&self, alternate_servers: Alternates) -> TurnConfig {
        TurnConfig {
            listen: self.turn_listen.clone(),
            tls_port: self.tls_port,
            relay_ips: self.relay_ip.clone(),
            external_ips: self.external_ip.clone(),
            relay_ports: self.relay_ports.clone(),
            users: self.user.clone(),
            secrets: self.turn_secret.clone(),
            realm: self.realm.clone(),
            allow_peers: self.allow_peer.clone(),
            deny_peers: self.deny_peer.clone(),
            quota_user: self.quota_user,
            quota_address: self.quota_address,
            quota_total: self.quota_total,
            max_rate: self.max_rate,
            threads: self.threads,
            alternate_servers,
        }
    }
}

/// A password may contain colons, a name not.
fn user(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => {
            Ok((name.to_owned(), password.to_owned()))
        }
        _ => Err("not NAME:PASSWORD"),
    }
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let fault = "not FIRST-LAST, two ports of which the second is no smaller";
    let (first, last) = text.split_once('-').ok_or(fault)?;
    let first: u16 = first.parse().map_err(|_| fault)?;
    let last = last.parse().map_err(|_| fault)?;
    if first == 0 || first > last {
        return Err(fault);
    }
    Ok(first..=last)
}

impl Arguments {
    async fn config(&self) -> Result<ServerConfig, Failure> {
        if self.listen.is_empty() {
            return Err(Failure::usage(
                "the server needs an address to listen on: pass --listen IP, or write listen = \"IP\" into the configuration file",
            ));
        }
        let files = self.cert.clone().zip(self.key.clone());
        let alternates = match &self.relay.alternate_server {
            Some(server) => live::resolve(server).await?,
            None => Alternates::default(),
        };
        let turn = self.relay.is_on().then(|| self.relay.config(alternates));
        Ok(ServerConfig {
            listen: self.listen.clone(),
            port: self.port,
            stun_port: self.stun_port,
            public: self.public_ip.clone(),
            alternate_ips: self.alternate_ip.clone(),
            alternate_port: self.alternate_port,
            certificate: files.map(|(chain, key)| CertificateFiles { chain, key }),
            turn,
            metrics: self.metrics,
            metrics_public: self.metrics_public,
            probe: (!self.no_probe).then(|| ProbeConfig {
                allow: self.relay.allow_peer.clone(),
                deny: self.relay.deny_peer.clone(),
            }),
            unproven_rate: (self.relay.unproven_rate > 0).then_some(self.relay.unproven_rate),
        })
    }

    /// Whether there are files to read again.
    fn is_reloadable(&self) -> bool {
        self.config.is_some() || self.cert.is_some()
    }

    /// The names of those options that differ and cannot change while the server runs.
    fn fixed_that_differ(&self, new: &Self) -> Vec<&'static str> {
        let (old_relay, new_relay) = (&self.relay, &new.relay);
        let differ = [
            ("listen", self.listen != new.listen),
            ("port", self.port != new.port),
            ("stun-port", self.stun_port != new.stun_port),
            ("public-ip", self.public_ip != new.public_ip),
            ("alternate-ip", self.alternate_ip != new.alternate_ip),
            ("alternate-port", self.alternate_port != new.alternate_port),
            ("metrics", self.metrics != new.metrics),
            ("no-probe", self.no_probe != new.no_probe),
            ("cert", self.cert.is_some() != new.cert.is_some()),
            ("relay", old_relay.is_on() != new_relay.is_on()),
            (
                "turn-listen",
                old_relay.turn_listen != new_relay.turn_listen,
            ),
            ("tls-port", old_relay.tls_port != new_relay.tls_port),
            ("relay-ip", old_relay.relay_ip != new_relay.relay_ip),
            (
                "relay-ports",
                old_relay.relay_ports != new_relay.relay_ports,
            ),
            (
                "external-ip",
                old_relay.external_ip != new_relay.external_ip,
            ),
            ("threads", old_relay.threads != new_relay.threads),
            (
                "unproven-rate",
                old_relay.unproven_rate != new_relay.unproven_rate,
            ),
        ];
        let names = differ.into_iter().filter(|(_, differs)| *differs);
        names.map(|(name, _)| name).collect()
    }
}

/// Reads the command line, without what is before `server`, and the file that it names.
fn load(given: &[OsString]) -> Result<Arguments, Failure> {
    let options = clap::Command::new("server").no_binary_name(true);
    let matches = Arguments::augment_args(options).try_get_matches_from(given);
    let arguments = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = arguments.map_err(|error| Failure::usage(sentence(&error)))?;
    let Some(path) = &arguments.config else {
        return Ok(arguments);
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    file::merge(given, &text).map_err(|complaint| Failure::usage(complaint.about(path)))
}

/// Runs a server until it is told to end.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = Output::new(arguments.json);
    let given: Vec<_> = std::env::args_os().skip(2).collect();
    let arguments = load(&given)?;
    let server = Server::bind(arguments.config().await?);
    let server = server.map_err(|error| describe(&error))?;
    let (url, stun) = (server.url().to_string(), server.stun_uris().to_vec());
    let turn = server.turn_uris().to_vec();
    let metrics = server.metrics_address();
    if let Some(own) = server.own_dtls_certificate() {
        note(&format!(
            "DTLS needs an ECDSA key on P-256 or P-384 and cannot use this one: there the server shows a self-signed certificate with the SHA-256 fingerprint {own}"
        ));
    }
    let line = format!("Ready. Both sides pass this to postern:\n\n    --server '{url}'\n");
    // Whoever reads that the server is ready may send signals.
    let live = Live {
        signals: Signals::new(arguments.is_reloadable()),
        given,
        arguments,
        control: server.control(),
        output,
    };
    output.must_say(
        &Event::Ready {
            url: &url,
            stun: &stun,
            turn: &turn,
            metrics,
        },
        &line,
    )?;
    tokio::select! {
        () = server.run() => Err(Failure::failed("system", "the server stopped")),
        () = live.operate() => Ok(()),
    }
}

fn describe(error: &ServerError) -> Failure {
    let kind = match error {
        ServerError::Listen { .. } | ServerError::NoAddress => "listen",
        ServerError::Certificate(_) | ServerError::SelfSigned(_) => "certificate",
        ServerError::Turn(_) | ServerError::Alternate(_) | ServerError::PublicMetrics(_) => {
            return Failure::usage(chain(error));
        }
        ServerError::Start(_) | ServerError::Entropy(_) | ServerError::Dtls(_) => "system",
    };
    Failure::failed(kind, chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_contain_colons() {
        let expected = ("name".to_owned(), "pass:word".to_owned());
        assert_eq!(user("name:pass:word"), Ok(expected));
        for text in ["name", ":password", "name:"] {
            assert!(user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_a_range_that_has_some() {
        assert_eq!(ports("1024-2047"), Ok(1024..=2047));
        for text in ["1024", "0-9", "2-1", "1-65536", "1-", "-"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }
}
