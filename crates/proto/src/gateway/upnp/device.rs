//! The device's description: an InternetGatewayDevice that holds a WANDevice that holds a
//! WANConnectionDevice.

use postern_wire::upnp::description::{Description, Device, Service as Described};

use super::Identity;
use super::service::Service;

/// The path of the description.
pub(super) const PATH: &str = "/rootDesc.xml";

/// What SERVER says.
pub(super) const SERVER: &str = concat!("Linux UPnP/2.0 postern/", env!("CARGO_PKG_VERSION"));

/// The devices, from the outside in.
pub(super) const DEVICES: [&str; 3] = ["InternetGatewayDevice", "WANDevice", "WANConnectionDevice"];

/// The URN of a device.
pub(super) fn urn(device: &str, version: u8) -> String {
    format!("urn:schemas-upnp-org:device:{device}:{version}")
}

/// Which device of [`DEVICES`] holds a service.
pub(super) const fn holder(service: Service) -> usize {
    match service {
        Service::Layer3Forwarding => 0,
        Service::WanCommon => 1,
        Service::WanIp | Service::Ipv6Firewall => 2,
    }
}

impl Identity {
    /// The UDN of a device of [`DEVICES`].
    pub(super) fn udn(&self, device: usize) -> String {
        let number = self.uuid ^ u128::try_from(device).unwrap_or_default();
        format!("uuid:{}", uuid(number))
    }
}

/// A number in the form of a UUID.
pub(super) fn uuid(number: u128) -> String {
    let hex = format!("{number:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    let parts = parts.map(|part| hex.get(part).unwrap_or_default());
    parts.join("-")
}

/// The description, as a device of this version.
pub(super) fn describe(identity: &Identity, version: u8) -> String {
    let mut device = None;
    for (index, name) in DEVICES.iter().enumerate().rev() {
        let inner = device.take();
        device = Some(Device {
            device_type: urn(name, version),
            friendly_name: identity.name.clone(),
            manufacturer: "postern".to_owned(),
            model_description: "Opens ports on request".to_owned(),
            model_name: "postern gateway".to_owned(),
            model_number: env!("CARGO_PKG_VERSION").to_owned(),
            udn: identity.udn(index),
            services: services(index, version),
            devices: inner.into_iter().collect(),
            ..Device::default()
        });
    }
    let description = Description {
        device: device.unwrap_or_default(),
        ..Description::default()
    };
    description.to_xml()
}

fn services(index: usize, device: u8) -> Vec<Described> {
    let here = Service::ALL
        .into_iter()
        .filter(|service| holder(*service) == index);
    here.filter_map(|service| {
        let version = service.version(device)?;
        Some(Described {
            service_type: service.urn(version),
            service_id: format!("urn:upnp-org:serviceId:{}", service.id()),
            scpd_url: format!("{}/{version}", service.path("scpd")),
            control_url: service.path("control"),
            event_url: service.path("event"),
        })
    })
    .collect()
}

/// Clients that take a device of version 2 for something else: those of Microsoft.
pub(super) fn wants_version_1(user_agent: &str) -> bool {
    let agent = user_agent.to_ascii_lowercase();
    ["microsoft", "fdssdp", "xbox"]
        .iter()
        .any(|name| agent.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_all_services_of_its_version() {
        for (version, count) in [(1, 3), (2, 4)] {
            let xml = describe(&Identity::default(), version);
            let description = Description::parse(xml.as_bytes()).unwrap();
            assert_eq!(description.services().count(), count);
            assert_eq!(description.devices().len(), 3);
            let urns: Vec<_> = description
                .services()
                .map(|s| &s.service_type[..])
                .collect();
            let wan_ip = format!("urn:schemas-upnp-org:service:WANIPConnection:{version}");
            assert!(urns.contains(&&wan_ip[..]), "{urns:?}");
        }
    }

    #[test]
    fn a_uuid_has_its_form() {
        assert_eq!(uuid(1), "00000000-0000-0000-0000-000000000001");
    }
}
