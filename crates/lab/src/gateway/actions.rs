//! SOAP: the actions of a fake gateway.

use std::net::IpAddr;
use std::time::Instant;

use postern_wire::transport::Transport;
use postern_wire::upnp::http::Request;
use postern_wire::upnp::igd::{Entry, Key, Pinhole};
use postern_wire::upnp::soap::{Arguments, Call, ErrorCode, Fault, Reply};

use super::fake::{Gateway, Row};
use super::personality::{Conflict, Lease, ListEnd, ServiceAt, Specific};

/// What an action yields.
type Done = Result<Arguments, ErrorCode>;

/// A week in seconds.
const WEEK: u32 = 604_800;

impl Gateway {
    pub(super) fn action(
        &mut self,
        now: Instant,
        from: IpAddr,
        number: usize,
        request: &Request,
    ) -> (u16, String) {
        let header = request.headers.get("SOAPAction");
        let Ok(call) = Call::parse(header, &request.body) else {
            return (400, String::new());
        };
        let Some(service) = self.personality.services.get(number).copied() else {
            return (404, String::new());
        };
        if self.personality.picky && !is_canonical(&call, request) {
            let fault = Fault {
                code: ErrorCode::NONE,
                description: "Invalid SOAP Packet!".to_owned(),
            };
            return (500, Reply::Fault(fault).to_xml(&call));
        }
        _ = self.rows(now);
        let reply = match self.act(now, from, service, &call) {
            Ok(arguments) => Reply::Done(arguments),
            Err(ErrorCode::NONE) => return (500, String::new()),
            Err(code) => Reply::Fault(Fault::new(code)),
        };
        (reply.status(), reply.to_xml(&call))
    }

    fn act(&mut self, now: Instant, from: IpAddr, service: ServiceAt, call: &Call) -> Done {
        let none = Arguments::default;
        match call.action.as_str() {
            "GetStatusInfo" => Ok(none()
                .with("NewConnectionStatus", service.status)
                .with("NewLastConnectionError", "ERROR_NONE")
                .with("NewUptime", 1)),
            "GetExternalIPAddress" => Ok(none().with("NewExternalIPAddress", service.external)),
            "GetFirewallStatus" => Ok(none()
                .with("FirewallEnabled", 1)
                .with("InboundPinholeAllowed", 1)),
            _ if !service.works => Err(ErrorCode::ACTION_FAILED),
            "AddPortMapping" => self.add(now, from, &call.arguments).map(|_| none()),
            "AddAnyPortMapping" => {
                let name = self.personality.any.ok_or(ErrorCode::INVALID_ACTION)?;
                let port = self.add_any(now, from, &call.arguments)?;
                Ok(none().with(name, port))
            }
            "DeletePortMapping" => self.delete(&Key::from_call(&call.arguments)?),
            "GetSpecificPortMappingEntry" => self.specific(now, Key::from_call(&call.arguments)?),
            "GetGenericPortMappingEntry" => self.generic(now, &call.arguments),
            "AddPinhole" => self.open(now, from, &call.arguments),
            "UpdatePinhole" => self.update(now, &call.arguments),
            "DeletePinhole" => {
                let unique = unique_id(&call.arguments)?;
                let gone = self.pinholes.remove(&unique);
                gone.map(|_| none()).ok_or(ErrorCode::NO_SUCH_ENTRY)
            }
            _ => Err(ErrorCode::INVALID_ACTION),
        }
    }

