//! `postern gateway`

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use postern::gateway::socket::{Answer, DEFAULT_SOCKET, Question, ask, serve};
use postern::gateway::{
    DEFAULT_HTTP_PORT, Firewall, Gateway, GatewayConfig, GatewayError, Handle, LeaseInfo, Rule,
    Status, describe, describe_obstacle,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, chain};
use crate::output::{Event, Output};

mod file;

/// Options of `postern gateway`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    question: Option<Asked>,
    #[command(flatten)]
    run: Run,
}

/// Options of the daemon.
#[derive(Debug, Args)]
struct Run {
    /// An interface towards the internet; repeat it for several
    #[arg(long, value_name = "INTERFACE")]
    wan: Vec<String>,
    /// An interface towards the hosts inside; repeat it for several
    #[arg(long, value_name = "INTERFACE")]
    lan: Vec<String>,
    /// A TOML file with the same names, and rules (docs/gateway.md); options win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory in which leases are kept, so that they survive a restart
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// The outside address, if it is not the interface's
    #[arg(long, value_name = "IP")]
    external_ip: Option<Ipv4Addr>,
    /// The port of UPnP's HTTP on the addresses inside [default: 5000]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Do not answer UPnP-IGD
    #[arg(long)]
    no_upnp: bool,
    /// Do not answer NAT-PMP
    #[arg(long)]
    no_nat_pmp: bool,
    /// Do not answer PCP
    #[arg(long)]
    no_pcp: bool,
    /// Behind another router: ask it for the ports as well, by PCP, NAT-PMP or UPnP
    #[arg(long)]
    upstream: bool,
    /// Keep a rule in this firewall that lets in what is mapped; repeat it for several
    #[arg(long, value_name = "FIREWALL", value_parser = firewalls())]
    integrate: Vec<Firewall>,
    /// Let hosts map ports of other hosts
    #[arg(long)]
    third_party: bool,
    /// What the gateway is called where UPnP gateways are listed
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    limits: Limits,
    /// Tell Prometheus at this address what the gateway does, at the path /metrics. Default: nowhere
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// The socket for status, list, flush and revoke
    #[arg(long, value_name = "FILE", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print the rules of nftables that the gateway makes, and make none
    #[arg(long)]
    print_rules: bool,
    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// Who may have what, and how much of it.
#[derive(Debug, Args)]
struct Limits {
    /// What a host may have, before the rules of the file: "allow" or "deny", and any of host=,
    /// mac=, protocol=, external-ports=, internal-ports=, separated by commas; repeat it for several
    #[arg(long = "rule", value_name = "RULE", value_parser = file::rule)]
    rules: Vec<Rule>,
    /// The longest lease, in seconds [default: 604800]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800))]
    max_lease: Option<u32>,
    /// The most leases of one host; 0 is no limit
    #[arg(long, value_name = "N")]
    quota_host: Option<u32>,
    /// The most leases of all hosts together
    #[arg(long, value_name = "N")]
    quota_total: Option<u32>,
    /// Changes a second that one host may make; 0 is no limit
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Changes that one host may make at once
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
}

impl Limits {
    fn apply(&self, config: &mut GatewayConfig) {
        config.rules.splice(..0, self.rules.iter().cloned());
        let seconds = self
            .max_lease
            .map(|seconds| Duration::from_secs(seconds.into()));
        config.max_lease = seconds.unwrap_or(config.max_lease);
        let quotas = &mut config.quotas;
        quotas.host = self.quota_host.unwrap_or(quotas.host);
        quotas.total = self.quota_total.unwrap_or(quotas.total);
        quotas.changes_per_second = self.rate.unwrap_or(quotas.changes_per_second);
        quotas.burst = self.burst.unwrap_or(quotas.burst);
    }
}

fn firewalls() -> impl TypedValueParser<Value = Firewall> {
    let names = PossibleValuesParser::new(Firewall::ALL.map(Firewall::as_str));
    names.try_map(|name| Firewall::named(&name).ok_or("there is no such firewall"))
}

/// What a running gateway is asked.
#[derive(Debug, Subcommand)]
enum Asked {
    /// Say how the gateway is
    Status(Where),
    /// List the leases
    List(Where),
    /// Take all leases back
    Flush(Where),
    /// Take one lease back
    Revoke {
        /// Its number, as `list` shows it
        id: u64,
        #[command(flatten)]
        place: Where,
    },
}

#[derive(Debug, Args)]
struct Where {
    /// The socket of the gateway
    #[arg(long, value_name = "FILE", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// Runs a gateway until it is interrupted, or asks the one that runs.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.question {
        Some(Asked::Status(place)) => question(place, Question::Status).await,
        Some(Asked::List(place)) => question(place, Question::List).await,
        Some(Asked::Flush(place)) => question(place, Question::Flush).await,
        Some(Asked::Revoke { id, place }) => question(place, Question::Revoke { id }).await,
        None => daemon(arguments.run).await,
    }
}

