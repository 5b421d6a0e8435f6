//! The gateway that is asked, and its answers.

use postern::portmap::{Arguments, Client, Failure, Found, Reply, ServiceAt, is_public};

/// There is no code in the answer.
pub(super) const UNKNOWN: i32 = -1;
/// There is no answer.
pub(super) const HTTP: i32 = -3;

/// Whether a gateway is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Igd {
    /// It is connected, with a public address; or it was named.
    Valid,
    /// It may not be.
    NotConnected,
}

/// Which of its services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// WANIPConnection or WANPPPConnection.
    Connection,
    /// WANCommonInterfaceConfig.
    Interface,
    /// WANIPv6FirewallControl.
    Firewall,
}

/// A gateway.
#[derive(Debug)]
pub(super) struct Router {
    client: Client,
    pub(super) igd: Igd,
    connection: ServiceAt,
    services: Vec<ServiceAt>,
    pub(super) presentation: String,
}

impl Router {
    /// The best of those that were found, if any is of use.
    pub(super) fn new(client: Client, found: &[Found], named: bool) -> Option<Self> {
        let best = found.first()?;
        let public = best.external_address.is_some_and(is_public);
        let sound = best.connected == Some(true) && public;
        // Over IPv6 only the firewall is looked at beforehand.
        let valid = named || sound || client.link().address.is_ipv6();
        let used = best
            .services
            .iter()
            .find(|s| Some(&s.control) == best.control.as_ref());
        let used = used.filter(|service| is(service, Service::Connection));
        let any = || best.services.iter().find(|s| is(s, Service::Connection));
        Some(Self {
            igd: if valid { Igd::Valid } else { Igd::NotConnected },
            connection: used.or_else(any)?.clone(),
            services: best.services.clone(),
            presentation: best.presentation.clone(),
            client,
        })
    }

    /// The address of this machine.
    pub(super) fn own(&self) -> String {
        self.client.link().address.to_string()
    }

    /// Where its connection is controlled.
    pub(super) fn control(&self) -> String {
        self.connection.control.to_string()
    }

    /// Calls an action.
    ///
    /// # Errors
    ///
    /// The number of the error, as `upnpc` counts them.
    pub(super) async fn ask(
        &self,
        service: Service,
        action: &str,
        arguments: Arguments,
    ) -> Result<Arguments, i32> {
        let mut others = self.services.iter();
        let service = match service {
            Service::Connection => &self.connection,
            Service::Interface | Service::Firewall => {
                others.find(|at| is(at, service)).ok_or(HTTP)?
            }
        };
        let reply = self.client.call_service(service, action, arguments).await;
        match reply {
            Ok(Reply::Done(answer)) => Ok(answer),
            Ok(Reply::Fault(fault)) if fault.code.0 == 0 => Err(UNKNOWN),
            Ok(Reply::Fault(fault)) => Err(fault.code.0),
            Err(Failure::Silent | _) => Err(HTTP),
        }
    }
}

fn is(service: &ServiceAt, kind: Service) -> bool {
    let names: &[&str] = match kind {
        Service::Connection => &["wanipconnection", "wanpppconnection"],
        Service::Interface => &["wancommoninterfaceconfig"],
        Service::Firewall => &["wanipv6firewallcontrol"],
    };
    let kind = service.service_type.to_ascii_lowercase();
    names.iter().any(|name| kind.contains(name))
}

/// What a gateway answered for, as `upnpc` would have found it: it asks in this order. One that
/// was heard of before it answered is told by what it was asked for first.
pub(super) fn target(found: &Found) -> &str {
    const FIRST: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
    const OTHERS: [&str; 3] = ["WANIPConnection:1", "WANPPPConnection:1", "upnp:rootdevice"];
    let targets = &found.targets;
    let answered = |end: &str| targets.iter().find(|target| target.ends_with(end));
    if targets.is_empty() || targets.iter().any(|target| target == FIRST) {
        return FIRST;
    }
    let other = OTHERS.into_iter().find_map(answered);
    other
        .or_else(|| targets.first())
        .map_or(FIRST, String::as_str)
}

/// The words for an error.
pub(super) const fn words(code: i32) -> &'static str {
    match code {
        HTTP => "Miniupnpc HTTP error",
        UNKNOWN => "Miniupnpc Unknown Error",
        401 => "Invalid Action",
        402 => "Invalid Args",
        501 => "Action Failed",
        606 => "Action not authorized",
        701 => "PinholeSpaceExhausted",
        702 => "FirewallDisabled",
        703 => "InboundPinholeNotAllowed",
        704 => "NoSuchEntry",
        705 => "ProtocolNotSupported",
        706 => "InternalPortWildcardingNotAllowed",
        707 => "ProtocolWildcardingNotAllowed",
        708 => "InvalidLayer2Address",
        709 => "NoPacketSent",
        713 => "SpecifiedArrayIndexInvalid",
        714 => "NoSuchEntryInArray",
        715 => "WildCardNotPermittedInSrcIP",
        716 => "WildCardNotPermittedInExtPort",
        718 => "ConflictInMappingEntry",
        724 => "SamePortValuesRequired",
        725 => "OnlyPermanentLeasesSupported",
        726 => "RemoteHostOnlySupportsWildcard",
        727 => "ExternalPortOnlySupportsWildcard",
        _ => "UnknownError",
    }
}
