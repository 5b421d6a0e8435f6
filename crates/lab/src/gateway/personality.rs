//! How gateways differ, as data.

use std::time::Duration;

/// A gateway's ways.
#[derive(Debug, Clone)]
pub struct Personality {
    /// PCP.
    pub pcp: Pcp,
    /// NAT-PMP.
    pub natpmp: NatPmp,
    /// Whether it speaks UPnP at all.
    pub upnp: bool,
    /// Which searches it answers.
    pub search: Search,
    /// The types that it answers for; one that is not in here is not heard.
    pub targets: Vec<&'static str>,
    /// The port that it answers searches from.
    pub search_port: u16,
    /// Whether it sends garbage with its answers.
    pub noisy: bool,
    /// What it says about where it is described.
    pub location: Location,
    /// How long it takes for an answer over HTTP.
    pub delay: Duration,
    /// Its services.
    pub services: Vec<ServiceAt>,
    /// What its description says as URLBase.
    pub url_base: &'static str,
    /// Whether it has a UDN.
    pub udn: bool,
    /// What it does to XML.
    pub xml: Xml,
    /// What it does to HTTP.
    pub http: Http,
    /// What it makes of leases.
    pub lease: Lease,
    /// What it does about some ports.
    pub conflict: Conflict,
    /// How it answers for a mapping that there is.
    pub specific: Specific,
    /// Whether it knows AddAnyPortMapping, and how it calls the port: `NewReservedPort`.
    pub any: Option<&'static str>,
    /// Whether it knows protocols in upper case only.
    pub upper_case_only: bool,
    /// Whether it reads only calls that are written as the architecture writes them.
    pub picky: bool,
    /// The longest description that it takes.
    pub longest_description: usize,
    /// Whether it lets a client map ports for itself only.
    pub secure: bool,
    /// How its table ends.
    pub list_end: ListEnd,
    /// Whether what is mapped passes.
    pub forwards: Forwards,
}

/// PCP, as a gateway has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pcp {
    /// Not at all.
    Off,
    /// All of it.
    On,
    /// Without ANNOUNCE.
    NoAnnounce,
    /// NOT_AUTHORIZED to everybody.
    Refuses,
    /// ADDRESS_MISMATCH: there is a NAT between.
    Mismatch,
}

/// NAT-PMP, as a gateway has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatPmp {
    /// Not at all.
    Off,
    /// All of it, and an answer of version 0 to PCP.
    On,
    /// Not authorized.
    Refuses,
    /// It has no address outside.
    NoAddress,
}

/// Which searches are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// All.
    Both,
    /// To the group only.
    Multicast,
    /// To its own address only.
    Unicast,
}

/// What a gateway says about where it is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// The truth.
    Own,
    /// An address that is on the link, and nobody's.
    Nobody,
    /// An address on the other side of the world.
    Elsewhere,
    /// An address of the other family.
    V6,
    /// The truth, and then a second device of its own that leads nowhere.
    Twice,
}

/// A service of a gateway.
#[derive(Debug, Clone, Copy)]
pub struct ServiceAt {
    /// Its type.
    pub urn: &'static str,
    /// Its control URL as the description has it; the path `/ctl/N` is what it answers at.
    pub control: &'static str,
    /// What GetStatusInfo says.
    pub status: &'static str,
    /// What GetExternalIPAddress says.
    pub external: &'static str,
    /// Whether it maps ports.
    pub works: bool,
}

/// What a gateway does to XML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xml {
    /// Nothing.
    Sound,
    /// Names in other cases.
    Case,
    /// `xmlns` sticks to names, and prefixes are not declared.
    Glued,
    /// Bare ampersands and zeros at the end.
    Ampersand,
}

/// What a gateway does to HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    /// How the end of a body is known.
    pub length: Length,
    /// What it calls its documents.
    pub content_type: &'static str,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// By its length.
    Right,
    /// By the end of the connection.
    Missing,
    /// By chunks.
    Chunked,
    /// A length is told that is too long.
    TooLong,
}

/// What a gateway makes of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It keeps them.
    Kept,
    /// 725 unless it is zero.
    Only725,
    /// 402 unless it is zero.
    Only402,
    /// Whatever is asked for is a week.
    Week,
    /// 725 unless it is zero, and then it is a week.
    ZeroIsWeek,
}

/// Whether what is mapped passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwards {
    /// It does.
    Always,
    /// Not until the mapping is deleted and made again.
    AfterDeletion,
    /// Never, whatever the table says.
    Never,
}

/// What a gateway does about ports below 5000, which the tests ask for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// Nothing.
    None,
    /// They are another host's, and it says so with this error.
    Taken(i32),
    /// External and internal ports must be the same: 724.
    SamePort,
    /// Only all ports can be mapped: 727.
    Wildcard,
    /// They are taken, by a mapping that is not in the table until it is deleted.
    Hidden,
}

/// How a gateway answers for a mapping that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specific {
    /// As it is.
    Works,
    /// 401.
    Unknown,
    /// 714.
    Missing,
}

/// How a table ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListEnd {
    /// With this error.
    Error(i32),
    /// With status 500 and nothing.
    Empty,
    /// Never: the last entry comes again and again.
    Never,
    /// Never: there is always another entry.
    Invented,
}

/// The type of a WANIPConnection.
pub(super) const WANIP: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
/// The type of a gateway.
pub(super) const IGD: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";

impl Default for ServiceAt {
    fn default() -> Self {
        Self {
            urn: WANIP,
            control: "/ctl/0",
            status: "Connected",
            external: "45.45.1.1",
            works: true,
        }
    }
}

impl Default for Personality {
    /// A plain UPnP gateway of version 1.
    fn default() -> Self {
        Self {
            pcp: Pcp::Off,
            natpmp: NatPmp::Off,
            upnp: true,
            search: Search::Both,
            targets: vec![IGD, "upnp:rootdevice", WANIP],
            search_port: 1900,
            noisy: false,
            location: Location::Own,
            delay: Duration::from_millis(1),
            services: vec![ServiceAt::default()],
            url_base: "",
            udn: true,
            xml: Xml::Sound,
            http: Http {
                length: Length::Right,
                content_type: "text/xml; charset=\"utf-8\"",
            },
            lease: Lease::Kept,
            conflict: Conflict::None,
            specific: Specific::Works,
            any: None,
            upper_case_only: false,
            picky: false,
            longest_description: 256,
            secure: true,
            list_end: ListEnd::Error(713),
            forwards: Forwards::Always,
        }
    }
}
