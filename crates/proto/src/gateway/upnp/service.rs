//! The services, and their descriptions: which actions they have, with which arguments.

use postern_wire::upnp::xml::push_element;

use Direction::{In, Out};

/// Which way an argument goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// A service of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) enum Service {
    Layer3Forwarding,
    WanCommon,
    WanIp,
    Ipv6Firewall,
}

/// An action: its name, and its arguments with the variables that give their types.
type Action = (
    &'static str,
    &'static [(&'static str, Direction, &'static str)],
);

/// A variable: its name, its type, and whether subscribers are told of it.
type Variable = (&'static str, &'static str, bool);

impl Service {
    pub(super) const ALL: [Self; 4] = [
        Self::Layer3Forwarding,
        Self::WanCommon,
        Self::WanIp,
        Self::Ipv6Firewall,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Layer3Forwarding => "Layer3Forwarding",
            Self::WanCommon => "WANCommonInterfaceConfig",
            Self::WanIp => "WANIPConnection",
            Self::Ipv6Firewall => "WANIPv6FirewallControl",
        }
    }

    pub(super) const fn id(self) -> &'static str {
        match self {
            Self::Layer3Forwarding => "L3Forwarding1",
            Self::WanCommon => "WANCommonIFC1",
            Self::WanIp => "WANIPConn1",
            Self::Ipv6Firewall => "WANIPv6FC1",
        }
    }

    /// The path at which it takes what is called `what`.
    pub(super) fn path(self, what: &str) -> String {
        format!("/{what}/{}", self.id())
    }

    /// The service at a path.
    pub(super) fn at(path: &str, what: &str) -> Option<Self> {
        let id = path.strip_prefix('/')?.strip_prefix(what)?;
        let id = id.strip_prefix('/')?;
        Self::ALL.into_iter().find(|service| service.id() == id)
    }

    /// The highest version that a device of this version has; `None` if it has none.
    pub(super) const fn version(self, device: u8) -> Option<u8> {
        match (self, device) {
            (Self::WanIp, 2) => Some(2),
            (Self::Ipv6Firewall, 1) => None,
            _ => Some(1),
        }
    }

    pub(super) fn urn(self, version: u8) -> String {
        format!("urn:schemas-upnp-org:service:{}:{version}", self.name())
    }

    /// Which version a URN of this service asks for, if it has it.
    pub(super) fn version_of(self, urn: &str) -> Option<u8> {
        let highest = self.version(2)?;
        (1..=highest).find(|version| self.urn(*version) == urn)
    }

    /// Whether there is an action of this name in this version.
    pub(super) fn has(self, version: u8, action: &str) -> bool {
        self.actions(version)
            .iter()
            .any(|(name, _)| *name == action)
    }

    fn actions(self, version: u8) -> Vec<Action> {
        match self {
            Self::Layer3Forwarding => LAYER_3.to_vec(),
            Self::WanCommon => WAN_COMMON.to_vec(),
            Self::WanIp if version == 1 => WAN_IP.to_vec(),
            Self::WanIp => [WAN_IP, WAN_IP_2].concat(),
            Self::Ipv6Firewall => IPV6_FIREWALL.to_vec(),
        }
    }

    fn variables(self, version: u8) -> Vec<Variable> {
        match self {
            Self::Layer3Forwarding => vec![("DefaultConnectionService", "string", true)],
            Self::WanCommon => WAN_COMMON_VARIABLES.to_vec(),
            Self::WanIp if version == 1 => WAN_IP_VARIABLES.to_vec(),
            Self::WanIp => [WAN_IP_VARIABLES, WAN_IP_2_VARIABLES].concat(),
            Self::Ipv6Firewall => IPV6_FIREWALL_VARIABLES.to_vec(),
        }
    }

    /// The service's description (section 2.5).
    pub(super) fn describe(self, version: u8) -> String {
        let mut xml = String::from(
            "<?xml version=\"1.0\"?>\r\n<scpd xmlns=\"urn:schemas-upnp-org:service-1-0\">\
             <specVersion><major>1</major><minor>0</minor></specVersion><actionList>",
        );
        for (name, arguments) in self.actions(version) {
            describe_action(&mut xml, name, arguments);
        }
        xml.push_str("</actionList><serviceStateTable>");
        for variable in self.variables(version) {
            describe_variable(&mut xml, variable);
        }
        xml.push_str("</serviceStateTable></scpd>\r\n");
        xml
    }
}

