//! HTTP, and what gateways do to it and to XML.

use std::net::IpAddr;
use std::time::Instant;

use postern_wire::upnp::description::{Description, Device, Service};
use postern_wire::upnp::http::{Bounds, Collector, Headers, Request, Response};

use super::fake::{Gateway, HttpAnswer};
use super::personality::{IGD, Length, Location, Xml};

impl Gateway {
    /// Takes a request over HTTP.
    pub fn http(&mut self, now: Instant, from: IpAddr, bytes: &[u8]) -> HttpAnswer {
        if !self.personality.upnp {
            return HttpAnswer::Refused;
        }
        let mut collector = Collector::request(Bounds::default());
        let request = collector
            .push(bytes)
            .and_then(|()| collector.into_request());
        let (status, body) = match request {
            Err(_) => (400, String::new()),
            Ok(request) => self.page(now, from, &request),
        };
        HttpAnswer::Bytes(self.written(status, &self.mangled(&body)))
    }

    fn page(&mut self, now: Instant, from: IpAddr, request: &Request) -> (u16, String) {
        let twice = self.personality.location == Location::Twice;
        match (request.method.as_str(), request.target.as_str()) {
            ("GET", "/root.xml") => (200, self.description().to_xml()),
            ("GET", "/inner.xml") if twice => (200, Description::default().to_xml()),
            ("POST", target) => {
                let number = target
                    .strip_prefix("/ctl/")
                    .and_then(|text| text.parse().ok());
                match number {
                    Some(number) => self.action(now, from, number, request),
                    None => (404, String::new()),
                }
            }
            _ => (404, "<html><body>Not found</body></html>".to_owned()),
        }
    }

    fn description(&self) -> Description {
        let services = self.personality.services.iter().map(|service| Service {
            service_type: service.urn.to_owned(),
            service_id: "urn:upnp-org:serviceId:WANIPConn1".to_owned(),
            scpd_url: "/scpd.xml".to_owned(),
            control_url: service.control.to_owned(),
            event_url: "/evt".to_owned(),
        });
        let inner = Device {
            device_type: "urn:schemas-upnp-org:device:WANConnectionDevice:1".to_owned(),
            services: services.collect(),
            ..Device::default()
        };
        Description {
            url_base: self.personality.url_base.to_owned(),
            device: Device {
                device_type: IGD.to_owned(),
                friendly_name: "Fake".to_owned(),
                manufacturer: "Lab".to_owned(),
                model_name: "Fake & Sons".to_owned(),
                model_number: "1".to_owned(),
                udn: if self.personality.udn {
                    "uuid:12345678".to_owned()
                } else {
                    String::new()
                },
                devices: vec![inner],
                ..Device::default()
            },
        }
    }

    fn mangled(&self, body: &str) -> String {
        match self.personality.xml {
            Xml::Sound => body.to_owned(),
            Xml::Case => body
                .replace("controlURL", "ControlUrl")
                .replace("serviceType", "SERVICETYPE")
                .replace("WANIPConnection", "WanIpConnection")
                .replace("NewExternalIPAddress", "newexternalipaddress")
                .replace("errorCode", "ErrorCode"),
            Xml::Glued => body
                .replace(" xmlns", "xmlns")
                .replace("<s:Envelopexmlns:s=", "<s:Envelope x=")
                .replace("<?xml version=\"1.0\"?>\r\n", ""),
            Xml::Ampersand => body.replace("&amp;", "&") + "\0\0\0",
        }
    }

    fn written(&self, status: u16, body: &str) -> Vec<u8> {
        let headers = Headers::default()
            .with("Server", "Fake/1 UPnP/1.1 fake/1")
            .with("Content-Type", self.personality.http.content_type);
        let response = Response {
            status,
            reason: if status == 200 { "OK" } else { "Error" }.to_owned(),
            headers,
            body: body.as_bytes().to_vec(),
        };
        let bytes = response.to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        let length = format!("Content-Length: {}\r\n", body.len());
        let changed = match self.personality.http.length {
            Length::Right => return bytes,
            Length::Missing => text.replace(&length, ""),
            Length::TooLong => {
                text.replace(&length, &format!("Content-Length: {}\r\n", body.len() + 9))
            }
            Length::Chunked => {
                let head = text.replace(&length, "Transfer-Encoding: chunked\r\n");
                let head = head.strip_suffix(body).unwrap_or(&head).to_owned();
                format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
            }
        };
        changed.into_bytes()
    }
}