    fn add(&mut self, now: Instant, from: IpAddr, arguments: &Arguments) -> Result<u16, ErrorCode> {
        let entry = self.checked(from, arguments)?;
        let (transport, port) = (entry.key.transport, entry.key.external_port);
        let is_first = port < 5000;
        match self.personality.conflict {
            Conflict::Taken(code) if is_first => return Err(ErrorCode(code)),
            Conflict::SamePort if port != entry.internal_port => {
                return Err(ErrorCode::SAME_PORT_VALUES_REQUIRED);
            }
            Conflict::Wildcard => return Err(ErrorCode::EXTERNAL_PORT_ONLY_SUPPORTS_WILDCARD),
            Conflict::Hidden if is_first && !self.deletions.contains_key(&(transport, port)) => {
                return Err(ErrorCode::CONFLICT_IN_MAPPING_ENTRY);
            }
            Conflict::None | Conflict::Taken(_) | Conflict::SamePort | Conflict::Hidden => {}
        }
        let lease = self.lease(entry.lease)?;
        let client = entry
            .internal_client
            .parse()
            .map_err(|_| ErrorCode::INVALID_ARGS)?;
        if self
            .table
            .get(&(transport, port))
            .is_some_and(|row| row.client != client)
        {
            return Err(ErrorCode::CONFLICT_IN_MAPPING_ENTRY);
        }
        let known = self.table.get(&(transport, port));
        let works = known.map_or_else(|| self.passes((transport, port)), |row| row.works);
        let row = Row {
            client,
            internal_port: entry.internal_port,
            ends: Self::ends(now, lease),
            description: entry.description,
            nonce: None,
            works,
        };
        self.insert((transport, port), row);
        Ok(port)
    }

    fn checked(&mut self, from: IpAddr, arguments: &Arguments) -> Result<Entry, ErrorCode> {
        let protocol = arguments.get("NewProtocol").unwrap_or_default();
        if self.personality.upper_case_only && protocol.chars().any(char::is_lowercase) {
            return Err(ErrorCode::INVALID_ARGS);
        }
        let entry = Entry::from_call(arguments)?;
        if entry.key.external_port == 0 {
            self.violations.push("external port 0".to_owned());
        }
        if entry.description.len() > self.personality.longest_description {
            return Err(ErrorCode::INVALID_ARGS);
        }
        if self.personality.secure && entry.internal_client != from.to_string() {
            return Err(ErrorCode::NOT_AUTHORIZED);
        }
        Ok(entry)
    }

    fn add_any(
        &mut self,
        now: Instant,
        from: IpAddr,
        arguments: &Arguments,
    ) -> Result<u16, ErrorCode> {
        let entry = Entry::from_call(arguments)?;
        let wanted = entry.key.external_port;
        let transport = entry.key.transport;
        let taken = |port: u16| {
            let conflict = matches!(self.personality.conflict, Conflict::Taken(_)) && port < 5000;
            conflict || self.table.contains_key(&(transport, port))
        };
        let port = if taken(wanted) { 23_456 } else { wanted };
        let mut entry = entry;
        entry.key.external_port = port;
        self.add(now, from, &entry.to_arguments())
    }

    const fn lease(&self, asked: u32) -> Result<u32, ErrorCode> {
        match (self.personality.lease, asked) {
            (Lease::Kept, lease) => Ok(lease),
            (Lease::Only725 | Lease::Only402, 0) => Ok(0),
            (Lease::Only725, _) => Err(ErrorCode::ONLY_PERMANENT_LEASES_SUPPORTED),
            (Lease::Only402, _) => Err(ErrorCode::INVALID_ARGS),
            (Lease::ZeroIsWeek, 0) | (Lease::Week, _) => Ok(WEEK),
            (Lease::ZeroIsWeek, _) => Err(ErrorCode::ONLY_PERMANENT_LEASES_SUPPORTED),
        }
    }

    fn delete(&mut self, key: &Key) -> Done {
        let place = (key.transport, key.external_port);
        *self.deletions.entry(place).or_default() += 1;
        match self.table.remove(&place) {
            Some(_) => Ok(Arguments::default()),
            None => Err(ErrorCode::NO_SUCH_ENTRY_IN_ARRAY),
        }
    }

    fn specific(&self, now: Instant, key: Key) -> Done {
        match self.personality.specific {
            Specific::Works => {}
            Specific::Unknown => return Err(ErrorCode::INVALID_ACTION),
            Specific::Missing => return Err(ErrorCode::NO_SUCH_ENTRY_IN_ARRAY),
        }
        let taken = matches!(self.personality.conflict, Conflict::Taken(_));
        if taken && key.external_port < 5000 {
            let other = Row {
                client: IpAddr::from([192, 168, 1, 99]),
                internal_port: 1,
                ends: None,
                description: "somebody else's".to_owned(),
                nonce: None,
                works: true,
            };
            return Ok(entry(now, key, &other).to_specific_answer());
        }
        match self.table.get(&(key.transport, key.external_port)) {
            Some(row) => Ok(entry(now, key, row).to_specific_answer()),
            None => Err(ErrorCode::NO_SUCH_ENTRY_IN_ARRAY),
        }
    }

