//! `postern map`: ports of the home router that lead to this machine.

mod gateways;
mod records;
mod show;
mod state;

use std::net::IpAddr;
use std::pin::{Pin, pin};

use clap::{Args, Subcommand, ValueEnum};
use postern::portmap::{
    Change, Client, Config, Failure as Why, HttpUrl, Link, Mapping, Nonce, PortMapping, Protocol,
    Protocols, StartError, Ticket, Transport, Wish,
};

use postern::ServerUrl;

use crate::failure::{Failure, chain};
use crate::interrupt::interrupted;
use crate::output::{self, Output};
use gateways::Gateways;
use show::{Deleted, Shown, ShownGateway};
use state::{Record, State};

/// Options of `postern map`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

/// Which gateway, and how it is asked.
#[derive(Debug, Args)]
struct Place {
    /// The gateway: its address, or the URL of its UPnP description
    #[arg(long, value_name = "IP|URL", global = true)]
    gateway: Option<String>,
    /// The network interface that leads to it, or an address of it
    #[arg(long, value_name = "NAME", global = true)]
    interface: Option<String>,
    /// Which protocols may be used
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        global = true
    )]
    protocols: Vec<Chosen>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Chosen {
    Upnp,
    Natpmp,
    Pcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Tcp,
    Udp,
    Both,
}

impl Which {
    const fn transports(self) -> &'static [Transport] {
        match self {
            Self::Tcp => &[Transport::Tcp],
            Self::Udp => &[Transport::Udp],
            Self::Both => &Transport::ALL,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let a port of the router lead to a port of this machine
    Add(Add),
    /// List the mappings: those of this program, and a UPnP router's table
    List,
    /// Delete a mapping
    Delete(Delete),
    /// Print the router's external address
    External,
    /// Say which routers answer by which protocol
    Status,
    /// Keep the mappings of this program, and say what happens to them
    Watch(Verify),
    /// Ways in through an IPv6 firewall
    #[command(subcommand)]
    Pinhole(Pinhole),
}

#[derive(Debug, Subcommand)]
enum Pinhole {
    /// Let the internet reach a port of this machine
    Add(Add),
    /// Close it again
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Add {
    /// The port of this machine
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The port of the router, if it can be had
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    external: Option<u16>,
    /// What is mapped
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Which,
    /// Another machine that the port shall lead to
    #[arg(long, value_name = "IP")]
    internal_host: Option<IpAddr>,
    /// For how long, in seconds
    #[arg(long, value_name = "S", default_value_t = 7200, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    lifetime: u32,
    /// What the router's list says about it
    #[arg(long, value_name = "T", default_value = "postern")]
    description: String,
    /// Stay, renew it, and remove it when interrupted
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    verify: Verify,
}

/// Whether mappings are looked at from outside.
#[derive(Debug, Default, Args)]
struct Verify {
    /// A postern server that looks at the mapping from outside when it is made and renewed; one
    /// that is dead is deleted and made again
    #[arg(long, value_name = "URL")]
    verify: Option<ServerUrl>,
}

#[derive(Debug, Args)]
struct Delete {
    /// The port of the router
    #[arg(value_name = "EXTERNAL", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// What was mapped; both without it
    #[arg(long, value_enum, default_value = "both")]
    protocol: Which,
}

/// Runs `postern map`.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let map = Map {
        output: Output::new(arguments.place.json),
        place: arguments.place,
        state: State::of_user(),
        gateways: Gateways::of_user(),
    };
    let result = match arguments.command {
        Command::Add(add) => map.add(&add, false).await,
        Command::List => map.list().await,
        Command::Delete(delete) => map.delete(&delete, false).await,
        Command::External => map.external().await,
        Command::Status => map.status().await,
        Command::Watch(verify) => map.watch(&verify).await,
        Command::Pinhole(Pinhole::Add(add)) => map.add(&add, true).await,
        Command::Pinhole(Pinhole::Delete(delete)) => map.delete(&delete, true).await,
    };
    result.map_err(Failure::into_object)
}

struct Map {
    output: Output,
    place: Place,
    state: State,
    gateways: Gateways,
}

impl Map {
    async fn start(&self, pinholes: bool) -> Result<Client, Failure> {
        self.start_with(pinholes, &Verify::default()).await
    }

