//! Who there is, and what is right with each.

use std::net::IpAddr;
use std::time::Duration;

use postern_proto::portmap::{Failure, Protocol, Refusal};
use postern_wire::{natpmp, pcp};

use super::personality::{
    Conflict, Http, Lease, Length, ListEnd, Location, NatPmp, Pcp, Personality, Search, ServiceAt,
    Specific, WANIP, Xml,
};
use super::play::{GATEWAY, OTHER_GATEWAY};

/// A gateway or two, and what is right with them.
#[derive(Debug, Clone)]
pub struct Role {
    /// What it is, in a few words.
    pub name: &'static str,
    /// The gateways and their addresses.
    pub gateways: Vec<(IpAddr, Personality)>,
    /// What shall come of it when TCP port 4000 is to be 4001 outside for an hour.
    pub expected: Expected,
}

/// What is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is a mapping.
    Mapped {
        /// By this protocol.
        protocol: Protocol,
        /// At this gateway.
        gateway: IpAddr,
        /// At this port; `None` if at another than the one that was asked for.
        port: Option<u16>,
        /// With this lifetime.
        lifetime: u32,
        /// Behind another NAT.
        double_nat: bool,
    },
    /// There is none, for this reason.
    Failed(Failure),
}

impl Expected {
    pub(super) const fn by(protocol: Protocol) -> Self {
        Self::Mapped {
            protocol,
            gateway: GATEWAY,
            port: Some(4001),
            lifetime: 3600,
            double_nat: false,
        }
    }

    pub(super) const UPNP: Self = Self::by(Protocol::Upnp);

    const fn changed(new: Option<u16>, lasts: u32, is_double: bool) -> Self {
        Self::Mapped {
            protocol: Protocol::Upnp,
            gateway: GATEWAY,
            port: new,
            lifetime: lasts,
            double_nat: is_double,
        }
    }

    const OTHER_PORT: Self = Self::changed(None, 3600, false);
    const ENDLESS: Self = Self::changed(Some(4001), 0, false);
    const DOUBLE: Self = Self::changed(Some(4001), 3600, true);
}

/// Everybody.
#[must_use]
pub fn personalities() -> Vec<Role> {
    [
        plain(),
        super::dead::dead(),
        leases(),
        ports(),
        searches(),
        places(),
        services(),
        documents(),
        addresses(),
        refusals(),
    ]
    .concat()
}

pub(super) fn role(name: &'static str, personality: Personality, expected: Expected) -> Role {
    Role {
        name,
        gateways: vec![(GATEWAY, personality)],
        expected,
    }
}

fn upnp() -> Personality {
    Personality::default()
}

fn without_upnp(pcp: Pcp, natpmp: NatPmp) -> Personality {
    Personality {
        pcp,
        natpmp,
        upnp: false,
        ..upnp()
    }
}

fn igd2() -> Personality {
    Personality {
        any: Some("NewReservedPort"),
        services: vec![ServiceAt {
            urn: "urn:schemas-upnp-org:service:WANIPConnection:2",
            ..ServiceAt::default()
        }],
        ..upnp()
    }
}

const WANPPP: &str = "urn:schemas-upnp-org:service:WANPPPConnection:1";

