//! The actions that map ports: WANIPConnection 1 and 2, WANPPPConnection 1, and
//! WANIPv6FirewallControl 1.
//!
//! Each type reads the arguments of a call strictly, as a gateway must, and those of an answer
//! tolerantly, as a client must.

use std::fmt;
use std::str::FromStr;

use super::soap::{Arguments, ErrorCode};
use super::xml::{Element, XmlError, push_element};
use crate::transport::Transport;

/// The type of an Internet gateway, without its version.
pub const GATEWAY_DEVICE: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice";
/// The longest lease (WANIPConnection:2 section 2.3.20), in seconds: a week.
pub const MAX_LEASE: u32 = 604_800;

/// The services that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKind {
    /// WANIPConnection.
    WanIp,
    /// WANPPPConnection.
    WanPpp,
    /// WANIPv6FirewallControl.
    Ipv6Firewall,
}

impl ServiceKind {
    const ALL: [Self; 3] = [Self::WanIp, Self::WanPpp, Self::Ipv6Firewall];

    /// The name in a URN.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WanIp => "WANIPConnection",
            Self::WanPpp => "WANPPPConnection",
            Self::Ipv6Firewall => "WANIPv6FirewallControl",
        }
    }
}

/// The type of a service: its kind and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceType {
    /// What it does.
    pub kind: ServiceKind,
    /// The version, from 1.
    pub version: u8,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind.name();
        write!(f, "urn:schemas-upnp-org:service:{name}:{}", self.version)
    }
}

/// A URN of something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a service that maps ports")]
pub struct OtherService;

impl FromStr for ServiceType {
    type Err = OtherService;

    /// Reads a URN in any case and of any vendor's domain; a version that is missing is 1.
    fn from_str(urn: &str) -> Result<Self, OtherService> {
        let mut parts = urn.trim().split(':').skip_while(|part| {
            !part.eq_ignore_ascii_case("service") && !part.eq_ignore_ascii_case("serviceId")
        });
        let name = parts.nth(1).ok_or(OtherService)?;
        let kind = ServiceKind::ALL
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
            .ok_or(OtherService)?;
        let version = parts.next().and_then(|part| part.trim().parse().ok());
        Ok(Self {
            kind,
            version: version.filter(|version| *version != 0).unwrap_or(1),
        })
    }
}

/// By what a mapping is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// NewRemoteHost: who may use it; empty means everybody.
    pub remote_host: String,
    /// NewExternalPort.
    pub external_port: u16,
    /// NewProtocol.
    pub transport: Transport,
}

impl Key {
    /// The arguments of DeletePortMapping and GetSpecificPortMappingEntry.
    #[must_use]
    pub fn to_arguments(&self) -> Arguments {
        Arguments::default()
            .with("NewRemoteHost", &self.remote_host)
            .with("NewExternalPort", self.external_port)
            .with("NewProtocol", self.transport.upper())
    }

    /// Reads the arguments of a call.
    ///
    /// # Errors
    ///
    /// The code that the caller is owed: 402 for what is missing, 600 for what is no value of
    /// its type.
    pub fn from_call(arguments: &Arguments) -> Result<Self, ErrorCode> {
        Ok(Self {
            remote_host: text(arguments, "NewRemoteHost")?.to_owned(),
            external_port: number(arguments, "NewExternalPort")?,
            transport: transport(arguments)?,
        })
    }
}

/// A mapping, as the actions describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// By what it is known.
    pub key: Key,
    /// NewInternalPort.
    pub internal_port: u16,
    /// NewInternalClient: an address in a call of ours; in a list, text of a stranger.
    pub internal_client: String,
    /// NewEnabled.
    pub enabled: bool,
    /// NewPortMappingDescription.
    pub description: String,
    /// NewLeaseDuration, in seconds; zero does not end with IGD 1, and is a week with IGD 2.
    pub lease: u32,
}

impl Entry {
    /// The arguments of AddPortMapping, AddAnyPortMapping, and of the answer of
    /// GetGenericPortMappingEntry.
    #[must_use]
    pub fn to_arguments(&self) -> Arguments {
        self.with_value(self.key.to_arguments())
    }

    /// The arguments of the answer of GetSpecificPortMappingEntry.
    #[must_use]
    pub fn to_specific_answer(&self) -> Arguments {
        self.with_value(Arguments::default())
    }

    fn with_value(&self, arguments: Arguments) -> Arguments {
        arguments
            .with("NewInternalPort", self.internal_port)
            .with("NewInternalClient", &self.internal_client)
            .with("NewEnabled", u8::from(self.enabled))
            .with("NewPortMappingDescription", &self.description)
            .with("NewLeaseDuration", self.lease)
    }

