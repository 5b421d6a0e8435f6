//! Calls of actions, their answers and their faults (UPnP Device Architecture 2.0 section 3).
//!
//! ```
//! use postern_wire::upnp::soap::{Arguments, Call};
//!
//! let call = Call {
//!     service: "urn:schemas-upnp-org:service:WANIPConnection:1".into(),
//!     action: "GetExternalIPAddress".into(),
//!     arguments: Arguments::default(),
//! };
//! assert_eq!(Call::parse(Some(&call.header()), call.to_xml().as_bytes()), Ok(call));
//! ```

use std::fmt::{self, Write as _};

use super::xml::{Element, XmlError, push_element};

/// The most arguments of a call and of an answer. Those for mappings have eight.
pub const MAX_ARGUMENTS: usize = 32;

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const PROLOG: &str = "<?xml version=\"1.0\"?>\r\n\
     <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
     s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>";
const EPILOG: &str = "</s:Body></s:Envelope>\r\n";

/// The value of Content-Type that all of them have.
pub const CONTENT_TYPE: &str = "text/xml; charset=\"utf-8\"";

/// Names and values, in the order of the service's description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arguments(Vec<(String, String)>);

impl Arguments {
    /// The value of this name, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The arguments with one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn read(element: &Element) -> Result<Self, SoapError> {
        if element.children.len() > MAX_ARGUMENTS {
            return Err(SoapError::TooManyArguments);
        }
        let argument = |child: &Element| (child.name.clone(), child.text.clone());
        Ok(Self(element.children.iter().map(argument).collect()))
    }

    fn write(&self, xml: &mut String) {
        for (name, value) in self.iter() {
            push_element(xml, name, value);
        }
    }
}

/// A call of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The type of the service: `urn:schemas-upnp-org:service:WANIPConnection:1`.
    pub service: String,
    /// The action.
    pub action: String,
    /// What it is called with.
    pub arguments: Arguments,
}

impl Call {
    /// Reads a call: the value of the header SOAPAction, with or without quotes, and the body.
    /// The header counts if the body's namespace was lost in a repair.
    ///
    /// # Errors
    ///
    /// Says why it is none; [`SoapError::Disagree`] if header and body name different actions.
    pub fn parse(header: Option<&str>, body: &[u8]) -> Result<Self, SoapError> {
        let document = Element::parse(body)?;
        let inner = inner(&document)?;
        let mut call = Self {
            service: inner.namespace.clone(),
            action: inner.name.clone(),
            arguments: Arguments::read(inner)?,
        };
        if let Some(header) = header {
            let header = header.trim().trim_matches('"');
            let (service, action) = header.rsplit_once('#').ok_or(SoapError::Disagree)?;
            if call.service.is_empty() {
                service.clone_into(&mut call.service);
            }
            if (service, action) != (&call.service, &call.action) {
                return Err(SoapError::Disagree);
            }
        }
        Ok(call)
    }

    /// The value of the header SOAPAction, in quotes.
    #[must_use]
    pub fn header(&self) -> String {
        format!("\"{}#{}\"", self.service, self.action)
    }

    /// The body.
    #[must_use]
    pub fn to_xml(&self) -> String {
        envelope(&self.action, &self.service, &self.arguments)
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It was done.
    Done(Arguments),
    /// It was not.
    Fault(Fault),
}

/// Why a call was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The number. [`ErrorCode::NONE`] if there was none to read.
    pub code: ErrorCode,
    /// What the device says about it: text of a stranger. At most 256 characters.
    pub description: String,
}

impl Reply {
    /// Reads the body of an answer, of whatever HTTP status.
    ///
    /// # Errors
    ///
    /// Says why it is none.
    pub fn parse(body: &[u8]) -> Result<Self, SoapError> {
        let document = Element::parse(body)?;
        // Some have the error without anything around it.
        if let Some(fault) = document
            .find("Fault")
            .or_else(|| document.find("UPnPError"))
        {
            return Ok(Self::Fault(Fault::read(fault)));
        }
        Ok(Self::Done(Arguments::read(inner(&document)?)?))
    }

    /// The body of the answer to `call`.
    #[must_use]
    pub fn to_xml(&self, call: &Call) -> String {
        match self {
            Self::Done(arguments) => {
                let name = format!("{}Response", call.action);
                envelope(&name, &call.service, arguments)
            }
            Self::Fault(fault) => fault.to_xml(),
        }
    }

    /// The HTTP status that goes with it: 200 or 500.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Done(_) => 200,
            Self::Fault(_) => 500,
        }
    }
}

impl Fault {
    /// A fault with the words of the specification.
    #[must_use]
    pub fn new(code: ErrorCode) -> Self {
        Self {
            code,
            description: code.name().unwrap_or("Action Failed").to_owned(),
        }
    }

    fn read(fault: &Element) -> Self {
        let text = |name| fault.find(name).map_or("", |found| found.text.as_str());
        let description = match text("errorDescription") {
            "" => text("faultstring"),
            description => description,
        };
        Self {
            code: ErrorCode(text("errorCode").parse().unwrap_or(0)),
            description: description.chars().take(256).collect(),
        }
    }

    /// The body of the answer.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut xml = String::from(PROLOG);
        xml.push_str(
            "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring>\
             <detail><UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\">",
        );
        push_element(&mut xml, "errorCode", &self.code.0.to_string());
        push_element(&mut xml, "errorDescription", &self.description);
        xml.push_str("</UPnPError></detail></s:Fault>");
        xml.push_str(EPILOG);
        xml
    }
}

