//! What an operator decides.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use postern_proto::gateway::{MAX_LEASE, Quotas, Rule};

use super::firewalls::Firewall;

/// The port of UPnP's HTTP, on the addresses inside.
pub const DEFAULT_HTTP_PORT: u16 = 5000;

/// The bit of the packet mark that says that a mapping leads a packet.
pub const DEFAULT_MARK: u32 = 0x0100_0000;

/// What a gateway is to be.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Interfaces towards the internet; the outside address is the first one that they have.
    pub wan: Vec<String>,
    /// Interfaces towards the hosts inside.
    pub lan: Vec<String>,
    /// The outside address, where it is not that of the interface: behind another NAT that
    /// forwards everything.
    pub external_ip: Option<Ipv4Addr>,
    /// The port of UPnP's HTTP.
    pub http_port: u16,
    /// Rules about what may be mapped; the first that fits decides.
    pub rules: Vec<Rule>,
    /// Who may have how much.
    pub quotas: Quotas,
    /// The longest lease; at most a week.
    pub max_lease: Duration,
    /// Whether hosts may map for others.
    pub third_party: bool,
    /// Whether UPnP-IGD is answered.
    pub upnp: bool,
    /// Whether NAT-PMP is answered.
    pub nat_pmp: bool,
    /// Whether PCP is answered.
    pub pcp: bool,
    /// What people see in a list of devices.
    pub name: String,
    /// The bit of the packet mark.
    pub mark: u32,
    /// Whether the next router is asked to open the ports as well, while the outside address
    /// is one that the internet does not lead to.
    pub upstream: bool,
    /// Firewalls that get a rule of the gateway's, which lets in what has the mark. It is kept
    /// there while the gateway runs.
    pub integrate: Vec<Firewall>,
    /// Where Prometheus may ask what the gateway does, at the path /metrics: an address that
    /// the public internet does not lead to.
    pub metrics: Option<SocketAddr>,
    /// The directory in which leases are kept, so that they survive a restart; `None` to
    /// forget them.
    pub state: Option<PathBuf>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            wan: Vec::new(),
            lan: Vec::new(),
            external_ip: None,
            http_port: DEFAULT_HTTP_PORT,
            rules: Vec::new(),
            quotas: Quotas::default(),
            max_lease: MAX_LEASE,
            third_party: false,
            upnp: true,
            nat_pmp: true,
            pcp: true,
            name: "postern gateway".to_owned(),
            mark: DEFAULT_MARK,
            upstream: false,
            integrate: Vec::new(),
            metrics: None,
            state: None,
        }
    }
}

/// Why a gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// No interface towards the internet, or none inside.
    #[error("a gateway needs an interface towards the internet and one towards the hosts inside")]
    NoInterface,
    /// There is no such interface.
    #[error("there is no interface {0:?}; `ip link` lists them")]
    UnknownInterface(String),
    /// The same interface on both sides.
    #[error("the interface {0:?} cannot be both outside and inside")]
    BothSides(String),
    /// The kernel's netfilter cannot be used.
    #[error("the kernel's netfilter cannot be used; it takes CAP_NET_ADMIN and nf_tables")]
    Kernel(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A socket is not to be had.
    #[error("cannot listen on {what} of {interface}; is another gateway running?")]
    Listen {
        /// Which port.
        what: String,
        /// Of which interface.
        interface: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Metrics are not for everybody.
    #[error("metrics at {0} would be open to the public internet; choose a private address")]
    PublicMetrics(SocketAddr),
    /// The port for metrics is not to be had.
    #[error("cannot listen on {address} for metrics")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state cannot be read or written.
    #[error("the leases in {path} cannot be used")]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system's interfaces cannot be listed.
    #[error("the interfaces of this machine cannot be listed")]
    Interfaces(#[source] io::Error),
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[source] getrandom::Error),
}