fn describe_action(xml: &mut String, name: &str, arguments: &[(&str, Direction, &str)]) {
    xml.push_str("<action>");
    push_element(xml, "name", name);
    if !arguments.is_empty() {
        xml.push_str("<argumentList>");
        for (argument, direction, variable) in arguments {
            xml.push_str("<argument>");
            push_element(xml, "name", argument);
            let direction = if *direction == In { "in" } else { "out" };
            push_element(xml, "direction", direction);
            push_element(xml, "relatedStateVariable", variable);
            xml.push_str("</argument>");
        }
        xml.push_str("</argumentList>");
    }
    xml.push_str("</action>");
}

fn describe_variable(xml: &mut String, (name, kind, evented): Variable) {
    let sends = if evented { "yes" } else { "no" };
    xml.push_str(&format!("<stateVariable sendEvents=\"{sends}\">"));
    push_element(xml, "name", name);
    push_element(xml, "dataType", kind);
    if let Some((_, allowed)) = ALLOWED.iter().find(|(variable, _)| *variable == name) {
        xml.push_str("<allowedValueList>");
        for value in *allowed {
            push_element(xml, "allowedValue", value);
        }
        xml.push_str("</allowedValueList>");
    }
    xml.push_str("</stateVariable>");
}

const ALLOWED: &[(&str, &[&str])] = &[
    ("PortMappingProtocol", &["TCP", "UDP"]),
    (
        "ConnectionStatus",
        &["Unconfigured", "Connected", "Disconnected"],
    ),
    ("ConnectionType", &["Unconfigured", "IP_Routed"]),
    ("LastConnectionError", &["ERROR_NONE"]),
    ("WANAccessType", &["DSL", "POTS", "Cable", "Ethernet"]),
    ("PhysicalLinkStatus", &["Up", "Down"]),
];

const LAYER_3: &[Action] = &[
    (
        "SetDefaultConnectionService",
        &[(
            "NewDefaultConnectionService",
            In,
            "DefaultConnectionService",
        )],
    ),
    (
        "GetDefaultConnectionService",
        &[(
            "NewDefaultConnectionService",
            Out,
            "DefaultConnectionService",
        )],
    ),
];

const WAN_COMMON: &[Action] = &[
    (
        "GetCommonLinkProperties",
        &[
            ("NewWANAccessType", Out, "WANAccessType"),
            (
                "NewLayer1UpstreamMaxBitRate",
                Out,
                "Layer1UpstreamMaxBitRate",
            ),
            (
                "NewLayer1DownstreamMaxBitRate",
                Out,
                "Layer1DownstreamMaxBitRate",
            ),
            ("NewPhysicalLinkStatus", Out, "PhysicalLinkStatus"),
        ],
    ),
    (
        "GetTotalBytesSent",
        &[("NewTotalBytesSent", Out, "TotalBytesSent")],
    ),
    (
        "GetTotalBytesReceived",
        &[("NewTotalBytesReceived", Out, "TotalBytesReceived")],
    ),
    (
        "GetTotalPacketsSent",
        &[("NewTotalPacketsSent", Out, "TotalPacketsSent")],
    ),
    (
        "GetTotalPacketsReceived",
        &[("NewTotalPacketsReceived", Out, "TotalPacketsReceived")],
    ),
];

const WAN_COMMON_VARIABLES: &[Variable] = &[
    ("WANAccessType", "string", false),
    ("Layer1UpstreamMaxBitRate", "ui4", false),
    ("Layer1DownstreamMaxBitRate", "ui4", false),
    ("PhysicalLinkStatus", "string", true),
    ("TotalBytesSent", "ui4", false),
    ("TotalBytesReceived", "ui4", false),
    ("TotalPacketsSent", "ui4", false),
    ("TotalPacketsReceived", "ui4", false),
];

/// The key of a mapping.
macro_rules! key {
    () => {
        [
            ("NewRemoteHost", In, "RemoteHost"),
            ("NewExternalPort", In, "ExternalPort"),
            ("NewProtocol", In, "PortMappingProtocol"),
        ]
    };
}

