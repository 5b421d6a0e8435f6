//! What sending and receiving have in common.

use std::sync::OnceLock;
use std::time::Duration;

use clap::{Args, ValueEnum};
use postern::transfer::Summary;
use postern::turn::Proxy;
use postern::{
    Connection, ConnectionError, Endpoint, EndpointConfig, PathInfo, PathPolicy, RecvStream,
    RelayTransports, SendStream, ServerUrl, Technique, Techniques,
};

use crate::failure::{Failure, chain};
use crate::interrupt::interrupted;
use crate::output::{Event, Output};
use crate::stun::{self, StunServer};

/// A stream that broke with its connection knows it a moment before the connection does.
const END_KNOWN: Duration = Duration::from_millis(100);

/// How long the last datagrams may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// Which paths may be used.
#[derive(Debug, Args)]
pub(crate) struct PathArguments {
    /// Use the server's relay only, so that the other side does not learn this machine's addresses
    #[arg(long)]
    relay_only: bool,
    /// Use direct paths only, so that no relay sees the encrypted data
    #[arg(long, conflicts_with = "relay_only")]
    direct_only: bool,
    /// Send no UDP: direct paths, and the server's relay, over TCP only
    #[arg(long)]
    no_udp: bool,
    /// Use direct paths, and the server's relay, over UDP only
    #[arg(long, conflicts_with = "no_udp")]
    no_tcp: bool,
    /// Reach the server's relay in this way only
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "no_tcp")]
    relay_transport: Option<RelayTransport>,
    /// The HTTP proxy on the way to the server, and to its relay over TCP and TLS
    ///
    /// Default: what HTTPS_PROXY and NO_PROXY say.
    #[arg(long, value_name = "URL")]
    proxy: Option<Proxy>,
    /// Do not use these techniques
    #[arg(long, value_name = "TECHNIQUE", value_delimiter = ',')]
    disable: Vec<Technique>,
    /// Ask this STUN server as well (up to four times): one at another address shows whether
    /// the router uses another port for each address
    #[arg(long, value_name = "HOST:PORT")]
    stun: Vec<StunServer>,
    /// Say at the end what both networks do, what was tried and what came of it
    #[arg(long)]
    explain: bool,
}

/// How to reach a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RelayTransport {
    /// Datagrams
    Udp,
    /// A TCP connection
    Tcp,
    /// TLS over TCP, on the server's port if nothing else is open
    Tls,
}

impl PathArguments {
    /// The settings of an endpoint that uses this server.
    async fn config(&self, server: &ServerUrl) -> Result<EndpointConfig, Failure> {
        Ok(EndpointConfig {
            loopback: is_here(server).await,
            policy: self.policy(),
            udp: !self.no_udp,
            tcp: !self.no_tcp,
            relay_transports: self.transports()?,
            proxy: proxy_for(server, self.proxy.as_ref())?,
            stun: stun::resolve(&self.stun).await?,
            disabled: self.disabled()?,
        })
    }

    /// Whether the user wants everything explained.
    pub(crate) fn explain(&self) -> bool {
        self.explain
    }

    fn disabled(&self) -> Result<Techniques, Failure> {
        let disabled: Techniques = self.disable.iter().copied().collect();
        if self.relay_only && disabled.contains(Technique::Relay) {
            let why = "--relay-only and --disable relay together leave no way to the other side";
            return Err(Failure::usage(why));
        }
        Ok(disabled)
    }

    fn policy(&self) -> PathPolicy {
        match (self.relay_only, self.direct_only) {
            (true, _) => PathPolicy::RelayOnly,
            (_, true) => PathPolicy::DirectOnly,
            (false, false) => PathPolicy::Any,
        }
    }

    fn transports(&self) -> Result<RelayTransports, Failure> {
        let only = |how| self.relay_transport.is_none_or(|wanted| wanted == how);
        let transports = RelayTransports {
            udp: only(RelayTransport::Udp) && !self.no_udp,
            tcp: only(RelayTransport::Tcp) && !self.no_tcp,
            tls: only(RelayTransport::Tls) && !self.no_tcp,
        };
        if transports.udp || transports.tcp || transports.tls {
            Ok(transports)
        } else {
            let why = "--no-udp and --relay-transport udp together leave no way to the relay";
            Err(Failure::usage(why.to_owned()))
        }
    }
}