async fn daemon(run: Run) -> Result<(), Failure> {
    let output = Output::new(run.json);
    let config = config(&run)?;
    if run.print_rules {
        let rules = describe(&config);
        // What is shown to people has no control characters.
        let spaced = rules.replace('\t', "    ");
        return output.must_say(&Event::Rules { rules: &rules }, &spaced);
    }
    // Before anybody knows that we run, and may want us to stop.
    let signals = Signals::new().map_err(Failure::system)?;
    let gateway = Gateway::start(config.clone()).map_err(|error| failure(&error))?;
    let answers = serve(&run.socket, gateway.handle()).map_err(|error| {
        let path = run.socket.display();
        Failure::failed(
            "socket",
            format!("the socket {path} cannot be made: {error}"),
        )
    })?;
    let answers = tokio::spawn(answers);
    ready(output, &config, &gateway.status())?;
    let reloads = tokio::spawn(reload(run, signals.hangup, gateway.handle()));
    gateway
        .run(stopped(signals.interrupt, signals.terminate))
        .await;
    reloads.abort();
    answers.abort();
    Ok(())
}

/// What a service manager, or a person, says to the daemon.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn stopped(mut interrupt: Signal, mut terminate: Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Reads the configuration again at each SIGHUP. One that cannot be used changes nothing.
async fn reload(run: Run, mut hangup: Signal, handle: Handle) {
    while hangup.recv().await.is_some() {
        let reloaded = match config(&run) {
            Ok(config) => handle.reload(config).await,
            Err(failure) => Some(Err(failure.into_message())),
        };
        match reloaded {
            Some(Ok(())) => tracing::info!("the configuration was read again"),
            Some(Err(error)) => tracing::warn!(error, "the configuration stays as it was"),
            None => return,
        }
    }
}

fn ready(output: Output, config: &GatewayConfig, status: &Status) -> Result<(), Failure> {
    let external = status.external_address.map(|address| address.to_string());
    let event = Event::GatewayReady {
        wan: &config.wan,
        lan: &config.lan,
        external_address: external.as_deref(),
        double_nat: status.double_nat,
        leases: status.leases,
        obstacles: &status.obstacles,
        integrated: &status.integrated,
    };
    let address = external.as_deref().unwrap_or("no address yet");
    let mut line = format!(
        "Ready: ports of {} ({address}) open for the hosts behind {}; {} leases kept.",
        config.wan.join(", "),
        config.lan.join(", "),
        status.leases,
    );
    if status.double_nat && config.upstream {
        line.push_str(
            "\nThe outside address is not one of the internet: the next router is asked for the \
             ports as well.",
        );
    } else if status.double_nat {
        line.push_str(
            "\nThe outside address is not one of the internet: another NAT, this line's or the \
             carrier's, is in front of this router, and has to open the ports as well: --upstream asks it.",
        );
    }
    for chain in &status.obstacles {
        line.push_str(&format!(
            "\nNote: {}.",
            describe_obstacle(chain, config.mark)
        ));
    }
    if !config.integrate.is_empty() && status.integrated.is_empty() {
        line.push_str(
            "\nNote: the firewall to integrate with is not there; its rule is made when it comes.",
        );
    }
    output.must_say(&event, &line)
}