/// The number of an error (UPnP Device Architecture 2.0 section 3.2.2, and the services').
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $words:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The words of the specification.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($words),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// No action of this name.
    INVALID_ACTION = 401 "Invalid Action";
    /// Arguments are missing, too many, or of a wrong type.
    INVALID_ARGS = 402 "Invalid Args";
    /// The state of the service does not allow it.
    ACTION_FAILED = 501 "Action Failed";
    /// A value out of its range.
    ARGUMENT_VALUE_INVALID = 600 "Argument Value Invalid";
    /// The action may be missing, and is.
    OPTIONAL_NOT_IMPLEMENTED = 602 "Optional Action Not Implemented";
    /// Not for this caller.
    NOT_AUTHORIZED = 606 "Action not authorized";
    /// A pinhole cannot be made: there are too many (WANIPv6FirewallControl).
    PINHOLE_SPACE_EXHAUSTED = 701 "PinholeSpaceExhausted";
    /// The firewall is off.
    FIREWALL_DISABLED = 702 "FirewallDisabled";
    /// Pinholes are not allowed.
    INBOUND_PINHOLE_NOT_ALLOWED = 703 "InboundPinholeNotAllowed";
    /// There is no such pinhole.
    NO_SUCH_ENTRY = 704 "NoSuchEntry";
    /// Not for this protocol.
    PROTOCOL_NOT_SUPPORTED = 705 "ProtocolNotSupported";
    /// The internal port may not be a wildcard.
    INTERNAL_PORT_WILDCARDING_NOT_ALLOWED = 706 "InternalPortWildcardingNotAllowed";
    /// The protocol may not be a wildcard.
    PROTOCOL_WILDCARDING_NOT_ALLOWED = 707 "ProtocolWildcardingNotAllowed";
    /// The client's address may not be a wildcard.
    SRC_ADDRESS_WILDCARDING_NOT_ALLOWED = 708 "WildCardNotPermittedInSrcIP";
    /// Nothing has come through the pinhole.
    NO_TRAFFIC_RECEIVED = 709 "NoTrafficReceived";
    /// No entry has this number.
    SPECIFIED_ARRAY_INDEX_INVALID = 713 "SpecifiedArrayIndexInvalid";
    /// There is no such mapping.
    NO_SUCH_ENTRY_IN_ARRAY = 714 "NoSuchEntryInArray";
    /// The remote host may not be a wildcard.
    WILDCARD_NOT_PERMITTED_IN_SRC_IP = 715 "WildCardNotPermittedInSrcIP";
    /// The external port may not be a wildcard.
    WILDCARD_NOT_PERMITTED_IN_EXT_PORT = 716 "WildCardNotPermittedInExtPort";
    /// The port is somebody else's.
    CONFLICT_IN_MAPPING_ENTRY = 718 "ConflictInMappingEntry";
    /// External and internal port must be the same.
    SAME_PORT_VALUES_REQUIRED = 724 "SamePortValuesRequired";
    /// Leases do not end.
    ONLY_PERMANENT_LEASES_SUPPORTED = 725 "OnlyPermanentLeasesSupported";
    /// The remote host must be a wildcard.
    REMOTE_HOST_ONLY_SUPPORTS_WILDCARD = 726 "RemoteHostOnlySupportsWildcard";
    /// The external port must be a wildcard.
    EXTERNAL_PORT_ONLY_SUPPORTS_WILDCARD = 727 "ExternalPortOnlySupportsWildcard";
    /// There is no room for another mapping.
    NO_PORT_MAPS_AVAILABLE = 728 "NoPortMapsAvailable";
    /// The port is taken by something other than a mapping.
    CONFLICT_WITH_OTHER_MECHANISMS = 729 "ConflictWithOtherMechanisms";
    /// No mapping in the range.
    PORT_MAPPING_NOT_FOUND = 730 "PortMappingNotFound";
    /// The connection is configured otherwise.
    READ_ONLY = 731 "ReadOnly";
    /// The internal port may not be a wildcard.
    WILDCARD_NOT_PERMITTED_IN_INT_PORT = 732 "WildCardNotPermittedInIntPort";
    /// The start of the range is behind its end.
    INCONSISTENT_PARAMETERS = 733 "InconsistentParameters";
}

impl ErrorCode {
    /// There was no number.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a document is neither a call nor an answer: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SoapError {
    /// Not a document that we read.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// There is no body, or nothing in it.
    #[error("the SOAP message has no body")]
    NoBody,
    /// More than [`MAX_ARGUMENTS`].
    #[error("the SOAP message has too many arguments")]
    TooManyArguments,
    /// The header SOAPAction and the body name different actions.
    #[error("the SOAPAction header and the body disagree")]
    Disagree,
}

/// What the body holds. A few gateways leave the envelope out.
fn inner(document: &Element) -> Result<&Element, SoapError> {
    let is_envelope =
        document.name.eq_ignore_ascii_case("Envelope") || document.namespace == ENVELOPE;
    match document.child("Body") {
        Some(body) => body.children.first().ok_or(SoapError::NoBody),
        None if is_envelope => Err(SoapError::NoBody),
        None => Ok(document),
    }
}

fn envelope(name: &str, service: &str, arguments: &Arguments) -> String {
    let mut xml = String::from(PROLOG);
    let service = super::xml::escape(service);
    _ = write!(xml, "<u:{name} xmlns:u=\"{service}\">");
    arguments.write(&mut xml);
    _ = write!(xml, "</u:{name}>");
    xml.push_str(EPILOG);
    xml
}