    /// Reads the arguments of a call of AddPortMapping or AddAnyPortMapping.
    ///
    /// # Errors
    ///
    /// The code that the caller is owed: 402 for what is missing, 600 for what is no value of
    /// its type. Ranges that the specification gives codes of their own are the gateway's.
    pub fn from_call(arguments: &Arguments) -> Result<Self, ErrorCode> {
        Ok(Self {
            key: Key::from_call(arguments)?,
            internal_port: number(arguments, "NewInternalPort")?,
            internal_client: text(arguments, "NewInternalClient")?.to_owned(),
            enabled: boolean(text(arguments, "NewEnabled")?)
                .ok_or(ErrorCode::ARGUMENT_VALUE_INVALID)?,
            description: text(arguments, "NewPortMappingDescription")?.to_owned(),
            lease: number(arguments, "NewLeaseDuration")?,
        })
    }

    /// Reads the answer of GetGenericPortMappingEntry. `None` if the ports or the protocol
    /// cannot be read; what else is missing is empty.
    #[must_use]
    pub fn from_answer(arguments: &Arguments) -> Option<Self> {
        let key = Key {
            remote_host: loose(arguments, "NewRemoteHost").to_owned(),
            external_port: loose(arguments, "NewExternalPort").parse().ok()?,
            transport: loose(arguments, "NewProtocol").parse().ok()?,
        };
        Self::from_specific_answer(key, arguments)
    }

    /// Reads the answer of GetSpecificPortMappingEntry about `key`. `None` if the internal
    /// port cannot be read.
    #[must_use]
    pub fn from_specific_answer(key: Key, arguments: &Arguments) -> Option<Self> {
        Some(Self {
            key,
            internal_port: loose(arguments, "NewInternalPort").parse().ok()?,
            internal_client: loose(arguments, "NewInternalClient").to_owned(),
            enabled: boolean(loose(arguments, "NewEnabled")).unwrap_or(true),
            description: loose(arguments, "NewPortMappingDescription").to_owned(),
            lease: loose(arguments, "NewLeaseDuration").parse().unwrap_or(0),
        })
    }
}

/// A range of external ports, of DeletePortMappingRange and GetListOfPortMappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// NewStartPort.
    pub start: u16,
    /// NewEndPort, within the range.
    pub end: u16,
    /// NewProtocol.
    pub transport: Transport,
    /// NewManage: whether others' mappings are meant, too.
    pub manage: bool,
}

impl Range {
    /// The arguments; GetListOfPortMappings adds NewNumberOfPorts.
    #[must_use]
    pub fn to_arguments(&self) -> Arguments {
        Arguments::default()
            .with("NewStartPort", self.start)
            .with("NewEndPort", self.end)
            .with("NewProtocol", self.transport.upper())
            .with("NewManage", u8::from(self.manage))
    }

    /// Reads the arguments of a call.
    ///
    /// # Errors
    ///
    /// 402 for what is missing, 600 for what is no value of its type, 733 for a start behind
    /// the end.
    pub fn from_call(arguments: &Arguments) -> Result<Self, ErrorCode> {
        let range = Self {
            start: number(arguments, "NewStartPort")?,
            end: number(arguments, "NewEndPort")?,
            transport: transport(arguments)?,
            manage: boolean(text(arguments, "NewManage")?)
                .ok_or(ErrorCode::ARGUMENT_VALUE_INVALID)?,
        };
        if range.start > range.end {
            return Err(ErrorCode::INCONSISTENT_PARAMETERS);
        }
        Ok(range)
    }
}

/// The value of NewPortListing, the answer of GetListOfPortMappings: a document of its own.
#[must_use]
pub fn listing_to_xml(entries: &[Entry]) -> String {
    let mut xml = String::from(
        "<p:PortMappingList xmlns:p=\"urn:schemas-upnp-org:gw:WANIPConnection\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xsi:schemaLocation=\"urn:schemas-upnp-org:gw:WANIPConnection \
         http://www.upnp.org/schemas/gw/WANIPConnection-v2.xsd\">",
    );
    for entry in entries {
        xml.push_str("<p:PortMappingEntry>");
        for (name, value) in LISTING.iter().zip(entry.in_order_of_listing()) {
            push_element(&mut xml, &format!("p:{name}"), &value);
        }
        xml.push_str("</p:PortMappingEntry>");
    }
    xml.push_str("</p:PortMappingList>");
    xml
}