const WAN_IP: &[Action] = &[
    (
        "SetConnectionType",
        &[("NewConnectionType", In, "ConnectionType")],
    ),
    (
        "GetConnectionTypeInfo",
        &[
            ("NewConnectionType", Out, "ConnectionType"),
            ("NewPossibleConnectionTypes", Out, "PossibleConnectionTypes"),
        ],
    ),
    ("RequestConnection", &[]),
    ("ForceTermination", &[]),
    (
        "GetStatusInfo",
        &[
            ("NewConnectionStatus", Out, "ConnectionStatus"),
            ("NewLastConnectionError", Out, "LastConnectionError"),
            ("NewUptime", Out, "Uptime"),
        ],
    ),
    (
        "GetNATRSIPStatus",
        &[
            ("NewRSIPAvailable", Out, "RSIPAvailable"),
            ("NewNATEnabled", Out, "NATEnabled"),
        ],
    ),
    (
        "GetGenericPortMappingEntry",
        &[
            ("NewPortMappingIndex", In, "PortMappingNumberOfEntries"),
            ("NewRemoteHost", Out, "RemoteHost"),
            ("NewExternalPort", Out, "ExternalPort"),
            ("NewProtocol", Out, "PortMappingProtocol"),
            ("NewInternalPort", Out, "InternalPort"),
            ("NewInternalClient", Out, "InternalClient"),
            ("NewEnabled", Out, "PortMappingEnabled"),
            ("NewPortMappingDescription", Out, "PortMappingDescription"),
            ("NewLeaseDuration", Out, "PortMappingLeaseDuration"),
        ],
    ),
    (
        "GetSpecificPortMappingEntry",
        &[
            ("NewRemoteHost", In, "RemoteHost"),
            ("NewExternalPort", In, "ExternalPort"),
            ("NewProtocol", In, "PortMappingProtocol"),
            ("NewInternalPort", Out, "InternalPort"),
            ("NewInternalClient", Out, "InternalClient"),
            ("NewEnabled", Out, "PortMappingEnabled"),
            ("NewPortMappingDescription", Out, "PortMappingDescription"),
            ("NewLeaseDuration", Out, "PortMappingLeaseDuration"),
        ],
    ),
    ("AddPortMapping", &ADD),
    ("DeletePortMapping", &key!()),
    (
        "GetExternalIPAddress",
        &[("NewExternalIPAddress", Out, "ExternalIPAddress")],
    ),
];

const ADD: [(&str, Direction, &str); 8] = [
    ("NewRemoteHost", In, "RemoteHost"),
    ("NewExternalPort", In, "ExternalPort"),
    ("NewProtocol", In, "PortMappingProtocol"),
    ("NewInternalPort", In, "InternalPort"),
    ("NewInternalClient", In, "InternalClient"),
    ("NewEnabled", In, "PortMappingEnabled"),
    ("NewPortMappingDescription", In, "PortMappingDescription"),
    ("NewLeaseDuration", In, "PortMappingLeaseDuration"),
];

const WAN_IP_2: &[Action] = &[
    (
        "AddAnyPortMapping",
        &[
            ("NewRemoteHost", In, "RemoteHost"),
            ("NewExternalPort", In, "ExternalPort"),
            ("NewProtocol", In, "PortMappingProtocol"),
            ("NewInternalPort", In, "InternalPort"),
            ("NewInternalClient", In, "InternalClient"),
            ("NewEnabled", In, "PortMappingEnabled"),
            ("NewPortMappingDescription", In, "PortMappingDescription"),
            ("NewLeaseDuration", In, "PortMappingLeaseDuration"),
            ("NewReservedPort", Out, "ExternalPort"),
        ],
    ),
    (
        "DeletePortMappingRange",
        &[
            ("NewStartPort", In, "ExternalPort"),
            ("NewEndPort", In, "ExternalPort"),
            ("NewProtocol", In, "PortMappingProtocol"),
            ("NewManage", In, "A_ARG_TYPE_Manage"),
        ],
    ),
    (
        "GetListOfPortMappings",
        &[
            ("NewStartPort", In, "ExternalPort"),
            ("NewEndPort", In, "ExternalPort"),
            ("NewProtocol", In, "PortMappingProtocol"),
            ("NewManage", In, "A_ARG_TYPE_Manage"),
            ("NewNumberOfPorts", In, "PortMappingNumberOfEntries"),
            ("NewPortListing", Out, "A_ARG_TYPE_PortListing"),
        ],
    ),
];

const WAN_IP_VARIABLES: &[Variable] = &[
    ("ConnectionType", "string", false),
    ("PossibleConnectionTypes", "string", true),
    ("ConnectionStatus", "string", true),
    ("LastConnectionError", "string", false),
    ("Uptime", "ui4", false),
    ("RSIPAvailable", "boolean", false),
    ("NATEnabled", "boolean", false),
    ("ExternalIPAddress", "string", true),
    ("PortMappingNumberOfEntries", "ui2", true),
    ("PortMappingEnabled", "boolean", false),
    ("PortMappingLeaseDuration", "ui4", false),
    ("RemoteHost", "string", false),
    ("ExternalPort", "ui2", false),
    ("InternalPort", "ui2", false),
    ("PortMappingProtocol", "string", false),
    ("InternalClient", "string", false),
    ("PortMappingDescription", "string", false),
];