fn plain() -> Vec<Role> {
    let ppp = Personality {
        services: vec![ServiceAt {
            urn: WANPPP,
            ..ServiceAt::default()
        }],
        ..upnp()
    };
    let all = Personality {
        pcp: Pcp::On,
        natpmp: NatPmp::On,
        ..upnp()
    };
    let pmp_and_upnp = Personality {
        natpmp: NatPmp::On,
        ..upnp()
    };
    vec![
        role("IGD 1", upnp(), Expected::UPNP),
        role("IGD 2", igd2(), Expected::UPNP),
        role("WANPPPConnection alone", ppp, Expected::UPNP),
        role(
            "NAT-PMP alone, which answers PCP by version 0",
            without_upnp(Pcp::Off, NatPmp::On),
            Expected::by(Protocol::NatPmp),
        ),
        role(
            "PCP alone, which answers NAT-PMP by version 2",
            without_upnp(Pcp::On, NatPmp::Off),
            Expected::by(Protocol::Pcp),
        ),
        role(
            "PCP and NAT-PMP",
            without_upnp(Pcp::On, NatPmp::On),
            Expected::by(Protocol::Pcp),
        ),
        role(
            "PCP without ANNOUNCE",
            without_upnp(Pcp::NoAnnounce, NatPmp::Off),
            Expected::by(Protocol::Pcp),
        ),
        role("all three", all, Expected::by(Protocol::Pcp)),
        role(
            "NAT-PMP and UPnP",
            pmp_and_upnp,
            Expected::by(Protocol::NatPmp),
        ),
        role(
            "nothing",
            without_upnp(Pcp::Off, NatPmp::Off),
            Expected::Failed(Failure::NoGateway),
        ),
    ]
}

/// Quirks 1 to 3.
fn leases() -> Vec<Role> {
    let lease = |lease| Personality { lease, ..upnp() };
    let blind = Personality {
        specific: Specific::Unknown,
        ..upnp()
    };
    let forgetful = Personality {
        specific: Specific::Missing,
        ..upnp()
    };
    let week = Expected::changed(Some(4001), 604_800, false);
    vec![
        role(
            "725: permanent leases only",
            lease(Lease::Only725),
            Expected::ENDLESS,
        ),
        role(
            "402: no lease wanted",
            lease(Lease::Only402),
            Expected::ENDLESS,
        ),
        role("every lease is a week", lease(Lease::Week), week),
        role("725, and zero is a week", lease(Lease::ZeroIsWeek), week),
        role("cannot be asked for one mapping", blind, Expected::UPNP),
        role("714 for a mapping that it has", forgetful, Expected::UPNP),
    ]
}

/// Quirks 4 to 6, and 8.
fn ports() -> Vec<Role> {
    let conflict = |conflict| Personality { conflict, ..upnp() };
    let igd2 = |any, conflict| Personality {
        any,
        conflict,
        ..igd2()
    };
    let named = Expected::changed(Some(23_456), 3600, false);
    vec![
        role(
            "718: taken",
            conflict(Conflict::Taken(718)),
            Expected::OTHER_PORT,
        ),
        role(
            "501 for taken",
            conflict(Conflict::Taken(501)),
            Expected::OTHER_PORT,
        ),
        role(
            "729: taken by something else",
            conflict(Conflict::Taken(729)),
            Expected::OTHER_PORT,
        ),
        role(
            "724: same port only",
            conflict(Conflict::SamePort),
            Expected::changed(Some(4000), 3600, false),
        ),
        role(
            "727: all ports or none",
            conflict(Conflict::Wildcard),
            Expected::Failed(Failure::PortUnsupported),
        ),
        role(
            "718 for a mapping that nobody sees",
            conflict(Conflict::Hidden),
            Expected::UPNP,
        ),
        role(
            "IGD 2 with another port",
            igd2(Some("NewReservedPort"), Conflict::Taken(718)),
            named,
        ),
        role(
            "IGD 2 with a wrong name for the port",
            igd2(Some("NewExternalPort"), Conflict::Taken(718)),
            named,
        ),
        role(
            "IGD 2 without AddAnyPortMapping",
            igd2(None, Conflict::None),
            Expected::UPNP,
        ),
    ]
}