/// Reads the value of NewPortListing. Entries that cannot be read are left out.
///
/// # Errors
///
/// Says why it is no document.
pub fn listing_from_xml(xml: &str) -> Result<Vec<Entry>, XmlError> {
    let document = Element::parse(xml.as_bytes())?;
    let entries = document.children_named("PortMappingEntry");
    Ok(entries
        .filter_map(|entry| {
            let mut arguments = Arguments::default();
            for name in LISTING {
                arguments = arguments.with(argument_of(name), entry.text_of(name));
            }
            Entry::from_answer(&arguments)
        })
        .collect())
}

/// The elements of an entry in a listing.
const LISTING: [&str; 8] = [
    "NewRemoteHost",
    "NewExternalPort",
    "NewProtocol",
    "NewInternalPort",
    "NewInternalClient",
    "NewEnabled",
    "NewDescription",
    "NewLeaseTime",
];

/// Two arguments have other names in a listing.
fn argument_of(element: &str) -> &str {
    match element {
        "NewDescription" => "NewPortMappingDescription",
        "NewLeaseTime" => "NewLeaseDuration",
        same => same,
    }
}

impl Entry {
    fn in_order_of_listing(&self) -> [String; 8] {
        [
            self.key.remote_host.clone(),
            self.key.external_port.to_string(),
            self.key.transport.upper().to_owned(),
            self.internal_port.to_string(),
            self.internal_client.clone(),
            u8::from(self.enabled).to_string(),
            self.description.clone(),
            self.lease.to_string(),
        ]
    }
}

/// The value of the argument IGD 2 calls a pinhole: a way in through an IPv6 firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinhole {
    /// RemoteHost; empty means everybody.
    pub remote_host: String,
    /// RemotePort; zero means all.
    pub remote_port: u16,
    /// InternalClient: the address that is opened.
    pub internal_client: String,
    /// InternalPort; zero means all.
    pub internal_port: u16,
    /// Protocol: the number in the IP header; 65535 means all.
    pub protocol: u16,
    /// LeaseTime in seconds, 1 to 86400.
    pub lease: u32,
}

impl Pinhole {
    /// The arguments of AddPinhole; without the lease, those of GetOutboundPinholeTimeout.
    #[must_use]
    pub fn to_arguments(&self) -> Arguments {
        Arguments::default()
            .with("RemoteHost", &self.remote_host)
            .with("RemotePort", self.remote_port)
            .with("InternalClient", &self.internal_client)
            .with("InternalPort", self.internal_port)
            .with("Protocol", self.protocol)
            .with("LeaseTime", self.lease)
    }

    /// Reads the arguments of a call of AddPinhole.
    ///
    /// # Errors
    ///
    /// 402 for what is missing, 600 for what is no value of its type.
    pub fn from_call(arguments: &Arguments) -> Result<Self, ErrorCode> {
        Ok(Self {
            remote_host: text(arguments, "RemoteHost")?.to_owned(),
            remote_port: number(arguments, "RemotePort")?,
            internal_client: text(arguments, "InternalClient")?.to_owned(),
            internal_port: number(arguments, "InternalPort")?,
            protocol: number(arguments, "Protocol")?,
            lease: number(arguments, "LeaseTime")?,
        })
    }
}

/// An argument that a caller must give, with the code for one that is missing.
///
/// # Errors
///
/// 402.
pub fn text<'a>(arguments: &'a Arguments, name: &str) -> Result<&'a str, ErrorCode> {
    arguments.get(name).ok_or(ErrorCode::INVALID_ARGS)
}

/// An argument that a caller must give as digits, nothing else.
///
/// # Errors
///
/// 402 for one that is missing, 600 for one that is no such number.
pub fn number<T: FromStr>(arguments: &Arguments, name: &str) -> Result<T, ErrorCode> {
    let text = text(arguments, name)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or(ErrorCode::ARGUMENT_VALUE_INVALID)
}

/// A boolean of UPnP: `1`, `true`, `yes`, `0`, `false`, `no`.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Some(true),
        "0" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// NewProtocol of a caller: in upper case, as the specification has it.
fn transport(arguments: &Arguments) -> Result<Transport, ErrorCode> {
    let text = text(arguments, "NewProtocol")?;
    Transport::ALL
        .into_iter()
        .find(|transport| transport.upper() == text)
        .ok_or(ErrorCode::ARGUMENT_VALUE_INVALID)
}

fn loose<'a>(arguments: &'a Arguments, name: &str) -> &'a str {
    arguments.get(name).unwrap_or_default().trim()
}

/// The answer of GetStatusInfo.
#[must_use]
pub fn status_info(status: &str, last_error: &str, uptime: u32) -> Arguments {
    Arguments::default()
        .with("NewConnectionStatus", status)
        .with("NewLastConnectionError", last_error)
        .with("NewUptime", uptime)
}
