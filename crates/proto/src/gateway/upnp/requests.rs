//! HTTP: who may ask, and what is asked.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use postern_wire::upnp::http::{Headers, Request, Response};
use postern_wire::upnp::soap::CONTENT_TYPE;

use super::ExchangeId;
use super::device::{self, SERVER};
use super::service::Service;
use crate::gateway::{Client, Event, Gateway};

/// An HTTP request with what the driver has seen itself.
pub(super) struct Asked<'a> {
    pub(super) exchange: ExchangeId,
    pub(super) client: Client,
    pub(super) request: &'a Request,
}

impl Gateway {
    /// Takes an HTTP request that came to `local`, an address of this gateway inside;
    /// [`Event::Respond`] answers it, perhaps after a change was made.
    pub fn handle_request(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        client: Client,
        local: SocketAddr,
        request: &Request,
    ) {
        let asked = Asked {
            exchange,
            client,
            request,
        };
        let status = if self.config.upnp && self.config.is_inside(client.address) {
            guard(local, request).err()
        } else {
            Some(403)
        };
        if let Some(status) = status {
            return self.respond(exchange, empty(status));
        }
        let path = request.target.split('?').next().unwrap_or_default();
        match request.method.as_str() {
            "GET" | "HEAD" => {
                let response = self.document(path, request);
                self.respond(exchange, response);
            }
            "POST" => self.on_post(now, &asked, path),
            "SUBSCRIBE" => self.on_subscribe(now, &asked, path),
            "UNSUBSCRIBE" => self.on_unsubscribe(&asked, path),
            _ => self.respond(exchange, empty(405)),
        }
    }

    fn document(&self, path: &str, request: &Request) -> Response {
        let agent = request.headers.get("USER-AGENT").unwrap_or_default();
        if path == device::PATH {
            let version = if device::wants_version_1(agent) { 1 } else { 2 };
            return document(device::describe(&self.upnp.identity, version));
        }
        let described = path.rsplit_once('/').and_then(|(path, version)| {
            let service = Service::at(path, "scpd")?;
            let version: u8 = version.parse().ok()?;
            let exists = version >= 1 && service.version(2) >= Some(version);
            exists.then(|| service.describe(version))
        });
        described.map_or_else(|| empty(404), document)
    }

    fn on_post(&mut self, now: Instant, asked: &Asked<'_>, path: &str) {
        let Some(service) = Service::at(path, "control") else {
            return self.respond(asked.exchange, empty(404));
        };
        let kind = asked
            .request
            .headers
            .get("CONTENT-TYPE")
            .unwrap_or_default();
        let is_xml = kind.to_ascii_lowercase().starts_with("text/xml");
        // A page cannot send this header to another site without asking, and is not allowed to.
        let Some(action) = asked.request.headers.get("SOAPACTION") else {
            return self.respond(asked.exchange, empty(400));
        };
        if !is_xml {
            return self.respond(asked.exchange, empty(415));
        }
        self.on_soap(now, asked, service, action);
    }

    pub(in super::super) fn respond(&mut self, exchange: ExchangeId, response: Response) {
        self.events.push_back(Event::Respond { exchange, response });
    }
}

/// Refuses what a web page could have sent, from another site or by a name that leads here.
fn guard(local: SocketAddr, request: &Request) -> Result<(), u16> {
    if request.headers.get("ORIGIN").is_some() {
        return Err(403);
    }
    let host = request.headers.get("HOST").ok_or(400_u16)?;
    if request.headers.count("HOST") != 1 {
        return Err(400);
    }
    match names(host, local) {
        true => Ok(()),
        false => Err(403),
    }
}

/// Whether HOST is this very address.
fn names(host: &str, local: SocketAddr) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip() == local.ip() && address.port() == local.port();
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let is_here = bare.parse::<IpAddr>().is_ok_and(|ip| ip == local.ip());
    is_here && local.port() == 80
}

/// A response without a body.
pub(super) fn empty(status: u16) -> Response {
    Response {
        status,
        reason: reason(status).to_owned(),
        headers: Headers::default().with("SERVER", SERVER),
        body: Vec::new(),
    }
}

/// A response that is a document.
pub(super) fn document(xml: String) -> Response {
    Response {
        headers: Headers::default()
            .with("CONTENT-TYPE", CONTENT_TYPE)
            .with("SERVER", SERVER),
        body: xml.into_bytes(),
        ..empty(200)
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        415 => "Unsupported Media Type",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
