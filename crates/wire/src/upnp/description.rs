//! Device descriptions (UPnP Device Architecture 2.0 section 2.3): who a gateway is, and where
//! its services are.

use super::url::{HttpUrl, UrlError};
use super::xml::{Element, XmlError, push_element};

/// The most devices of a description, at whatever depth.
pub const MAX_DEVICES: usize = 32;
/// The most services of a description.
pub const MAX_SERVICES: usize = 64;
/// The most characters of a value that is kept; what follows is left out.
pub const MAX_VALUE: usize = 256;

/// A description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// URLBase: where relative URLs start. Empty if they start at the description itself.
    pub url_base: String,
    /// The device that holds all others.
    pub device: Device,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// deviceType: `urn:schemas-upnp-org:device:InternetGatewayDevice:1`.
    pub device_type: String,
    /// friendlyName.
    pub friendly_name: String,
    /// manufacturer.
    pub manufacturer: String,
    /// manufacturerURL.
    pub manufacturer_url: String,
    /// modelDescription.
    pub model_description: String,
    /// modelName.
    pub model_name: String,
    /// modelNumber.
    pub model_number: String,
    /// modelURL.
    pub model_url: String,
    /// serialNumber.
    pub serial_number: String,
    /// UDN: `uuid:…`, and whatever else there is.
    pub udn: String,
    /// presentationURL.
    pub presentation_url: String,
    /// Its services.
    pub services: Vec<Service>,
    /// The devices in it.
    pub devices: Vec<Self>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// serviceType: `urn:schemas-upnp-org:service:WANIPConnection:1`.
    pub service_type: String,
    /// serviceId.
    pub service_id: String,
    /// SCPDURL.
    pub scpd_url: String,
    /// controlURL.
    pub control_url: String,
    /// eventSubURL.
    pub event_url: String,
}

/// Why a document is not a description: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// Not a document that we read.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// There is no device in it.
    #[error("the description has no device")]
    NoDevice,
    /// More than [`MAX_DEVICES`] or [`MAX_SERVICES`].
    #[error("the description has too many devices or services")]
    TooMany,
}

impl Description {
    /// Reads a description. Missing values are empty.
    ///
    /// # Errors
    ///
    /// Says why it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, DescriptionError> {
        let document = Element::parse(bytes)?;
        let device = document.find("device").ok_or(DescriptionError::NoDevice)?;
        let mut room = Room {
            devices: MAX_DEVICES,
            services: MAX_SERVICES,
        };
        Ok(Self {
            url_base: value(&document, "URLBase"),
            device: room.device(device)?,
        })
    }

    /// The document.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut xml = String::from(
            "<?xml version=\"1.0\"?>\r\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\">\
             <specVersion><major>1</major><minor>0</minor></specVersion>",
        );
        push_filled(&mut xml, "URLBase", &self.url_base);
        self.device.write(&mut xml);
        xml.push_str("</root>\r\n");
        xml
    }

    /// Every device, outer ones first.
    #[must_use]
    pub fn devices(&self) -> Vec<&Device> {
        let mut all = Vec::new();
        self.device.collect(&mut all);
        all
    }

    /// Every service, with the outer devices' first.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.devices()
            .into_iter()
            .flat_map(|device| &device.services)
    }

    /// What a URL in this description means, found at `location`: relative to URLBase if that
    /// is a URL, else to `location`.
    ///
    /// # Errors
    ///
    /// Says why it leads nowhere.
    pub fn resolve(&self, location: &HttpUrl, reference: &str) -> Result<HttpUrl, UrlError> {
        match self.url_base.parse::<HttpUrl>() {
            Ok(base) => base.join(reference),
            Err(_) => location.join(reference),
        }
    }
}

impl Device {
    fn collect<'a>(&'a self, all: &mut Vec<&'a Self>) {
        all.push(self);
        for device in &self.devices {
            device.collect(all);
        }
    }

    fn write(&self, xml: &mut String) {
        xml.push_str("<device>");
        push_element(xml, "deviceType", &self.device_type);
        push_element(xml, "friendlyName", &self.friendly_name);
        push_element(xml, "manufacturer", &self.manufacturer);
        push_filled(xml, "manufacturerURL", &self.manufacturer_url);
        push_filled(xml, "modelDescription", &self.model_description);
        push_element(xml, "modelName", &self.model_name);
        push_filled(xml, "modelNumber", &self.model_number);
        push_filled(xml, "modelURL", &self.model_url);
        push_filled(xml, "serialNumber", &self.serial_number);
        push_element(xml, "UDN", &self.udn);
        if !self.services.is_empty() {
            xml.push_str("<serviceList>");
            for service in &self.services {
                service.write(xml);
            }
            xml.push_str("</serviceList>");
        }
        if !self.devices.is_empty() {
            xml.push_str("<deviceList>");
            for device in &self.devices {
                device.write(xml);
            }
            xml.push_str("</deviceList>");
        }
        push_filled(xml, "presentationURL", &self.presentation_url);
        xml.push_str("</device>");
    }
}

impl Service {
    fn read(element: &Element) -> Self {
        Self {
            service_type: value(element, "serviceType"),
            service_id: value(element, "serviceId"),
            scpd_url: value(element, "SCPDURL"),
            control_url: value(element, "controlURL"),
            event_url: value(element, "eventSubURL"),
        }
    }

    fn write(&self, xml: &mut String) {
        xml.push_str("<service>");
        push_element(xml, "serviceType", &self.service_type);
        push_element(xml, "serviceId", &self.service_id);
        push_element(xml, "SCPDURL", &self.scpd_url);
        push_element(xml, "controlURL", &self.control_url);
        push_element(xml, "eventSubURL", &self.event_url);
        xml.push_str("</service>");
    }
}

/// How much more may come.
struct Room {
    devices: usize,
    services: usize,
}

impl Room {
    /// Depth is bounded by that of the document.
    fn device(&mut self, element: &Element) -> Result<Device, DescriptionError> {
        take_one(&mut self.devices)?;
        let mut device = Device {
            device_type: value(element, "deviceType"),
            friendly_name: value(element, "friendlyName"),
            manufacturer: value(element, "manufacturer"),
            manufacturer_url: value(element, "manufacturerURL"),
            model_description: value(element, "modelDescription"),
            model_name: value(element, "modelName"),
            model_number: value(element, "modelNumber"),
            model_url: value(element, "modelURL"),
            serial_number: value(element, "serialNumber"),
            udn: value(element, "UDN"),
            presentation_url: value(element, "presentationURL"),
            ..Device::default()
        };
        let lists = element.children_named("serviceList");
        for service in lists.flat_map(|list| list.children_named("service")) {
            take_one(&mut self.services)?;
            device.services.push(Service::read(service));
        }
        let lists = element.children_named("deviceList");
        for inner in lists.flat_map(|list| list.children_named("device")) {
            device.devices.push(self.device(inner)?);
        }
        Ok(device)
    }
}

fn take_one(room: &mut usize) -> Result<(), DescriptionError> {
    *room = room.checked_sub(1).ok_or(DescriptionError::TooMany)?;
    Ok(())
}

fn value(element: &Element, name: &str) -> String {
    element.text_of(name).chars().take(MAX_VALUE).collect()
}

/// Appends an element that may be missing, unless it is empty.
fn push_filled(xml: &mut String, name: &str, text: &str) {
    if !text.is_empty() {
        push_element(xml, name, text);
    }
}