/// Quirks 9, 10, 12, 23, 25.
fn searches() -> Vec<Role> {
    let search = |search| Personality { search, ..upnp() };
    let odd_port = Personality {
        search_port: 49_152,
        upper_case_only: true,
        ..upnp()
    };
    let deaf = Personality {
        targets: vec![super::personality::IGD],
        ..upnp()
    };
    let service_only = Personality {
        targets: vec![WANIP],
        ..upnp()
    };
    let noisy = Personality {
        noisy: true,
        ..upnp()
    };
    let slow = Personality {
        delay: Duration::from_millis(900),
        ..upnp()
    };
    let private = Personality {
        services: vec![ServiceAt {
            external: "192.168.0.2",
            ..ServiceAt::default()
        }],
        ..upnp()
    };
    let two = Role {
        name: "two gateways, one behind another NAT",
        gateways: vec![(GATEWAY, private), (OTHER_GATEWAY, upnp())],
        expected: Expected::Mapped {
            protocol: Protocol::Upnp,
            gateway: OTHER_GATEWAY,
            port: Some(4001),
            lifetime: 3600,
            double_nat: false,
        },
    };
    vec![
        role(
            "answers from another port, upper case only",
            odd_port,
            Expected::UPNP,
        ),
        role("knows the type of gateways only", deaf, Expected::UPNP),
        role(
            "knows the type of its service only",
            service_only,
            Expected::UPNP,
        ),
        role(
            "answers multicast only",
            search(Search::Multicast),
            Expected::UPNP,
        ),
        role(
            "answers unicast only",
            search(Search::Unicast),
            Expected::UPNP,
        ),
        role("sends garbage with its answers", noisy, Expected::UPNP),
        role("takes 0.9 s for every answer", slow, Expected::UPNP),
        two,
    ]
}

/// Quirks 11, 15, 23.
fn places() -> Vec<Role> {
    let location = |location| Personality { location, ..upnp() };
    let control = |control, url_base| Personality {
        url_base,
        services: vec![ServiceAt {
            control,
            ..ServiceAt::default()
        }],
        ..upnp()
    };
    vec![
        role(
            "location at an address that nobody has",
            location(Location::Nobody),
            Expected::UPNP,
        ),
        role(
            "location off the link",
            location(Location::Elsewhere),
            Expected::UPNP,
        ),
        role(
            "location of the other family",
            location(Location::V6),
            Expected::UPNP,
        ),
        role(
            "a gateway inside a gateway",
            location(Location::Twice),
            Expected::UPNP,
        ),
        role(
            "URLBase with a slash too many",
            control("/ctl/0", "http://192.168.1.1:5000//"),
            Expected::UPNP,
        ),
        role(
            "URLBase of another host",
            control("ctl/0", "http://10.9.9.9:5000/"),
            Expected::UPNP,
        ),
        role(
            "URLBase that is none",
            control("ctl/0", "router"),
            Expected::UPNP,
        ),
        role(
            "control URL on another host",
            control("http://45.45.9.9:5000/ctl/0", ""),
            Expected::UPNP,
        ),
    ]
}

/// Quirks 13 and 14.
fn services() -> Vec<Role> {
    let down = ServiceAt {
        status: "Disconnected",
        external: "0.0.0.0",
        works: false,
        ..ServiceAt::default()
    };
    let ppp = ServiceAt {
        urn: WANPPP,
        control: "/ctl/1",
        ..ServiceAt::default()
    };
    let second = Personality {
        services: vec![down, ppp],
        ..upnp()
    };
    let both_say_up = Personality {
        services: vec![
            ServiceAt {
                works: false,
                ..ServiceAt::default()
            },
            ppp,
        ],
        ..upnp()
    };
    let vendor = Personality {
        services: vec![ServiceAt {
            urn: "urn:dslforum-org:service:WANPPPConnection:1",
            status: "Up",
            ..ServiceAt::default()
        }],
        ..upnp()
    };
    vec![
        role("WANIP is down, WANPPP is up", second, Expected::UPNP),
        role(
            "both services say up, one works",
            both_say_up,
            Expected::UPNP,
        ),
        role(
            "a vendor's type, and Up for Connected",
            vendor,
            Expected::UPNP,
        ),
    ]
}