/// The HTTP proxy that was named, or else the one of the environment.
pub(crate) fn proxy_for(
    server: &ServerUrl,
    named: Option<&Proxy>,
) -> Result<Option<Proxy>, Failure> {
    if named.is_some() {
        return Ok(named.cloned());
    }
    let proxy = Proxy::from_environment(&server.host(), server.port());
    proxy.map_err(|error| Failure::usage(format!("HTTPS_PROXY cannot be used: {error}")))
}

/// The endpoint of a task, which outlives it so that the peer can be told of its end.
#[derive(Debug, Default)]
pub(crate) struct Stage(OnceLock<Endpoint>);

impl Stage {
    /// Makes the endpoint; it can reach peers on this machine if the server is on it.
    pub(crate) async fn bind(
        &self,
        server: &ServerUrl,
        paths: &PathArguments,
    ) -> Result<Endpoint, Failure> {
        let endpoint = Endpoint::bind_with(paths.config(server).await?);
        let endpoint = endpoint.map_err(|error| Failure::failed("system", chain(&error)))?;
        Ok(self.0.get_or_init(|| endpoint).clone())
    }

    /// Waits until the peer has been told, but not for ever.
    async fn finish(&self) {
        if let Some(endpoint) = self.0.get() {
            let _ = tokio::time::timeout(FAREWELL, endpoint.finish()).await;
        }
    }
}

/// Whether the server is on this machine, by its address or by its name.
async fn is_here(server: &ServerUrl) -> bool {
    let host = server.host();
    match tokio::net::lookup_host((host.as_str(), server.port())).await {
        Ok(mut addresses) => addresses.all(|address| address.ip().is_loopback()),
        Err(_) => server.is_loopback(),
    }
}

/// Runs a task until it ends or the user interrupts, which drops it: unfinished files
/// are removed and the peer is told.
pub(crate) async fn until_interrupted(
    stage: &Stage,
    task: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let result = tokio::select! {
        biased;
        () = interrupted() => Err(Failure::interrupted()),
        result = task => result,
    };
    stage.finish().await;
    result
}

/// The stream of a transfer; the creator of the code opens it.
pub(crate) async fn open(connection: &Connection) -> Result<(SendStream, RecvStream), Failure> {
    let stream = match connection.is_creator() {
        true => connection.open_bi().await,
        false => connection.accept_bi().await,
    };
    stream.map_err(|error| Failure::peer("not_connected", broken(&error)))
}

/// Why a stream broke, if that is because the connection is over.
pub(crate) async fn end_of(connection: &Connection) -> Option<String> {
    let over = tokio::time::timeout(END_KNOWN, connection.closed()).await;
    over.ok().map(|error| broken(&error))
}

fn broken(error: &ConnectionError) -> String {
    let what = if let ConnectionError::ApplicationClosed(_) = error {
        "the other side stopped".to_owned()
    } else if let ConnectionError::TimedOut = error {
        "nothing came from the other side any more".to_owned()
    } else {
        format!("the connection ended ({})", chain(error))
    };
    format!("{what} before the transfer was complete; start it again")
}

/// Tells the peer that the connection is over.
pub(crate) fn end(connection: &Connection, done: bool) {
    let (code, reason) = if done { (0, "done") } else { (1, "failed") };
    connection.close(code, reason);
}

/// A size for people: decimal, three digits.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// A transfer that is complete.
#[derive(Debug)]
pub(crate) struct Outcome {
    summary: Summary,
    seconds: f64,
    path: PathInfo,
}

impl Outcome {
    pub(crate) fn new(summary: Summary, seconds: f64, connection: &Connection) -> Self {
        Self {
            summary,
            seconds,
            path: connection.path(),
        }
    }

    /// Tells it; `verb` is "Sent" or "Received".
    pub(crate) fn tell(&self, output: Output, verb: &str) {
        let Self {
            summary,
            seconds,
            path,
        } = self;
        let event = Event::Done {
            bytes: summary.bytes,
            files: summary.files,
            seconds: *seconds,
            path: path.kind.as_str(),
        };
        let files = if summary.files == 1 {
            "1 file"
        } else {
            &format!("{} files", summary.files)
        };
        let rate = size((summary.bytes as f64 / seconds.max(0.001)) as u64);
        let amount = size(summary.bytes);
        output.say(
            &event,
            &format!("{verb} {files}, {amount} in {seconds:.1} s ({rate}/s)."),
        );
    }
}