    fn generic(&self, now: Instant, arguments: &Arguments) -> Done {
        let text = arguments.get("NewPortMappingIndex").unwrap_or_default();
        let index: usize = text.parse().map_err(|_| ErrorCode::INVALID_ARGS)?;
        let last = self.table.len().saturating_sub(1);
        let index = match self.personality.list_end {
            ListEnd::Never => index.min(last),
            ListEnd::Invented if index > last => return Ok(invented(index)),
            ListEnd::Invented | ListEnd::Error(_) | ListEnd::Empty => index,
        };
        match (self.table.iter().nth(index), self.personality.list_end) {
            (Some(((transport, port), row)), _) => {
                let key = Key {
                    remote_host: String::new(),
                    external_port: *port,
                    transport: *transport,
                };
                Ok(entry(now, key, row).to_arguments())
            }
            (None, ListEnd::Error(code)) => Err(ErrorCode(code)),
            (None, _) => Err(ErrorCode::NONE),
        }
    }

    fn open(&mut self, now: Instant, from: IpAddr, arguments: &Arguments) -> Done {
        let pinhole = Pinhole::from_call(arguments)?;
        if pinhole.internal_client != from.to_string() {
            return Err(ErrorCode::NOT_AUTHORIZED);
        }
        let unique = u16::try_from(self.pinholes.len() + 1).unwrap_or(1);
        let row = Row {
            client: from,
            internal_port: pinhole.internal_port,
            ends: Self::ends(now, pinhole.lease),
            description: String::new(),
            nonce: None,
            works: true,
        };
        self.pinholes.insert(unique, row);
        Ok(Arguments::default().with("UniqueID", unique))
    }

    fn update(&mut self, now: Instant, arguments: &Arguments) -> Done {
        let unique = unique_id(arguments)?;
        let lease: u32 = postern_wire::upnp::igd::number(arguments, "NewLeaseTime")?;
        let row = self
            .pinholes
            .get_mut(&unique)
            .ok_or(ErrorCode::NO_SUCH_ENTRY)?;
        row.ends = Self::ends(now, lease);
        Ok(Arguments::default())
    }
}

fn unique_id(arguments: &Arguments) -> Result<u16, ErrorCode> {
    postern_wire::upnp::igd::number(arguments, "UniqueID")
}

fn entry(now: Instant, key: Key, row: &Row) -> Entry {
    let left = row
        .ends
        .map_or(0, |ends| ends.saturating_duration_since(now).as_secs());
    Entry {
        key,
        internal_port: row.internal_port,
        internal_client: row.client.to_string(),
        enabled: true,
        description: row.description.clone(),
        lease: u32::try_from(left).unwrap_or(u32::MAX),
    }
}

fn invented(index: usize) -> Arguments {
    Entry {
        key: Key {
            remote_host: String::new(),
            external_port: u16::try_from(index % 60_000).unwrap_or(1).max(1),
            transport: Transport::Udp,
        },
        internal_port: 1,
        internal_client: "192.168.1.50".to_owned(),
        enabled: true,
        description: "invented".to_owned(),
        lease: 0,
    }
    .to_arguments()
}

/// Whether a call is written as the architecture writes it, to the letter.
fn is_canonical(call: &Call, request: &Request) -> bool {
    let quoted = request.headers.get("SOAPAction") == Some(call.header().as_str());
    let typed = request.headers.get("Content-Type") == Some("text/xml; charset=\"utf-8\"");
    let body = String::from_utf8_lossy(&request.body);
    let prolog = body.starts_with("<?xml version=\"1.0\"?>");
    let prefixed = body.contains("<s:Body>") && body.contains(&format!("<u:{} ", call.action));
    let order = [
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ];
    let given: Vec<&str> = call.arguments.iter().map(|(name, _)| name).collect();
    let ordered = call.action != "AddPortMapping" || given == order;
    quoted && typed && prolog && prefixed && ordered
}