/// Quirks 16 to 19.
fn documents() -> Vec<Role> {
    let xml = |xml| Personality { xml, ..upnp() };
    let http = |length, content_type| Personality {
        http: Http {
            length,
            content_type,
        },
        ..upnp()
    };
    let glued_conflict = Personality {
        conflict: Conflict::Taken(718),
        ..xml(Xml::Glued)
    };
    let no_udn = Personality {
        udn: false,
        ..upnp()
    };
    let picky = Personality {
        picky: true,
        longest_description: 32,
        ..upnp()
    };
    vec![
        role("names in other cases", xml(Xml::Case), Expected::UPNP),
        role("no namespaces", xml(Xml::Glued), Expected::UPNP),
        role(
            "no namespaces in errors",
            glued_conflict,
            Expected::OTHER_PORT,
        ),
        role(
            "bare ampersands and zeros",
            xml(Xml::Ampersand),
            Expected::UPNP,
        ),
        role(
            "no Content-Length, text/html",
            http(Length::Missing, "text/html"),
            Expected::UPNP,
        ),
        role("chunks", http(Length::Chunked, "text/xml"), Expected::UPNP),
        role(
            "a Content-Length that is too long",
            http(Length::TooLong, ""),
            Expected::UPNP,
        ),
        role("no UDN", no_udn, Expected::UPNP),
        role(
            "reads canonical SOAP only, short descriptions",
            picky,
            Expected::UPNP,
        ),
    ]
}

/// Quirk 21.
fn addresses() -> Vec<Role> {
    let external = |external| Personality {
        services: vec![ServiceAt {
            external,
            ..ServiceAt::default()
        }],
        ..upnp()
    };
    vec![
        role("no external address", external(""), Expected::DOUBLE),
        role(
            "0.0.0.0 as external address",
            external("0.0.0.0"),
            Expected::DOUBLE,
        ),
        role(
            "a private external address",
            external("192.168.178.20"),
            Expected::DOUBLE,
        ),
        role(
            "an external address of a carrier",
            external("100.64.3.4"),
            Expected::DOUBLE,
        ),
    ]
}

/// Who refuses by one protocol may do it by another; and quirk 7, for lists.
fn refusals() -> Vec<Role> {
    let and_upnp = |pcp, natpmp| Personality {
        pcp,
        natpmp,
        ..upnp()
    };
    let list = |list_end| Personality { list_end, ..upnp() };
    let refuses = Refusal::NatPmp(natpmp::ResultCode::NOT_AUTHORIZED);
    let unauthorized = Refusal::Pcp(pcp::ResultCode::NOT_AUTHORIZED);
    vec![
        role(
            "PCP refuses, UPnP does it",
            and_upnp(Pcp::Refuses, NatPmp::Off),
            Expected::UPNP,
        ),
        role(
            "PCP sees another address, UPnP does it",
            and_upnp(Pcp::Mismatch, NatPmp::Off),
            Expected::UPNP,
        ),
        role(
            "NAT-PMP refuses, UPnP does it",
            and_upnp(Pcp::Off, NatPmp::Refuses),
            Expected::UPNP,
        ),
        role(
            "PCP refuses",
            without_upnp(Pcp::Refuses, NatPmp::Off),
            Expected::Failed(Failure::Refused(unauthorized)),
        ),
        role(
            "NAT-PMP refuses",
            without_upnp(Pcp::Off, NatPmp::Refuses),
            Expected::Failed(Failure::Refused(refuses)),
        ),
        role(
            "PCP sees another address",
            without_upnp(Pcp::Mismatch, NatPmp::Off),
            Expected::Failed(Failure::NatBetween),
        ),
        role(
            "a table that ends with 714",
            list(ListEnd::Error(714)),
            Expected::UPNP,
        ),
        role(
            "a table that ends with 402",
            list(ListEnd::Error(402)),
            Expected::UPNP,
        ),
        role(
            "a table that ends with 501",
            list(ListEnd::Error(501)),
            Expected::UPNP,
        ),
        role(
            "a table that ends with nothing",
            list(ListEnd::Empty),
            Expected::UPNP,
        ),
        role(
            "a table that repeats its end",
            list(ListEnd::Never),
            Expected::UPNP,
        ),
        role(
            "a table without an end",
            list(ListEnd::Invented),
            Expected::UPNP,
        ),
    ]
}