    async fn start_with(&self, pinholes: bool, verify: &Verify) -> Result<Client, Failure> {
        let state = self.state.clone();
        let journal = move |mapping: &PortMapping| {
            // It is made nonetheless; whoever cannot write loses only the reminder.
            let _ = state.add(mapping);
        };
        let (gateway, location) = self.place.parse()?;
        let config = Config {
            interface: self.place.interface.clone(),
            gateway,
            known: self.gateways.known(),
            location,
            pinholes,
            protocols: self.place.protocols(),
            verify: verify.verify.clone(),
            journal: Some(Box::new(journal)),
        };
        Client::start(config)
            .await
            .map_err(|error| from_start(&error))
    }

    async fn add(&self, add: &Add, pinholes: bool) -> Result<(), Failure> {
        let client = self.start_with(pinholes, &add.verify).await?;
        let mut made = Vec::new();
        // One for all of it: a signal between two of them would be lost.
        let mut stop = pin!(interrupted());
        for transport in add.protocol.transports() {
            let wish = Wish {
                external_port: add.external.unwrap_or(0),
                lifetime: add.lifetime,
                description: add.description.clone(),
                internal_host: add.internal_host,
                nonce: self.nonce(client.link(), add, *transport),
                ..Wish::new(*transport, add.port)
            };
            let mapping = tokio::select! {
                mapping = client.map(wish) => mapping.map_err(from_why),
                () = &mut stop => Err(Failure::interrupted()),
            };
            let mapping = match mapping {
                Ok(mapping) => mapping,
                Err(failure) => {
                    self.end(made).await?;
                    return Err(failure);
                }
            };
            self.remember(mapping.current());
            self.gateways.note_mapping(client.link(), mapping.current());
            self.say(&Shown::mapping(mapping.current()));
            if add.verify.verify.is_some() && mapping.current().verified.is_none() {
                output::note("nobody could say whether the internet reaches it (docs/map.md)");
            }
            made.push(mapping);
        }
        if !add.keep {
            leave(made).await;
            return Ok(());
        }
        self.keep(&mut made, stop).await;
        self.end(made).await
    }

    /// Of the mapping that is there already, if it is ours.
    fn nonce(&self, link: &Link, add: &Add, transport: Transport) -> Option<Nonce> {
        let host = add.internal_host.unwrap_or(link.address);
        self.state.nonce(link.gateway, transport, (host, add.port))
    }

    /// Until interrupted.
    async fn keep(&self, mappings: &mut [Mapping], mut stop: Pin<&mut impl Future<Output = ()>>) {
        loop {
            let changes = mappings
                .iter_mut()
                .map(|mapping| Box::pin(mapping.changed()));
            let changes: Vec<_> = changes.collect();
            let index = tokio::select! {
                (change, index) = any(changes) => {
                    self.tell(&change);
                    // What is lost has no new lease: what is written down about it runs out.
                    if let Change::Lost(_) = change {
                        continue;
                    }
                    index
                }
                () = &mut stop => return,
            };
            if let Some(mapping) = mappings.get(index) {
                self.remember(mapping.current());
            }
        }
    }

    fn tell(&self, change: &Change) {
        let (event, mapping) = match change {
            Change::Made(mapping) => ("made", mapping),
            Change::Renewed(mapping) => ("renewed", mapping),
            Change::Moved(mapping) => ("moved", mapping),
            Change::Healed(mapping) => ("healed", mapping),
            Change::Lost(why) => {
                let lost = serde_json::json!({"event": "lost", "message": why.to_string()});
                return self.output.say_any(&lost, &format!("lost: {why}"));
            }
        };
        let mut shown = Shown::mapping(mapping);
        shown.event = Some(event);
        self.say(&shown);
    }

    async fn end(&self, mappings: Vec<Mapping>) -> Result<(), Failure> {
        for mapping in mappings {
            let record = Record::new(mapping.current());
            mapping.remove().await.map_err(from_why)?;
            self.forget(&record);
        }
        Ok(())
    }

    async fn list(&self) -> Result<(), Failure> {
        let mut own: Vec<PortMapping> = self
            .state
            .records()
            .iter()
            .filter_map(Record::mapping)
            .collect();
        let client = self.start(false).await?;
        let entries = match client.list().await {
            Ok(entries) => entries,
            Err(why)
                if own.is_empty() && client.survey().await.is_ok_and(|s| s.found.is_empty()) =>
            {
                return Err(from_why(why));
            }
            Err(_) => Vec::new(),
        };
        let found = client.external().await.ok().flatten();
        for entry in &entries {
            self.say(&Shown::entry(entry, found.as_ref()));
        }
        own.retain(|mapping| {
            !entries.iter().any(|entry| {
                (entry.key.transport, entry.key.external_port)
                    == (mapping.transport, mapping.external_port)
            })
        });
        // What a table that was read does not have is gone.
        own.retain(|mapping| entries.is_empty() || mapping.protocol != Protocol::Upnp);
        own.iter()
            .for_each(|mapping| self.say(&Shown::mapping(mapping)));
        Ok(())
    }

