//! `postern lab ice`: plain ICE with any agent, so that others can be tried with ours.

use std::io;

use clap::Args;
use postern::Trust;
use postern::ice::{Description, Event, GatherError, NamesError, Options, Path, Role, Session};
use postern::turn::{self, Credentials, Resolver, Server, ServerUri, Transport};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, chain};
use crate::interrupt::interrupted;
use crate::output::Output;

/// Lines of descriptions are not longer.
const MAX_LINE: u64 = 64 << 10;

/// Options of `postern lab ice`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct Ice {
    /// Nominate: what the side does that has made the offer
    #[arg(
        long,
        required_unless_present = "controlled",
        conflicts_with = "controlled"
    )]
    controlling: bool,
    /// Follow the other side's choice
    #[arg(long)]
    controlled: bool,
    /// Ask this STUN server for server-reflexive candidates (repeatable)
    #[arg(long, value_name = "HOST:PORT")]
    stun: Vec<String>,
    /// Get a relayed candidate from this TURN server (turn:HOST:PORT, turns:HOST; repeatable: the first that answers)
    #[arg(long, value_name = "URI", value_parser = crate::relay::uri)]
    turn: Vec<ServerUri>,
    /// The user at the TURN server; other users of this machine see it in the list of processes, but not in
    /// the variable
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        env = "POSTERN_TURN_USER",
        hide_env_values = true
    )]
    user: Option<String>,
    /// How many components the data stream has
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(postern::ice::MAX_COMPONENTS)))]
    components: u16,
    /// Offer loopback addresses as well
    #[arg(long)]
    loopback: bool,
    /// Tell random multicast DNS names in place of private addresses, as browsers do, and answer for them on
    /// the local network while this runs
    #[arg(long)]
    mdns: bool,
    /// Print and read JSON objects, one a line (docs/json.md). There is no other form
    #[arg(long, required = true)]
    json: bool,
}

const AFTER: &str = "Prints what the other agent has to know, reads the same about it from standard \
                     input, connects, and sends every datagram back to where it came from.";

/// What both sides tell and read.
#[derive(Debug, Serialize, Deserialize)]
struct Local {
    event: String,
    #[serde(flatten)]
    description: Description,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Connected { pair: Pair },
    Lost { pair: Pair },
}

#[derive(Debug, Serialize)]
struct Pair {
    component: u16,
    local: String,
    remote: String,
    local_kind: &'static str,
    remote_kind: &'static str,
}

pub(super) async fn run(arguments: &Ice) -> Result<(), Failure> {
    tokio::select! {
        result = echo(arguments) => result,
        () = interrupted() => Err(Failure::interrupted()),
    }
}

async fn echo(arguments: &Ice) -> Result<(), Failure> {
    let output = Output::new(arguments.json);
    let gathered = Session::gather(arguments.options().await?).await;
    let mut session = gathered.map_err(|error| {
        let guarded = matches!(error, GatherError::Names(NamesError::Guarded));
        Failure::failed(if guarded { "guarded" } else { "system" }, chain(&error))
    })?;
    let local = Local {
        event: "local".to_owned(),
        description: session.description().clone(),
    };
    output.report(&local, "")?;
    let peer = read_peer().await?;
    session
        .connect(&peer)
        .map_err(|error| Failure::usage(format!("the line cannot be used: {error}")))?;
    loop {
        match session.next().await {
            Event::Connected { component, path } => {
                let pair = Pair::new(component, &path);
                output.say_any(&Line::Connected { pair }, "");
            }
            Event::Lost(path) => {
                let pair = Pair::new(session.component_of(&path), &path);
                output.say_any(&Line::Lost { pair }, "");
            }
            Event::Data { way, payload } => session.send(way, &payload).await,
            Event::Failed => {
                session.close().await;
                return Err(Failure::peer(
                    "no_direct_path",
                    "no pair of candidates works; try --stun or --turn",
                ));
            }
        }
    }
}

/// The first line of standard input.
async fn read_peer() -> Result<Description, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let stdin = io::stdin().lock();
        io::BufRead::read_line(&mut io::Read::take(stdin, MAX_LINE), &mut line).map(|_| line)
    });
    let line = read.await.map_err(Failure::system)?;
    let line = line.map_err(Failure::system)?;
    let local: Local = serde_json::from_str(&line).map_err(|error| {
        Failure::usage(format!(
            "standard input has no {{\"event\":\"local\",\"ufrag\",\"pwd\",\"candidates\"}}: {error}"
        ))
    })?;
    Ok(local.description)
}

impl Ice {
    async fn options(&self) -> Result<Options, Failure> {
        let role = match self.controlling {
            true => Role::Controlling,
            false => Role::Controlled,
        };
        let relay = turn::Options {
            credentials: self.credentials()?,
            ..turn::Options::default()
        };
        let mut stun = Vec::new();
        for server in &self.stun {
            let addresses = tokio::net::lookup_host(server).await;
            let addresses = addresses.map_err(|error| {
                let why = format!("{server} cannot be resolved to HOST:PORT: {error}");
                Failure::failed("server_unreachable", why)
            })?;
            stun.extend(addresses);
        }
        Ok(Options {
            components: self.components,
            stun,
            turn: self.servers().await?,
            relay,
            loopback: self.loopback,
            mdns: self.mdns,
            ..Options::new(role)
        })
    }

    fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        let Some(user) = &self.user else {
            return Ok(None);
        };
        let parts = user.split_once(':');
        let (name, password) = parts.ok_or_else(|| Failure::usage("--user needs NAME:PASSWORD"))?;
        let credentials = Credentials::new(name, password);
        credentials
            .map(Some)
            .map_err(|error| Failure::usage(format!("the user cannot be used: {error}")))
    }

    async fn servers(&self) -> Result<Vec<Server>, Failure> {
        let resolver = Resolver::system();
        let mut servers = Vec::new();
        for uri in &self.turn {
            let ways = [Transport::Udp, Transport::Tcp];
            let found = resolver.resolve(uri, &ways, &Trust::System).await;
            let found =
                found.map_err(|error| Failure::failed("server_unreachable", chain(&error)))?;
            servers.extend(found);
        }
        Ok(servers)
    }
}

impl Pair {
    fn new(component: u16, path: &Path) -> Self {
        Self {
            component,
            local: path.local.to_string(),
            remote: path.remote.to_string(),
            local_kind: path.local_kind.as_str(),
            remote_kind: path.remote_kind.as_str(),
        }
    }
}