fn config(run: &Run) -> Result<GatewayConfig, Failure> {
    let mut config = match &run.config {
        Some(path) => file::read(path)?,
        None => GatewayConfig::default(),
    };
    if !run.wan.is_empty() {
        config.wan.clone_from(&run.wan);
    }
    if !run.lan.is_empty() {
        config.lan.clone_from(&run.lan);
    }
    config.state = run.state.clone().or(config.state);
    config.metrics = run.metrics.or(config.metrics);
    config.external_ip = run.external_ip.or(config.external_ip);
    config.http_port = run.http_port.unwrap_or(config.http_port);
    config.upnp &= !run.no_upnp;
    config.nat_pmp &= !run.no_nat_pmp;
    config.pcp &= !run.no_pcp;
    config.third_party |= run.third_party;
    config.name = run.name.clone().unwrap_or(config.name);
    run.limits.apply(&mut config);
    config.upstream |= run.upstream;
    if !run.integrate.is_empty() {
        config.integrate.clone_from(&run.integrate);
    }
    if config.http_port == 0 {
        return Err(Failure::usage(format!(
            "--http-port cannot be 0: hosts are told the port, and it must stay; the usual one is {DEFAULT_HTTP_PORT}"
        )));
    }
    Ok(config)
}

fn failure(error: &GatewayError) -> Failure {
    let text = chain(error);
    match error {
        GatewayError::NoInterface
        | GatewayError::UnknownInterface(_)
        | GatewayError::BothSides(_)
        | GatewayError::PublicMetrics(_) => Failure::usage(text),
        GatewayError::Kernel(_) => Failure::failed("kernel", text),
        GatewayError::Listen { .. } | GatewayError::Metrics { .. } => {
            Failure::failed("listen", text)
        }
        GatewayError::State { .. } => Failure::failed("state", text),
        GatewayError::Interfaces(_) | GatewayError::Entropy(_) => Failure::failed("system", text),
    }
}

async fn question(place: Where, question: Question) -> Result<(), Failure> {
    let output = Output::new(place.json);
    let path = place.socket.display();
    let answer = ask(&place.socket, question).await.map_err(|error| {
        let absent = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
        let text = if absent.contains(&error.kind()) {
            format!("no gateway answers at {path}; is it running?")
        } else if error.kind() == ErrorKind::PermissionDenied {
            format!("the gateway at {path} is for root and the group of the socket")
        } else {
            format!("the gateway at {path} did not answer: {error}")
        };
        Failure::failed("gateway", text)
    })?;
    match answer {
        Answer::Status(status) => {
            output.say(&Event::GatewayStatus(&status), &describe_status(&status))
        }
        Answer::List { leases } => {
            for lease in &leases {
                output.say(&Event::Lease(lease), &describe_lease(lease));
            }
            if leases.is_empty() && !output.is_json() {
                output.say(&Event::Revoked { count: 0 }, "No leases.");
            }
        }
        Answer::Revoked { count } => {
            if count == 0 && matches!(question, Question::Revoke { .. }) {
                return Err(Failure::failed(
                    "gateway",
                    "there is no lease of this number".to_owned(),
                ));
            }
            let line = format!("{count} taken back.");
            output.say(&Event::Revoked { count }, &line);
        }
    }
    Ok(())
}

fn describe_status(status: &Status) -> String {
    let address = match status.external_address {
        Some(address) if status.double_nat => format!("{address}, behind another NAT"),
        Some(address) => address.to_string(),
        None => "none".to_owned(),
    };
    let address = match status.upstream_address {
        Some(upstream) => format!("{address}; {upstream} at the next router"),
        None => address,
    };
    let mut text = format!(
        "Outside address: {address}\nLeases: {}\nKept for: {} s",
        status.leases, status.epoch
    );
    for chain in &status.obstacles {
        text.push_str(&format!("\nDropped by: {chain} (docs/gateway.md)"));
    }
    for chain in &status.integrated {
        text.push_str(&format!("\nLet in by a rule in: {chain}"));
    }
    text
}

fn describe_lease(lease: &LeaseInfo) -> String {
    let outside = match lease.external_port {
        Some(port) => format!("{port} -> "),
        None => String::new(),
    };
    let life = match lease.lifetime {
        Some(seconds) => format!("{seconds} s left"),
        None => "no end".to_owned(),
    };
    let remote = match lease.remote.is_empty() {
        true => String::new(),
        false => format!(", from {}", lease.remote.join(", ")),
    };
    let internal = SocketAddr::new(lease.internal_address, lease.internal_port);
    format!(
        "{}  {} {} {outside}{internal}{remote}, {life}, {} flows, {} bytes, {:?}",
        lease.id, lease.protocol, lease.transport, lease.flows, lease.bytes, lease.description
    )
}