    async fn delete(&self, delete: &Delete, pinholes: bool) -> Result<(), Failure> {
        let client = self.start(pinholes).await?;
        let mut failed = Vec::new();
        for transport in delete.protocol.transports() {
            match self.delete_one(&client, delete.port, *transport).await {
                Ok(()) => {
                    let shown = Deleted::new(delete.port, *transport);
                    let line = format!("port {}/{transport} is deleted", delete.port);
                    self.output.say_any(&shown, &line);
                }
                Err(why) => failed.push(why),
            }
        }
        if failed.len() < delete.protocol.transports().len() {
            // That the other one is not there, or that nobody tells, is as well.
            failed.retain(|why| !(why.is(NOT_MAPPED) || why.is(NO_GATEWAY)));
        } else if failed.len() > 1 && failed.iter().all(|why| why.is(NOT_MAPPED)) {
            return Err(not_mapped(&delete.port.to_string()));
        }
        // A clear word counts for more than that there is nothing.
        failed.sort_by_key(|why| why.is(NOT_MAPPED) || why.is(NO_GATEWAY));
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    async fn delete_one(
        &self,
        client: &Client,
        port: u16,
        transport: Transport,
    ) -> Result<(), Failure> {
        let v6 = client.link().address.is_ipv6();
        let mine = |record: &&Record| {
            record.external_port == port
                && record.transport == transport.as_str()
                && record.internal_address.is_ipv6() == v6
        };
        let records = self.state.records();
        let record = records.iter().find(mine);
        let own = client.link().address;
        let known = record.and_then(|record| Some((record.wish(own)?, record.mapping()?)));
        if let Some((wish, mapping)) = known {
            client.remove(wish, mapping).await.map_err(from_why)?;
            if let Some(record) = record {
                self.forget(record);
            }
            return Ok(());
        }
        let entries = client.list().await.map_err(from_why)?;
        let there = entries
            .iter()
            .find(|entry| entry.key.external_port == port && entry.key.transport == transport);
        let entry = there.ok_or_else(|| not_mapped(&format!("{port}/{transport}")))?;
        // The table was that of the best one.
        let found = client.gateways().await.unwrap_or_default();
        let found = found.into_iter().next();
        let gateway = found.as_ref().map(|found| found.gateway);
        let location = found.and_then(|found| found.location);
        let mapping = PortMapping {
            protocol: Protocol::Upnp,
            gateway: gateway.or_else(|| client.link().gateway).unwrap_or(own),
            transport,
            external_address: None,
            external_port: port,
            internal_address: entry.internal_client.parse().unwrap_or(own),
            internal_port: entry.internal_port,
            lifetime: 0,
            double_nat: false,
            verified: None,
            ticket: location.map_or(Ticket::NatPmp, Ticket::Upnp),
        };
        let wish = Wish {
            external_port: port,
            ..Wish::new(transport, entry.internal_port.max(1))
        };
        client.remove(wish, mapping).await.map_err(from_why)
    }

    async fn external(&self) -> Result<(), Failure> {
        let client = self.start(false).await?;
        if let Some(found) = client.external().await.map_err(from_why)? {
            self.gateways.note_found(client.link(), &found);
            let shown = ShownGateway::new(&found);
            let address = found
                .external_address
                .map_or_else(String::new, |ip| ip.to_string());
            self.output.say_any(&shown, &address);
            return Ok(());
        }
        // PCP tells it with a mapping only: one of a port that is nobody's, for a moment.
        let own = std::net::UdpSocket::bind((client.link().address, 0)).map_err(Failure::system)?;
        let port = own.local_addr().map_err(Failure::system)?.port();
        let wish = Wish {
            lifetime: 120,
            ..Wish::new(Transport::Udp, port)
        };
        let mapping = client.map(wish).await.map_err(from_why)?;
        let current = mapping.current().clone();
        let address = current
            .external_address
            .map_or_else(String::new, |ip| ip.to_string());
        self.output.say_any(&Shown::mapping(&current), &address);
        mapping.remove().await.map_err(from_why)
    }

    async fn status(&self) -> Result<(), Failure> {
        let client = self.start(false).await?;
        let survey = client.survey().await.map_err(from_why)?;
        for found in &survey.found {
            let shown = ShownGateway::new(found);
            self.output.say_any(&shown, &shown.line());
        }
        if survey.found.is_empty() {
            return Err(from_why(Why::NoGateway));
        }
        Ok(())
    }

    async fn watch(&self, verify: &Verify) -> Result<(), Failure> {
        let client = self.start_with(false, verify).await?;
        let own = client.link().address;
        let mut mappings = Vec::new();
        for record in self.state.records() {
            let (Some(wish), Some(mapping)) = (record.wish(own), record.mapping()) else {
                continue;
            };
            if record.internal_address.is_ipv6() != own.is_ipv6() {
                continue;
            }
            match client.adopt(wish, mapping).await {
                Ok(mapping) => {
                    self.remember(mapping.current());
                    self.say(&Shown::mapping(mapping.current()));
                    mappings.push(mapping);
                }
                Err(why) => self.tell(&Change::Lost(why)),
            }
        }
        if mappings.is_empty() {
            return Err(Failure::failed(
                NOT_MAPPED,
                "there is nothing to watch; make a mapping with `postern map add`",
            ));
        }
        self.keep(&mut mappings, pin!(interrupted())).await;
        leave(mappings).await;
        Ok(())
    }

    fn say(&self, shown: &Shown) {
        self.output.say_any(shown, &shown.line());
    }

    fn remember(&self, mapping: &PortMapping) {
        if let Err(error) = self.state.add(mapping) {
            output::note(&format!("the mapping could not be written down: {error}"));
        }
    }

    fn forget(&self, record: &Record) {
        if let Err(error) = self.state.remove(record) {
            output::note(&format!(
                "the list of mappings could not be written: {error}"
            ));
        }
    }
}

/// They stay until their leases end.
async fn leave(mappings: Vec<Mapping>) {
    for mapping in mappings {
        mapping.leave().await;
    }
}

/// The first change of any of them, and whose it is.
async fn any<F: Future<Output = Change> + Unpin>(changes: Vec<F>) -> (Change, usize) {
    let mut changes = changes;
    std::future::poll_fn(move |context| {
        for (index, change) in changes.iter_mut().enumerate() {
            if let std::task::Poll::Ready(change) = Pin::new(change).poll(context) {
                return std::task::Poll::Ready((change, index));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

impl Place {
    fn parse(&self) -> Result<(Option<IpAddr>, Option<HttpUrl>), Failure> {
        let Some(text) = &self.gateway else {
            return Ok((None, None));
        };
        if let Ok(address) = text.parse() {
            return Ok((Some(address), None));
        }
        let url = text.parse::<HttpUrl>();
        let url = url.map_err(|error| Failure::usage(format!("--gateway: {error}")))?;
        Ok((None, Some(url)))
    }

    fn protocols(&self) -> Option<Protocols> {
        let has = |chosen| self.protocols.contains(&chosen);
        (!self.protocols.is_empty()).then(|| Protocols {
            pcp: has(Chosen::Pcp),
            natpmp: has(Chosen::Natpmp),
            upnp: has(Chosen::Upnp),
        })
    }
}

const NOT_MAPPED: &str = "not_mapped";
const NO_GATEWAY: &str = "no_gateway";

fn not_mapped(port: &str) -> Failure {
    Failure::failed(NOT_MAPPED, format!("port {port} is not mapped"))
}

fn from_start(error: &StartError) -> Failure {
    let kind = match error {
        StartError::NoInterface
        | StartError::UnknownInterface(_)
        | StartError::NotOnLink(_)
        | StartError::NoIpv6 => "no_interface",
        StartError::Guarded => "guarded",
        StartError::Socket(_) | StartError::Entropy(_) => "system",
    };
    Failure::failed(kind, chain(error))
}

fn from_why(why: Why) -> Failure {
    let kind = match why {
        Why::NoGateway => NO_GATEWAY,
        Why::Silent => "silent",
        Why::Garbled => "protocol",
        Why::PortTaken => "port_taken",
        Why::Refused(_) => "refused",
        Why::PortUnsupported | Why::Unsupported => "unsupported",
        Why::NatBetween => "double_nat",
        Why::OtherHost => "other_host",
        Why::TooMany => "too_many",
    };
    Failure::failed(kind, why.to_string())
}
