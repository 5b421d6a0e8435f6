//! SOAP: from a call to an answer.

use std::time::Instant;

use postern_wire::upnp::igd::status_info;
use postern_wire::upnp::soap::{Arguments, Call, ErrorCode, Fault, Reply};

use super::ExchangeId;
use super::requests::{Asked, document, empty};
use super::service::Service;
use crate::gateway::refusal::Refusal;
use crate::gateway::{Client, Gateway, Lease};

/// Whom to answer, and what was called.
#[derive(Debug, Clone)]
pub(in super::super) struct SoapAnswer {
    exchange: ExchangeId,
    call: Call,
    /// The version of the service that was called.
    version: u8,
    /// The UniqueID of a pinhole that is being made.
    pub(super) pinhole: Option<u16>,
}

/// A call that may be looked at.
pub(super) struct Called<'a> {
    pub(super) client: Client,
    pub(super) call: &'a Call,
    pub(super) version: u8,
    exchange: ExchangeId,
}

impl SoapAnswer {
    pub(super) fn is_called(&self, action: &str) -> bool {
        self.call.action == action
    }
}

impl Called<'_> {
    pub(super) const fn arguments(&self) -> &Arguments {
        &self.call.arguments
    }

    /// What is needed to answer later.
    pub(super) fn later(&self) -> SoapAnswer {
        SoapAnswer {
            exchange: self.exchange,
            call: self.call.clone(),
            version: self.version,
            pinhole: None,
        }
    }
}

/// What an action gives: its arguments, or nothing yet.
pub(super) type Done = Result<Option<Arguments>, ErrorCode>;

/// An action without arguments to give was done.
pub(super) fn done() -> Done {
    Ok(Some(Arguments::default()))
}

impl Gateway {
    pub(super) fn on_soap(
        &mut self,
        now: Instant,
        asked: &Asked<'_>,
        service: Service,
        header: &str,
    ) {
        let Ok(call) = Call::parse(Some(header), &asked.request.body) else {
            let fault = Reply::Fault(Fault::new(ErrorCode::INVALID_ARGS));
            return self.respond(asked.exchange, soap(&fault, None));
        };
        let version = service.version_of(&call.service);
        let version = version.filter(|version| service.has(*version, &call.action));
        let Some(version) = version else {
            return self.reply(asked.exchange, &call, Err(ErrorCode::INVALID_ACTION));
        };
        let called = Called {
            client: asked.client,
            call: &call,
            version,
            exchange: asked.exchange,
        };
        match self.act(now, service, &called) {
            Ok(None) => {}
            Ok(Some(arguments)) => self.reply(asked.exchange, &call, Ok(arguments)),
            Err(code) => self.reply(asked.exchange, &call, Err(code)),
        }
    }

    fn act(&mut self, now: Instant, service: Service, called: &Called<'_>) -> Done {
        match service {
            Service::Layer3Forwarding => self.layer_3(called),
            Service::WanCommon => self.wan_common(called),
            Service::WanIp => self.wan_ip(now, called),
            Service::Ipv6Firewall => self.ipv6_firewall(now, called),
        }
    }

    fn layer_3(&self, called: &Called<'_>) -> Done {
        match called.call.action.as_str() {
            "GetDefaultConnectionService" => {
                let service = self.default_connection_service();
                let name = "NewDefaultConnectionService";
                Ok(Some(Arguments::default().with(name, service)))
            }
            _ => Err(ErrorCode::NOT_AUTHORIZED),
        }
    }

    pub(super) fn default_connection_service(&self) -> String {
        let device = self.upnp.identity.udn(2);
        format!("{device}:WANConnectionDevice:2,urn:upnp-org:serviceId:WANIPConn1")
    }

    fn wan_common(&self, called: &Called<'_>) -> Done {
        // Counters of four bytes wrap.
        let counter = |name, value: u64| {
            let wrapped = value & u64::from(u32::MAX);
            Ok(Some(Arguments::default().with(name, wrapped)))
        };
        let traffic = self.upnp.traffic;
        match called.call.action.as_str() {
            "GetCommonLinkProperties" => {
                let rate = traffic.bits_per_second.min(u64::from(u32::MAX));
                let link = Arguments::default()
                    .with("NewWANAccessType", "Ethernet")
                    .with("NewLayer1UpstreamMaxBitRate", rate)
                    .with("NewLayer1DownstreamMaxBitRate", rate)
                    .with("NewPhysicalLinkStatus", self.link_status());
                Ok(Some(link))
            }
            "GetTotalBytesSent" => counter("NewTotalBytesSent", traffic.bytes_sent),
            "GetTotalBytesReceived" => counter("NewTotalBytesReceived", traffic.bytes_received),
            "GetTotalPacketsSent" => counter("NewTotalPacketsSent", traffic.packets_sent),
            "GetTotalPacketsReceived" => {
                counter("NewTotalPacketsReceived", traffic.packets_received)
            }
            _ => Err(ErrorCode::INVALID_ACTION),
        }
    }