const WAN_IP_2_VARIABLES: &[Variable] = &[
    ("SystemUpdateID", "ui4", true),
    ("A_ARG_TYPE_Manage", "boolean", false),
    ("A_ARG_TYPE_PortListing", "string", false),
];

const IPV6_FIREWALL: &[Action] = &[
    (
        "GetFirewallStatus",
        &[
            ("FirewallEnabled", Out, "FirewallEnabled"),
            ("InboundPinholeAllowed", Out, "InboundPinholeAllowed"),
        ],
    ),
    (
        "GetOutboundPinholeTimeout",
        &[
            ("RemoteHost", In, "A_ARG_TYPE_IPv6Address"),
            ("RemotePort", In, "A_ARG_TYPE_Port"),
            ("InternalClient", In, "A_ARG_TYPE_IPv6Address"),
            ("InternalPort", In, "A_ARG_TYPE_Port"),
            ("Protocol", In, "A_ARG_TYPE_Protocol"),
            (
                "OutboundPinholeTimeout",
                Out,
                "A_ARG_TYPE_OutboundPinholeTimeout",
            ),
        ],
    ),
    (
        "AddPinhole",
        &[
            ("RemoteHost", In, "A_ARG_TYPE_IPv6Address"),
            ("RemotePort", In, "A_ARG_TYPE_Port"),
            ("InternalClient", In, "A_ARG_TYPE_IPv6Address"),
            ("InternalPort", In, "A_ARG_TYPE_Port"),
            ("Protocol", In, "A_ARG_TYPE_Protocol"),
            ("LeaseTime", In, "A_ARG_TYPE_LeaseTime"),
            ("UniqueID", Out, "A_ARG_TYPE_UniqueID"),
        ],
    ),
    (
        "UpdatePinhole",
        &[
            ("UniqueID", In, "A_ARG_TYPE_UniqueID"),
            ("NewLeaseTime", In, "A_ARG_TYPE_LeaseTime"),
        ],
    ),
    ("DeletePinhole", &[("UniqueID", In, "A_ARG_TYPE_UniqueID")]),
    (
        "GetPinholePackets",
        &[
            ("UniqueID", In, "A_ARG_TYPE_UniqueID"),
            ("PinholePackets", Out, "A_ARG_TYPE_PinholePackets"),
        ],
    ),
    (
        "CheckPinholeWorking",
        &[
            ("UniqueID", In, "A_ARG_TYPE_UniqueID"),
            ("IsWorking", Out, "A_ARG_TYPE_Boolean"),
        ],
    ),
];

const IPV6_FIREWALL_VARIABLES: &[Variable] = &[
    ("FirewallEnabled", "boolean", true),
    ("InboundPinholeAllowed", "boolean", true),
    ("A_ARG_TYPE_OutboundPinholeTimeout", "ui4", false),
    ("A_ARG_TYPE_IPv6Address", "string", false),
    ("A_ARG_TYPE_Port", "ui2", false),
    ("A_ARG_TYPE_Protocol", "ui2", false),
    ("A_ARG_TYPE_LeaseTime", "ui4", false),
    ("A_ARG_TYPE_UniqueID", "ui2", false),
    ("A_ARG_TYPE_PinholePackets", "ui4", false),
    ("A_ARG_TYPE_Boolean", "boolean", false),
];

#[cfg(test)]
mod tests {
    use super::*;
    use postern_wire::upnp::xml::Element;

    #[test]
    fn every_argument_has_a_variable_that_gives_its_type() {
        for service in Service::ALL {
            for version in 1..=service.version(2).unwrap() {
                let variables = service.variables(version);
                for (action, arguments) in service.actions(version) {
                    for (argument, _, variable) in arguments {
                        let known = variables.iter().any(|(name, _, _)| name == variable);
                        assert!(known, "{action} {argument}: {variable}");
                    }
                }
            }
        }
    }

    #[test]
    fn descriptions_are_documents() {
        for service in Service::ALL {
            let document = Element::parse(service.describe(1).as_bytes()).unwrap();
            let actions = document.find("actionList").unwrap().children.len();
            assert_eq!(actions, service.actions(1).len());
        }
    }

    #[test]
    fn a_path_leads_to_its_service() {
        for service in Service::ALL {
            assert_eq!(
                Service::at(&service.path("control"), "control"),
                Some(service)
            );
        }
        assert_eq!(Service::at("/control/WANIPConn2", "control"), None);
        assert_eq!(Service::at("/scpd/WANIPConn1", "control"), None);
    }
}