    pub(super) const fn link_status(&self) -> &'static str {
        match self.config.external {
            Some(_) => "Up",
            None => "Down",
        }
    }

    pub(super) const fn connection_status(&self) -> &'static str {
        match self.config.external {
            Some(_) => "Connected",
            None => "Disconnected",
        }
    }

    fn wan_ip(&mut self, now: Instant, called: &Called<'_>) -> Done {
        let give = |arguments| Ok(Some(arguments));
        match called.call.action.as_str() {
            "SetConnectionType" => Err(ErrorCode::READ_ONLY),
            "GetConnectionTypeInfo" => give(
                Arguments::default()
                    .with("NewConnectionType", "IP_Routed")
                    .with("NewPossibleConnectionTypes", "IP_Routed"),
            ),
            "RequestConnection" if self.config.external.is_some() => done(),
            "RequestConnection" => Err(ErrorCode::ACTION_FAILED),
            "ForceTermination" => Err(ErrorCode::NOT_AUTHORIZED),
            "GetStatusInfo" => {
                let uptime = self.epoch_seconds(now);
                give(status_info(self.connection_status(), "ERROR_NONE", uptime))
            }
            "GetNATRSIPStatus" => give(
                Arguments::default()
                    .with("NewRSIPAvailable", 0)
                    .with("NewNATEnabled", 1),
            ),
            "GetExternalIPAddress" => {
                give(Arguments::default().with("NewExternalIPAddress", self.external_text()))
            }
            "GetGenericPortMappingEntry" => self.generic_entry(now, called),
            "GetSpecificPortMappingEntry" => self.specific_entry(now, called),
            "GetListOfPortMappings" => self.list_mappings(now, called),
            "AddPortMapping" | "AddAnyPortMapping" => self.add_mapping(now, called),
            "DeletePortMapping" => self.delete_mapping(called),
            "DeletePortMappingRange" => self.delete_mappings(called),
            _ => Err(ErrorCode::INVALID_ACTION),
        }
    }

    /// The outside address; empty when there is none.
    pub(super) fn external_text(&self) -> String {
        self.outside()
            .map(|address| address.to_string())
            .unwrap_or_default()
    }

    /// Answers a call that waited for a change.
    pub(in super::super) fn answer_soap(
        &mut self,
        answer: &SoapAnswer,
        lease: Option<&Lease>,
        result: Result<(), Refusal>,
    ) {
        let result = result.map_err(|why| code(why, answer.version));
        if let Some(id) = answer.pinhole {
            self.name_pinhole(id, lease.map(|lease| lease.id));
        }
        let arguments = result.map(|()| {
            let port = lease.and_then(|lease| lease.kind.external_port());
            match answer.call.action.as_str() {
                "AddAnyPortMapping" => {
                    Arguments::default().with("NewReservedPort", port.unwrap_or_default())
                }
                "AddPinhole" => {
                    Arguments::default().with("UniqueID", answer.pinhole.unwrap_or_default())
                }
                _ => Arguments::default(),
            }
        });
        self.reply(answer.exchange, &answer.call, arguments);
    }

    /// Answers a call that waited for something else.
    pub(super) fn answer_now(&mut self, answer: &SoapAnswer, result: Result<Arguments, ErrorCode>) {
        self.reply(answer.exchange, &answer.call, result);
    }

    fn reply(&mut self, exchange: ExchangeId, call: &Call, result: Result<Arguments, ErrorCode>) {
        let reply = match result {
            Ok(arguments) => Reply::Done(arguments),
            Err(code) => Reply::Fault(Fault::new(code)),
        };
        self.respond(exchange, soap(&reply, Some(call)));
    }
}

fn soap(reply: &Reply, call: Option<&Call>) -> postern_wire::upnp::http::Response {
    let nothing = Call {
        service: String::new(),
        action: String::new(),
        arguments: Arguments::default(),
    };
    let xml = reply.to_xml(call.unwrap_or(&nothing));
    let mut response = document(xml);
    let failed = empty(reply.status());
    response.status = failed.status;
    response.reason = failed.reason;
    response.headers.add("EXT", "");
    response
}

/// The number for a refusal. Those from 728 on came with version 2.
pub(super) const fn code(refusal: Refusal, version: u8) -> ErrorCode {
    match refusal {
        Refusal::NotAuthorized => ErrorCode::NOT_AUTHORIZED,
        Refusal::Conflict => ErrorCode::CONFLICT_IN_MAPPING_ENTRY,
        Refusal::Quota | Refusal::NoResources if version > 1 => ErrorCode::NO_PORT_MAPS_AVAILABLE,
        Refusal::Quota | Refusal::NoResources | Refusal::NoExternal => ErrorCode::ACTION_FAILED,
    }
}
